package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/registrytest"
)

// lines collects what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// run runs a Registry until the test ends, and waits until it is connected.
func run(t *testing.T, o Options) *Registry {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	registrytest.Launch(t, r, 10*time.Second)
	select {
	case <-r.Lost():
	case <-time.After(10 * time.Second):
		t.Fatalf("never connected: %+v", r.Status())
	}
	return r
}

func hold(t *testing.T, r *Registry, d registry.Desired) {
	t.Helper()
	report, err := r.Apply(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	for key, item := range report {
		if item.State != registry.Held {
			t.Fatalf("%s: %+v", key, item)
		}
	}
}

func TestNewErrors(t *testing.T) {
	for _, o := range []Options{{Dir: "/x"}, {HostID: "a"}} {
		if _, err := New(o); err == nil {
			t.Errorf("New(%+v): want an error", o)
		}
	}
}

// TestFilesThatAreNoEntries: skipped with one line each, and never removed.
func TestFilesThatAreNoEntries(t *testing.T) {
	dir := t.TempDir()
	var log lines
	files := map[string]string{
		"README":              "hello",
		"cut" + suffix:        `{"meshferry-entry":1,"host":"a"`,
		"other" + suffix:      `{"name":"x"}`,
		"later" + suffix:      `{"meshferry-entry":99,"host":"a","pid":1}`,
		"empty" + suffix:      "",
		"bad-item" + suffix:   `{"meshferry-entry":1,"host":"a","pid":1,"providers":["x"]}`,
		"name-without-suffix": `{"meshferry-entry":1,"host":"a","pid":1}`,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, make := range map[string]func(path string) error{
		"dir" + suffix:  func(path string) error { return os.Mkdir(path, 0o700) },
		"link" + suffix: func(path string) error { return os.Symlink("/etc/passwd", path) },
		"pipe" + suffix: func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		files[name] = ""
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := run(t, Options{Dir: dir, HostID: "a", Log: slog.New(slog.NewTextHandler(&log, nil))})
	for i := range 5 {
		hold(t, r, desired(t, fmt.Sprintf(foo, 1000+i)))
		if err := r.scan(); err != nil {
			t.Fatal(err)
		}
	}
	for name := range files {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Errorf("removed: %v", err)
		}
		if got := log.count("/" + name + " "); got != 1 {
			t.Errorf("%s was logged %d times", name, got)
		}
	}
	if got := log.count("skipped a file"); got != len(files) {
		t.Errorf("%d lines for %d files", got, len(files))
	}
}

// TestSameHost has two processes of one agent, as a hot upgrade does: readers see
// one entry, before, during and after.
func TestSameHost(t *testing.T) {
	dir := t.TempDir()
	_, ch := reader(t, dir)
	await(t, ch, 0)
	d := desired(t, fmt.Sprintf(foo, 1))
	older, newer := run(t, Options{Dir: dir, HostID: "a"}), run(t, Options{Dir: dir, HostID: "a"})
	hold(t, older, d)
	await(t, ch, 1)
	hold(t, newer, d)
	hold(t, older, registry.Desired{})
	hold(t, newer, desired(t, fmt.Sprintf(foo, 1), fmt.Sprintf(foo, 2)))
	select {
	case e := <-ch:
		if len(e.Providers) != 2 {
			t.Errorf("the hand-over was seen: %v", e.Providers)
		}
	case <-time.After(10 * time.Second):
		t.Error("no set")
	}
}

func TestApplyOutsideRun(t *testing.T) {
	r, err := New(Options{Dir: t.TempDir(), HostID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	d := desired(t, fmt.Sprintf(foo, 1))
	check := func(when string) {
		t.Helper()
		report, err := r.Apply(t.Context(), d)
		if !errors.Is(err, registry.ErrAway) || report[d.Providers[0].String()].State != registry.Pending {
			t.Errorf("%s: %v, %v; want ErrAway and pending", when, report, err)
		}
	}
	check("before Run")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	<-r.Lost()
	hold(t, r, d)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	check("after Run")
	if got := r.Status().State; got != "closed" {
		t.Errorf("status %q, want closed", got)
	}
}

// TestDirectoryLockHeld: a process that is stopped in the middle of an Apply
// makes others wait until their context ends, not for ever.
func TestDirectoryLockHeld(t *testing.T) {
	dir := t.TempDir()
	r := run(t, Options{Dir: dir, HostID: "a"})
	hold(t, r, registry.Desired{}) // makes the lock file
	f, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if ok, err := lockExclusive(f); !ok {
		t.Fatal("not locked", err)
	}
	d := desired(t, fmt.Sprintf(foo, 1))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	report, err := r.Apply(ctx, d)
	if !errors.Is(err, context.DeadlineExceeded) || report[d.Providers[0].String()].State != registry.Pending {
		t.Errorf("%v, %v; want the deadline and pending", report, err)
	}
	f.Close()
	hold(t, r, d)
}

// TestDirectoryRemoved: it is made again, and what was published is lost.
func TestDirectoryRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	r := run(t, Options{Dir: dir, HostID: "a"})
	d := desired(t, fmt.Sprintf(foo, 1))
	hold(t, r, d)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for len(entries(t, dir)) == 0 {
		select {
		case <-r.Lost():
			// It may be lost once more: the entry first, then the directory.
			if _, err := r.Apply(t.Context(), d); err != nil && !errors.Is(err, registry.ErrAway) {
				t.Fatal(err)
			}
		case <-deadline:
			t.Fatal("never published again")
		}
	}
}

func TestOrphans(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, temporary+"old"), filepath.Join(dir, temporary+"fresh")
	for _, path := range []string{old, fresh} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * orphan)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	r := run(t, Options{Dir: dir, HostID: "a"})
	r.removeOrphans()
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old temporary file is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("a fresh temporary file was removed: %v", err)
	}
}

// TestModes: files are as readable as the directory.
func TestModes(t *testing.T) {
	for dirMode, want := range map[os.FileMode]os.FileMode{0o700: 0o600, 0o755: 0o644, 0o750: 0o640} {
		dir := filepath.Join(t.TempDir(), "r")
		if dirMode != 0o700 { // which is what Run makes
			if err := os.Mkdir(dir, dirMode); err != nil {
				t.Fatal(err)
			}
		}
		r := run(t, Options{Dir: dir, HostID: "a"})
		hold(t, r, desired(t, fmt.Sprintf(foo, 1)))
		for path, want := range map[string]os.FileMode{dir: dirMode, r.path(r.name): want} {
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
			}
		}
	}
}
