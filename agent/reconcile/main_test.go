package reconcile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var agent = rewrite.Address{Host: "10.0.0.9", Port: 20882, Caps: "1"}

// shelf is a registry in memory.
type shelf struct {
	lost chan struct{}

	mu       sync.Mutex
	content  registry.Desired
	applied  []applied
	err      error             // every Apply fails with it and changes nothing
	conflict map[string]string // item: owner
	pending  map[string]bool
	slow     time.Duration // one item takes so long
}

type applied struct {
	at time.Time
	d  registry.Desired
}

func newShelf() *shelf { return &shelf{lost: make(chan struct{}, 1)} }

func (s *shelf) Lost() <-chan struct{} { return s.lost }

func (s *shelf) Apply(ctx context.Context, d registry.Desired) (registry.Report, error) {
	s.mu.Lock()
	s.applied = append(s.applied, applied{time.Now(), d})
	err, slow := s.err, s.slow
	s.mu.Unlock()
	report := registry.Report{}
	if err != nil {
		for _, item := range items(d) {
			report[item] = registry.Item{State: registry.Pending, Err: err.Error()}
		}
		return report, err
	}
	for _, item := range items(d) {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			report[item] = registry.Item{State: registry.Pending, Err: "not reached"}
			continue
		}
		s.mu.Lock()
		switch {
		case s.conflict[item] != "":
			report[item] = registry.Item{State: registry.Conflict, Owner: s.conflict[item]}
		case s.pending[item]:
			report[item] = registry.Item{State: registry.Pending, Err: "old session"}
		default:
			report[item] = registry.Item{State: registry.Held}
		}
		s.mu.Unlock()
	}
	if ctx.Err() != nil {
		return report, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.content = d
	return report, nil
}

func (s *shelf) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// lists are the names of what the registry holds: interface level, application
// level with the services of each instance.
func (s *shelf) lists() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return describe(s.content)
}

func describe(d registry.Desired) string {
	var parts []string
	for _, u := range d.Providers {
		parts = append(parts, fmt.Sprintf("%s@%s", u.Service(), u.HostPort()))
	}
	for _, a := range d.Applications {
		var services []string
		for key := range a.Metadata.Services {
			services = append(services, key)
		}
		slices.Sort(services)
		parts = append(parts, fmt.Sprintf("%s%v", a.ID(), services))
	}
	return strings.Join(parts, " ")
}

func (s *shelf) calls() []applied {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.applied)
}

// bench is a running Loop and its surroundings, in a synctest bubble.
type bench struct {
	t *testing.T
	*Loop
	shelf     *shelf
	workloads *watch.Value[workload.View]
	gen       uint64
	log       *bytes.Buffer // read after quiet only
	end       func()        // ends Run
}

func run(t *testing.T, s *shelf, first *workload.View, change ...func(*Options)) *bench {
	b := &bench{t: t, shelf: s, workloads: &watch.Value[workload.View]{}, log: &bytes.Buffer{}}
	if first != nil {
		b.gen = first.Generation
		b.workloads.Store(first)
	}
	o := Options{
		Name: "main", Registry: s, Workloads: b.workloads, Address: agent, HostID: "abc",
		Log: slog.New(slog.NewTextHandler(b.log, nil)),
	}
	for _, c := range change {
		c(&o)
	}
	b.Loop = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.end = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		done <- nil
	}
	t.Cleanup(b.end)
	synctest.Wait()
	return b
}

// publish makes these the publications of the next view.
func (b *bench) publish(pubs ...workload.Publication) {
	b.gen++
	b.workloads.Store(&workload.View{Generation: b.gen, Publications: pubs})
	synctest.Wait()
}

func (b *bench) pass(d time.Duration) {
	time.Sleep(d) // time in the bubble
	synctest.Wait()
}

func (b *bench) holds(want string) {
	b.t.Helper()
	if got := b.shelf.lists(); got != want {
		b.t.Errorf("the registry holds\n     %q\nwant %q", got, want)
	}
}

func (b *bench) state(p workload.Publication, want string) {
	b.t.Helper()
	s := b.State().Load()
	got, ok := s.Publications[p.Identity]
	if text := strings.TrimSpace(got.State + " " + got.Reason); !ok || text != want {
		b.t.Errorf("publication of %s is %q, want %q (all: %+v)", p.Service, text, want, s)
	}
}

// logged counts lines that contain all parts.
func (b *bench) logged(parts ...string) int {
	n := 0
	for line := range strings.Lines(b.log.String()) {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(line, p)
		}
		if all {
			n++
		}
	}
	return n
}

// pub is a live publication of an interface by application shop, on a port.
func pub(iface string, port int, more ...string) workload.Publication {
	u, err := registry.ParseURL(fmt.Sprintf("dubbo://10.0.0.1:%d/%s?application=shop&interface=%s&side=provider&timestamp=1700000000000%s", port, iface, iface, strings.Join(more, "")))
	if err != nil {
		panic(err)
	}
	return workload.Publication{
		Identity: workload.Identity{Workload: fmt.Sprintf("shop-%d", port), Protocol: "dubbo", Service: u.Service(), Path: iface, Port: port},
		URL:      u, Live: true,
	}
}

func dead(p workload.Publication, reason string) workload.Publication {
	p.Live, p.Reason = false, reason
	return p
}

var errBroken = errors.New("no permission")
