package install

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCacheFolder(t *testing.T) {
	t.Setenv("MESHFERRY_CACHE", "")
	dir, err := Cache()
	if err != nil || filepath.Base(dir) != ".cache" {
		t.Errorf("Cache() = %q, %v", dir, err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "go.mod")); err != nil {
		t.Error(err)
	}
	t.Setenv("MESHFERRY_CACHE", "/elsewhere")
	if dir, _ := Cache(); dir != "/elsewhere" {
		t.Errorf("Cache() = %q", dir)
	}
	t.Setenv("MESHFERRY_CACHE", "")
	t.Chdir(t.TempDir())
	if dir, err := Cache(); err == nil {
		t.Errorf("outside the repository: %q, want an error", dir)
	}
}

// Several may ask at once: one fills.
func TestOnce(t *testing.T) {
	t.Setenv("MESHFERRY_CACHE", t.TempDir())
	var filled atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			dir, err := Once("thing", []byte("1"), func(dir string) error {
				filled.Add(1)
				return os.WriteFile(filepath.Join(dir, "a"), []byte("x"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if text, err := os.ReadFile(filepath.Join(dir, "a")); string(text) != "x" {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
	all.Wait()
	if n := filled.Load(); n != 1 {
		t.Errorf("filled %d times", n)
	}
	other, err := Once("thing", []byte("2"), func(string) error { return nil })
	if entries, _ := os.ReadDir(other); err != nil || len(entries) > 0 {
		t.Errorf("other content is in the same folder: %v, %v", entries, err)
	}
}

// What was not filled is not there, and can be tried again.
func TestOnceFails(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("MESHFERRY_CACHE", cache)
	bad := errors.New("no network")
	if _, err := Once("thing", nil, func(string) error { return bad }); !errors.Is(err, bad) || !strings.Contains(err.Error(), "thing") {
		t.Errorf("%v", err)
	}
	entries, _ := os.ReadDir(cache)
	for _, e := range entries {
		if e.IsDir() {
			t.Errorf("%s was left", e.Name())
		}
	}
	if _, err := Once("thing", nil, func(string) error { return nil }); err != nil {
		t.Error(err)
	}
}

// Only what is built counts: neither tests nor what an earlier build left.
func TestSources(t *testing.T) {
	project := fstest.MapFS{}
	for _, path := range []string{"pom.xml", "a/pom.xml", "a/src/main/java/A.java"} {
		project[path] = &fstest.MapFile{Data: []byte(path)}
	}
	before, err := sources(project)
	if err != nil || len(before) == 0 {
		t.Fatal(err)
	}
	for _, path := range []string{"README.md", "a/target/A.class", "a/target/pom.xml", "a/src/test/java/ATest.java"} {
		project[path] = &fstest.MapFile{Data: []byte(path)}
	}
	if after, err := sources(project); err != nil || !bytes.Equal(after, before) {
		t.Errorf("other content for what is not built: %q, %v", after, err)
	}
	project["a/src/main/resources/META-INF/x"] = &fstest.MapFile{}
	if after, err := sources(project); err != nil || bytes.Equal(after, before) {
		t.Errorf("a new source makes no difference, %v", err)
	}
}
