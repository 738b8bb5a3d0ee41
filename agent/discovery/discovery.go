package discovery

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

// Registry is what is needed of a registry.
type Registry interface {
	registry.Subscriber
	Status() registry.Status
}

// Named is a registry and its name in the configuration.
type Named struct {
	Name     string
	Registry Registry
}

// Options of New. Only Registries is needed.
type Options struct {
	Registries []Named // see SetRegistries
	Dir        string  // where the last sets are kept; empty: nowhere
	Protection Protection
	Keep       time.Duration // how long an interface is followed after the last Want; 0: 10 min
	MaxWanted  int           // interfaces followed on demand; 0: 4096
	// Probe connects to an address. Held providers whose address refuses (the
	// error wraps syscall.ECONNREFUSED) are dropped. Nil: TCP.
	Probe func(ctx context.Context, address string) error
	// Leaving tells that this agent takes what it has published out of the
	// registries: what disappears then is no news to its log. Nil: never.
	Leaving func() bool
	Log     *slog.Logger
}

// Status is the state of one registry.
type Status struct {
	Name string
	registry.Status
	Interfaces int // followed there
	Protected  int // of these: providers are held that the registry does not list
	Stale      int // of these: nothing was heard since the start, the set is from disk
}

// Source is a route.Source: what the registries say.
type Source struct {
	// immutable after New
	o    Options
	log  *slog.Logger
	wake chan struct{} // capacity 1: look into asks

	mu      sync.Mutex
	asks    asks      // guarded by mu
	members []*member // guarded by mu; written by the loop, replaced whole
}

// member is one registry that is followed.
type member struct {
	Named
	counts counts // guarded by Source.mu

	// owned by the loop
	ctx    context.Context // of its subscriptions
	cancel context.CancelFunc
	last   time.Time // when it was connected last
	leaves time.Time // it is no longer wanted, and what it said is forgotten then; zero: it stays
}

// asks is what others want since the loop looked last.
type asks struct {
	wanted     []string // the newest set of SetWanted
	replace    bool     // wanted is to be taken
	registries []Named  // the newest set of SetRegistries; nil: no change
	demand     map[string]bool
	refused    map[refusal]bool
	protect    *Protection // the newest of SetProtection
}

type refusal struct{ iface, address string }

type counts struct{ interfaces, protected, stale int }

var _ route.Source = (*Source)(nil)

// New is a source that follows nothing yet.
func New(o Options) *Source {
	o.Keep = cmp.Or(o.Keep, 10*time.Minute)
	o.MaxWanted = cmp.Or(o.MaxWanted, 4096)
	if o.Probe == nil {
		o.Probe = dial
	}
	if o.Leaving == nil {
		o.Leaving = func() bool { return false }
	}
	s := &Source{o: o, log: o.Log, wake: make(chan struct{}, 1)}
	for _, r := range o.Registries {
		s.members = append(s.members, &member{Named: r})
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

func dial(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// SetWanted replaces the interfaces of local subscriptions. One that is not
// wanted any more is still followed for Options.Keep.
func (s *Source) SetWanted(interfaces []string) {
	s.mu.Lock()
	s.asks.wanted, s.asks.replace = interfaces, true
	s.mu.Unlock()
	s.ring()
}

// Want follows an interface on demand, for Options.Keep after the last Want, if
// not more than Options.MaxWanted are followed so already.
func (s *Source) Want(iface string) {
	s.mu.Lock()
	if s.asks.demand == nil {
		s.asks.demand = map[string]bool{}
	}
	if len(s.asks.demand) < s.o.MaxWanted {
		s.asks.demand[iface] = true
	}
	s.mu.Unlock()
	s.ring()
}

// SetRegistries replaces the registries. One whose name is new is followed from
// now on. What one that is gone said last of an interface is served until the
// others list the same providers, for 30 s at most. A name stands for one registry: to put
// another one behind it, take the name out first.
func (s *Source) SetRegistries(registries []Named) {
	s.mu.Lock()
	s.asks.registries = registries
	s.mu.Unlock()
	s.ring()
}

// SetProtection replaces Options.Protection, for what is held already too.
func (s *Source) SetProtection(p Protection) {
	s.mu.Lock()
	s.asks.protect = &p
	s.mu.Unlock()
	s.ring()
}

// mostRefusals bounds the reports of Refused that wait.
const mostRefusals = 4096

// Refused reports that calls of an interface are refused at an address: a mesh
// endpoint answers that it has no such provider any more, say. If the provider
// is only held, it is dropped at once.
func (s *Source) Refused(iface, address string) {
	s.mu.Lock()
	if s.asks.refused == nil {
		s.asks.refused = map[refusal]bool{}
	}
	if len(s.asks.refused) < mostRefusals {
		s.asks.refused[refusal{iface, address}] = true
	}
	s.mu.Unlock()
	s.ring()
}

// ring wakes the loop; one that is awake anyway needs no second ring.
func (s *Source) ring() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Source) take() asks {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.asks
	s.asks = asks{}
	return a
}

// Statuses tells how each registry stands, in the order in which they came.
func (s *Source) Statuses() []Status {
	s.mu.Lock()
	members := s.members
	list := make([]Status, len(members))
	for i, m := range members {
		list[i] = Status{Name: m.Name, Interfaces: m.counts.interfaces, Protected: m.counts.protected, Stale: m.counts.stale}
	}
	s.mu.Unlock()
	for i, m := range members {
		list[i].Status = m.Registry.Status()
	}
	return list
}
