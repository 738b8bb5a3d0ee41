package local

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/registrytest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MESHFERRY_LOCAL_TEST_CHILD"); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) { registrytest.Conformance(t, newStore) }

// newStore is an empty directory with the hooks that break it.
func newStore(t *testing.T) registrytest.Store {
	dir, aside := filepath.Join(t.TempDir(), "registry"), filepath.Join(t.TempDir(), "file")
	open := map[string]*Registry{}
	// exchange swaps the directory for a plain file in one step, and back.
	exchange := func(t *testing.T) {
		if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, aside, unix.RENAME_EXCHANGE); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(aside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return registrytest.Store{
		Open: func(t *testing.T, hostID string) registry.Registry {
			r, err := New(Options{Dir: dir, HostID: hostID})
			if err != nil {
				t.Fatal(err)
			}
			open[hostID] = r
			return r
		},
		Lose: func(t *testing.T, hostID string) {
			if err := os.Remove(open[hostID].path(open[hostID].name)); err != nil {
				t.Fatal(err)
			}
		},
		// The kernel closes the file of a process that dies.
		Kill: func(t *testing.T, hostID string) {
			r := open[hostID]
			r.mu.Lock()
			defer r.mu.Unlock()
			r.own.file.Close()
		},
		Down: exchange,
		Up:   exchange,
		Consumers: func(t *testing.T, iface string) (all []string) {
			for _, path := range entries(t, dir) {
				for line := range strings.Lines(read(t, path)) {
					text := strings.Trim(line, " \",\n")
					if strings.HasPrefix(text, "consumer://") && strings.Contains(text, "interface="+iface) {
						all = append(all, text)
					}
				}
			}
			return all
		},
		Fingerprint: func(t *testing.T) string {
			var b strings.Builder
			for _, path := range entries(t, dir) {
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(&b, filepath.Base(path), info.ModTime().UnixNano(), info.Sys().(*syscall.Stat_t).Ino)
			}
			return b.String()
		},
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
