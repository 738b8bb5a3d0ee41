package nacostest

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/meshferry/meshferry/internal/process"
)

// User and Password of a server that checks logins.
const (
	User     = "nacos"
	Password = "nacos"
)

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

// Server is one Nacos process. See process.Server for its life.
type Server struct {
	*process.Server

	// Immutable after the start.
	dist    Distribution
	port    int
	console int // V3 only
	opts    config

	mu     sync.Mutex
	secret string // guarded by mu; of the next start
	token  string // guarded by mu; of the last login
	auth   bool   // guarded by mu; of the next start
	serves bool   // guarded by mu; said so since the last start
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
		s := &Server{dist: dist, opts: o, auth: o.auth, secret: "the first secret of a test server"}
		s.Server = &process.Server{Name: "Nacos", Dir: home, Command: s.command, Ready: s.ready}
		if s.port, err = process.FreePort("127.0.0.1", -1000, 1000, 1001); err == nil {
			s.console, err = process.FreePort("127.0.0.1")
		}
		if err != nil {
			return nil, err
		}
		if err = s.Start(ctx); err == nil || !s.PortTaken() {
			return s, err
		}
	}
}

// Addr is host:port of the server.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// URL is the server as a registry address, without user and password.
func (s *Server) URL() string { return "nacos://" + s.Addr() }

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

func (s *Server) command() (*exec.Cmd, error) {
	s.mu.Lock()
	settings := Settings{Port: s.port, Console: s.console, Address: "127.0.0.1", Auth: s.auth, Secret: s.secret}
	s.token, s.serves = "", false
	s.mu.Unlock()
	if err := s.dist.Prepare(s.Dir, settings); err != nil {
		return nil, err
	}
	args := append([]string{
		"-javaagent:" + s.dist.Agent,
		// A crash of the process loses nothing, one of the machine is no matter here:
		// no waiting for the disk.
		"-Dderby.system.durability=test",
	}, s.opts.java...)
	return exec.Command("java", append(args, s.dist.Args(s.Dir)...)...), nil
}

// ready tells whether the server answers as one that serves, and whether its user
// can log in. Without Auth that is so at once in 2.3; in 3.1 there is no user until
// somebody sets its password.
func (s *Server) ready(ctx context.Context) error {
	s.mu.Lock()
	auth, serves := s.auth, s.serves
	s.mu.Unlock()
	path := "/nacos/v1/console/health/readiness"
	if s.dist.Version == V3 {
		path = "/nacos/v3/admin/core/state/readiness"
	}
	if !serves {
		if _, err := s.call(ctx, http.MethodGet, path, nil); err != nil {
			return err
		}
		s.mu.Lock()
		s.serves = true
		s.mu.Unlock()
	}
	if auth || s.dist.Version == V3 {
		return s.login(ctx)
	}
	return nil
}

// Wipe deletes all data of a stopped server.
func (s *Server) Wipe() error { return s.Remove(filepath.Join(s.Dir, "data")) }

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
