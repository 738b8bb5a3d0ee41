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
//
// It counts for the cluster whose call opened it, also while calls of other clusters
// share it. At the limit of a cluster a lane without a connection shares that of
// another; only a peer that has none at all gets one beyond the limit, as in Envoy
// (ConnPoolImplBase::tryCreateNewConnection).
func (p *Proxy) shared(cluster *route.Cluster, peer *route.Peer, lane uint32) *upstream {
	l := p.pool(peer)
	n := len(l.lanes)
	if most := peer.Dial().Connections; most > 0 {
		n = min(n, most)
	}
	at := int(lane) % n
	u := l.lanes[at].Load()
	if u == nil || u.gone.Load() {
		if cluster.ConnectionsFull() {
			if other := l.any(at); other != nil {
				cluster.OverConnections()
				return other
			}
		}
		u = l.open(cluster, at)
	}
	if !u.stands.Load() && cluster.BoundsPending() { // nobody has to wait while another stands
		if other := l.any(at); other != nil && other.stands.Load() {
			return other
		}
	}
	return u
}

// any is the connection of the next lane that has one, preferably one that stands
// already; nil if none has.
func (l *pool) any(at int) (found *upstream) {
	for i := range l.lanes {
		u := l.lanes[(at+i)%len(l.lanes)].Load()
		switch {
		case u == nil || u.gone.Load():
		case u.stands.Load():
			return u
		case found == nil:
			found = u
		}
	}
	return found
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

func (l *pool) open(cluster *route.Cluster, at int) *upstream {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.lanes[at].Load(); u != nil && !u.gone.Load() {
		return u
	}
	other := l.any(at)
	place, ok := cluster.OpenConnection(other == nil)
	if !ok { // others were faster
		cluster.OverConnections()
		return other
	}
	u := l.p.connect(l.peer, nil, place)
	l.lanes[at].Store(u)
	return u
}
