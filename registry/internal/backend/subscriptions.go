package backend

import (
	"context"
	"slices"
	"sync"

	"github.com/meshferry/meshferry/registry"
)

// Subscriptions are all calls of Subscribe that run now. A subscriber that is slow
// gets the latest set, not those between, and holds up nobody.
type Subscriptions struct {
	changed func() // called when somebody comes or goes; must not block

	mu          sync.Mutex
	byInterface map[string][]*subscription // guarded by mu
}

// subscription is one call.
type subscription struct {
	box  chan *registry.Endpoints // capacity 1: the latest set that was not taken yet
	last *registry.Endpoints      // guarded by mu of Subscriptions; what was offered last
}

// NewSubscriptions calls changed whenever somebody comes or goes.
func NewSubscriptions(changed func()) *Subscriptions {
	return &Subscriptions{changed: changed, byInterface: map[string][]*subscription{}}
}

// Interfaces are those that somebody subscribes to now.
func (s *Subscriptions) Interfaces() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]bool, len(s.byInterface))
	for iface := range s.byInterface {
		all[iface] = true
	}
	return all
}

// Offer gives a set to everybody who subscribes to its interface. It is not changed
// any more. Who was offered the same pointer before is left alone.
func (s *Subscriptions) Offer(e *registry.Endpoints) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.byInterface[e.Interface] {
		if one.last == e {
			continue
		}
		one.last = e
		select {
		case <-one.box: // not taken, and old now
		default:
		}
		one.box <- e
	}
}

// Subscribe delivers the sets of an interface until ctx ends, none twice in a row.
// See registry.Subscriber.
func (s *Subscriptions) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	one := &subscription{box: make(chan *registry.Endpoints, 1)}
	s.mu.Lock()
	s.byInterface[iface] = append(s.byInterface[iface], one)
	s.mu.Unlock()
	s.changed()
	defer s.leave(iface, one)

	var next, sent *registry.Endpoints
	for {
		var out chan<- registry.Endpoints // nil, which blocks, while there is nothing to tell
		var e registry.Endpoints
		if next != nil && (sent == nil || !Equal(next, sent)) {
			out, e = ch, *next
		}
		select {
		case <-ctx.Done():
			return nil
		case next = <-one.box:
		case out <- e:
			sent = next
		}
	}
}

func (s *Subscriptions) leave(iface string, one *subscription) {
	s.mu.Lock()
	rest := slices.DeleteFunc(s.byInterface[iface], func(other *subscription) bool { return other == one })
	if s.byInterface[iface] = rest; len(rest) == 0 {
		delete(s.byInterface, iface)
	}
	s.mu.Unlock()
	s.changed()
}

// Equal tells whether two sets say the same.
func Equal(a, b *registry.Endpoints) bool {
	return a.Interface == b.Interface && a.Incomplete == b.Incomplete && slices.Equal(a.Providers, b.Providers)
}
