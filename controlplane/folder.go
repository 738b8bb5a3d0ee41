package controlplane

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch hidden := path != dir && strings.HasPrefix(e.Name(), "."); {
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
		files[path] = text
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	return files, nil
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
