package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const patience = 15 * time.Second // for a process that was asked to end

// child is one process. Its standard error goes to a log.
type child struct {
	name, log string
	cmd       *exec.Cmd
	out       io.ReadCloser // its standard output
	ended     chan struct{} // closed when it has ended
	err       error         // how; valid once ended is closed
}

// family is every process of the demo.
type family struct {
	mu       sync.Mutex
	children []*child
}

func (f *family) start(name, dir, program string, args ...string) (*child, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	c := &child{name: name, log: log.Name(), cmd: exec.Command(program, args...), ended: make(chan struct{})}
	c.cmd.Stderr = log
	c.cmd.SysProcAttr = dieWithParent()
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.out, c.cmd.Stdout = out, in
	err = c.cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	f.mu.Lock()
	f.children = append(f.children, c)
	f.mu.Unlock()
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

func (f *family) all() []*child {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*child(nil), f.children...)
}

// close ends everybody, the youngest first: applications before their agents.
func (f *family) close() {
	children := f.all()
	for i := len(children) - 1; i >= 0; i-- {
		children[i].stop()
		children[i].out.Close()
	}
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) interrupt() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.name, err)
	}
	return nil
}

// stop asks the process to end and waits for it.
func (c *child) stop() error {
	if err := c.interrupt(); err != nil {
		return err
	}
	return c.wait()
}

// wait waits until the process has ended, and kills one that does not.
func (c *child) wait() error {
	select {
	case <-c.ended:
		var exit *exec.ExitError
		if errors.As(c.err, &exit) && exit.ExitCode() == 128+int(syscall.SIGTERM) {
			return nil // so ends a JVM that was asked to
		}
		return c.err
	case <-time.After(patience):
		c.cmd.Process.Kill()
		<-c.ended
		return fmt.Errorf("%s did not end within %s and was killed", c.name, patience)
	}
}

// result is how an ended process ended, for a message.
func (c *child) result() error {
	if c.err == nil {
		return errors.New("without an error")
	}
	return c.err
}

// tail is the last lines of the log.
func (c *child) tail(n int) string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(bytes.TrimSpace(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
