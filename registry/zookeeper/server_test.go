package zookeeper

import (
	"context"
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
	s    *zktest.Server
	o    Options
	d    registry.Desired
	set  sets
	want string // the tree while d is published
}

// hold applies until all is held, as the reconciling loop does: a short session
// can be lost on a busy machine at any moment.
func (x trouble) hold(d registry.Desired) {
	x.t.Helper()
	x.await("holding all", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		report, err := x.Apply(ctx, d)
		for _, item := range report {
			if item.State != registry.Held {
				return false
			}
		}
		return err == nil
	})
}

func newTrouble(t *testing.T, s *zktest.Server, session time.Duration) trouble {
	o := options(s, "host-a")
	o.Session, o.SessionTimeout = &memory{}, session
	x := trouble{running: start(t, o), s: s, o: o, d: desired("192.0.2.1", "r1")}
	o.Session, o.HostID = nil, "host-b"
	x.set = start(t, o).subscribe(greeter)
	x.hold(x.d)
	x.set.until("whole", size(2))
	x.want = tree(t, s, o)
	return x
}

// recovers waits for the session after the one before, and checks that all comes
// back and that the reader hears of changes again.
func (x trouble) recovers(before string) {
	x.t.Helper()
	x.await("in a new session", func() bool {
		return x.Status().State == registry.Connected && x.Status().Session != before
	})
	heard(x.t, x.Lost())
	x.hold(x.d)
	if got := tree(x.t, x.s, x.o); got != x.want {
		x.t.Errorf("tree:\n%s", got)
	}
	more := x.d
	more.Providers = append(more.Providers, desired("192.0.2.2", "r1").Providers...)
	x.hold(more)
	x.set.until("told of one more", size(3))
	x.hold(x.d)
	x.set.until("told of one less", size(2))
}

// TestServerKilled restarts the server: the session and its nodes survive, also
// for an agent that ends meanwhile. Then it wipes the server, where the agent has
// seen more than the server knows.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	x := newTrouble(t, zktest.Start(t), 10*time.Second)
	first := owned(t, x.s, x.o)
	x.s.Kill()
	x.await("away", func() bool { return x.Status().State == registry.Away })
	report, err := x.Apply(t.Context(), x.d)
	if !errors.Is(err, registry.ErrAway) || report[x.d.Providers[0].String()].State != registry.Pending {
		t.Errorf("Apply: %v, %v", report, err)
	}
	if err := x.End(t.Context()); !errors.Is(err, registry.ErrAway) {
		t.Errorf("End: %v", err)
	}
	x.stop()
	if err := x.s.Restart(); err != nil {
		t.Fatal(err)
	}
	x.running = start(t, x.o)
	x.hold(x.d)
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
		x.await("away", func() bool { return x.Status().State == registry.Away })
		time.Sleep(session + session/2) // the server judges by its own clock: there is no event to wait for
		x.s.Continue()
		x.await("connected", func() bool { return x.Status().State == registry.Connected })
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
	set := a.subscribe(greeter)
	d := desired("192.0.2.1", "r1")
	a.hold(d)
	set.until("whole", size(2))
	session := a.Status().Session
	connected := a.client.conn.Load().Server()
	for _, s := range e.Servers {
		if s.Addr() == connected {
			s.Kill()
		}
	}
	a.await("away", func() bool { return a.Status().State != registry.Connected })
	a.await("connected", func() bool { return a.Status().State == registry.Connected })
	a.hold(d)
	if got := a.Status().Session; got != session {
		t.Errorf("session %s, was %s", got, session)
	}
	d.Providers = append(d.Providers, desired("192.0.2.2", "r1").Providers...)
	a.hold(d)
	set.until("whole", size(3))
}

// TestNoServer starts without one: it says so, and ends at once when told.
func TestNoServer(t *testing.T) {
	r, err := New(Options{Servers: []string{"127.0.0.1:1"}, HostID: "host-a"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	a := running{Registry: r, t: t}
	a.await("told why", func() bool { return r.Status().Err != "" })
	if got := r.Status().State; got != registry.Connecting {
		t.Errorf("state %s", got)
	}
	if _, err := r.Apply(ctx, desired("192.0.2.1", "r1")); !errors.Is(err, registry.ErrAway) {
		t.Errorf("Apply: %v", err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("Run did not end")
	}
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
	a.hold(d)
	session := a.Status().Session
	a.stop()
	a = start(t, o)
	if got := a.Status().Session; got != session {
		t.Errorf("session %s, was %s", got, session)
	}
	a.subscribe(greeter).until("read", size(2))
	a.stop()
	for _, c := range []struct{ file, want string }{
		{other, "certificate signed by unknown authority"},
		{"", "certificate signed by unknown authority"},
		{file + ".missing", "no such file"},
	} {
		o.TLS.CAFile = c.file
		r, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		running{Registry: r, t: t}.await(c.want, func() bool { return strings.Contains(r.Status().Err, c.want) })
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
