package zookeeper

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/registrytest"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

// patience bounds every wait of a test.
const patience = 20 * time.Second

var version = flag.String("zookeeper", zktest.Newest, "version of the server that is not stopped")

// common is for all tests that do not stop it; each test has its own roots.
var common = registrytest.Shared[*zktest.Server]{Run: func(ctx context.Context, dir string) (*zktest.Server, error) {
	return zktest.Run(ctx, dir, zktest.Use(*version))
}}

func TestMain(m *testing.M) { goleak.VerifyTestMain(common.Tests(m)) }

func server(t *testing.T) *zktest.Server {
	t.Helper()
	return common.Server(t)
}

var count atomic.Int64

// roots are a root and a services root that no other test uses.
func roots() (root, services string) {
	n := count.Add(1)
	return fmt.Sprintf("t%d/dubbo", n), fmt.Sprintf("t%d/services", n)
}

var discard = slog.New(slog.DiscardHandler)

// memory is a Store in memory.
type memory struct {
	mu  sync.Mutex
	b   []byte
	err error // of both calls
}

func (m *memory) Load() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b, m.err
}

func (m *memory) Save(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.b = append([]byte(nil), b...)
	}
	return m.err
}

// options are those of the agent of a host on s, below roots of its own.
func options(s *zktest.Server, host string) Options {
	o := Options{Servers: []string{s.Addr()}, HostID: host, SessionTimeout: 10 * time.Second}
	o.Root, o.ServicesRoot = roots()
	return o
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

func size(n int) func(registry.Endpoints) bool {
	return func(e registry.Endpoints) bool { return len(e.Providers) == n }
}
