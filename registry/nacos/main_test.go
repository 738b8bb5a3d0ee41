package nacos

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/nacos/nacostest"
	"github.com/meshferry/meshferry/registry/registrytest"
)

var (
	v3   = flag.Bool("nacos3", false, "run the tests with Nacos 3.1 instead of 2.3")
	long = flag.Bool("long", false, "run the tests that start and stop servers of their own too")
)

// patience bounds every wait of a test.
const patience = 30 * time.Second

// common is for all tests that do not stop it; each test has its own namespace. It
// checks logins, and pushes changes after 50 ms instead of 500.
var common = registrytest.Shared[*nacostest.Server]{Run: func(ctx context.Context, dir string) (*nacostest.Server, error) {
	return nacostest.Run(ctx, dir, nacostest.Use(version()), nacostest.Auth(), quick)
}}

func TestMain(m *testing.M) { goleak.VerifyTestMain(common.Tests(m)) }

func version() nacostest.Version {
	if *v3 {
		return nacostest.V3
	}
	return nacostest.V2
}

func server(t *testing.T) *nacostest.Server {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a server")
	}
	return common.Server(t)
}

// ownServer is one that checks no logins and that a test may stop.
func ownServer(t *testing.T) *nacostest.Server {
	t.Helper()
	if !*long {
		t.Skip("starts a server of its own: make test-nacos, or -long")
	}
	return nacostest.Start(t, nacostest.Use(version()), quick)
}

var quick = nacostest.Java("-Dnacos.naming.push.pushTaskDelay=50")

var count atomic.Int64

// namespace makes one that no other test uses.
func namespace(t *testing.T, s *nacostest.Server) string {
	t.Helper()
	id := fmt.Sprintf("t%d", count.Add(1))
	if err := s.CreateNamespace(t.Context(), id, "name of "+id); err != nil {
		t.Fatal(err)
	}
	return id
}

// options are those of the agent of a host on s.
func options(s *nacostest.Server, namespace, host string) Options {
	return Options{Servers: []string{s.Addr()}, Namespace: namespace, User: nacostest.User, Password: nacostest.Password,
		HostID: host, look: 50 * time.Millisecond}
}

// running is a Registry that runs until the test ends or Stop is called.
type running struct {
	*Registry
	registrytest.Agent
}

func start(t *testing.T, o Options) running {
	t.Helper()
	r := launch(t, o)
	r.Eventually("connected", func() bool { return r.Status().State == registry.Connected })
	return r
}

// launch does not wait for the connection.
func launch(t *testing.T, o Options) running {
	t.Helper()
	if testing.Verbose() && o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil)).With("host", o.HostID)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return running{r, registrytest.Launch(t, r, patience)}
}

func parse(t *testing.T, text string) registry.URL {
	t.Helper()
	u, err := registry.ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
