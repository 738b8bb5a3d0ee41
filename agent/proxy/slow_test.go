package proxy

import (
	"net"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// A frame has to end in time, however steadily its bytes drip. One that begins
// where another ends has its own time.
func TestDrippingFrame(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{})
	a.provide(t, foo, p.addr())
	c := dial(t, a.outbound)
	f := req{id: 1, iface: foo}.frame(t)
	c.write(f[:1])
	eventually(t, "accepted", func() bool { return len(a.connections()) == 1 })
	d := a.connections()[0]
	eventually(t, "frame begun", func() bool { return d.begun.Load() != 0 })
	first := d.begun.Load()
	for _, b := range f[1 : len(f)-1] {
		before := d.lastRead.Load()
		c.write([]byte{b})
		eventually(t, "byte read", func() bool { return d.lastRead.Load() != before })
	}
	if d.begun.Load() != first {
		t.Error("each byte gives the frame new time")
	}
	c.write(append(f[len(f)-1:], f[:5]...))
	c.read()
	eventually(t, "next frame begun", func() bool { return d.begun.Load() > first })
	c.write(f[5:])
	c.read()
	eventually(t, "no frame begun", func() bool { return d.begun.Load() == 0 })
	c.write(f[:20])
	eventually(t, "frame begun", func() bool { return d.begun.Load() != 0 })
	d.checkIdle(time.Duration(d.begun.Load()) + frameTimeout/2)
	c.write(f[20:])
	c.read()
	c.write(f[:20])
	eventually(t, "frame begun", func() bool { return d.begun.Load() != 0 })
	d.checkIdle(time.Duration(d.begun.Load()) + frameTimeout + 1)
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a frame that does not end was waited for")
	}
}

// Many connections that drip cost those that work nothing but their memory.
func TestManyDrippingConnections(t *testing.T) {
	const many = 300
	p := serve(t, echo)
	a := start(t, Options{MaxDownstream: many + 1})
	a.provide(t, foo, p.addr())
	good := dial(t, a.outbound)
	good.wantEcho(req{id: 1, iface: foo})
	f := req{id: 1, iface: foo}.frame(t)
	var slow []*client
	for range many {
		slow = append(slow, dial(t, a.outbound))
	}
	eventually(t, "all accepted", func() bool { return a.Counters().Downstream["outbound"] == many+1 })
	over, err := net.Dial("tcp", a.outbound)
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	over.SetReadDeadline(time.Now().Add(patience))
	if _, err := over.Read(make([]byte, 1)); err == nil || a.Counters().Rejected != 1 {
		t.Errorf("a connection above the limit: %v, %d rejected", err, a.Counters().Rejected)
	}
	for at := range f {
		for _, c := range slow {
			c.write(f[at : at+1])
		}
		good.wantEcho(req{id: uint64(at), iface: foo})
	}
	for _, c := range slow { // slow, not wrong: they are served
		if h, _ := c.read(); h.Status != dubbo.StatusOK {
			t.Fatalf("answer %+v", h)
		}
	}
	if n := a.memory.used.Load(); n != 0 {
		t.Errorf("%d bytes held", n)
	}
}
