package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type doc struct {
	Name string
	List []int
}

func TestSaveLoad(t *testing.T) {
	f := File{filepath.Join(t.TempDir(), "w.state")}
	var got doc
	if err := f.Load(&got); err != nil || got.Name != "" {
		t.Fatalf("missing file: %+v, %v", got, err)
	}
	for _, want := range []doc{{"a", []int{1}}, {"b", []int{2, 3}}} {
		if err := f.Save(want); err != nil {
			t.Fatal(err)
		}
		got = doc{}
		if err := f.Load(&got); err != nil || got.Name != want.Name || len(got.List) != len(want.List) {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	}
	info, err := os.Stat(f.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(f.Path + ".tmp-*"); len(left) != 0 {
		t.Fatalf("temporary files left: %v", left)
	}
}

func TestCutAnywhereIsMovedAside(t *testing.T) {
	dir := t.TempDir()
	f := File{filepath.Join(dir, "w.state")}
	if err := f.Save(doc{"abc", []int{1, 2, 3}}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if err := os.WriteFile(f.Path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		got := doc{Name: "untouched"}
		if err := f.Load(&got); !errors.Is(err, ErrDamaged) || got.Name != "untouched" {
			t.Fatalf("cut at %d: %+v, %v", n, got, err)
		}
		if _, err := os.Stat(f.Path + ".damaged"); err != nil {
			t.Fatalf("cut at %d: not moved aside: %v", n, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("meshferry-state 1 sha256:00\n{}"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		file := File{filepath.Join(t.TempDir(), "x")}
		if err := os.WriteFile(file.Path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var d doc
		if err := file.Load(&d); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}
