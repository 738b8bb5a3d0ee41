package nacos

import (
	"context"
	"slices"
	"sync"

	"github.com/meshferry/meshferry/registry"
)

// subscription is one call of Subscribe: a place for the latest set.
type subscription struct {
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	latest *registry.Endpoints // guarded by mu; never changed once offered
}

func (s *subscription) offer(e *registry.Endpoints) {
	s.mu.Lock()
	changed := s.latest != e
	s.latest = e
	s.mu.Unlock()
	if changed {
		poke(s.wake)
	}
}

func (s *subscription) take() *registry.Endpoints {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}

// subscribe delivers until ctx ends. A reader that is slow gets the latest set,
// not those between.
func (r *reader) subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	if err := registry.CheckInterface(iface); err != nil {
		return err
	}
	s := &subscription{wake: make(chan struct{}, 1)}
	r.mu.Lock()
	r.subs[iface] = append(r.subs[iface], s)
	r.mu.Unlock()
	poke(r.wake)
	defer r.unsubscribe(iface, s)

	var sent *registry.Endpoints
	for {
		var out chan<- registry.Endpoints // nil, which blocks, while there is nothing to tell
		var next registry.Endpoints
		e := s.take()
		if e != nil && (sent == nil || !equal(*e, *sent)) {
			out, next = ch, *e
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case out <- next:
			sent = e
		}
	}
}

func (r *reader) unsubscribe(iface string, s *subscription) {
	r.mu.Lock()
	rest := slices.DeleteFunc(r.subs[iface], func(other *subscription) bool { return other == s })
	if r.subs[iface] = rest; len(rest) == 0 {
		delete(r.subs, iface)
	}
	r.mu.Unlock()
	poke(r.wake)
}

func equal(a, b registry.Endpoints) bool {
	return a.Interface == b.Interface && a.Incomplete == b.Incomplete && slices.Equal(a.Providers, b.Providers)
}
