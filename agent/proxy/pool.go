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

	mu sync.Mutex // held while a lane is opened or closed
}

// shared is the connection to a peer that a lane uses, opened when needed. One
// that has just ended may come back: its start then tries elsewhere.
func (p *Proxy) shared(peer *route.Peer, lane uint32) *upstream {
	l, _ := peer.Upstream.Load().(*pool)
	if l == nil {
		peer.Upstream.CompareAndSwap(nil, &pool{p: p, peer: peer, lanes: make([]atomic.Pointer[upstream], p.o.UpstreamConnections)})
		l = peer.Upstream.Load().(*pool)
	}
	slot := &l.lanes[int(lane)%len(l.lanes)]
	if u := slot.Load(); u != nil && !u.gone.Load() {
		return u
	}
	return l.open(slot)
}

func (l *pool) open(slot *atomic.Pointer[upstream]) *upstream {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := slot.Load()
	if u == nil || u.gone.Load() {
		u = l.p.connect(l.peer, nil)
		slot.Store(u)
		l.p.pools.Store(l, struct{}{})
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

// idle ends connections that nobody has used for long, and takes a pool without
// any from those that have to be looked at.
func (l *pool) idle(now time.Duration) {
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
		}
		left = left || !u.gone.Load()
	}
	if !left {
		l.p.pools.Delete(l)
	}
}
