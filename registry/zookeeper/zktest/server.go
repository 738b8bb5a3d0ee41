package zktest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/internal/process"
)

// Option changes how a server is started.
type Option func(*config)

type config struct {
	version string
	tick    time.Duration
	java    []string
}

// Use chooses the version, "3.4.14" for instance; the default is Newest.
func Use(version string) Option { return func(c *config) { c.version = version } }

// TickTime sets ZooKeeper's tick (default 500 ms). Session time-outs are held to
// 2 to 20 ticks.
func TickTime(d time.Duration) Option { return func(c *config) { c.tick = d } }

// Java adds options of the JVM, "-D…" for instance.
func Java(args ...string) Option {
	return func(c *config) { c.java = append(c.java, args...) }
}

// Server is one ZooKeeper process. See process.Server for its life.
type Server struct {
	*process.Server

	// Immutable after the start.
	lib  string
	port int
	conf string // lines of zoo.cfg beyond the common ones
	opts config
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
	for {
		s, err := newServer(ctx, dir, opts)
		if err != nil {
			return nil, err
		}
		if err = s.Start(ctx); err == nil || !s.PortTaken() {
			return s, err
		}
	}
}

func newServer(ctx context.Context, dir string, opts []Option) (s *Server, err error) {
	s = &Server{opts: config{version: Newest, tick: 500 * time.Millisecond}}
	s.Server = &process.Server{Name: "ZooKeeper", Dir: dir, Command: s.command, Ready: s.ready}
	for _, o := range opts {
		o(&s.opts)
	}
	if s.lib, err = installVersion(ctx, s.opts.version); err != nil {
		return nil, err
	}
	s.port, err = process.FreePort("127.0.0.1")
	return s, err
}

// Addr is host:port of the server.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// URL is the server as a registry address.
func (s *Server) URL() string { return "zookeeper://" + s.Addr() }

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

func (s *Server) command() (*exec.Cmd, error) {
	if err := os.MkdirAll(s.data(), 0o755); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("tickTime=%d\ndataDir=%s\nclientPort=%d\nclientPortAddress=127.0.0.1\n"+
		"admin.enableServer=false\n4lw.commands.whitelist=*\n%s", s.opts.tick.Milliseconds(), s.data(), s.port, s.conf)
	file := filepath.Join(s.Dir, "zoo.cfg")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	args := append([]string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"}, s.opts.java...)
	return exec.Command("java", append(args, "-cp", filepath.Join(s.lib, "*"),
		"org.apache.zookeeper.server.quorum.QuorumPeerMain", file)...), nil
}

// ready tells whether the server answers as one that serves (ruok alone is answered
// before a member of an ensemble has a leader), and is no other one at its port.
func (s *Server) ready(context.Context) error {
	for command, part := range map[string]string{"srvr": "Mode: ", "envi": "user.dir=" + s.Dir + "\n"} {
		if answer, err := s.FourLetter(command); err != nil || !strings.Contains(answer, part) {
			return fmt.Errorf("%s: %q, %w", command, answer, err)
		}
	}
	return nil
}

// Wipe deletes all data of a stopped server. An ensemble's myid stays.
func (s *Server) Wipe() error { return s.Remove(filepath.Join(s.data(), "version-2")) }

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
