package route

import (
	"cmp"
	"context"
	"sync"
	"time"
)

const (
	awaitMost    = time.Second     // how long one call waits
	unknownFor   = 2 * time.Second // how long an interface that nobody knew is answered at once
	mostUnknown  = 4096            // such interfaces remembered
	longestIface = 512             // bytes in the name of an interface
)

// waiters bounds and remembers the waiting for unknown interfaces.
type waiters struct {
	slots chan struct{}

	mu      sync.Mutex
	unknown map[string]time.Time // guarded by mu: until when "no" is the answer
}

func (w *waiters) init(most int) {
	w.slots = make(chan struct{}, cmp.Or(most, 1024))
	w.unknown = map[string]time.Time{}
}

// Await asks the sources to follow an interface that is not known yet, and waits
// until one of them said something of it; then it returns true, and the caller
// looks into a new Snapshot. It returns false when ctx ended, after one second,
// for two seconds after such a time-out, and at once when too many calls wait
// already (Options.MaxAwait).
func (r *Router) Await(ctx context.Context, iface string) bool {
	if r.knows(r.Snapshot(), iface) {
		return true
	}
	if iface == "" || len(iface) > longestIface || len(r.o.Sources) == 0 || r.await.isUnknown(iface) {
		return false
	}
	select {
	case r.await.slots <- struct{}{}:
	default:
		return false
	}
	defer func() { <-r.await.slots }()
	r.want(iface)
	timeout := time.NewTimer(awaitMost)
	defer timeout.Stop()
	for {
		s, changed := r.current.Watch()
		if r.knows(s, iface) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		case <-timeout.C:
			r.await.remember(iface)
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
