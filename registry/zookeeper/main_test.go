package zookeeper

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

// patience bounds every wait of a test.
const patience = 20 * time.Second

var version = flag.String("zookeeper", zktest.Newest, "version of the server that is not stopped")

// One server for all tests that do not stop it; each test has its own roots.
var common struct {
	once sync.Once
	dir  string
	s    *zktest.Server
	err  error
	n    atomic.Int64
}

type tests struct{ *testing.M }

func (m tests) Run() int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "meshferry-zk-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	common.dir = dir
	code := m.M.Run()
	if common.s != nil {
		common.s.Kill()
	}
	return code
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(tests{m}) }

func server(t *testing.T) *zktest.Server {
	t.Helper()
	common.once.Do(func() { common.s, common.err = zktest.Run(context.Background(), common.dir, zktest.Use(*version)) })
	if common.err != nil {
		t.Fatal(common.err)
	}
	return common.s
}

// roots are a root and a services root that no other test uses.
func roots() (root, services string) {
	n := common.n.Add(1)
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

type logs struct{ t *testing.T }

func (l logs) Write(b []byte) (int, error) {
	l.t.Logf("%s", strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// options are those of the agent of a host on s, below roots of its own.
func options(s *zktest.Server, host string) Options {
	o := Options{Servers: []string{s.Addr()}, HostID: host, SessionTimeout: 10 * time.Second}
	o.Root, o.ServicesRoot = roots()
	return o
}

// running is a Registry whose Run runs until the test ends or stop is called.
type running struct {
	*Registry
	t    *testing.T
	stop func()
}

func start(t *testing.T, o Options) running {
	t.Helper()
	if testing.Verbose() && o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(logs{t}, nil)).With("host", o.HostID)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	a := running{r, t, sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not end")
		}
	})}
	t.Cleanup(a.stop)
	a.await("connected", func() bool { return r.Status().State == registry.Connected })
	return a
}

// await polls for states that have no event.
func (a running) await(what string, done func() bool) {
	a.t.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			a.t.Fatalf("never %s; status %+v", what, a.Status())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (a running) apply(d registry.Desired) registry.Report {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	report, err := a.Apply(ctx, d)
	if err != nil {
		a.t.Fatalf("Apply: %v", err)
	}
	return report
}

func (a running) hold(d registry.Desired) {
	a.t.Helper()
	for key, item := range a.apply(d) {
		if item.State != registry.Held {
			a.t.Fatalf("%s is %+v, want held", key, item)
		}
	}
}

// sets is one subscription.
type sets struct {
	t  *testing.T
	ch chan registry.Endpoints
}

func (a running) subscribe(iface string) sets {
	ctx, cancel := context.WithCancel(context.Background())
	ch, ended := make(chan registry.Endpoints), make(chan error, 1)
	go func() { ended <- a.Subscribe(ctx, iface, ch) }()
	a.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			a.t.Errorf("Subscribe(%s): %v", iface, err)
		}
	})
	return sets{a.t, ch}
}

// until reads sets until one satisfies done.
func (s sets) until(what string, done func(registry.Endpoints) bool) registry.Endpoints {
	s.t.Helper()
	deadline := time.After(patience)
	var last registry.Endpoints
	for {
		select {
		case last = <-s.ch:
			if done(last) {
				return last
			}
		case <-deadline:
			s.t.Fatalf("never %s; the last set: %+v", what, last)
		}
	}
}

func size(n int) func(registry.Endpoints) bool {
	return func(e registry.Endpoints) bool { return len(e.Providers) == n }
}
