package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestReplace: a write that fails leaves what was there, and nothing else behind.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	text := func(s string, then error) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.WriteString(w, s)
			return errors.Join(err, then)
		}
	}
	broken := errors.New("broken")
	for _, step := range []struct {
		write func(io.Writer) error
		err   error
		want  string
	}{{text("one", broken), broken, ""}, {text("two", nil), nil, "two"}, {text("three", broken), broken, "two"}, {text("4", nil), nil, "4"}} {
		if err := Replace(path, step.write); !errors.Is(err, step.err) {
			t.Errorf("%v, want %v", err, step.err)
		}
		got, err := os.ReadFile(path)
		if string(got) != step.want || (err != nil) != (step.want == "") {
			t.Errorf("it holds %q, %v, want %q", got, err, step.want)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := Replace(filepath.Join(dir, "none", "file"), text("", nil)); err == nil {
		t.Error("replaced in a folder that is not there")
	}
}
