//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server is a program that serves on this machine and keeps its data in a folder, so
// that it can be ended and started again. Its methods may be called from any
// goroutine, but not several that start or end it at once.
type Server struct {
	// Immutable after the first Start.
	Name    string                          // in errors
	Dir     string                          // where it runs and logs
	Command func() (*exec.Cmd, error)       // its next start
	Ready   func(ctx context.Context) error // nil when it serves

	mu sync.Mutex
	p  *Process // guarded by mu; nil while stopped
}

const (
	readyWithin = 3 * time.Minute // a JVM on a machine that has other work
	stopWithin  = 20 * time.Second
	launches    = 3
)

var errEnded = errors.New("it ended by itself")

// Start launches the server and waits until it serves; ctx bounds the wait only. One
// that ends by itself is launched again: on a machine that is very busy a server can
// miss a time-out of its own. Not one whose port is taken: see PortTaken.
func (s *Server) Start(ctx context.Context) (err error) {
	for range launches {
		if err = s.launch(); err != nil {
			return fmt.Errorf("start %s: %w", s.Name, err)
		}
		if err = s.ready(ctx); err == nil {
			return nil
		}
		s.Kill()
		err = fmt.Errorf("start %s: %w\n%s", s.Name, err, s.Log())
		if !errors.Is(err, errEnded) || s.PortTaken() {
			break
		}
	}
	return err
}

func (s *Server) launch() error {
	cmd, err := s.Command()
	if err != nil {
		return err
	}
	log, err := os.Create(s.log())
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, log, log
	p, err := Start(cmd)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.p = p
	return nil
}

func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	s.mu.Lock()
	gone := s.p.Gone()
	s.mu.Unlock()
	for {
		err := s.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-gone:
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Server) log() string { return filepath.Join(s.Dir, "server.log") }

// Log is what the server has written since its last start.
func (s *Server) Log() string {
	b, _ := os.ReadFile(s.log()) // none: never started
	return string(b)
}

// PortTaken tells from the log whether somebody else took a port between the choice
// of it and the start.
func (s *Server) PortTaken() bool {
	log := s.Log()
	return strings.Contains(log, "already in use") || strings.Contains(log, "Failed to bind")
}

// Kill ends the process at once, as a crash does.
func (s *Server) Kill() { s.end((*Process).Kill) }

// Stop ends the process in order.
func (s *Server) Stop() { s.end(func(p *Process) { p.Stop(stopWithin) }) }

func (s *Server) end(how func(*Process)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p != nil {
		how(s.p)
		s.p = nil
	}
}

// Restart ends the process, if it runs, and starts it again with what it has on disk.
func (s *Server) Restart() error {
	s.Kill()
	return s.Start(context.Background())
}

// Pause freezes the process: connections stay open and nothing is answered.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p != nil {
		s.p.Signal(sig)
	}
}

// Remove deletes a folder of a stopped server.
func (s *Server) Remove(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.p != nil {
		return fmt.Errorf("remove data of %s: it is running", s.Name)
	}
	return os.RemoveAll(dir)
}
