package nacostest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
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

// User and Password of a server that checks logins.
const (
	User     = "nacos"
	Password = "nacos"
)

// readyWithin bounds the wait for a server to serve: 15 s of a processor, on a
// machine that may have other work.
const readyWithin = 3 * time.Minute

// Option changes how a server is started.
type Option func(*config)

type config struct {
	version Version
	auth    bool
	java    []string
}

// Use chooses the version; the default is V2.
func Use(v Version) Option { return func(c *config) { c.version = v } }

// Auth has the server check logins (User and Password).
func Auth() Option { return func(c *config) { c.auth = true } }

// Java adds options of the JVM, "-D…" for instance.
func Java(args ...string) Option {
	return func(c *config) { c.java = append(c.java, args...) }
}

// Server is one Nacos process. Its methods may be called from any goroutine, but
// not several life-cycle methods at once.
type Server struct {
	// Immutable after start.
	home    string
	dist    Distribution
	port    int
	console int // V3 only
	opts    config

	mu     sync.Mutex
	proc   *os.Process   // guarded by mu; nil while stopped
	gone   chan struct{} // guarded by mu; closed when proc has been waited for
	secret string        // guarded by mu; of the next start
	token  string        // guarded by mu; of the last login
	auth   bool          // guarded by mu; of the next start
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

// Run installs if need be and starts a server that keeps its data in home, an
// absolute path. It returns when the server serves. The server ends with Stop or
// Kill, or with this process; ctx bounds the start only.
func Run(ctx context.Context, home string, opts ...Option) (*Server, error) {
	o := config{version: V2}
	for _, set := range opts {
		set(&o)
	}
	dist, err := Install(ctx, o.version)
	if err != nil {
		return nil, err
	}
	for {
		s := &Server{home: home, dist: dist, opts: o, auth: o.auth, secret: "the first secret of a test server"}
		if s.port, err = freePorts(-1000, 0, 1000, 1001); err == nil {
			s.console, err = freePorts(0)
		}
		if err != nil {
			return nil, err
		}
		if err = s.start(ctx); err == nil {
			return s, nil
		}
		if !s.portTaken() {
			return nil, err
		}
	}
}

// freePorts chooses below the range of outgoing connections, so that the ports
// are still free when a server is restarted on them.
func freePorts(offsets ...int) (int, error) {
next:
	for range 200 {
		port := 22000 + rand.IntN(9000)
		for _, offset := range offsets {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port+offset))
			if err != nil {
				continue next
			}
			if err := l.Close(); err != nil {
				return 0, err
			}
		}
		return port, nil
	}
	return 0, errors.New("no free ports on 127.0.0.1 in 21000-31999")
}

// Addr is host:port of the server.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// URL is the server as a registry address, without user and password.
func (s *Server) URL() string { return "nacos://" + s.Addr() }

// Log is what the server has logged since its last start.
func (s *Server) Log() string {
	b, _ := os.ReadFile(filepath.Join(s.home, "nacos.log"))
	return string(b)
}

// start launches the process and waits until it serves. On a machine that is very
// busy its embedded database can miss a time-out of its own, and the server ends:
// then it is launched again.
func (s *Server) start(ctx context.Context) (err error) {
	for range launches {
		if err = s.launch(); err != nil {
			return fmt.Errorf("start Nacos: %w", err)
		}
		if err = s.ready(ctx); err == nil {
			return nil
		}
		s.Kill()
		err = fmt.Errorf("start Nacos: %w\n%s", err, s.Log())
		if !errors.Is(err, errEnded) || s.portTaken() {
			break
		}
	}
	return err
}

const launches = 3

var errEnded = errors.New("it ended by itself")

// portTaken tells from the log whether somebody else took a port between the choice
// and the bind.
func (s *Server) portTaken() bool {
	log := s.Log()
	return strings.Contains(log, "already in use") || strings.Contains(log, "Failed to bind")
}

// properties are the server's configuration. The time-out is that of its embedded
// database, 3 s by default: less than the database takes to begin on a machine that
// is busy, and the server ends then.
func (d Distribution) properties(home string, s Settings) string {
	p := fmt.Sprintf(`server.address=%s
server.tomcat.basedir=file:%s
server.tomcat.accesslog.enabled=false
nacos.inetutils.ip-address=127.0.0.1
nacos.core.auth.system.type=nacos
nacos.core.auth.enabled=%t
nacos.core.auth.caching.enabled=true
nacos.core.auth.server.identity.key=meshferry
nacos.core.auth.server.identity.value=test
nacos.core.auth.plugin.nacos.token.secret.key=%s
db.pool.config.connectionTimeout=120000
`, s.Address, home, s.Auth, base64.StdEncoding.EncodeToString([]byte(s.Secret)))
	if d.Version == V3 {
		return p + fmt.Sprintf(`nacos.server.main.port=%d
nacos.server.contextPath=/nacos
nacos.console.port=%d
nacos.console.contextPath=
nacos.core.auth.admin.enabled=%t
nacos.core.auth.console.enabled=%[3]t
`, s.Port, s.Console, s.Auth)
	}
	return p + fmt.Sprintf("server.port=%d\nserver.servlet.contextPath=/nacos\n", s.Port)
}

func (s *Server) launch() error {
	s.mu.Lock()
	settings := Settings{Port: s.port, Console: s.console, Address: "127.0.0.1", Auth: s.auth, Secret: s.secret}
	s.token = ""
	s.mu.Unlock()
	if err := s.dist.Prepare(s.home, settings); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(s.home, "nacos.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	args := append([]string{
		"-javaagent:" + s.dist.Agent,
		// A crash of the process loses nothing, one of the machine is no matter here:
		// no waiting for the disk.
		"-Dderby.system.durability=test",
	}, s.opts.java...)
	cmd := exec.Command("java", append(args, s.dist.Args(s.home)...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.home, out, out
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

// ready waits until the server answers as one that serves, and until its user can
// log in. Without Auth that is so at once in 2.3; in 3.1 there is no user until
// somebody sets its password.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	s.mu.Lock()
	gone, auth := s.gone, s.auth
	s.mu.Unlock()
	path := "/nacos/v1/console/health/readiness"
	if s.dist.Version == V3 {
		path = "/nacos/v3/admin/core/state/readiness"
	}
	serves := false
	for {
		err := errors.New("it does not serve yet")
		if !serves {
			_, err = s.call(ctx, http.MethodGet, path, nil)
			serves = err == nil
		}
		if serves && (auth || s.dist.Version == V3) {
			err = s.login(ctx)
		}
		if err == nil {
			return nil
		}
		select {
		case <-gone:
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
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
	case <-time.After(20 * time.Second):
		_ = s.proc.Kill()
		<-s.gone
	}
	s.proc = nil
}

// Restart ends the process, if it runs, and starts it with the same ports and
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
		return errors.New("wipe Nacos: it is running")
	}
	return os.RemoveAll(filepath.Join(s.home, "data"))
}

// SetSecret has tokens signed with another secret (at least 32 bytes) from the
// next start on: those of before are worth nothing then.
func (s *Server) SetSecret(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secret = secret
}

// SetAuth has logins checked, or not, from the next start on.
func (s *Server) SetAuth(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = on
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
