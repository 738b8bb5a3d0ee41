package route

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// running is a router whose loop runs; stop waits for its end.
func running(t testing.TB, o Options) (r *Router, stop func()) {
	t.Helper()
	r = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// until waits for a snapshot that satisfies ok.
func until(t testing.TB, r *Router, ok func(*Snapshot) bool) *Snapshot {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		s, changed := r.Changes().Watch()
		if ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("no such snapshot within 10 s")
		}
	}
}

// fakeSource delivers what is put into sets, when it is wanted.
type fakeSource struct {
	mu     sync.Mutex
	sets   map[string]Update
	wanted []string
	wake   chan string
}

func newFakeSource(updates ...Update) *fakeSource {
	f := &fakeSource{sets: map[string]Update{}, wake: make(chan string, 100)}
	for _, u := range updates {
		f.sets[u.Interface] = u
	}
	return f
}

func (f *fakeSource) Run(ctx context.Context, ch chan<- Update) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case iface := <-f.wake:
			f.mu.Lock()
			u, ok := f.sets[iface]
			f.mu.Unlock()
			if ok {
				ch <- u
			}
		}
	}
}

func (f *fakeSource) Want(iface string) {
	f.mu.Lock()
	f.wanted = append(f.wanted, iface)
	f.mu.Unlock()
	select {
	case f.wake <- iface:
	default:
	}
}

func (f *fakeSource) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wanted)
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource(
			ready("a.Known", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.Known?interface=a.Known")),
			Update{Source: "main", Interface: "a.None", State: Empty},
			Update{Source: "main", Interface: "a.Away", State: Waiting})
		r, stop := running(t, Options{Sources: []Source{f}, MaxAwait: 2})
		defer stop()
		ctx := t.Context()
		began := time.Now()
		if !r.Await(ctx, "a.Known") || r.Snapshot().Outbound.find("a.Known", "0.0.0", "") == nil {
			t.Error("a.Known was not found")
		}
		if !r.Await(ctx, "a.None") {
			t.Error("that there is none is an answer")
		}
		if f.count() != 2 || !r.Await(ctx, "a.Known") || f.count() != 2 {
			t.Errorf("what is known was asked for again: %v", f.wanted)
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("answers took %v", d)
		}

		for _, iface := range []string{"a.Away", "a.Unheard"} {
			began = time.Now()
			if r.Await(ctx, iface) || time.Since(began) != awaitMost {
				t.Errorf("%s: waited %v, want %v", iface, time.Since(began), awaitMost)
			}
			began = time.Now()
			if r.Await(ctx, iface) || time.Since(began) != 0 {
				t.Errorf("%s: the second call waited %v", iface, time.Since(began))
			}
		}
		time.Sleep(unknownFor + time.Millisecond)
		if r.await.isUnknown("a.Unheard") {
			t.Error("remembered for too long")
		}

		for range 2 { // both places are taken
			go r.Await(ctx, "a.Slow")
		}
		synctest.Wait()
		began = time.Now()
		if r.Await(ctx, "a.Slow") || time.Since(began) != 0 {
			t.Errorf("the third of two places waited %v", time.Since(began))
		}
		time.Sleep(awaitMost)
		synctest.Wait()

		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		began = time.Now()
		if r.Await(short, "a.Other") || time.Since(began) != 10*time.Millisecond {
			t.Errorf("waited %v beyond its context", time.Since(began))
		}
		if r.Await(ctx, "") || r.Await(ctx, strings.Repeat("x", longestIface+1)) {
			t.Error("a name that cannot be was found")
		}
	})
}

// TestRefresh: another policy reaches clusters of both directions that nothing
// else changes.
func TestRefresh(t *testing.T) {
	f := newFakeSource(ready("a.B", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B")))
	var policy atomic.Value
	policy.Store("")
	r, stop := running(t, Options{Sources: []Source{f}, Policy: func(registry.Service) string { return policy.Load().(string) }})
	defer stop()
	u := mustURL(t, "dubbo://10.0.0.9:20880/a.Local?interface=a.Local")
	r.SetLocal([]Local{{Address: "127.0.0.1:20880", Protocol: "dubbo", Service: u.Service(), Path: "a.Local", URL: u}})
	f.Want("a.B")
	both := func(p Policy) func(*Snapshot) bool {
		return func(s *Snapshot) bool {
			out, in := s.Outbound.find("a.B", "", ""), s.Inbound.find("a.Local", "", "")
			return out != nil && in != nil && out.Policy == p && in.Policy == p
		}
	}
	until(t, r, both(Random))
	policy.Store("roundrobin")
	r.Refresh()
	until(t, r, both(RoundRobin))
}

func TestUnknownIsBounded(t *testing.T) {
	var w waiters
	w.init(0, 0)
	for i := range 2 * mostUnknown {
		w.remember(fmt.Sprint(i))
	}
	if len(w.unknown) > mostUnknown {
		t.Errorf("%d names remembered", len(w.unknown))
	}
}

// Interfaces that are called stay wanted, others do not.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource(
			ready("a.Busy", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.Busy?interface=a.Busy")),
			ready("a.Idle", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.Idle?interface=a.Idle")))
		r, stop := running(t, Options{Sources: []Source{f}})
		defer stop()
		r.Await(t.Context(), "a.Busy")
		r.Await(t.Context(), "a.Idle")
		r.Snapshot().Outbound.find("a.Busy", "", "").Stats.Request(1)
		time.Sleep(3*renewEvery + time.Second)
		synctest.Wait()
		if got := strings.Join(f.wanted, " "); got != "a.Busy a.Idle a.Busy" {
			t.Errorf("wanted: %s", got)
		}
	})
}

func TestChangesAreLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		r, stop := running(t, Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))})
		defer stop()
		one := ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B")
		two := ifaceLevel(t, "dubbo://10.0.0.2:20882/a.B?interface=a.B&group=g&meshferry.origin=10.0.0.2:20880&meshferry.caps=1")
		for _, u := range []Update{ready("a.B", one), ready("a.B", one), ready("a.B", two), {Source: "main", Interface: "a.B", State: Dropped}} {
			r.updates <- u
			synctest.Wait()
		}
	})
	want := `level=INFO msg="endpoints changed" interface=a.B change=+a.B@10.0.0.1:20880 more=0 endpoints=1
level=INFO msg="endpoints changed" interface=a.B change="+g/a.B@10.0.0.2:20882(10.0.0.2:20880) -a.B@10.0.0.1:20880" more=0 endpoints=1
level=INFO msg="endpoints changed" interface=a.B change=-g/a.B@10.0.0.2:20882(10.0.0.2:20880) more=0 endpoints=0
`
	if log.String() != want {
		t.Errorf("log:\n%swant:\n%s", log.String(), want)
	}
}

type brokenSource struct{}

func (brokenSource) Run(context.Context, chan<- Update) error { return errors.New("broken") }
func (brokenSource) Want(string)                              {}

func TestRunErrsWithItsSource(t *testing.T) {
	r := New(Options{Sources: []Source{brokenSource{}}})
	if err := r.Run(t.Context()); err == nil || err.Error() != "broken" {
		t.Errorf("Run: %v", err)
	}
}

// Readers look up and pick while sets come and go.
func TestReadersDuringUpdates(t *testing.T) {
	r, stop := running(t, Options{})
	set := func(n int) []registry.Provider {
		var list []registry.Provider
		for i := range 1 + n%3 {
			list = append(list, ifaceLevel(t, fmt.Sprintf("dubbo://10.0.0.%d:20880/a.B?interface=a.B&loadbalance=%s", i+1, []string{"random", "roundrobin", "leastactive"}[n%2])))
		}
		return list
	}
	r.updates <- ready("a.B", set(0)...)
	until(t, r, func(s *Snapshot) bool { return s.Outbound.find("a.B", "", "") != nil })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				cl := r.Snapshot().Outbound.Lookup([]byte("a.B"), nil).Only()
				e := cl.Pick(nil)
				if e == nil {
					t.Error("no endpoint")
					return
				}
				e.Peer.InFlight.Add(1)
				e.Peer.Failed(time.Now())
				e.Peer.Succeeded()
				e.Peer.InFlight.Add(-1)
				cl.Stats.Request(1)
				cl.Stats.Observe(time.Millisecond)
				cl.Timeout("app", []byte("m"))
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			r.Explain(Query{Service: registry.Service{Interface: "a.B"}})
			r.EachStats(func(string, registry.Service, *Stats) {})
			r.Snapshot().Services()
		}
	})
	for n := range 300 {
		r.updates <- ready("a.B", set(n)...)
		r.SetLocal([]Local{{Address: "127.0.0.1:20880", Protocol: "dubbo", Service: registry.Service{Interface: "a.C"}, Application: fmt.Sprint(n)}})
		r.SetCallers([]Caller{{Service: registry.Service{Interface: "a.B"}, URL: mustURL(t, fmt.Sprintf("consumer://h/a.B?timeout=%d", n+1))}})
	}
	until(t, r, func(s *Snapshot) bool {
		return s.Outbound.find("a.B", "", "").Timeout("", nil) == 300*time.Millisecond && s.Inbound.find("org.apache.dubbo.metadata.MetadataService", "1.0.0", "299") != nil
	})
	cancel()
	wg.Wait()
	stop()
}
