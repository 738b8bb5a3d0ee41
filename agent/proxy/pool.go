package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshferry/meshferry/agent/route"
)

// pool holds the shared connections to one peer. A downstream connection always
// uses the same lane, so its requests keep their order as long as that lives.
type pool struct {
	p     *Proxy
	peer  *route.Peer
	lanes []atomic.Pointer[upstream]

	mu        sync.Mutex // held while a lane is opened or closed
	forgotten bool       // guarded by mu: nothing is opened any more
}

// shared is the connection to a peer that a lane uses, opened when needed. One
// that has just ended may come back: its start then tries elsewhere.
func (p *Proxy) shared(peer *route.Peer, lane uint32) *upstream {
	for {
		v, ok := p.pools.Load(peer)
		if !ok {
			v, _ = p.pools.LoadOrStore(peer, &pool{p: p, peer: peer, lanes: make([]atomic.Pointer[upstream], p.o.UpstreamConnections)})
		}
		l := v.(*pool)
		if u := l.lane(lane); u != nil {
			return u
		}
		p.pools.CompareAndDelete(peer, v) // forgotten just now
	}
}

// lane is one connection of the pool, nil when the pool has been forgotten.
func (l *pool) lane(n uint32) *upstream {
	slot := &l.lanes[int(n)%len(l.lanes)]
	if u := slot.Load(); u != nil && !u.gone.Load() {
		return u
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgotten {
		return nil
	}
	u := slot.Load()
	if u == nil || u.gone.Load() {
		u = l.p.connect(l.peer, nil)
		slot.Store(u)
	}
	return u
}

func (l *pool) size() (n int) {
	for i := range l.lanes {
		if u := l.lanes[i].Load(); u != nil && !u.gone.Load() {
			n++
		}
	}
	return n
}

func (l *pool) close(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.lanes {
		if u := l.lanes[i].Load(); u != nil {
			u.end(why)
		}
	}
}

// idle ends connections that nobody has used for long; true when none is left,
// and the pool may be forgotten.
func (l *pool) idle(now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := false
	for i := range l.lanes {
		u := l.lanes[i].Load()
		if u == nil {
			continue
		}
		u.mu.Lock()
		idle := u.busy == 0 && now-u.lastUsed > idleUpstream
		u.mu.Unlock()
		if idle {
			u.end(errIdle)
		} else {
			left = left || !u.gone.Load()
		}
	}
	l.forgotten = !left
	return !left
}
