package discovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRegistry is a registry in memory.
type fakeRegistry struct {
	mu         sync.Mutex
	state      string
	sets       map[string][]string // interface → URLs; nil entry: nothing said
	incomplete string
	subs       map[string]chan<- registry.Endpoints
	subscribed []string
	refuse     error
}

func newFakeRegistry() *fakeRegistry {
	return &fakeRegistry{state: registry.Connected, sets: map[string][]string{}, subs: map[string]chan<- registry.Endpoints{}}
}

func (f *fakeRegistry) Status() registry.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return registry.Status{State: f.state}
}

func (f *fakeRegistry) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	f.mu.Lock()
	f.subscribed = append(f.subscribed, iface)
	if f.refuse != nil {
		f.mu.Unlock()
		return f.refuse
	}
	f.subs[iface] = ch
	e, said := f.endpoints(iface)
	f.mu.Unlock()
	if said {
		select {
		case ch <- e:
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	f.mu.Lock()
	delete(f.subs, iface)
	f.mu.Unlock()
	return nil
}

// endpoints is called with mu held.
func (f *fakeRegistry) endpoints(iface string) (registry.Endpoints, bool) {
	list, said := f.sets[iface]
	e := registry.Endpoints{Interface: iface, Incomplete: f.incomplete}
	for _, text := range list {
		u, err := registry.ParseURL(text)
		if err != nil {
			panic(err)
		}
		e.Providers = append(e.Providers, registry.Provider{URL: u, Model: registry.ModelInterface})
	}
	return e, said && f.state == registry.Connected
}

// set replaces what is registered, and tells who subscribed.
func (f *fakeRegistry) set(iface string, urls ...string) {
	f.mu.Lock()
	f.sets[iface] = urls
	e, said := f.endpoints(iface)
	ch := f.subs[iface]
	f.mu.Unlock()
	if ch != nil && said {
		ch <- e
	}
}

func (f *fakeRegistry) be(state string) {
	f.mu.Lock()
	f.state = state
	f.mu.Unlock()
}

func (f *fakeRegistry) subscriptions() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.subscribed, " ")
}

// urls are providers at 10.0.0.1, 10.0.0.2, …
func urls(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("dubbo://10.0.0.%d:20880/a.B?interface=a.B", i+1))
	}
	return list
}

// network says which addresses refuse.
type network struct {
	mu     sync.Mutex
	dead   map[string]bool
	dialed int
}

func (n *network) probe(_ context.Context, address string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialed++
	if n.dead[address] {
		return fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
	}
	return nil
}

func (n *network) kill(addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead == nil {
		n.dead = map[string]bool{}
	}
	for _, a := range addresses {
		n.dead[a] = true
	}
}

// world is a running source in a bubble of synctest.
type world struct {
	t       *testing.T
	s       *Source
	net     *network
	mu      sync.Mutex
	last    map[string]route.Update // by interface@source
	updates int
	stop    func()
}

func start(t *testing.T, o Options) *world {
	t.Helper()
	w := &world{t: t, net: &network{}, last: map[string]route.Update{}}
	o.Probe = w.net.probe
	w.s = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	ch := make(chan route.Update)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.s.Run(ctx, ch); err != nil {
			t.Errorf("Run: %v", err)
		}
		close(ch)
	})
	wg.Go(func() {
		for u := range ch {
			w.mu.Lock()
			w.last[u.Interface+"@"+u.Source] = u
			w.updates++
			w.mu.Unlock()
		}
	})
	w.stop = func() { cancel(); wg.Wait() }
	return w
}

// says is the last update of an interface: state, then the last number of each
// host.
func (w *world) says(iface string) string {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.last[iface]
	var hosts []string
	for _, p := range u.Providers {
		hosts = append(hosts, p.URL.Host[strings.LastIndexByte(p.URL.Host, '.')+1:])
	}
	slices.Sort(hosts)
	return strings.TrimSpace(string(u.State) + " " + strings.Join(hosts, ","))
}

func (w *world) expect(iface, want string) {
	w.t.Helper()
	if got := w.says(iface); got != want {
		w.t.Errorf("%s: %q, want %q", iface, got, want)
	}
}

func (w *world) count() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.updates
}

// main is Options with one registry.
func main(f *fakeRegistry) Options {
	return Options{Registries: []Named{{"main", f}}, Protection: Protection{EmptyHold: 30 * time.Second, ShrinkHold: 10 * time.Second}}
}
