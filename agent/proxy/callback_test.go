package proxy

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// huge is the header of a frame that announces a body above any limit of a test,
// and that body.
func huge(flags, status byte, id uint64) []byte {
	f := frame(flags, status, id, make([]byte, 8192))
	binary.BigEndian.PutUint32(f[12:], 8192)
	return f
}

// Frames above the limit end the call that they belong to, and no other: a
// provider's request may have the number of one of our calls.
func TestCallbacksAboveTheLimit(t *testing.T) {
	answers := make(chan dubbo.Header, 10)
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		if !h.IsRequest() {
			answers <- h
			return
		}
		c.Write(huge(0xc0|dubbo.Hessian2, 0, h.ID)) // a callback, too large
		c.Write(req{id: 4711, iface: "com.a.Listener"}.frame(t))
		echo(c, h, b)
	})
	a := start(t, Options{MaxBody: 4096})
	a.provide(t, foo, p.addr()+"?echo.0.callback=true")
	c := dial(t, a.outbound)
	c.write(req{id: 1, iface: foo}.frame(t))
	answer := func() dubbo.Header {
		select {
		case h := <-answers:
			return h
		case <-time.After(patience):
			t.Fatal("the provider got no answer")
			panic("not reached")
		}
	}
	if h := answer(); h.Status != dubbo.StatusServerError {
		t.Errorf("callback above the limit answered with %+v", h)
	}
	for range 2 {
		h, _ := c.read()
		if h.IsRequest() { // the consumer's answer is too large in its turn
			c.write(huge(dubbo.Hessian2, dubbo.StatusOK, h.ID))
			continue
		}
		if h.ID != 1 || h.Status != dubbo.StatusOK {
			t.Errorf("call answered with %+v", h)
		}
	}
	if h := answer(); h.ID != 4711 || h.Status != dubbo.StatusServerError {
		t.Errorf("callback whose answer is above the limit answered with %+v", h)
	}
	if n := a.Counters().InFlight["outbound"]; n != 0 {
		t.Errorf("%d calls in flight", n)
	}
}

// Callbacks that a consumer never answers take no place for ever.
func TestForgottenCallbacks(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{})
	a.provide(t, foo, p.addr()+"?echo.0.callback=true")
	c := dial(t, a.outbound)
	c.wantEcho(req{id: 1, iface: foo})
	d, u := a.connections()[0], a.upstreamConnections()[0]
	d.own.Lock()
	d.reverse = map[uint64]callback{}
	for i := range uint64(maxCallbacks) {
		d.reverse[i+1000] = callback{up: u, start: a.now() - 2*maxDeadline}
	}
	d.own.Unlock()
	p.conns.Range(func(to, _ any) bool {
		to.(net.Conn).Write(req{id: 2, iface: "com.a.Listener"}.frame(t))
		return true
	})
	if h, _ := c.read(); !h.IsRequest() {
		t.Fatalf("%+v, want the callback", h)
	}
	d.own.Lock()
	defer d.own.Unlock()
	if len(d.reverse) != 1 {
		t.Errorf("%d callbacks in flight, want 1", len(d.reverse))
	}
}
