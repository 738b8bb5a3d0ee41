package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	started "github.com/meshferry/meshferry/internal/process"
)

// process is one process of a test. It is killed when the test ends, and by the
// kernel when the test's own process does.
type process struct {
	t    *testing.T
	name string
	log  string    // file with its standard error
	out  io.Reader // its standard output
	*started.Process
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
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stderr = w.dir, log
	cmd.Env = append(os.Environ(), env...)
	out, in, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stdout = in
	p := &process{t: w.t, name: name, log: log.Name(), out: out}
	p.Process, err = started.Start(cmd)
	in.Close()
	if err != nil {
		out.Close()
		w.t.Fatalf("start %s: %v", name, err)
	}
	w.t.Cleanup(func() {
		p.Kill()
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

// running is false once it has ended.
func (p *process) running() bool {
	select {
	case <-p.Gone():
		return false
	default:
		return true
	}
}

// stop asks it to end and waits until it has, without an error.
func (p *process) stop() {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		p.t.Errorf("%s did not stop in order: %v", p.name, err)
	}
}

// wait waits until it ends by itself and says how.
func (p *process) wait() error {
	p.t.Helper()
	select {
	case <-p.Gone():
		return p.Wait()
	case <-time.After(patience):
		p.Kill()
		p.t.Errorf("%s did not end within %s", p.name, patience)
		return context.DeadlineExceeded
	}
}
