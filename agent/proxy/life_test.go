package proxy

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
)

// peerOf is the peer of the only endpoint that an outbound service has.
func (m *mesh) peerOf(iface string) *route.Peer {
	s := m.router.Snapshot()
	return s.Outbound.Lookup([]byte(iface), nil).Only().Endpoints[0].Peer
}

// A call that waits for its service to be discovered is in flight too.
func TestStopAnswersWaitingCalls(t *testing.T) {
	a := start(t, Options{})
	c := dial(t, a.outbound)
	c.write(req{id: 1, iface: "com.a.Unknown"}.frame(t))
	eventually(t, "call waits", func() bool { return a.Counters().InFlight["outbound"] == 1 })
	a.shutdown()
	h, b := c.read()
	if h.ID != 1 {
		t.Fatalf("answer %+v", h)
	}
	wantRefusal(t, h, b, 4, "com.a.Unknown")
}

// Consumers that do not read delay a stop together, not one after the other.
func TestStopWithStuckConsumers(t *testing.T) {
	p := serve(t, func(c net.Conn, h dubbo.Header, _ []byte) {
		c.Write(frame(2, dubbo.StatusOK, h.ID, make([]byte, 7<<20)))
	})
	a := start(t, Options{QueueBytes: 64 << 20})
	a.provide(t, foo, p.addr())
	for i := range 8 {
		c := dial(t, a.outbound)
		c.write(req{id: uint64(i), iface: foo}.frame(t))
		c.write(req{id: uint64(i), iface: foo}.frame(t))
	}
	eventually(t, "answers queued", func() bool { return p.calls.Load() == 16 && a.Counters().InFlight["outbound"] == 0 })
	began := time.Now()
	a.shutdown()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("stop took %v", took)
	}
}

// Nothing is opened for a caller that has gone while its service was looked for,
// least of all a connection that is only for it.
func TestCallerGoneWhileWaiting(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{})
	c := dial(t, a.outbound)
	c.write(req{id: 1, iface: foo}.frame(t))
	<-a.source.wanted
	c.Close()
	eventually(t, "connection seen as ended", func() bool { return a.Counters().Downstream["outbound"] == 0 })
	a.provide(t, foo, p.addr()+"?echo.0.callback=true")
	eventually(t, "call given up", func() bool { return len(a.awaits) == 0 })
	if n := a.Counters().Upstream; n != 0 || p.calls.Load() != 0 {
		t.Errorf("%d connections, %d calls for a caller that has gone", n, p.calls.Load())
	}
}

// Calls of a consumer that has gone give their places back soon, not when the
// provider answers.
func TestCallerGoneFreesItsCalls(t *testing.T) {
	p := serve(t, never)
	a := start(t, Options{UpstreamConnections: 1, MaxInFlight: 50})
	a.provide(t, foo, p.addr())
	c := dial(t, a.outbound)
	for i := range 50 {
		c.write(req{id: uint64(i), iface: foo}.frame(t))
	}
	eventually(t, "calls at the provider", func() bool { return p.calls.Load() == 50 })
	dial(t, a.outbound).wantRefusal(req{id: 99, iface: foo}, 7, p.addr())
	c.Close()
	eventually(t, "places free", func() bool { return a.peerOf(foo).InFlight.Load() == 0 })
	dial(t, a.outbound).write(req{id: 100, iface: foo}.frame(t))
	eventually(t, "next call at the provider", func() bool { return p.calls.Load() == 51 })
}

// An idle connection ends, one with a call in flight does not.
func TestIdleUpstream(t *testing.T) {
	release := make(chan struct{})
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) { <-release; echo(c, h, b) })
	a := start(t, Options{})
	a.provide(t, foo, p.addr())
	check := func(after time.Duration) int64 {
		for _, u := range a.upstreamConnections() {
			u.checkIdle(a.now() + after)
		}
		return a.Counters().Upstream
	}
	c := dial(t, a.outbound)
	c.write(req{id: 1, iface: foo}.frame(t))
	eventually(t, "call at the provider", func() bool { return p.calls.Load() == 1 })
	if check(time.Hour) != 1 {
		t.Error("a connection in use was closed")
	}
	close(release)
	c.read()
	if check(2*idleUnused) != 1 {
		t.Error("a connection to an endpoint that routes name was closed early")
	}
	a.provide(t, foo) // nobody provides it any more
	if check(idleUnused/2) != 1 || check(2*idleUnused) != 0 {
		t.Error("a connection that no route names is closed after idleUnused")
	}
	a.provide(t, foo, p.addr())
	c.wantEcho(req{id: 2, iface: foo})
	if check(2*idleUpstream) != 0 {
		t.Error("an idle connection was kept")
	}
}

// A provider with callbacks that restarts leaves nothing behind at its consumers'
// connections.
func TestDedicatedConnectionEnds(t *testing.T) {
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		c.Write(req{id: 4711, iface: "com.a.Listener"}.frame(t))
		echo(c, h, b)
	})
	a := start(t, Options{})
	a.provide(t, foo, p.addr()+"?echo.0.callback=true")
	c := dial(t, a.outbound)
	for i := range 5 {
		c.write(req{id: uint64(i), iface: foo}.frame(t))
		c.read()
		c.read()
		p.closeConns()
		eventually(t, "connection seen as ended", func() bool { return a.Counters().Upstream == 0 })
	}
	for _, d := range a.connections() {
		eventually(t, "nothing left", func() bool {
			d.own.Lock()
			defer d.own.Unlock()
			return len(d.dedicated) == 0 && len(d.reverse) == 0
		})
	}
}

// Answers that a consumer has not yet read survive the end of its connection, even
// when requests of it are unread.
func TestStopKeepsAnswers(t *testing.T) {
	p := serve(t, never)
	a := start(t, Options{})
	a.local(t, map[string]string{foo: p.addr()}, "")
	c := dial(t, a.inbound)
	const calls = 2000
	for i := range calls {
		c.write(req{id: uint64(i), iface: foo, arg: strings.Repeat("x", 100)}.frame(t))
	}
	eventually(t, "calls at the provider", func() bool { return p.calls.Load() == calls })
	more := make(chan struct{})
	go func() { // a consumer does not know that we stop
		defer close(more)
		for f := (req{id: 1 << 40, iface: foo}).frame(t); ; {
			if _, err := c.Write(f); err != nil {
				return
			}
			time.Sleep(50 * time.Microsecond)
		}
	}()
	a.stop()
	left := calls
	c.SetReadDeadline(time.Now().Add(patience))
	for left > 0 {
		h, _, err := readFrame(c)
		if err != nil {
			t.Fatalf("%d calls without an answer: %v", left, err)
		}
		if h.ID < calls {
			left--
		}
	}
	c.Close()
	<-more
}

// Who connects while the inbound side drains is told so as well.
func TestConnectionsDuringDrain(t *testing.T) {
	a := start(t, Options{})
	if err := a.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	c := dial(t, a.inbound)
	c.SetReadDeadline(time.Now().Add(patience))
	if h, b, err := readFrame(c); err != nil || dubbo.ParseEvent(h, b[dubbo.HeaderSize:]) != dubbo.Readonly {
		t.Errorf("first frame %+v, %v; want READONLY", h, err)
	}
	dial(t, a.outbound).wantRefusal(req{id: 1, iface: "com.a.Nobody"}, 4) // never on the outbound side
}

// A listener that dies ends the proxy with an error: nothing serves without it.
func TestListenerDies(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Router: route.New(route.Options{}), Inbound: []net.Listener{l}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- p.Run(context.Background()) }()
	l.Close()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Error("Run goes on")
	}
}

// Connections that come one after the other share two lanes, as long as they are
// few.
func TestLanes(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{})
	a.provide(t, foo, p.addr())
	for i := range 6 {
		c := dial(t, a.outbound)
		c.wantEcho(req{id: uint64(i), iface: foo})
		c.Close()
		eventually(t, "connection ended", func() bool { return a.Counters().Downstream["outbound"] == 0 })
	}
	if n := a.Counters().Upstream; n != 2 {
		t.Errorf("%d upstream connections, want 2", n)
	}
}
