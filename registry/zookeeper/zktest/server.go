package zktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// readyWithin bounds the wait for a server to serve; a JVM on a busy machine can
// take many seconds.
const readyWithin = 2 * time.Minute

// Option changes how a server is started.
type Option func(*config)

type config struct {
	tick time.Duration
	java []string
}

// TickTime sets ZooKeeper's tick (default 500 ms). Session time-outs are held to
// 2 to 20 ticks.
func TickTime(d time.Duration) Option { return func(c *config) { c.tick = d } }

// Java adds options of the JVM, "-D…" for instance.
func Java(args ...string) Option {
	return func(c *config) { c.java = append(c.java, args...) }
}

// Server is one ZooKeeper process. Its methods may be called from any goroutine,
// but not several life-cycle methods at once.
type Server struct {
	// Immutable after start.
	dir  string
	lib  string
	port int
	conf string // lines of zoo.cfg beyond the common ones
	opts config

	mu   sync.Mutex
	proc *os.Process   // guarded by mu; nil while stopped
	gone chan struct{} // guarded by mu; closed when proc has been waited for
}

// Start runs a server until the test ends. Its data is in a temporary folder.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s, err := Run(t.Context(), t.TempDir(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// Run installs if need be and starts a server that keeps its data in dir. It
// returns when the server serves. The server ends with Stop or Kill, or with
// this process; ctx bounds the start only.
func Run(ctx context.Context, dir string, opts ...Option) (*Server, error) {
	lib, err := Install(ctx)
	if err != nil {
		return nil, err
	}
	for {
		s, err := newServer(dir, lib, opts)
		if err != nil {
			return nil, err
		}
		err = s.start(ctx)
		if err == nil {
			return s, nil
		}
		// Somebody else can take the port between the choice and the bind.
		if !strings.Contains(s.Log(), "Address already in use") {
			return nil, err
		}
	}
}

func newServer(dir, lib string, opts []Option) (*Server, error) {
	s := &Server{dir: dir, lib: lib, opts: config{tick: 500 * time.Millisecond}}
	for _, o := range opts {
		o(&s.opts)
	}
	port, err := freePort()
	s.port = port
	return s, err
}

// freePort chooses below the range of outgoing connections, so that the port is
// still free when a server is restarted on it.
func freePort() (int, error) {
	for range 100 {
		port := 21000 + rand.IntN(11000)
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port on 127.0.0.1 in 21000-31999")
}

// Addr is host:port of the server.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// URL is the server as a registry address.
func (s *Server) URL() string { return "zookeeper://" + s.Addr() }

// Log is what the server has logged since its last start (warnings and errors).
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "zookeeper.log"))
	return string(b)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// start launches the process and waits until it serves.
func (s *Server) start(ctx context.Context) error {
	if err := s.launch(); err != nil {
		return fmt.Errorf("start ZooKeeper: %w", err)
	}
	if err := s.ready(ctx); err != nil {
		s.Kill()
		return fmt.Errorf("start ZooKeeper: %w\n%s", err, s.Log())
	}
	return nil
}

func (s *Server) launch() error {
	if err := os.MkdirAll(s.data(), 0o755); err != nil {
		return err
	}
	conf := fmt.Sprintf("tickTime=%d\ndataDir=%s\nclientPort=%d\nclientPortAddress=127.0.0.1\n"+
		"admin.enableServer=false\n4lw.commands.whitelist=*\n%s", s.opts.tick.Milliseconds(), s.data(), s.port, s.conf)
	file := filepath.Join(s.dir, "zoo.cfg")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(s.dir, "zookeeper.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	args := append([]string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"}, s.opts.java...)
	cmd := exec.Command("java", append(args, "-cp", filepath.Join(s.lib, "*"),
		"org.apache.zookeeper.server.quorum.QuorumPeerMain", file)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started, gone := make(chan error), make(chan struct{})
	go func() {
		defer close(gone)
		// Linux sends Pdeathsig when the thread that forked ends, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is of no interest: Kill ends it by a signal
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc, s.gone = cmd.Process, gone
	return nil
}

// ready waits until the server answers as one that serves: ruok alone is
// answered before a member of an ensemble has a leader.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	s.mu.Lock()
	gone := s.gone
	s.mu.Unlock()
	for {
		if answer, err := s.FourLetter("srvr"); err == nil && strings.Contains(answer, "Mode: ") {
			return nil
		}
		select {
		case <-gone:
			return errors.New("it ended by itself")
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the process at once, as a crash does. It returns when it is gone.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the process in order.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

func (s *Server) end(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return
	}
	_ = s.proc.Signal(sig) // fails only when it is gone already
	select {
	case <-s.gone:
	case <-time.After(10 * time.Second):
		_ = s.proc.Kill()
		<-s.gone
	}
	s.proc = nil
}

// Restart ends the process, if it runs, and starts it with the same port and
// data. It returns when the server serves again.
func (s *Server) Restart() error {
	s.Kill()
	return s.start(context.Background())
}

// Wipe deletes all data of a stopped server.
func (s *Server) Wipe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		return errors.New("wipe ZooKeeper: it is running")
	}
	// The version folders only: an ensemble's myid stays.
	return os.RemoveAll(filepath.Join(s.data(), "version-2"))
}

// Pause freezes the process: connections stay open and nothing is answered.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Continue ends a Pause.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		_ = s.proc.Signal(sig) // fails only when it is gone
	}
}

// FourLetter sends one of ZooKeeper's four-letter commands ("mntr", "wchp",
// "cons", …) and returns the answer.
func (s *Server) FourLetter(cmd string) (string, error) {
	c, err := net.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	if _, err := io.WriteString(c, cmd); err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	return string(b), nil
}
