package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Python gives a folder with a virtual environment that has the packages, as
// "name==version". Progress goes to standard error.
func Python(ctx context.Context, name string, packages ...string) (string, error) {
	return Once(name, fmt.Append(nil, packages), func(dir string) error {
		fmt.Fprintf(os.Stderr, "install: fetching %s with pip (once)\n", name)
		if err := run(exec.CommandContext(ctx, "python3", "-m", "venv", dir)); err != nil {
			return err
		}
		// Not bin/pip: its first line names the folder that is renamed afterwards.
		args := append([]string{"-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"}, packages...)
		return run(exec.CommandContext(ctx, filepath.Join(dir, "bin", "python3"), args...))
	})
}
