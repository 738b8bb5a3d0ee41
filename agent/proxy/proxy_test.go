package proxy

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

const foo = "com.a.Foo"

// Both hops, several connections, calls that overtake each other: every answer
// belongs to its question, and the two hops share few upstream connections.
func TestTwoHops(t *testing.T) {
	p := serve(t, echo)
	b := start(t, Options{})
	b.local(t, map[string]string{foo + ":1.0.0": p.addr()}, "")
	a := start(t, Options{})
	a.provide(t, foo+":1.0.0", b.inbound+"?meshferry.caps=1&meshferry.origin="+p.addr())

	var wg sync.WaitGroup
	for n := range 20 {
		c := dial(t, a.outbound)
		wg.Go(func() {
			const calls = 200
			sent := map[uint64]string{}
			var out []byte
			for i := range calls {
				r := req{id: rand.Uint64(), iface: foo, version: "1.0.0", arg: strings.Repeat("x", rand.IntN(300*(n%3+1)))}
				f := r.frame(t)
				sent[r.id] = string(f[dubbo.HeaderSize:])
				out = append(out, f...)
				if i%7 == 0 {
					c.write(out)
					out = out[:0]
				}
			}
			c.write(out)
			for range calls {
				h, b := c.read()
				if want, ok := sent[h.ID]; !ok || want != string(b[dubbo.HeaderSize:]) {
					t.Errorf("id %d: answer does not belong to the question", h.ID)
				}
				delete(sent, h.ID)
			}
		})
	}
	wg.Wait()
	if got := p.calls.Load(); got != 4000 {
		t.Errorf("provider saw %d calls, want 4000", got)
	}
	if up := a.Counters().Upstream; up > 4 {
		t.Errorf("%d upstream connections for one endpoint, want at most 4", up)
	}
	eventually(t, "nothing in flight", func() bool {
		return a.Counters().InFlight["outbound"] == 0 && b.Counters().InFlight["inbound"] == 0
	})
}

func TestRefusals(t *testing.T) {
	dead := serve(t, echo)
	dead.kill()
	a := start(t, Options{Host: "10.0.0.1"})
	a.provide(t, foo, dead.addr())
	a.provide(t, "com.a.Empty")

	out := dial(t, a.outbound)
	out.wantRefusal(req{id: 1, iface: "com.a.Nobody"}, 4, "com.a.Nobody", "10.0.0.1")
	out.wantRefusal(req{id: 2, iface: foo, version: "9.9"}, 4, foo+":9.9")
	out.wantRefusal(req{id: 3, iface: foo}, 1, foo, dead.addr(), "refused")

	in := dial(t, a.inbound)
	in.wantRefusal(req{id: 4, iface: foo}, 0, "meshferry: not-executed: ", foo)

	// A serialization that nobody can read: status 80 in hessian2, and the
	// connection lives on.
	h, b := out.call(req{id: 5, iface: foo, serialization: 8})
	wantRefusal(t, h, b, 0, "serialization")
	if h.Serialization() != dubbo.Hessian2 {
		t.Errorf("refusal in serialization %d", h.Serialization())
	}
	out.wantRefusal(req{id: 6, iface: "com.a.Nobody"}, 4)

	// Oneway: nothing comes back, the next answer is that of the next call.
	out.write(req{id: 7, iface: "com.a.Nobody", oneway: true}.frame(t))
	out.wantRefusal(req{id: 8, iface: "com.a.Nobody"}, 4)
}

func TestGroupsAndVersionsDoNotMix(t *testing.T) {
	g1, g2, v2 := serve(t, echo), serve(t, echo), serve(t, echo)
	b := start(t, Options{})
	b.local(t, map[string]string{"g1/" + foo + ":1.0": g1.addr(), "g2/" + foo + ":1.0": g2.addr(), foo + ":2.0": v2.addr()}, "")
	c := dial(t, b.inbound)
	for i := range 10 {
		c.wantEcho(req{id: uint64(i), iface: foo, version: "1.0", attachments: map[string]string{"group": "g1"}})
	}
	if g1.calls.Load() != 10 || g2.calls.Load() != 0 || v2.calls.Load() != 0 {
		t.Errorf("calls g1 %d, g2 %d, v2 %d; want 10, 0, 0", g1.calls.Load(), g2.calls.Load(), v2.calls.Load())
	}
	c.wantRefusal(req{id: 11, iface: foo, version: "1.0", attachments: map[string]string{"group": "g3"}}, 0, "g3/"+foo+":1.0")
	c.wantRefusal(req{id: 12, iface: foo, version: "1.0"}, 0, foo+":1.0")
	c.wantEcho(req{id: 13, iface: foo, version: "2.0"})
}

// An endpoint that cannot be reached, or that says not-executed, costs a caller
// nothing while another is there.
func TestNotExecutedGoesElsewhere(t *testing.T) {
	dead := serve(t, echo)
	dead.kill()
	refusing := serve(t, func(c net.Conn, h dubbo.Header, _ []byte) {
		c.Write(dubbo.AppendError(nil, h.ID, notExecuted+"no such provider here"))
	})
	good := serve(t, echo)
	a := start(t, Options{})
	a.provide(t, foo, dead.addr(), refusing.addr()+"?meshferry.caps=1", good.addr())
	c := dial(t, a.outbound)
	for i := range 60 {
		c.wantEcho(req{id: uint64(i), iface: foo, arg: "again"})
	}
	if good.calls.Load() != 60 {
		t.Errorf("good provider saw %d calls, want 60", good.calls.Load())
	}
	if a.Counters().Retries == 0 {
		t.Error("no retry was counted")
	}
}

// Unknown outcome is never tried again: the provider may have executed it.
func TestLostCallsEndAtOnce(t *testing.T) {
	seen := make(chan struct{}, 10)
	p := serve(t, func(c net.Conn, _ dubbo.Header, _ []byte) { seen <- struct{}{} })
	b := start(t, Options{})
	b.local(t, map[string]string{foo: p.addr()}, "")
	a := start(t, Options{})
	a.provide(t, foo, b.inbound+"?meshferry.caps=1")
	through2, through1 := dial(t, a.outbound), dial(t, b.inbound)
	through2.write(req{id: 1, iface: foo}.frame(t))
	through1.write(req{id: 2, iface: foo}.frame(t))
	<-seen
	<-seen
	began := time.Now()
	p.kill()
	h, f := through1.read()
	wantRefusal(t, h, f, 0, unknownOutcome, p.addr())
	h, f = through2.read()
	wantRefusal(t, h, f, 1, foo, "unknown-outcome")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("refusals took %v", took)
	}
	if p.calls.Load() != 2 {
		t.Errorf("provider saw %d calls, want 2", p.calls.Load())
	}
}

// A provider that restarts between two calls is reached again without an error:
// the connection has ended, but the endpoint is there.
func TestReconnects(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{})
	a.provide(t, foo, p.addr())
	c := dial(t, a.outbound)
	for i := range 20 {
		c.wantEcho(req{id: uint64(i), iface: foo})
		p.closeConns()
		eventually(t, "connection seen as closed", func() bool { return a.Counters().Upstream == 0 })
	}
}

func TestDeadlines(t *testing.T) {
	p := serve(t, never)
	a := start(t, Options{})
	a.provide(t, foo, p.addr()+"?timeout=60000")
	a.provide(t, "com.a.Bar", p.addr()+"?timeout=150")
	for _, tt := range []struct {
		name    string
		iface   string
		attach  string
		atLeast time.Duration
	}{
		{"provider URL", "com.a.Bar", "", 250 * time.Millisecond},
		{"attachment beats the URL", foo, "100", 200 * time.Millisecond},
		{"attachment 0 counts as none", "com.a.Bar", "0", 250 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := req{id: 7, iface: tt.iface}
			if tt.attach != "" {
				r.attachments = map[string]string{"timeout": tt.attach}
			}
			began := time.Now()
			dial(t, a.outbound).wantRefusal(r, 2, tt.iface, p.addr())
			if took := time.Since(began); took < tt.atLeast {
				t.Errorf("refused after %v, want at least %v", took, tt.atLeast)
			}
		})
	}
}

// A late answer to a call that was given up goes to nobody.
func TestLateAnswer(t *testing.T) {
	late := make(chan func(), 1)
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		var front dubbo.Front
		if dubbo.ParseFront(h.Serialization(), b[dubbo.HeaderSize:], &front) == nil && string(front.Method) == "slow" {
			late <- func() { echo(c, h, b) }
			return
		}
		echo(c, h, b)
	})
	a := start(t, Options{})
	a.provide(t, foo, p.addr())
	c := dial(t, a.outbound)
	c.wantRefusal(req{id: 1, iface: foo, method: "slow", attachments: map[string]string{"timeout": "1"}}, 2)
	(<-late)()
	for i := range 10 {
		c.wantEcho(req{id: uint64(100 + i), iface: foo})
	}
}

func TestHeartbeatsOnEachHop(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{Heartbeat: 50 * time.Millisecond})
	a.provide(t, foo, p.addr())
	c := dial(t, a.outbound)
	c.write(dubbo.AppendHeartbeat(nil, dubbo.Hessian2, 77))
	c.SetReadDeadline(time.Now().Add(patience))
	h, _, err := readFrame(c)
	if err != nil || !h.IsEvent() || h.IsRequest() || h.ID != 77 || h.Status != dubbo.StatusOK {
		t.Fatalf("heartbeat answered with %+v, %v", h, err)
	}
	c.wantEcho(req{id: 1, iface: foo})
	// Three intervals without a sign of life would end the upstream connection.
	time.Sleep(400 * time.Millisecond)
	if a.Counters().Upstream != 1 {
		t.Error("an idle connection whose peer answers heartbeats was closed")
	}
}

// A peer that accepts and never says anything is found out by heartbeats, and its
// calls end.
func TestSilentPeer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a := start(t, Options{Heartbeat: 30 * time.Millisecond})
	a.provide(t, foo, l.Addr().String())
	dial(t, a.outbound).wantRefusal(req{id: 1, iface: foo}, 1, "no sign of life")
}

func TestReadonly(t *testing.T) {
	stopping := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		echo(c, h, b)
		c.Write(dubbo.AppendReadonly(nil, dubbo.Hessian2))
	})
	other := serve(t, echo)
	said := make(chan string, 10)
	a := start(t, Options{Readonly: func(addr string) { said <- addr }})
	a.provide(t, foo, stopping.addr())
	c := dial(t, a.outbound)
	c.wantEcho(req{id: 1, iface: foo})
	if got := <-said; got != stopping.addr() {
		t.Fatalf("READONLY of %s, want %s", got, stopping.addr())
	}
	c.wantEcho(req{id: 2, iface: foo}) // nothing else is left: still used
	a.provide(t, foo, stopping.addr(), other.addr())
	for i := range 20 {
		c.wantEcho(req{id: uint64(10 + i), iface: foo})
	}
	if got := other.calls.Load(); got != 20 {
		t.Errorf("the other provider saw %d of 20 calls", got)
	}
}

// What a dubbo-go provider says with its answers when it is about to stop is for
// the agent: its consumer would drop the agent's address.
func TestClosing(t *testing.T) {
	stopping := serve(t, func(c net.Conn, h dubbo.Header, _ []byte) {
		c.Write(frame(dubbo.Hessian2, dubbo.StatusOK, h.ID, []byte("\x94\x02hiH\x07closing\x04trueZN")))
	})
	other := serve(t, echo)
	said := make(chan string, 10)
	a := start(t, Options{Readonly: func(addr string) { said <- addr }})
	a.provide(t, foo, stopping.addr())
	c := dial(t, a.outbound)
	for id := range uint64(2) {
		if _, b := c.call(req{id: id, iface: foo}); bytes.Contains(b, []byte("closing")) || !bytes.Contains(b, []byte("\x02hi")) {
			t.Fatalf("answer %q", b)
		}
	}
	if got := <-said; got != stopping.addr() || len(said) > 0 {
		t.Errorf("said to be stopping: %s and %d more, want %s once", got, len(said), stopping.addr())
	}
	a.provide(t, foo, stopping.addr(), other.addr())
	for i := range 20 {
		c.wantEcho(req{id: uint64(10 + i), iface: foo})
	}
}

// Callbacks go back to the very consumer that passed them, through both hops, and
// its answer goes to the provider.
func TestCallbacks(t *testing.T) {
	answered := make(chan string, 10)
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		if !h.IsRequest() {
			answered <- string(b[dubbo.HeaderSize:])
			return
		}
		var f dubbo.Front
		_ = dubbo.ParseFront(h.Serialization(), b[dubbo.HeaderSize:], &f)
		arg := string(b[dubbo.HeaderSize+f.Args+1 : dubbo.HeaderSize+f.Args+3])
		c.Write(req{id: 4711, iface: "com.a.Listener", arg: arg}.frame(t))
		echo(c, h, b)
	})
	const params = "echo.0.callback=true"
	b := start(t, Options{})
	b.local(t, map[string]string{foo: p.addr()}, params)
	a := start(t, Options{})
	a.provide(t, foo, b.inbound+"?meshferry.caps=1&"+params)
	for _, name := range []string{"c1", "c2"} {
		c := dial(t, a.outbound)
		c.write(req{id: 5, iface: foo, arg: name}.frame(t))
		for range 2 {
			h, f := c.read()
			if !h.IsRequest() {
				continue
			}
			if !bytes.Contains(f, []byte(name)) {
				t.Fatalf("consumer %s got the callback of another: %q", name, f)
			}
			c.write(frame(dubbo.Hessian2, dubbo.StatusOK, h.ID, []byte("from "+name)))
		}
		if got := <-answered; got != "from "+name {
			t.Fatalf("provider got %q", got)
		}
	}
}

func TestCallbackOnSharedConnection(t *testing.T) {
	refused := make(chan []byte, 1)
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		if h.IsRequest() {
			c.Write(req{id: 9, iface: "com.a.Listener"}.frame(t))
			echo(c, h, b)
			return
		}
		refused <- b
	})
	a := start(t, Options{})
	a.provide(t, foo, p.addr())
	dial(t, a.outbound).wantEcho(req{id: 1, iface: foo})
	if b := <-refused; b[statusAt] != dubbo.StatusServerError {
		t.Errorf("answered with status %d", b[statusAt])
	}
	if n := a.Counters().CallbacksRefused; n != 1 {
		t.Errorf("%d refused callbacks counted", n)
	}
}

func TestTokenOfTheChosenEndpoint(t *testing.T) {
	check := func(token string, wrong *atomic.Int64) *provider {
		return serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
			var f dubbo.Front
			var a dubbo.Attachments
			body := b[dubbo.HeaderSize:]
			if dubbo.ParseFront(2, body, &f) != nil || dubbo.FindAttachments(2, body, &f, &a) != nil {
				wrong.Add(1)
			} else if got, _ := a.Lookup("token"); string(got) != token {
				wrong.Add(1)
			}
			c.Write(frame(2, dubbo.StatusOK, h.ID, nil))
		})
	}
	var wrong atomic.Int64
	one, two := check("t1", &wrong), check("t2", &wrong)
	a := start(t, Options{})
	a.provide(t, foo, one.addr()+"?token=t1", two.addr()+"?token=t2")
	c := dial(t, a.outbound)
	for i := range 40 {
		c.call(req{id: uint64(i), iface: foo})
	}
	if wrong.Load() != 0 || one.calls.Load() == 0 || two.calls.Load() == 0 {
		t.Errorf("wrong tokens %d; calls %d and %d", wrong.Load(), one.calls.Load(), two.calls.Load())
	}
}

// The first call of a service that nobody subscribed waits for the registries.
func TestOnDemand(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{})
	c := dial(t, a.outbound)
	go func() {
		if iface := <-a.source.wanted; iface == foo {
			a.provide(t, foo, p.addr())
		}
	}()
	c.wantEcho(req{id: 1, iface: foo})
}

func TestBounds(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{MaxBody: 4096})
	a.provide(t, foo, p.addr())
	c := dial(t, a.outbound)
	c.wantRefusal(req{id: 1, iface: foo, arg: strings.Repeat("x", 8192)}, 7, "8")
	c.wantEcho(req{id: 2, iface: foo, arg: "the connection lives on"})

	big := serve(t, func(c net.Conn, h dubbo.Header, _ []byte) {
		c.Write(frame(2, dubbo.StatusOK, h.ID, make([]byte, 8192)))
	})
	a.provide(t, "com.a.Big", big.addr())
	c.wantRefusal(req{id: 3, iface: "com.a.Big"}, 7, "com.a.Big")
	c.wantEcho(req{id: 4, iface: foo})
}

// A consumer that does not read its answers stops nobody else.
func TestSlowReader(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{UpstreamConnections: 1, QueueBytes: 1 << 20})
	a.provide(t, foo, p.addr())
	slow := dial(t, a.outbound)
	arg := strings.Repeat("x", 32<<10)
	go func() {
		f := req{id: 1, iface: foo, arg: arg}.frame(t)
		slow.SetWriteDeadline(time.Now().Add(patience))
		for range 1000 { // until the agent gives up on it
			if _, err := slow.Write(f); err != nil {
				return
			}
		}
	}()
	c := dial(t, a.outbound)
	for i := range 200 {
		c.wantEcho(req{id: uint64(i), iface: foo, arg: "quick"})
	}
}

func TestStopAnswersEverything(t *testing.T) {
	for what, params := range map[string]string{"shared": "", "dedicated": "echo.0.callback=true"} {
		t.Run(what, func(t *testing.T) {
			p := serve(t, never)
			a := start(t, Options{})
			a.provide(t, foo, p.addr()+"?"+params)
			a.local(t, map[string]string{foo: p.addr()}, params)
			out, in := dial(t, a.outbound), dial(t, a.inbound)
			out.write(req{id: 1, iface: foo}.frame(t))
			in.write(req{id: 2, iface: foo}.frame(t))
			eventually(t, "both calls at the provider", func() bool { return p.calls.Load() == 2 })
			a.shutdown()
			h, b := out.read()
			wantRefusal(t, h, b, 1, "stopping")
			h, b = in.read()
			wantRefusal(t, h, b, 0, unknownOutcome)
		})
	}
}

func TestDrain(t *testing.T) {
	release := make(chan struct{})
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) { <-release; echo(c, h, b) })
	a := start(t, Options{})
	a.local(t, map[string]string{foo: p.addr()}, "")
	c := dial(t, a.inbound)
	f := req{id: 1, iface: foo}.frame(t)
	c.write(f)
	eventually(t, "call at the provider", func() bool { return p.calls.Load() == 1 })
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := a.Drain(short); err == nil || !strings.Contains(err.Error(), "1 calls") {
		t.Fatalf("Drain with a call in flight: %v", err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if h, b, err := readFrame(c); err != nil || dubbo.ParseEvent(h, b[dubbo.HeaderSize:]) != dubbo.Readonly {
		t.Fatalf("first frame %+v, %v; want READONLY", h, err)
	}
	close(release)
	if err := a.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if h, _ := c.read(); h.ID != 1 || h.Status != dubbo.StatusOK {
		t.Fatalf("answer %+v", h)
	}
}

// A stop lets the calls of local consumers end, and serves new ones meanwhile. Then
// new ones are refused at once. READONLY never comes.
func TestDrainOutbound(t *testing.T) {
	release := make(chan struct{})
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		if bytes.Contains(b, []byte("slow")) {
			<-release
		}
		echo(c, h, b)
	})
	a := start(t, Options{UpstreamConnections: 2})
	a.provide(t, foo, p.addr())
	slow, other := dial(t, a.outbound), dial(t, a.outbound) // each has an upstream connection of its own
	slow.write(req{id: 1, iface: foo, arg: "slow"}.frame(t))
	eventually(t, "call at the provider", func() bool { return p.calls.Load() == 1 })
	drained := make(chan error, 1)
	go func() { drained <- a.Drain(context.Background()) }()
	eventually(t, "drain has begun", a.draining.Load)
	for i := range 50 {
		other.wantEcho(req{id: uint64(i), iface: foo, arg: "quick"})
	}
	fresh := dial(t, a.outbound) // who comes now is served too; it shares the connection of the slow call
	fresh.write(req{id: 7, iface: foo, arg: "fresh"}.frame(t))
	eventually(t, "both calls in flight", func() bool { return a.Counters().InFlight["outbound"] == 2 })
	close(release)
	for _, c := range []*client{slow, fresh} {
		if h, _ := c.next(); h.IsEvent() || h.Status != dubbo.StatusOK {
			t.Fatalf("%+v, want the answer", h)
		}
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	other.wantRefusal(req{id: 99, iface: foo}, 1, "stopping")
	a.shutdown()
	for _, c := range []*client{slow, other, fresh} {
		if h, b, err := readFrame(c); err == nil {
			t.Errorf("%+v %q behind the last answer, want the end", h, b)
		}
	}
}

// What takes longer than the drain is answered before its connection closes, and
// calls that come in the last fifth of it are refused, so that the drain can end.
func TestDrainEnds(t *testing.T) {
	p := serve(t, never)
	a := start(t, Options{})
	a.provide(t, foo, p.addr())
	c := dial(t, a.outbound)
	c.write(req{id: 1, iface: foo}.frame(t))
	eventually(t, "call at the provider", func() bool { return p.calls.Load() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := a.Drain(ctx); err == nil || !strings.Contains(err.Error(), "1 calls") {
		t.Fatalf("Drain with a call in flight: %v", err)
	}
	dial(t, a.outbound).wantRefusal(req{id: 2, iface: foo}, 1, "stopping")
	a.shutdown()
	h, b := c.next()
	wantRefusal(t, h, b, 1, "stopping")
	if h.ID != 1 || p.calls.Load() != 1 {
		t.Errorf("answer to %d; %d calls at the provider, want 1", h.ID, p.calls.Load())
	}
}

func TestOtherProtocols(t *testing.T) {
	a := start(t, Options{})
	c := dial(t, a.inbound)
	c.write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	c.SetReadDeadline(time.Now().Add(patience))
	var b bytes.Buffer
	b.ReadFrom(c)
	if !strings.HasPrefix(b.String(), "HTTP/1.1 501") || !strings.Contains(b.String(), "dubbo2") {
		t.Errorf("an HTTP client is told %q", b.String())
	}
	if n := a.Counters().ProtocolErrors; n != 1 {
		t.Errorf("%d protocol errors counted", n)
	}
}

func TestPeerGuard(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := &Proxy{o: Options{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
	p.out.outbound = true
	for _, tt := range []struct {
		dir  *direction
		peer string
		want bool
	}{
		{&p.out, "127.0.0.1:5", true},
		{&p.out, "[::ffff:127.0.0.1]:5", true},
		{&p.out, "192.0.2.7:5", true},
		{&p.out, "198.51.100.7:5", false},
		{&p.in, "198.51.100.7:5", true},
	} {
		allowed := p.peerGuard(l, tt.dir)
		if got := allowed(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.peer))); got != tt.want {
			t.Errorf("outbound %v, peer %s: %v, want %v", tt.dir.outbound, tt.peer, got, tt.want)
		}
	}
}

// Whatever bytes arrive, and however they are cut, the proxy lives on and a good
// connection beside is served.
func FuzzDownstream(f *testing.F) {
	f.Add(req{id: 1, iface: foo}.frame(f), 3)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), 1)
	f.Add(dubbo.AppendReadonly(nil, 2), 5)
	f.Add([]byte{0xda, 0xbb, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, 16)
	p := serve(f, echo)
	a := start(f, Options{MaxBody: 1 << 16})
	a.provide(f, foo, p.addr())
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		c, err := net.Dial("tcp", a.outbound)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if cut = cut % (len(b) + 1); cut < 0 {
			cut = -cut
		}
		c.Write(b[:cut])
		c.Write(b[cut:])
		dial(t, a.outbound).wantEcho(req{id: 3, iface: foo})
	})
}
