package nacos

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
	"github.com/meshferry/meshferry/registry/nacos/nacostest"
)

var (
	v3   = flag.Bool("nacos3", false, "run the tests with Nacos 3.1 instead of 2.3")
	long = flag.Bool("long", false, "run the tests that start and stop servers of their own too")
)

// patience bounds every wait of a test.
const patience = 30 * time.Second

// One server for all tests that do not stop it; each test has its own namespace.
var common struct {
	once sync.Once
	dir  string
	s    *nacostest.Server
	err  error
	n    atomic.Int64
}

type tests struct{ *testing.M }

func (m tests) Run() int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "meshferry-nacos-")
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

func version() nacostest.Version {
	if *v3 {
		return nacostest.V3
	}
	return nacostest.V2
}

// server checks logins. It pushes changes after 50 ms instead of 500.
func server(t *testing.T) *nacostest.Server {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a server")
	}
	common.once.Do(func() {
		common.s, common.err = nacostest.Run(context.Background(), common.dir, nacostest.Use(version()), nacostest.Auth(), quick)
	})
	if common.err != nil {
		t.Fatal(common.err)
	}
	return common.s
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

// namespace makes one that no other test uses.
func namespace(t *testing.T, s *nacostest.Server) string {
	t.Helper()
	id := fmt.Sprintf("t%d", common.n.Add(1))
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

type logs struct{ t *testing.T }

func (l logs) Write(b []byte) (int, error) {
	l.t.Logf("%s", strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// running is a Registry whose Run runs until the test ends or stop is called.
type running struct {
	*Registry
	t    *testing.T
	stop func()
}

func start(t *testing.T, o Options) running {
	t.Helper()
	r := launch(t, o)
	r.eventually("connected", func() bool { return r.Status().State == registry.Connected })
	return r
}

// launch does not wait for the connection.
func launch(t *testing.T, o Options) running {
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
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not end")
		}
	})
	t.Cleanup(stop)
	return running{r, t, stop}
}

func (r running) eventually(what string, done func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never %s; status %+v", what, r.Status())
		}
	}
}

// hold applies d until every item is held.
func (r running) hold(d registry.Desired) {
	r.t.Helper()
	var report registry.Report
	var err error
	r.eventually(fmt.Sprintf("held: %v, %v", report, err), func() bool {
		report, err = r.Apply(r.t.Context(), d)
		if err != nil {
			return false
		}
		for _, i := range report {
			if i.State != registry.Held {
				return false
			}
		}
		return true
	})
}

// listener is one subscription.
type listener struct {
	t    *testing.T
	sets chan registry.Endpoints
}

func (r running) subscribe(iface string) listener {
	l := listener{r.t, make(chan registry.Endpoints)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Subscribe(ctx, iface, l.sets) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("Subscribe: %v", err)
		}
	})
	return l
}

// until reads sets until one has these texts; it fails on one of which bad says
// why.
func (l listener) until(want []string, bad ...func(got []string) string) {
	l.t.Helper()
	deadline := time.After(patience)
	var got []string
	for {
		select {
		case e := <-l.sets:
			got = nil
			for _, p := range e.Providers {
				got = append(got, string(p.Model)+" "+p.URL.String())
			}
			if e.Incomplete != "" {
				got = append(got, "incomplete "+e.Incomplete)
			}
			for _, f := range bad {
				if why := f(got); why != "" {
					l.t.Errorf("%s: %q", why, got)
				}
			}
			if fmt.Sprint(got) == fmt.Sprint(want) {
				return
			}
		case <-deadline:
			l.t.Fatalf("never got\n%s\nlast\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
		}
	}
}

func parse(t *testing.T, text string) registry.URL {
	t.Helper()
	u, err := registry.ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
