package zktest

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed pom.xml
var pom []byte

const module = "module github.com/meshferry/meshferry"

// Install returns the folder of the server's jars, after fetching them with
// Maven if they are not in the cache yet. Progress goes to stderr.
func Install(ctx context.Context) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", fmt.Errorf("install ZooKeeper: %w", err)
	}
	// The hash makes a changed pom a new folder.
	sum := sha256.Sum256(pom)
	lib := filepath.Join(cache, "zookeeper-"+hex.EncodeToString(sum[:4]))
	if _, err := os.Stat(lib); err == nil {
		return lib, nil
	}
	if err := fetch(ctx, cache, lib); err != nil {
		return "", fmt.Errorf("install ZooKeeper: %w", err)
	}
	return lib, nil
}

// fetch fills lib by a rename, so that lib is whole whenever it exists. The lock
// keeps a second process from fetching the same; it ends with its holder.
func fetch(ctx context.Context, cache, lib string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(lib+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(lib); err == nil {
		return nil
	}
	tmp, err := os.MkdirTemp(cache, "zookeeper-tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	project := filepath.Join(tmp, "pom.xml")
	if err := os.WriteFile(project, pom, 0o644); err != nil {
		return err
	}
	jars := filepath.Join(tmp, "lib")
	fmt.Fprintf(os.Stderr, "zktest: fetching ZooKeeper into %s (once)\n", lib)
	var out bytes.Buffer
	mvn := exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", project,
		"dependency:copy-dependencies", "-DoutputDirectory="+jars)
	mvn.Stdout, mvn.Stderr = &out, &out
	if err := mvn.Run(); err != nil {
		return fmt.Errorf("mvn: %w\n%s", err, out.Bytes())
	}
	fmt.Fprintln(os.Stderr, "zktest: ZooKeeper is installed")
	return os.Rename(jars, lib)
}

// cacheDir is $MESHFERRY_CACHE, else .cache beside this module's go.mod.
func cacheDir() (string, error) {
	if dir := os.Getenv("MESHFERRY_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if first, _, _ := strings.Cut(string(mod), "\n"); err == nil && first == module {
			return filepath.Join(dir, ".cache"), nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository: set MESHFERRY_CACHE to a folder")
		}
		dir = parent
	}
}
