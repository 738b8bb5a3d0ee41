package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/meshferry/meshferry/controlplane/istio"
)

const (
	maxFiles = 10_000
	maxBytes = 64 << 20 // of all files
)

// ReadFolder reads the .yaml and .yml files of a folder and of those below it, by
// path. Hidden files and folders are left out: editors keep their own there, and
// what Kubernetes mounts has its real files there behind links.
func ReadFolder(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	size := 0
	root, err := filepath.EvalSymlinks(dir) // a folder may be a link to the current one
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	if info, err := os.Stat(root); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("read %s: it is no folder", dir)
	}
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch hidden := path != root && strings.HasPrefix(e.Name(), "."); {
		case err != nil:
			return err
		case e.IsDir() && hidden:
			return fs.SkipDir
		case e.IsDir() || hidden || filepath.Ext(path) != ".yaml" && filepath.Ext(path) != ".yml":
			return nil
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // renamed meanwhile: the next look finds it
			return nil
		}
		if err != nil {
			return err
		}
		if size += len(text); len(files) == maxFiles || size > maxBytes {
			return fmt.Errorf("more than %d files or %d bytes", maxFiles, maxBytes)
		}
		files[filepath.Join(dir, strings.TrimPrefix(path, root))] = text
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	return files, nil
}

const (
	// settle is how long a folder must stay as it is before it is taken: a file that
	// is written in place is empty for a moment, which would be valid.
	settle = 50 * time.Millisecond

	pollWatched   = 5 * time.Second        // between two looks, though changes are notified
	pollUnwatched = 500 * time.Millisecond // where they are not
)

// watchFolder says on changed, of capacity 1, when something happened to a folder
// or below it. What it misses (network file systems tell nothing) the next look
// finds. It returns at the end of ctx, or when the system has no watches left.
func watchFolder(ctx context.Context, dir string, changed chan<- struct{}) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	root := dir
	add := func() error {
		var err error
		root, err = filepath.EvalSymlinks(dir)
		if err != nil {
			return nil // it comes back, or the look says why it cannot be read
		}
		// The folder above sees the folder replaced, by a link too.
		err = errors.Join(w.Add(filepath.Dir(dir)), w.Add(root))
		return errors.Join(err, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil
			}
			if path != root && strings.HasPrefix(e.Name(), ".") {
				return fs.SkipDir
			}
			return w.Add(path)
		}))
	}
	if err := add(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
		case e := <-w.Events:
			if e.Name != dir && !strings.HasPrefix(e.Name, dir+"/") && e.Name != root && !strings.HasPrefix(e.Name, root+"/") {
				continue // beside it
			}
			if e.Has(fsnotify.Create) || e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				if err := add(); err != nil { // what was there is watched twice at no cost
					return err
				}
			}
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// same tells whether two readings of a folder are equal.
func same(a, b map[string][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return slices.Equal(x, y) })
}

// Check reads and checks a folder.
func Check(dir string) (*istio.Config, istio.Problems, error) {
	files, err := ReadFolder(dir)
	if err != nil {
		return nil, nil, err
	}
	c, problems := istio.Parse(files)
	return c, problems, nil
}
