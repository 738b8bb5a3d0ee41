// Package install keeps what tests and demos fetch or compile once: in .cache
// beside go.mod, or in $MESHFERRY_CACHE.
//
// Invariants:
//   - A folder that exists is whole: it appears by a rename.
//   - Several processes may ask for one folder at once: one fills it, the others
//     wait; the lock ends with its holder.
package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const module = "module github.com/meshferry/meshferry"

// Once gives the folder name-hash in the cache, where hash stands for key: other
// content, other folder. If it is not there, fill is given an empty folder that
// becomes it.
func Once(name string, key []byte, fill func(dir string) error) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	sum := sha256.Sum256(key)
	dir := filepath.Join(cache, name+"-"+hex.EncodeToString(sum[:4]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := once(cache, dir, fill); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	return dir, nil
}

func once(cache, dir string, fill func(dir string) error) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	tmp, err := os.MkdirTemp(cache, "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	full := filepath.Join(tmp, "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		return err
	}
	if err := fill(full); err != nil {
		return err
	}
	return os.Rename(full, dir)
}

// lock waits until this process alone has the file locked.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// Jars gives a folder with the jars that a Maven project depends on. Progress
// goes to standard error.
func Jars(ctx context.Context, name string, pom []byte) (string, error) {
	return Once(name, pom, func(dir string) error {
		project := filepath.Join(filepath.Dir(dir), "pom.xml")
		if err := os.WriteFile(project, pom, 0o644); err != nil {
			return err
		}
		// Two of them at once could damage Maven's own repository.
		unlock, err := lock(filepath.Join(filepath.Dir(filepath.Dir(dir)), "maven.lock"))
		if err != nil {
			return err
		}
		defer unlock()
		fmt.Fprintf(os.Stderr, "install: fetching %s with Maven (once)\n", name)
		if err := run(exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", project, "dependency:copy-dependencies", "-DoutputDirectory="+dir)); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "install: %s is there\n", name)
		return nil
	})
}

// Classes gives a folder with the Java sources compiled against the jars.
func Classes(ctx context.Context, name, jars string, sources map[string][]byte) (string, error) {
	key := []byte(filepath.Base(jars)) // that name has the hash of what is in it
	for _, path := range slices.Sorted(maps.Keys(sources)) {
		key = append(append(key, path...), sources[path]...)
	}
	return Once(name, key, func(dir string) error {
		args := []string{"-nowarn", "-encoding", "UTF-8", "-d", dir, "-cp", filepath.Join(jars, "*")}
		for path, text := range sources {
			file := filepath.Join(filepath.Dir(dir), filepath.Base(path))
			if err := os.WriteFile(file, text, 0o644); err != nil {
				return err
			}
			args = append(args, file)
		}
		return run(exec.CommandContext(ctx, "javac", args...))
	})
}

// Project gives a folder with what a Maven project of this repository builds,
// without its tests: for each module a folder of that name with its jar and, if
// the build puts them into target/lib, the jars that it needs. at is the project's
// folder below the repository's root, with are other folders that it builds.
// Progress goes to standard error.
func Project(ctx context.Context, name, at string, with ...string) (string, error) {
	return ProjectWith(ctx, name, nil, at, with...)
}

// ProjectWith is Project with arguments for Maven: other arguments, other folder.
func ProjectWith(ctx context.Context, name string, args []string, at string, with ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	folders := append([]string{at}, with...)
	key := []byte(strings.Join(args, "\x00"))
	for _, folder := range folders {
		more, err := sources(os.DirFS(filepath.Join(root, folder)))
		if err != nil {
			return "", fmt.Errorf("install %s: %w", name, err)
		}
		key = append(key, more...)
	}
	return Once(name, key, func(dir string) error {
		work := filepath.Join(filepath.Dir(dir), "work")
		for _, folder := range folders {
			if err := os.CopyFS(filepath.Join(work, folder), os.DirFS(filepath.Join(root, folder))); err != nil {
				return err
			}
		}
		unlock, err := lock(filepath.Join(filepath.Dir(filepath.Dir(dir)), "maven.lock"))
		if err != nil {
			return err
		}
		defer unlock()
		fmt.Fprintf(os.Stderr, "install: building %s with Maven (once)\n", at)
		args := append([]string{"-q", "-B", "-f", filepath.Join(work, at, "pom.xml"), "clean", "package", "-Dmaven.test.skip=true"}, args...)
		if err := run(exec.CommandContext(ctx, "mvn", args...)); err != nil {
			return err
		}
		return collect(filepath.Join(work, at), dir)
	})
}

// collect moves the jars of each module of a project into a folder of its name.
func collect(project, dir string) error {
	var all []string
	for _, pattern := range []string{"*/target/*.jar", "*/target/lib/*.jar"} {
		jars, err := filepath.Glob(filepath.Join(project, pattern))
		if err != nil {
			return err
		}
		all = append(all, jars...)
	}
	if len(all) == 0 {
		return errors.New("the build made no jar")
	}
	for _, jar := range all {
		path, err := filepath.Rel(project, jar)
		if err != nil {
			return err
		}
		module, _, _ := strings.Cut(path, string(filepath.Separator))
		if err := os.MkdirAll(filepath.Join(dir, module), 0o755); err != nil {
			return err
		}
		if err := os.Rename(jar, filepath.Join(dir, module, filepath.Base(jar))); err != nil {
			return err
		}
	}
	return nil
}

// sources are the files that a project's jars depend on, names and content.
func sources(project fs.FS) (key []byte, err error) {
	err = fs.WalkDir(project, ".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "target" || strings.HasSuffix(path, "src/test")):
			return fs.SkipDir
		case e.IsDir() || path != "pom.xml" && !strings.HasSuffix(path, "/pom.xml") && !strings.Contains(path, "src/main/"):
			return nil
		}
		text, err := fs.ReadFile(project, path)
		key = append(append(append(key, path...), 0), text...)
		return err
	})
	return key, err
}

// run shows the output of a command that fails.
func run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out.Bytes())
	}
	return nil
}

// Cache is $MESHFERRY_CACHE, else .cache beside this module's go.mod.
func Cache() (string, error) {
	if dir := os.Getenv("MESHFERRY_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := Root()
	if err != nil {
		return "", fmt.Errorf("%w: set MESHFERRY_CACHE to a folder", err)
	}
	return filepath.Join(root, ".cache"), nil
}

// Root is the folder of this module's go.mod, above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if first, _, _ := strings.Cut(string(mod), "\n"); err == nil && first == module {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository")
		}
		dir = parent
	}
}
