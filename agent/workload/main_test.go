package workload

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// providerURL is what a provider at port publishes; extra is appended.
func providerURL(t testing.TB, port int, extra string) registry.URL {
	return parse(t, fmt.Sprintf("dubbo://127.0.0.1:%d/com.a.Foo?application=demo&interface=com.a.Foo&timestamp=1700000000000%s", port, extra))
}

func parse(t testing.TB, s string) registry.URL {
	t.Helper()
	u, err := registry.ParseURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// start opens a store and runs it until stop or the end of the test.
func start(t *testing.T, o Options) (s *Store, stop func()) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(stop)
	return s, stop
}

// await waits at most 10 s for a View that satisfies cond, and gives it.
func await(t *testing.T, s *Store, what string, cond func(*View) bool) *View {
	t.Helper()
	return awaitFor(t, s, 10*time.Second, what, cond)
}

func awaitFor(t *testing.T, s *Store, limit time.Duration, what string, cond func(*View) bool) *View {
	t.Helper()
	deadline := time.After(limit)
	for {
		v, changed := s.View().Watch()
		if cond(v) {
			return v
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: never seen; last view %+v", what, *v)
		}
	}
}

// live is true when all publications are Live, and there is one at least.
func live(v *View) bool {
	for _, p := range v.Publications {
		if !p.Live {
			return false
		}
	}
	return len(v.Publications) > 0
}

// because is true when there is one publication, withdrawn for that reason.
func because(reason string) func(*View) bool {
	return func(v *View) bool {
		return len(v.Publications) == 1 && !v.Publications[0].Live && v.Publications[0].Reason == reason
	}
}

func empty(v *View) bool { return len(v.Publications) == 0 }

func publish(t *testing.T, s *Store, p Publication) uint64 {
	t.Helper()
	gen, err := s.Publish(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return gen
}

// logged collects what a store logs.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// fakeHost is a machine without a network: what its ports do is set by tests. Its
// connections are pipes, so that it works in a synctest bubble.
type fakeHost struct {
	mu    sync.Mutex
	ports map[string]behaviour
	conns map[net.Conn]string
	dials map[string]int
}

type behaviour int

const (
	shut  behaviour = iota // refuses
	beats                  // accepts and answers heartbeats
	mute                   // accepts and never answers
	lost                   // dials time out
	slams                  // accepts and closes at once
)

func newFakeHost() *fakeHost {
	return &fakeHost{ports: map[string]behaviour{}, conns: map[net.Conn]string{}, dials: map[string]int{}}
}

// set changes what an address does; shut also ends its connections, as a killed
// process does.
func (h *fakeHost) set(address string, b behaviour) {
	h.mu.Lock()
	h.ports[address] = b
	h.mu.Unlock()
	if b == shut {
		h.cut(address)
	}
}

// cut ends the connections of an address.
func (h *fakeHost) cut(address string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c, a := range h.conns {
		if a == address {
			c.Close()
		}
	}
}

// say writes to every connection of an address.
func (h *fakeHost) say(t *testing.T, address string, frame []byte) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	said := false
	for c, a := range h.conns {
		if a == address {
			c.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := c.Write(frame); err == nil {
				said = true
			}
			c.SetWriteDeadline(time.Time{})
		}
	}
	if !said {
		t.Fatalf("nobody is connected to %s", address)
	}
}

func (h *fakeHost) dialled(address string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dials[address]
}

func (h *fakeHost) behaviour(address string) behaviour {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ports[address]
}

func (h *fakeHost) dial(ctx context.Context, address string) (net.Conn, error) {
	h.mu.Lock()
	h.dials[address]++
	b := h.ports[address]
	h.mu.Unlock()
	switch b {
	case shut:
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	case lost:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	near, far := net.Pipe()
	if b == slams {
		far.Close()
		return near, nil
	}
	h.mu.Lock()
	h.conns[far] = address
	h.mu.Unlock()
	go func() {
		answerHeartbeats(far, func() bool { return h.behaviour(address) == beats })
		h.mu.Lock()
		delete(h.conns, far)
		h.mu.Unlock()
	}()
	return near, nil
}

// answerHeartbeats serves a connection until it ends, as Java Dubbo would; while
// willing is false it reads and is silent.
func answerHeartbeats(c net.Conn, willing func() bool) {
	defer c.Close()
	var f [17]byte
	for {
		if _, err := io.ReadFull(c, f[:]); err != nil {
			return
		}
		if f[0] != 0xda || f[1] != 0xbb || f[2] != 0xe2 || binary.BigEndian.Uint32(f[12:]) != 1 || f[16] != 'N' {
			return
		}
		if !willing() {
			continue
		}
		f[2], f[3] = 0x22, 20
		if _, err := c.Write(f[:]); err != nil {
			return
		}
	}
}
