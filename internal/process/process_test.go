//go:build linux

package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestDiesWithParent starts a shell that starts nothing that lives by itself: this
// test as another program, which starts a process and is killed.
func TestDiesWithParent(t *testing.T) {
	if os.Getenv("PARENT") != "" {
		p, err := Start(exec.Command("sleep", "60"))
		fmt.Println(p.PID(), err)
		select {}
	}
	parent := exec.Command(os.Args[0], "-test.run", "^TestDiesWithParent$")
	parent.Env = append(os.Environ(), "PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, err2 := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(line), " <nil>"))
	_ = parent.Process.Kill()
	_ = parent.Wait() // killed
	if err != nil || err2 != nil {
		t.Fatalf("%q: %v, %v", line, err, err2)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(text), ") Z ") { // gone, or nobody has asked yet how it ended
			break
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("it outlives its parent")
		}
	}
}

func TestStopAndKill(t *testing.T) {
	for name, c := range map[string]struct {
		script  string
		within  time.Duration
		inOrder bool
	}{
		"ends when asked": {"trap 'exit 3' TERM; echo; while :; do sleep 0.01; done", time.Minute, true},
		"does not listen": {"trap '' TERM; echo; while :; do sleep 0.01; done", time.Millisecond, false},
	} {
		cmd := exec.Command("sh", "-c", c.script)
		out, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout = in
		p, err := Start(cmd)
		in.Close()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // the trap is set
			t.Fatal(err)
		}
		if got := p.Stop(c.within); got != c.inOrder {
			t.Errorf("%s: Stop says %v", name, got)
		}
		out.Close()
		var exit *exec.ExitError
		if err := p.Wait(); !errors.As(err, &exit) || (exit.ExitCode() == 3) != c.inOrder {
			t.Errorf("%s: ended with %v", name, err)
		}
		p.Kill() // nothing, when it is gone
	}
	if _, err := Start(exec.Command("/nonexistent")); err == nil {
		t.Error("started what there is not")
	}
}

// TestServer is a server that says when it serves, and one that cannot.
func TestServer(t *testing.T) {
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	starts := 0
	s := &Server{Name: "example", Dir: dir,
		Command: func() (*exec.Cmd, error) {
			starts++
			_ = os.Remove(ready) // of the start before, if there was one
			return exec.Command("sh", "-c", "mkdir -p data; echo start: $(ls data); touch data/kept ready; while :; do sleep 0.01; done"), nil
		},
		Ready: func(context.Context) error { _, err := os.Stat(ready); return err },
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	if err := s.Remove(filepath.Join(dir, "data")); err == nil {
		t.Error("removed the data of a running server")
	}
	s.Pause()
	s.Continue()
	if err := s.Restart(); err != nil || s.Log() != "start: kept\n" {
		t.Errorf("restart: %v, log %q", err, s.Log())
	}
	s.Stop()
	if err := s.Remove(filepath.Join(dir, "data")); err != nil {
		t.Error(err)
	}
	if err := s.Restart(); err != nil || starts != 3 || s.Log() != "start:\n" {
		t.Errorf("%v after %d starts, log %q", err, starts, s.Log())
	}
	s.Kill()

	for log, launched := range map[string]int{"it broke": launches, "bind: Address already in use": 1} {
		starts = 0
		bad := &Server{Name: "example", Dir: t.TempDir(),
			Command: func() (*exec.Cmd, error) { starts++; return exec.Command("echo", log), nil },
			Ready:   func(context.Context) error { return errors.New("it does not serve") },
		}
		if err := bad.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "start example: it ended by itself\n"+log) || starts != launched {
			t.Errorf("%s: %v after %d launches, want %d", log, err, starts, launched)
		}
	}
}

func TestFreePort(t *testing.T) {
	port, err := FreePort("127.0.0.1", -1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{port - 1, port, port + 1} {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if _, err := FreePort("192.0.2.1"); err == nil {
		t.Error("a port of an address that is not of this machine")
	}
}
