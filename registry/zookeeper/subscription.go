package zookeeper

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

// subscribe delivers an interface, or everything, until ctx ends. A reader that is slow gets the latest set,
// not those between.
func (r *reader) subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
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

// everything stands for the listing of the registry among the interfaces: it is
// assembled and watched like one, with a URL that has only a path for each name.
const everything = ""

// list delivers the names of interfaces until ctx ends: the folders at the root,
// where applications and Dubbo's own may stand too, and the mapping, which has
// those that are registered at the application level alone.
func (r *reader) list(ctx context.Context, ch chan<- []string) error {
	sets := make(chan registry.Endpoints)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.subscribe(ctx, everything, sets) }()
	defer func() { cancel(); <-ended }()
	var sent []string
	for first := true; ; first = false {
		var names []string
		select {
		case e := <-sets:
			for _, p := range e.Providers {
				if name := p.URL.Path; name != "mapping" && name != "metadata" && name != "config" {
					names = append(names, name)
				}
			}
		case <-ctx.Done():
			return nil
		}
		slices.Sort(names)
		names = slices.Compact(names)
		if !first && slices.Equal(names, sent) {
			continue
		}
		select {
		case ch <- names:
			sent = slices.Clone(names)
		case <-ctx.Done():
			return nil
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
