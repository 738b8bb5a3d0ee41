//go:build linux

// Package process starts programs that do not outlive this one: the servers, JVMs and
// applications of tests and demos.
//
// Invariants:
//   - The kernel kills a process when the program that started it ends, however that
//     happens.
//   - Who ends a process waits until it is gone.
package process

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Process is one that was started. Its methods may be called from any goroutine.
type Process struct {
	cmd  *exec.Cmd
	gone chan struct{}
	err  error // valid once gone is closed
}

// Start starts a command.
func Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &Process{cmd: cmd, gone: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.gone)
		// Linux sends Pdeathsig when the thread that forked ends, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	return p, <-started
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Gone is closed when it has ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Wait waits until it has ended and says how, as exec.Cmd.Wait does.
func (p *Process) Wait() error {
	<-p.gone
	return p.err
}

// Signal sends one; to a process that is gone, nothing.
func (p *Process) Signal(sig os.Signal) { _ = p.cmd.Process.Signal(sig) }

// Kill ends it at once, as a crash does.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.gone
}

// Stop asks it to end in order. One that takes longer than within is killed; then
// it returns false.
func (p *Process) Stop(within time.Duration) bool {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.gone:
		return true
	case <-time.After(within):
		p.Kill()
		return false
	}
}

// FreePort is a port at which nobody listens, and at these offsets from it neither.
// An empty host is all addresses. It is below the range of outgoing connections, so
// that it is still free when a server is started again on it.
func FreePort(host string, offsets ...int) (int, error) {
next:
	for range 200 {
		port := 22000 + rand.IntN(9000)
		for _, offset := range append([]int{0}, offsets...) {
			l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port+offset)))
			if err != nil {
				continue next
			}
			if err := l.Close(); err != nil {
				return 0, err
			}
		}
		return port, nil
	}
	return 0, errors.New("no free port in 22000-31000")
}
