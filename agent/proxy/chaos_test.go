package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// misbehave is a provider that does everything wrong now and then.
func misbehave(c net.Conn, h dubbo.Header, b []byte) {
	status := func(status byte, body []byte) { c.Write(frame(h.Serialization(), status, h.ID, body)) }
	if !h.IsRequest() || !h.TwoWay() {
		return
	}
	switch rand.IntN(100) {
	case 0: // never
	case 1, 2: // late
		b = bytes.Clone(b)
		time.AfterFunc(time.Duration(rand.IntN(400))*time.Millisecond, func() { echo(c, h, b) })
	case 3: // twice
		echo(c, h, b)
		echo(c, h, b)
	case 4: // ends in the middle of the answer
		c.Write(frame(h.Serialization(), dubbo.StatusOK, h.ID, b)[:20])
		c.Close()
	case 5: // garbage
		c.Write([]byte("\xda\xbbnonsense nonsense nonsense"))
	case 6:
		c.Close()
	case 7:
		c.Write(dubbo.AppendError(nil, h.ID, notExecuted+"chaos"))
	case 8:
		c.Write(dubbo.AppendError(nil, h.ID, unknownOutcome+"chaos"))
	case 9:
		status(dubbo.StatusServerError, nil)
	case 10:
		status(100, []byte("\x04busy"))
	case 11:
		c.Write(dubbo.AppendReadonly(nil, dubbo.Hessian2))
		echo(c, h, b)
	case 12: // too large
		f := frame(h.Serialization(), dubbo.StatusOK, h.ID, make([]byte, 80<<10))
		c.Write(f)
	case 13: // an answer to nobody, and a callback that cannot be
		c.Write(frame(h.Serialization(), dubbo.StatusOK, rand.Uint64(), nil))
		c.Write(frame(0xc0|h.Serialization(), 0, h.ID, nil))
		echo(c, h, b)
	case 14: // announces more than it sends
		f := frame(h.Serialization(), dubbo.StatusOK, h.ID, nil)
		binary.BigEndian.PutUint32(f[12:], 1<<31)
		c.Write(f)
		c.Close()
	default:
		echo(c, h, b)
	}
}

// Every two-way call gets exactly one answer, whatever providers, connections and
// other consumers do; and afterwards nothing is left of it.
func TestChaos(t *testing.T) {
	const consumers, calls, window = 16, 1000, 25
	providers := []*provider{serve(t, misbehave), serve(t, misbehave), serve(t, misbehave)}
	dead := serve(t, echo)
	dead.kill()
	o := Options{MaxBody: 64 << 10, Heartbeat: 200 * time.Millisecond}
	b := start(t, o)
	b.local(t, map[string]string{foo: providers[0].addr(), "com.a.Calls": providers[0].addr()}, "")
	a := start(t, o)
	for iface, more := range map[string]string{foo: "", "com.a.Calls": "echo.0.callback=true"} {
		a.provide(t, iface, b.inbound+"?meshferry.caps=1&"+more, providers[1].addr()+"?"+more, providers[2].addr()+"?"+more, dead.addr()+"?"+more)
	}
	done := make(chan struct{})
	var faults, wg sync.WaitGroup
	faults.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			providers[rand.IntN(len(providers))].closeConns()
			if rude, err := net.Dial("tcp", a.outbound); err == nil { // a consumer that goes
				for i := range 5 {
					rude.Write(req{id: uint64(i), iface: []string{foo, "com.a.Calls"}[i%2]}.frame(t))
				}
				rude.Close()
			}
		}
	})
	answered, echoes := 0, 0
	var mu sync.Mutex
	for n := range consumers {
		c := dial(t, []string{a.outbound, a.outbound, a.outbound, b.inbound}[n%4])
		wg.Go(func() {
			open := map[uint64]bool{}
			good := 0
			answer := func() {
				h, f := c.read()
				if h.IsRequest() {
					return // a callback, on a connection that allows it
				}
				if !open[h.ID] {
					t.Errorf("consumer %d: answer to %d, which is not waited for", n, h.ID)
				}
				delete(open, h.ID)
				if i := bytes.IndexByte(f, '#'); i >= 0 && h.Status == dubbo.StatusOK && bytes.Contains(f, []byte("Ljava/lang/String;")) {
					if good++; !bytes.Contains(f, fmt.Appendf(nil, "#%d/%d#", n, h.ID)) {
						t.Errorf("consumer %d: answer of another call %q", n, f)
					}
				}
			}
			for i := range uint64(calls) {
				r := req{id: i, iface: []string{foo, "com.a.Calls"}[n%2], arg: fmt.Sprintf("#%d/%d#", n, i),
					attachments: map[string]string{"timeout": "100"}, oneway: rand.IntN(10) == 0}
				if open[i] = !r.oneway; r.oneway {
					delete(open, i)
				}
				c.write(r.frame(t))
				for len(open) >= window {
					answer()
				}
			}
			for len(open) > 0 {
				answer()
			}
			mu.Lock()
			defer mu.Unlock()
			answered += calls
			echoes += good
			c.write(dubbo.AppendHeartbeat(nil, dubbo.Hessian2, 1<<40)) // nothing comes after the last answer
			c.SetReadDeadline(time.Now().Add(patience))
			for {
				h, _, err := readFrame(c)
				if err != nil || !h.IsRequest() && h.ID != 1<<40 {
					t.Errorf("consumer %d: %+v after the last answer, %v", n, h, err)
				}
				if err != nil || h.ID == 1<<40 {
					return
				}
			}
		})
	}
	wg.Wait()
	close(done)
	faults.Wait()
	if echoes < answered/20 {
		t.Errorf("only %d of %d calls were answered by a provider", echoes, answered)
	}
	for name, m := range map[string]*mesh{"a": a, "b": b} {
		eventually(t, "nothing in flight at "+name, func() bool {
			n := m.Counters()
			return n.InFlight["inbound"]+n.InFlight["outbound"] == 0
		})
		for _, u := range m.upstreamConnections() {
			eventually(t, "nothing in flight at a peer of "+name, func() bool { return u.peer.InFlight.Load() == 0 })
			u.end(errIdle)
		}
		eventually(t, "no memory held at "+name, func() bool { return m.memory.used.Load() == 0 })
	}
	t.Logf("%d of %d calls answered by a provider, %d retries", echoes, answered, a.Counters().Retries)
}

// Whatever bytes a provider sends, its caller is answered once, and other calls
// pass.
func FuzzUpstream(f *testing.F) {
	answer := frame(dubbo.Hessian2, dubbo.StatusOK, 0, []byte("\x91\x05hello"))
	f.Add(answer, true)
	f.Add(append(bytes.Clone(answer), answer...), true)
	f.Add(answer[:20], true)
	f.Add(dubbo.AppendReadonly(nil, 2), false)
	f.Add(dubbo.AppendError(nil, 0, notExecuted+"x"), true)
	f.Add(dubbo.AppendHeartbeat(nil, 2, 5), true)
	f.Add(frame(0xc2, 0, 7, []byte("N")), true)
	f.Add([]byte{0xda, 0xbb, 0x02, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, true)
	said := make(chan []byte, 1)
	p := serve(f, func(c net.Conn, h dubbo.Header, _ []byte) {
		select {
		case b := <-said:
			c.Write(b)
		default: // tried again
		}
		c.Close()
	})
	quick := serve(f, echo)
	a := start(f, Options{MaxBody: 1 << 16, UpstreamConnections: 1})
	a.provide(f, foo, p.addr())
	a.provide(f, "com.a.Quick", quick.addr())
	f.Fuzz(func(t *testing.T, b []byte, patch bool) {
		b = bytes.Clone(b)
		if patch && len(b) >= dubbo.HeaderSize { // so that it is an answer to the call
			dubbo.PutID(b, 1<<32)
		}
		select {
		case <-said:
		default:
		}
		said <- b
		c := dial(t, a.outbound)
		defer c.Close()
		if h, _ := c.call(req{id: 3, iface: foo}); h.IsRequest() {
			t.Fatalf("%+v instead of an answer", h)
		}
		c.wantEcho(req{id: 4, iface: "com.a.Quick"})
	})
}
