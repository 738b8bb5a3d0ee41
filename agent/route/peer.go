package route

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// A peer whose connection failed is avoided for avoidFirst, and twice as long
// each time that it fails again, up to avoidMost; a quarter of it is jitter.
const (
	avoidFirst = 500 * time.Millisecond
	avoidMost  = 10 * time.Second
)

// Peer is an address that calls are sent to. There is one for each (direction,
// address), it survives snapshots, and several endpoints may share it. All
// methods may be called from any goroutine.
type Peer struct {
	Addr     string       // host:port to dial
	InFlight atomic.Int64 // calls sent and not answered; the data plane counts
	// Upstream is the data plane's own: its connections to Addr, say.
	Upstream atomic.Value

	start    time.Time // avoided counts from here, so that no clock change matters
	dial     atomic.Pointer[Dial]
	readonly atomic.Bool   // said READONLY
	failures atomic.Int32  // in a row
	avoided  atomic.Int64  // until when, as nanoseconds after start; 0: not avoided
	refs     atomic.Int32  // endpoints of the current snapshot; written by the router's loop
	idle     time.Duration // owned by the router's loop: since when refs is 0, after start
}

func newPeer(addr string) *Peer { return &Peer{Addr: addr, start: time.Now()} }

// Readonly notes that the peer said READONLY, or that it takes calls again (a
// new connection). A readonly peer is used only if nothing else is left.
func (p *Peer) Readonly(on bool) { p.readonly.Store(on) }

// Failed notes that no connection to the peer could be made, or that its last
// one broke: for a growing, jittered, capped time others are preferred. Several
// failures within that time count as one.
func (p *Peer) Failed(now time.Time) {
	at := int64(now.Sub(p.start))
	until := p.avoided.Load()
	if at < until {
		return
	}
	n := p.failures.Load()
	d := avoidMost
	if n < 5 {
		d = min(avoidFirst<<n, avoidMost)
	}
	d -= time.Duration(rand.Int64N(int64(d) / 4))
	if p.avoided.CompareAndSwap(until, max(at+int64(d), 1)) {
		p.failures.Add(1)
	}
}

// Succeeded notes that the peer was reached. It costs one load when nothing was
// wrong.
func (p *Peer) Succeeded() {
	if p.avoided.Load() != 0 {
		p.avoided.Store(0)
		p.failures.Store(0)
	}
}

// Dial is how connections to a peer are made.
type Dial struct {
	Timeout     time.Duration // 0: that of the proxy
	KeepAlive   KeepAlive
	Connections int // at most, to this peer; 0: as many as the proxy likes
}

// Dial is what a cluster of rules wants, the zero Dial if none does. When several
// clusters have an endpoint at the address the one compiled last decides.
func (p *Peer) Dial() Dial {
	if d := p.dial.Load(); d != nil {
		return *d
	}
	return Dial{}
}

// Used tells whether an endpoint of the current snapshot has this peer. The data
// plane may close its connections to a peer that is not used and idle.
func (p *Peer) Used() bool { return p.refs.Load() > 0 }

// rank orders peers by preference.
type rank uint8

const (
	usable rank = iota
	avoided
	readonly
	ejected
	ranks
)

func (r rank) String() string { return [...]string{"usable", "avoided", "readonly", "ejected"}[r] }

func (p *Peer) rank() rank {
	if p.readonly.Load() {
		return readonly
	}
	if until := p.avoided.Load(); until != 0 && int64(time.Since(p.start)) < until {
		return avoided
	}
	return usable
}
