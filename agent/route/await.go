package route

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/meshferry/meshferry/registry"
)

const (
	awaitMost    = time.Second     // how long one call waits
	unknownFor   = 2 * time.Second // how long an interface that nobody knew is answered at once
	mostUnknown  = 4096            // such interfaces remembered
	longestIface = 512             // bytes in the name of an interface

	// Other hosts choose the names that AwaitLocal is asked for. What they can make
	// this agent follow is bounded, apart from what local consumers need.
	arriveMost    = 256              // calls that wait at the same time
	strangersMost = 1024             // interfaces that nobody here offers, …
	strangersFor  = 10 * time.Minute // … in this time, which is that of discovery.Options.Keep
)

// waiters bounds and remembers the waiting for unknown interfaces.
type waiters struct {
	slots chan struct{}
	most  int // names in asked; 0: they are not counted

	mu      sync.Mutex
	unknown map[string]time.Time // guarded by mu: until when "no" is the answer
	asked   map[string]time.Time // guarded by mu: asked for and not found, until when it counts
}

func (w *waiters) init(slots, most int) {
	w.slots, w.most = make(chan struct{}, slots), most
	w.unknown, w.asked = map[string]time.Time{}, map[string]time.Time{}
}

// Await asks the sources to follow an interface that is not known yet, and waits
// until one of them said something of it; then it returns true, and the caller
// looks into a new Snapshot. It returns false when ctx ended, after one second,
// for two seconds after such a time-out, and at once when too many calls wait
// already (Options.MaxAwait).
func (r *Router) Await(ctx context.Context, iface string) bool {
	return r.wait(ctx, &r.await, iface, iface, nil, func(s *Snapshot) bool { return r.knows(s, iface) })
}

// AwaitService is Await for a call of a whole service: where rules decide about it,
// it is them that are waited for.
func (r *Router) AwaitService(ctx context.Context, service registry.Service) bool {
	routing := r.c.rules.routingOf(service)
	if routing == FromRegistry {
		return r.Await(ctx, service.Interface)
	}
	ask := func() {
		select {
		case r.asked <- service:
		case <-ctx.Done():
		}
	}
	return r.wait(ctx, &r.await, service.Interface, service.Key(), ask, func(s *Snapshot) bool {
		cl := s.Outbound.cluster(service)
		if cl == nil {
			return false
		}
		if cl.routes == nil {
			return routing == FromXDSThenRegistry && len(cl.Endpoints) > 0
		}
		return !cl.routes.waiting
	})
}

// cluster is that of a service, nil if there is none.
func (t *Table) cluster(s registry.Service) *Cluster {
	if v := t.Lookup([]byte(s.Interface), []byte(s.Version)); v != nil {
		return v.Group([]byte(s.Group))
	}
	return nil
}

// Routing is who decides about a service.
func (r *Router) Routing(s registry.Service) Routing { return r.c.rules.routingOf(s) }

// AwaitLocal is for a call from another host of a service that Snapshot.Inbound
// (or, at an application's own port, Snapshot.Application) does not have, while
// Snapshot.Adopts: it asks the sources to follow the interface, and waits until a
// local application, or that one, has registered the path and version. It returns
// false as Await does, and at once when too many interfaces were asked for that
// nobody here offers.
func (r *Router) AwaitLocal(ctx context.Context, iface string, path, version []byte, application string) bool {
	return r.wait(ctx, &r.arrive, iface, iface, nil, func(s *Snapshot) bool {
		table := &s.Inbound
		if application != "" {
			table = s.Application(application)
		}
		return table.Lookup(path, version) != nil
	})
}

// wait asks for an interface, and with ask for more, until it is known. What is not
// found is remembered by key.
func (r *Router) wait(ctx context.Context, w *waiters, iface, key string, ask func(), known func(*Snapshot) bool) bool {
	if known(r.Snapshot()) {
		return true
	}
	if iface == "" || len(key) > longestIface || len(r.o.Sources) == 0 && ask == nil || w.isUnknown(key) {
		return false
	}
	select {
	case w.slots <- struct{}{}:
	default:
		return false
	}
	defer func() { <-w.slots }()
	if !w.ask(key, time.Now()) {
		return false
	}
	r.want(iface)
	if ask != nil {
		ask()
	}
	timeout := time.NewTimer(awaitMost)
	defer timeout.Stop()
	for {
		s, changed := r.current.Watch()
		if known(s) {
			w.found(key)
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-timeout.C:
			w.remember(key)
			return false
		}
	}
}

func (r *Router) knows(s *Snapshot, iface string) bool {
	u, ok := s.Interface(iface)
	return ok && u.State != Waiting
}

func (w *waiters) isUnknown(iface string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	until, ok := w.unknown[iface]
	if ok && time.Now().After(until) {
		delete(w.unknown, iface)
		return false
	}
	return ok
}

func (w *waiters) remember(iface string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if len(w.unknown) >= mostUnknown {
		for k, until := range w.unknown {
			if now.After(until) {
				delete(w.unknown, k)
			}
		}
	}
	if len(w.unknown) < mostUnknown {
		w.unknown[iface] = now.Add(unknownFor)
	}
}

// ask counts an interface that is asked for, and tells whether it may be.
func (w *waiters) ask(iface string, now time.Time) bool {
	if w.most == 0 {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, again := w.asked[iface]; !again && len(w.asked) >= w.most {
		maps.DeleteFunc(w.asked, func(_ string, until time.Time) bool { return now.After(until) })
		if len(w.asked) >= w.most {
			return false
		}
	}
	w.asked[iface] = now.Add(strangersFor)
	return true
}

// found takes an interface out of the count.
func (w *waiters) found(iface string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.asked, iface)
}
