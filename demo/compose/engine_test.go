package compose

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/internal/install"
	"github.com/meshferry/meshferry/internal/process"
)

// packages of Debian and a program of each.
var packages = map[string]string{"docker.io": "dockerd", "docker-compose": "docker-compose", "iptables": "iptables", "debootstrap": "debootstrap"}

// have says why no engine can be had on this machine, if so. With CI=true it
// installs what is missing.
func have(t *testing.T) error {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		return errors.New("it needs root on Linux")
	}
	// Root of a container may not do what the engine is to do.
	if _, err := output(t.Context(), nil, "unshare", append(namespaces, "true")...); err != nil {
		return err
	}
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if os.Getenv("CI") != "true" {
		return fmt.Errorf("%s not installed; with CI=true they are", strings.Join(missing, ", "))
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%s not installed, and there is no apt-get", strings.Join(missing, ", "))
	}
	t.Logf("installing %s", strings.Join(missing, ", "))
	// Debian would start an engine for everybody.
	const policy = "/usr/sbin/policy-rc.d"
	if f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755); err == nil {
		defer os.Remove(policy)
		if _, err := f.WriteString("#!/bin/sh\nexit 101\n"); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	var err error
	for try := range 3 {
		time.Sleep(time.Duration(try) * 5 * time.Second)
		if _, err = output(t.Context(), nil, "apt-get", "-q", "update"); err != nil {
			continue
		}
		env := append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if _, err = output(t.Context(), env, "apt-get", append([]string{"-q", "-y", "--no-install-recommends", "install"}, missing...)...); err == nil {
			break
		}
	}
	if missing := missingPackages(); len(missing) > 0 {
		return fmt.Errorf("%s cannot be installed: %v", strings.Join(missing, ", "), err)
	}
	return nil
}

func missingPackages() (missing []string) {
	for _, pkg := range []string{"docker.io", "docker-compose", "iptables", "debootstrap"} {
		if _, err := exec.LookPath(packages[pkg]); err != nil {
			missing = append(missing, pkg)
		}
	}
	return missing
}

// engine is a Docker engine with its client.
type engine struct {
	dir string
	env []string
	log string
}

// namespaces take along all that an engine makes of bridges, rules, mounts and
// processes.
var namespaces = []string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}

// startEngine gives one that runs until the test ends.
func startEngine(t *testing.T) (*engine, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "meshferry-docker-") // not t.TempDir: a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	e := &engine{dir: dir, log: filepath.Join(dir, "dockerd.log")}
	socket := "unix://" + filepath.Join(dir, "d.sock")
	group := "meshferry-" + filepath.Base(dir)
	// /usr/bin first: Debian's client builds with the engine's BuildKit, others want a plug-in.
	e.env = append(os.Environ(), "DOCKER_HOST="+socket, "DOCKER_CONFIG="+dir, "DOCKER_BUILDKIT=1", "COMPOSE_DOCKER_CLI_BUILD=1",
		"PATH=/usr/bin:/usr/sbin:/sbin:"+os.Getenv("PATH"), "COMPOSE_PROJECT_NAME=mesh", "COMPOSE=docker-compose", "BINARIES=prebuilt", "EVERY=0", "COMPOSE_HTTP_TIMEOUT=180")

	log, err := os.Create(e.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("unshare", append(slices.Clone(namespaces), "sh", "-c",
		`ip link set lo up; exec docker-init -- dockerd "$@"`, "sh",
		"--data-root", filepath.Join(dir, "root"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--host", socket, "--cgroup-parent", group)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = e.env, log, log
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		// Control groups belong to no namespace.
		deadline := time.Now().Add(10 * time.Second)
		for {
			err := removeGroups(group)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("left behind: %v", err)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		_, err := output(t.Context(), e.env, "docker", "version")
		if err == nil {
			return e, nil
		}
		select {
		case <-p.Gone():
			return nil, fmt.Errorf("the engine ended by itself:\n%s", e.tail())
		default:
		}
		if time.Since(begin) > 2*time.Minute {
			return nil, fmt.Errorf("the engine is not there: %w\n%s", err, e.tail())
		}
	}
}

// removeGroups removes the control groups below that one, deepest first.
func removeGroups(name string) error {
	tops, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		return err
	}
	for _, top := range append(tops, "/sys/fs/cgroup/"+name) {
		var all []string
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for i := len(all) - 1; i >= 0; i-- {
			if err := os.Remove(all[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func (e *engine) tail() string {
	text, _ := os.ReadFile(e.log)
	return string(text[max(0, len(text)-4000):])
}

// run fails the test when the command fails.
func (e *engine) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := output(t.Context(), e.env, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// insist is run for what can fail for a moment.
func (e *engine) insist(t *testing.T, name string, args ...string) {
	t.Helper()
	if err := again(t, func() error { _, err := output(t.Context(), e.env, name, args...); return err }); err != nil {
		t.Fatal(err)
	}
}

// javaBase gives the file system of a Debian with Java as a tar file.
func javaBase(ctx context.Context) (string, error) {
	const script = `set -e
mount -t tmpfs tmpfs "$1"
debootstrap --variant=minbase --include=openjdk-17-jre-headless bookworm "$1/root" >"$1/log" 2>&1 || { tail -20 "$1/log"; exit 1; }
cd "$1/root"
rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/doc usr/share/man usr/share/locale
tar --one-file-system -cf "$2" .`
	dir, err := install.Once("compose-java-base", []byte(script), func(dir string) error {
		fmt.Fprintln(os.Stderr, "install: making a Debian with Java (once)")
		work := filepath.Join(filepath.Dir(dir), "work")
		if err := os.Mkdir(work, 0o755); err != nil {
			return err
		}
		var err error
		for try := range 3 {
			time.Sleep(time.Duration(try) * 5 * time.Second)
			// In memory, and in a mount namespace that takes it along: packages are synced file by file.
			if _, err = output(ctx, nil, "unshare", "--mount", "sh", "-c", script, "sh", work, filepath.Join(dir, "base.tar")); err == nil {
				return nil
			}
		}
		return err
	})
	return filepath.Join(dir, "base.tar"), err
}

func output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := command(ctx, env, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out[max(0, len(out)-8000):])
	}
	return string(out), nil
}

// command looks the program up in the PATH of env, not of this process.
func command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	for _, v := range slices.Backward(env) { // the last one counts
		path, ok := strings.CutPrefix(v, "PATH=")
		if !ok || strings.Contains(name, "/") {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
				name = filepath.Join(dir, name)
				break
			}
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	return cmd
}
