package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// copier answers without allocating: it turns what it reads into responses in
// place. It takes frames of one size only.
func copier(t testing.TB, size int) *provider {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{Listener: l}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.conns.Store(c, struct{}{})
			p.wg.Go(func() {
				defer c.Close()
				buf, w := make([]byte, 256*size), 0
				for {
					n, err := c.Read(buf[w:])
					if err != nil {
						return
					}
					w += n
					whole := w - w%size
					for at := 0; at < whole; at += size {
						buf[at+2], buf[at+statusAt] = dubbo.Hessian2, dubbo.StatusOK
					}
					if _, err := c.Write(buf[:whole]); err != nil {
						return
					}
					w = copy(buf, buf[whole:w])
				}
			})
		}
	})
	t.Cleanup(func() { p.kill(); p.wg.Wait() })
	return p
}

// burst is a connection that sends depth calls at once and reads their answers.
type burst struct {
	net.Conn
	out, in []byte
}

// method makes the request of one of up to 100 methods, all of one size.
func method(t testing.TB, n int) []byte {
	return req{iface: foo, method: fmt.Sprintf("method%02d", n), arg: string(bytes.Repeat([]byte("x"), 40))}.frame(t)
}

func newBurst(t testing.TB, addr string, depth, methods int) *burst {
	var out []byte
	for i := range depth {
		f := method(t, i%methods)
		dubbo.PutID(f, uint64(i))
		out = append(out, f...)
	}
	return &burst{dial(t, addr).Conn, out, make([]byte, len(out))}
}

func (b *burst) round(t testing.TB) {
	if _, err := b.Write(b.out); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b.Conn, b.in); err != nil {
		t.Fatal(err)
	}
}

// forwarding is a warm connection that calls so many methods in turn.
func forwarding(t testing.TB, depth, methods int) *burst {
	p := copier(t, len(method(t, 0)))
	a := start(t, Options{})
	a.provide(t, foo, p.addr())
	b := newBurst(t, a.outbound, depth, methods)
	b.SetDeadline(time.Now().Add(time.Minute))
	for range 200 {
		b.round(t)
	}
	return b
}

// A forwarded call allocates nothing, amortised: the whole process is counted,
// with consumer and provider.
func TestForwardingAllocatesNothing(t *testing.T) {
	const depth, rounds = 16, 500
	b := forwarding(t, depth, depth)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range rounds {
		b.round(t)
	}
	runtime.ReadMemStats(&after)
	// One for each burst would be 1/16. Under the race detector sync.Pool drops
	// every fourth block of the readers.
	if got := float64(after.Mallocs-before.Mallocs) / (depth * rounds); got > 0.05 {
		t.Errorf("%.3f allocations for each forwarded call, want 0", got)
	}
}

func BenchmarkForward(b *testing.B) {
	for _, of := range []struct{ depth, methods int }{{1, 1}, {32, 1}, {32, 8}, {32, 16}, {32, 32}} {
		b.Run(fmt.Sprintf("depth%d,methods%d", of.depth, of.methods), func(b *testing.B) {
			c := forwarding(b, of.depth, of.methods)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += of.depth {
				c.round(b)
			}
		})
	}
}
