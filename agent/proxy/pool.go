package proxy

import (
	"sync"
	"sync/atomic"

	"github.com/meshferry/meshferry/agent/route"
)

// pool holds the shared connections to one peer. A downstream connection always
// uses the same lane, so its requests keep their order as long as that lives.
type pool struct {
	p     *Proxy
	peer  *route.Peer
	lanes []atomic.Pointer[upstream]

	mu      sync.Mutex // held while a lane is opened
	leaving int        // guarded by mu: open connections on which the peer said that it is about to stop
}

func (p *Proxy) pool(peer *route.Peer) *pool {
	l, _ := peer.Upstream.Load().(*pool)
	if l == nil {
		peer.Upstream.CompareAndSwap(nil, &pool{p: p, peer: peer, lanes: make([]atomic.Pointer[upstream], p.o.UpstreamConnections)})
		l = peer.Upstream.Load().(*pool)
	}
	return l
}

// shared is the connection to a peer that a lane uses, opened when needed. One
// that has just ended may come back: its start then tries elsewhere.
func (p *Proxy) shared(peer *route.Peer, lane uint32) *upstream {
	l := p.pool(peer)
	n := len(l.lanes)
	if most := peer.Dial().Connections; most > 0 {
		n = min(n, most)
	}
	slot := &l.lanes[int(lane)%n]
	if u := slot.Load(); u != nil && !u.gone.Load() {
		return u
	}
	return l.open(slot)
}

// leave counts connections on which the peer said that it is about to stop. The
// peer is readonly until the last of them has ended: what answers at its address
// then is another process. A new connection alone says nothing, the old process
// may well accept it.
func (l *pool) leave(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaving += n
	l.peer.Readonly(l.leaving > 0)
}

func (l *pool) open(slot *atomic.Pointer[upstream]) *upstream {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := slot.Load()
	if u == nil || u.gone.Load() {
		u = l.p.connect(l.peer, nil)
		slot.Store(u)
	}
	return u
}
