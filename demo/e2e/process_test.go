package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is one process of a test. It is killed when the test ends, and by the
// kernel when the test's own process does.
type process struct {
	t    *testing.T
	name string
	log  string // file with its standard error
	cmd  *exec.Cmd
	out  io.Reader     // its standard output
	gone chan struct{} // closed when it has ended
	err  error         // how; valid once gone is closed
}

// spawn starts a process. Its standard error goes to a file that is shown if the
// test fails; a data race or a panic in it fails the test.
func (w *world) spawn(name string, env []string, path string, args ...string) *process {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, fmt.Sprintf("%s-%d.log", name, w.names.Add(1))), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	p := &process{t: w.t, name: name, log: log.Name(), cmd: exec.Command(path, args...), gone: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stderr = w.dir, log
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, in, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	p.out, p.cmd.Stdout = out, in
	started := make(chan error)
	go func() {
		defer close(p.gone)
		// Linux sends Pdeathsig when the thread that forked ends, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	err = <-started
	in.Close()
	if err != nil {
		out.Close()
		w.t.Fatalf("start %s: %v", name, err)
	}
	w.t.Cleanup(func() {
		p.kill()
		out.Close()
		p.inspect()
	})
	return p
}

// inspect shows what the process logged, if that is of interest.
func (p *process) inspect() {
	text := p.logged()
	for _, bad := range []string{"WARNING: DATA RACE", "\npanic: ", "\nfatal error: "} {
		if i := strings.Index("\n"+text, bad); i >= 0 {
			p.t.Errorf("%s: %s", p.name, text[max(0, i-1):min(len(text), i+6000)])
		}
	}
	if p.t.Failed() {
		lines := strings.Split(strings.TrimSpace(text), "\n")
		p.t.Logf("the last lines of %s:\n%s", filepath.Base(p.log), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// logged is its standard error so far.
func (p *process) logged() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Error(err)
	}
	return string(bytes.ToValidUTF8(text, []byte("?")))
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// running is false once it has ended.
func (p *process) running() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// kill ends it as a crash does, and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only when it is gone
	<-p.gone
}

// stop asks it to end and waits until it has, without an error.
func (p *process) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		p.t.Errorf("%s did not stop in order: %v", p.name, err)
	}
}

// wait waits until it ends by itself and says how.
func (p *process) wait() error {
	p.t.Helper()
	select {
	case <-p.gone:
		return p.err
	case <-time.After(patience):
		p.kill()
		p.t.Errorf("%s did not end within %s", p.name, patience)
		return context.DeadlineExceeded
	}
}
