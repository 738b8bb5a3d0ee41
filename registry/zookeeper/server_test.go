package zookeeper

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
	"github.com/meshferry/meshferry/registry/registrytest"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

// trouble is an agent that publishes, and a set that another one reads.
type trouble struct {
	running
	t    *testing.T
	s    *zktest.Server
	o    Options
	d    registry.Desired
	set  *registrytest.Listener
	want string // the tree while d is published
}

func newTrouble(t *testing.T, s *zktest.Server, session time.Duration) trouble {
	o := options(s, "host-a")
	o.Session, o.SessionTimeout = &memory{}, session
	x := trouble{t: t, running: start(t, o), s: s, o: o, d: desired("192.0.2.1", "r1")}
	o.Session, o.HostID = nil, "host-b"
	x.set = start(t, o).Listen(greeter)
	x.HoldSoon(x.d)
	x.set.Await("whole", size(2))
	x.want = tree(t, s, o)
	return x
}

// recovers waits for the session after the one before, and checks that all comes
// back and that the reader hears of changes again.
func (x trouble) recovers(before string) {
	x.t.Helper()
	x.Eventually("in a new session", func() bool {
		return x.Status().State == registry.Connected && x.Status().Session != before
	})
	heard(x.t, x.Lost())
	x.HoldSoon(x.d)
	if got := tree(x.t, x.s, x.o); got != x.want {
		x.t.Errorf("tree:\n%s", got)
	}
	more := x.d
	more.Providers = append(more.Providers, desired("192.0.2.2", "r1").Providers...)
	x.HoldSoon(more)
	x.set.Await("told of one more", size(3))
	x.HoldSoon(x.d)
	x.set.Await("told of one less", size(2))
}

// TestServerKilled restarts the server: the session and its nodes survive, also
// for an agent that ends meanwhile. Then it wipes the server, where the agent has
// seen more than the server knows.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	x := newTrouble(t, zktest.Start(t), 10*time.Second)
	first := owned(t, x.s, x.o)
	x.s.Kill()
	x.Eventually("away", func() bool { return x.Status().State == registry.Away })
	report, err := x.Apply(t.Context(), x.d)
	if !errors.Is(err, registry.ErrAway) || report[x.d.Providers[0].String()].State != registry.Pending {
		t.Errorf("Apply: %v, %v", report, err)
	}
	if err := x.End(t.Context()); !errors.Is(err, registry.ErrAway) {
		t.Errorf("End: %v", err)
	}
	x.Stop()
	if err := x.s.Restart(); err != nil {
		t.Fatal(err)
	}
	x.running = start(t, x.o)
	x.HoldSoon(x.d)
	for path, stat := range owned(t, x.s, x.o) {
		if first[path] != stat {
			t.Errorf("%s changed: %+v, was %+v", path, stat, first[path])
		}
	}

	before := x.Status().Session
	drain(x.Lost())
	x.s.Kill()
	if err := x.s.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := x.s.Restart(); err != nil {
		t.Fatal(err)
	}
	x.recovers(before)
}

// TestServerFrozen stops the server for longer than the session.
func TestServerFrozen(t *testing.T) {
	t.Parallel()
	const session = 2 * time.Second
	x := newTrouble(t, zktest.Start(t, zktest.TickTime(100*time.Millisecond)), session)
	before := x.Status().Session
	// A thawed server may read the client's queued reconnect before it looks at its
	// clock; then the session lives on, and it is frozen again.
	for range 10 {
		drain(x.Lost())
		x.s.Pause()
		x.Eventually("away", func() bool { return x.Status().State == registry.Away })
		time.Sleep(session + session/2) // the server judges by its own clock: there is no event to wait for
		x.s.Continue()
		x.Eventually("connected", func() bool { return x.Status().State == registry.Connected })
		if x.Status().Session != before {
			break
		}
	}
	x.recovers(before)
}

// TestEnsemble takes the member away that the agents are connected to.
func TestEnsemble(t *testing.T) {
	t.Parallel()
	e := zktest.Start3(t)
	o, err := ParseURL(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	o.HostID, o.SessionTimeout = "host-a", 10*time.Second
	a := start(t, o)
	set := a.Listen(greeter)
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	set.Await("whole", size(2))
	session := a.Status().Session
	connected := a.client.conn.Load().Server()
	for _, s := range e.Servers {
		if s.Addr() == connected {
			s.Kill()
		}
	}
	a.Eventually("away", func() bool { return a.Status().State != registry.Connected })
	a.Eventually("connected", func() bool { return a.Status().State == registry.Connected })
	a.Hold(d)
	if got := a.Status().Session; got != session {
		t.Errorf("session %s, was %s", got, session)
	}
	d.Providers = append(d.Providers, desired("192.0.2.2", "r1").Providers...)
	a.Hold(d)
	set.Await("whole", size(3))
}

// TestNoServer starts without one: it says so, and ends at once when told.
func TestNoServer(t *testing.T) {
	a := launch(t, Options{Servers: []string{"127.0.0.1:1"}, HostID: "host-a"})
	a.Eventually("told why", func() bool { return a.Status().Err != "" })
	if got := a.Status().State; got != registry.Connecting {
		t.Errorf("state %s", got)
	}
	if _, err := a.Apply(t.Context(), desired("192.0.2.1", "r1")); !errors.Is(err, registry.ErrAway) {
		t.Errorf("Apply: %v", err)
	}
	a.Stop()
}

// TestTLS has something before the server that ends TLS. A session is resumed over
// it, and a certificate that is not trusted is told of.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := server(t)
	certificate, file := registrytest.Certificate(t, "127.0.0.1")
	_, other := registrytest.Certificate(t, "127.0.0.1")
	o := options(s, "host-a")
	o.Servers = []string{registrytest.StartRelay(t, s.Addr(), &tls.Config{Certificates: []tls.Certificate{certificate}}).Addr()}
	o.Session, o.TLS = &memory{}, backend.TLS{On: true, CAFile: file}
	a := start(t, o)
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	session := a.Status().Session
	a.Stop()
	a = start(t, o)
	if got := a.Status().Session; got != session {
		t.Errorf("session %s, was %s", got, session)
	}
	a.Listen(greeter).Await("read", size(2))
	a.Stop()
	for _, c := range []struct{ file, want string }{
		{other, "certificate signed by unknown authority"},
		{"", "certificate signed by unknown authority"},
		{file + ".missing", "no such file"},
	} {
		o.TLS.CAFile = c.file
		r := launch(t, o)
		r.Eventually(c.want, func() bool { return strings.Contains(r.Status().Err, c.want) })
		r.Stop()
	}
}
