package proxy

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// What listens at the address of a provider that said READONLY, when that one has
// gone, is another process: it gets calls.
func TestReadonlyEndsWithTheConnection(t *testing.T) {
	var stopping atomic.Bool
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		echo(c, h, b)
		if stopping.Load() {
			c.Write(dubbo.AppendReadonly(nil, dubbo.Hessian2))
		}
	})
	other := serve(t, echo)
	said := make(chan string, 10)
	a := start(t, Options{Readonly: func(addr string) { said <- addr }})
	a.provide(t, foo, p.addr(), other.addr())
	c := dial(t, a.outbound)
	id := uint64(0)
	reached := func() bool {
		before := p.calls.Load()
		for range 20 {
			id++
			c.wantEcho(req{id: id, iface: foo})
		}
		return p.calls.Load() > before
	}
	stopping.Store(true)
	eventually(t, "call at the provider", reached)
	<-said
	stopping.Store(false)
	if reached() {
		t.Error("a provider that said READONLY was called while another was there")
	}
	p.closeConns()
	eventually(t, "call at the restarted provider", reached)
}

// A provider that is about to stop still accepts connections.
func TestNewConnectionToReadonlyPeer(t *testing.T) {
	var once atomic.Bool
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		echo(c, h, b)
		if once.CompareAndSwap(false, true) {
			c.Write(dubbo.AppendReadonly(nil, dubbo.Hessian2))
		}
	})
	other := serve(t, echo)
	said := make(chan string, 10)
	a := start(t, Options{Readonly: func(addr string) { said <- addr }})
	a.provide(t, foo, p.addr())
	dial(t, a.outbound).wantEcho(req{id: 1, iface: foo})
	<-said
	dial(t, a.outbound).wantEcho(req{id: 2, iface: foo})
	if n := a.Counters().Upstream; n != 2 {
		t.Fatalf("%d connections, want 2", n)
	}
	a.provide(t, foo, p.addr(), other.addr())
	c := dial(t, a.outbound)
	for i := range 20 {
		c.wantEcho(req{id: uint64(i), iface: foo})
	}
	if got := other.calls.Load(); got != 20 {
		t.Errorf("the other provider saw %d of 20 calls", got)
	}
}

// Every event that asks for a reply gets one, whatever it says.
func TestEventsOfProviders(t *testing.T) {
	replies := make(chan dubbo.Header, 10)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := start(t, Options{})
	a.provide(t, foo, l.Addr().String())
	dial(t, a.outbound).write(req{id: 1, iface: foo}.frame(t))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	for id, body := range []string{"N", "\x01R", "\x01W", "\x07unknown", ""} {
		c.Write(frame(0xe0|dubbo.Hessian2, 0, uint64(id), []byte(body)))
	}
	go func() {
		defer close(replies)
		for range 6 {
			h, _, err := readFrame(c)
			if err != nil {
				return
			}
			if h.IsEvent() {
				replies <- h
			}
		}
	}()
	for id := uint64(0); id < 5; id++ {
		if h, ok := <-replies; !ok || h.ID != id || h.IsRequest() {
			t.Fatalf("reply %+v, want one to event %d", h, id)
		}
	}
}

// A silent peer is asked once, however often its connection is looked at.
func TestAskedOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := start(t, Options{Heartbeat: 150 * time.Millisecond})
	a.provide(t, foo, l.Addr().String())
	c := dial(t, a.outbound)
	for i := range 10 { // each makes the timer fire
		c.write(req{id: uint64(i), iface: foo}.frame(t))
		time.Sleep(20 * time.Millisecond)
	}
	up, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	up.SetDeadline(time.Now().Add(patience))
	beats := 0
	for {
		h, _, err := readFrame(up)
		if err != nil {
			break // given up as silent
		}
		if h.IsEvent() {
			beats++
		}
	}
	if beats != 1 {
		t.Errorf("%d heartbeats, want 1", beats)
	}
}
