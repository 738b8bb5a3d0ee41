package proxy

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// twoHops is a provider behind two agents.
func twoHops(t testing.TB, p *provider, o Options) (a, b *mesh) {
	b = start(t, o)
	b.local(t, map[string]string{foo: p.addr()}, "")
	a = start(t, o)
	a.provide(t, foo, b.inbound+"?meshferry.caps=1")
	return a, b
}

func (p *Proxy) wantEmpty(t testing.TB) {
	t.Helper()
	eventually(t, "queues empty", func() bool { return p.memory.used.Load() == 0 })
}

// A burst of large calls on one connection passes, also when the provider and
// then the consumer begin to read late.
func TestBurstOfLargeCalls(t *testing.T) {
	const calls, size = 64, 1 << 20
	release := make(chan struct{})
	once := sync.OnceFunc(func() { close(release) })
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) { <-release; echo(c, h, b) })
	t.Cleanup(once)
	a, b := twoHops(t, p, Options{})
	c := dial(t, a.outbound)
	f := req{iface: foo, arg: strings.Repeat("x", size)}.frame(t)
	for i := range calls {
		dubbo.PutID(f, uint64(i))
		c.write(f)
	}
	eventually(t, "all calls in", func() bool { return a.Counters().InFlight["outbound"] == calls })
	once()
	eventually(t, "all answers back", func() bool { return a.Counters().InFlight["outbound"] == 0 })
	for range calls {
		if h, f := c.read(); h.Status != dubbo.StatusOK || len(f) < size {
			t.Fatalf("answer %+v %q", h, f[:min(len(f), 300)])
		}
	}
	a.wantEmpty(t)
	b.wantEmpty(t)
}

// The largest frame that Dubbo allows passes both ways through two hops.
func TestLargestFrame(t *testing.T) {
	a, _ := twoHops(t, serve(t, echo), Options{})
	c := dial(t, a.outbound)
	c.wantEcho(req{id: 1, iface: foo, arg: strings.Repeat("x", 8<<20-8000)})
	c.wantEcho(req{id: 2, iface: foo})
}

// Many consumers that do not read cannot take more memory than there is, and a
// good one is served beside them.
func TestMemoryOfSlowConsumers(t *testing.T) {
	const consumers, calls, size = 30, 40, 256 << 10
	answer := make([]byte, size)
	p := serve(t, func(c net.Conn, h dubbo.Header, _ []byte) { c.Write(frame(2, dubbo.StatusOK, h.ID, answer)) })
	quick := serve(t, echo)
	a := start(t, Options{MemoryBytes: 16 << 20, QueueBytes: 4 << 20})
	a.provide(t, foo, p.addr())
	a.provide(t, "com.a.Quick", quick.addr())
	f := req{iface: foo}.frame(t)
	var list []*client
	for range consumers {
		c := dial(t, a.outbound)
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.write(bytes.Repeat(f, calls))
		list = append(list, c)
	}
	good := dial(t, a.outbound)
	most := int64(0)
	for i := range 200 {
		good.wantEcho(req{id: uint64(i), iface: "com.a.Quick"})
		most = max(most, a.memory.used.Load())
	}
	eventually(t, "all answered", func() bool {
		most = max(most, a.memory.used.Load())
		return a.Counters().InFlight["outbound"] == 0
	})
	// One frame for each connection may be on its way when the bound is looked at.
	if bound := int64(a.memory.limit + 4*size); most > bound {
		t.Errorf("%d bytes waited, want at most %d", most, bound)
	}
	if most < 8<<20 {
		t.Errorf("only %d bytes ever waited: this test tests nothing", most)
	}
	for _, c := range list {
		c.Close()
	}
	a.wantEmpty(t)
	good.wantEcho(req{id: 1, iface: "com.a.Quick", arg: strings.Repeat("x", 1<<20)})
}

// A provider that takes nothing fills its queue, and then calls go to another.
func TestFullQueueGoesElsewhere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other := serve(t, echo)
	a := start(t, Options{QueueBytes: 8 << 20, UpstreamConnections: 1})
	a.provide(t, foo, l.Addr().String())
	c := dial(t, a.outbound)
	f := req{iface: foo, arg: strings.Repeat("x", 512<<10)}.frame(t)
	const calls = 60
	for range calls {
		c.write(f)
	}
	h, b := c.read() // the first that does not fit, with nobody else to go to
	wantRefusal(t, h, b, 7, "too much is waiting")
	a.provide(t, foo, l.Addr().String(), other.addr())
	good := dial(t, a.outbound)
	for range 20 {
		good.write(f)
		if h, b := good.read(); h.Status != dubbo.StatusOK || len(b) < 512<<10 {
			t.Fatalf("answer %+v %q, want those that do not fit elsewhere", h, b[:min(len(b), 300)])
		}
	}
	if n := other.calls.Load(); n < 20 {
		t.Errorf("the other provider saw %d calls, want 20 and more", n)
	}
}

// Large frames are not read when memory is short; small ones are.
func TestReadingWithoutMemory(t *testing.T) {
	a := start(t, Options{MemoryBytes: 1 << 20})
	p := serve(t, echo)
	a.provide(t, foo, p.addr())
	c := dial(t, a.outbound)
	c.wantRefusal(req{id: 1, iface: foo, arg: strings.Repeat("x", 4<<20)}, 7, "memory")
	c.wantEcho(req{id: 2, iface: foo})
	c.wantEcho(req{id: 3, iface: foo, arg: strings.Repeat("x", 100<<10)})
	c.Close()
	p.closeConns()
	a.wantEmpty(t)
}
