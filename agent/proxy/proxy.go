// Package proxy carries dubbo2 calls: from local consumers on the outbound
// listener to endpoints, and from everybody on the inbound listener to local
// providers. Both directions are the same machinery; they differ in the routing
// table and in the form of a refusal.
//
// The way of a call: downstream.read → route.Table.Lookup → Cluster.Pick →
// upstream.start … upstream.read → downstream.send.
//
// Invariants:
//   - Every two-way request is answered exactly once: by the upstream's reply, or
//     by a refusal, also when a connection ends on either side of it.
//   - The way through takes no lock but the uncontended ones of the two
//     connections, allocates nothing for a frame, and never waits: not for a
//     peer that does not read, not for a dial, not for the control side.
//   - Frames go on as they came; only the request id is replaced, and a token
//     where endpoints of a service have different ones.
//   - Each slot table, queue and map has a bound.
//   - A connection that waits for bytes holds no read block, and at most minRead of
//     an unfinished frame, or the buffer that a larger one needs.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/agent/route"
)

// Options of a Proxy. Zero values mean the defaults that are named.
type Options struct {
	Router   *route.Router
	Outbound []net.Listener // for local consumers
	Inbound  []net.Listener // for everybody
	Extra    []Extra        // the same, each for one application
	Log      *slog.Logger
	Host     string // named in refusals, so that people know which agent spoke

	// Networks may use an outbound listener that is bound to another address than
	// loopback; this machine's own addresses always may.
	Networks []netip.Prefix
	// The hooks must not block. Readonly is told who said that it is about to
	// stop, Lost to whom a connection broke or could not be made, and Refused that
	// an outbound call of an interface was certainly not executed at an address.
	Readonly func(address string)
	Lost     func(address string)
	Refused  func(iface, address string)
	// Process finds the process that has the other end of a local consumer's
	// connection, 0 if it cannot be known. It may take its time: no call waits for
	// it. Nil: callers are known by attachment remote.application alone.
	Process func(remote, local net.Addr) (pid int)

	MaxBody             int           // bytes of one frame's body, 8 MiB (Dubbo's default payload)
	MaxDownstream       int           // connections on each listener, 10 000
	MaxInFlight         int           // calls on one upstream connection, 16 384
	QueueBytes          int           // waiting for one connection, 128 MiB: bursts of large calls must pass
	MemoryBytes         int           // waiting in all queues and buffers, what is above 64 KiB in each, 512 MiB
	UpstreamConnections int           // to one endpoint at most, 4
	DialTimeout         time.Duration // 3 s
	Heartbeat           time.Duration // idle time after which an upstream is asked for a sign of life, 30 s
}

// Extra is an inbound listener whose calls go to one application only: services
// and groups of others do not exist there (CONTRACT §4.1).
type Extra struct {
	net.Listener
	Application string // one of route.Options.Applications
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.MaxBody, 8<<20)
	def(&o.MaxDownstream, 10_000)
	def(&o.MaxInFlight, 16_384)
	def(&o.QueueBytes, 128<<20)
	def(&o.MemoryBytes, 512<<20)
	def(&o.UpstreamConnections, 4)
	if o.DialTimeout <= 0 {
		o.DialTimeout = 3 * time.Second
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 30 * time.Second
	}
	if o.Readonly == nil {
		o.Readonly = func(string) {}
	}
	if o.Lost == nil {
		o.Lost = func(string) {}
	}
	if o.Refused == nil {
		o.Refused = func(string, string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Proxy forwards calls between its listeners and upstream connections.
type Proxy struct {
	o     Options
	log   *slog.Logger
	epoch time.Time

	out, in direction
	extra   []*direction // of Options.Extra
	awaits  chan struct{}
	lookups chan struct{}  // places for Options.Process
	workers sync.WaitGroup // goroutines of connections
	stop    context.CancelFunc
	ctx     context.Context

	draining atomic.Bool // the inbound side says READONLY
	refusing atomic.Bool // new calls are refused, those in flight go on
	stopping atomic.Bool // nothing goes on
	budget   budget
	memory   memory
	parked   atomic.Int64 // calls that wait for an injected delay or before a retry
	counters counters

	mu          sync.Mutex
	downstreams map[*downstream]struct{} // guarded by mu
	upstreams   map[*upstream]struct{}   // guarded by mu
}

// direction is what differs between the outbound side, the inbound side, and that
// of one application.
type direction struct {
	name        string
	outbound    bool
	application string // whose table it is; empty: everybody's
	table       func(*route.Snapshot) *route.Table
	open        atomic.Int64  // downstream connections
	served      atomic.Uint32 // downstream connections so far
}

// New makes a proxy; nothing is accepted before Run.
func New(o Options) (*Proxy, error) {
	if o.Router == nil {
		return nil, errors.New("proxy: no router")
	}
	p := &Proxy{o: o.withDefaults(), epoch: time.Now(), downstreams: map[*downstream]struct{}{}, upstreams: map[*upstream]struct{}{}, awaits: make(chan struct{}, maxAwaits), lookups: make(chan struct{}, maxLookups)}
	p.log = p.o.Log
	p.memory.limit = int64(p.o.MemoryBytes)
	p.out = direction{name: "outbound", outbound: true, table: func(s *route.Snapshot) *route.Table { return &s.Outbound }}
	p.in = direction{name: "inbound", table: func(s *route.Snapshot) *route.Table { return &s.Inbound }}
	for _, x := range o.Extra {
		p.extra = append(p.extra, &direction{name: p.in.name, application: x.Application,
			table: func(s *route.Snapshot) *route.Table { return s.Application(x.Application) }})
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.budget.add(budgetBurst / budgetPerRequest)
	return p, nil
}

// now is the time since New: monotonic, so that a changed clock ends no call.
func (p *Proxy) now() time.Duration { return time.Since(p.epoch) }

// Run accepts and forwards until ctx ends. Then it answers what is in flight,
// closes every connection and returns. Call Drain first for a graceful stop.
func (p *Proxy) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, d *direction) {
		g.Go(func() error { return p.accept(ctx, l, d) })
		g.Go(func() error { <-ctx.Done(); return l.Close() })
	}
	for _, l := range p.o.Outbound {
		serve(l, &p.out)
	}
	for _, l := range p.o.Inbound {
		serve(l, &p.in)
	}
	for i, x := range p.o.Extra {
		serve(x.Listener, p.extra[i])
	}
	g.Go(func() error { p.janitor(ctx); return nil })
	err := g.Wait()
	p.closeAll()
	return err
}

func (p *Proxy) accept(ctx context.Context, l net.Listener, dir *direction) error {
	allowed := p.peerGuard(l, dir)
	for delay := time.Duration(0); ; {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("%s listener %s was closed", dir.name, l.Addr())
		case err != nil: // out of descriptors, most likely: others may end soon
			if delay == 0 {
				p.log.Error("cannot accept connections", "listener", dir.name, "address", l.Addr().String(), "err", err)
			}
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
			continue
		}
		delay = 0
		if !allowed(nc.RemoteAddr()) {
			p.counters.rejected.Add(1)
			p.log.Debug("connection refused: not an address of this machine", "listener", dir.name, "peer", nc.RemoteAddr().String())
			nc.Close()
			continue
		}
		if dir.open.Load() >= int64(p.o.MaxDownstream) {
			p.counters.rejected.Add(1)
			nc.Close()
			continue
		}
		p.serve(nc, dir)
	}
}

// peerGuard keeps an outbound listener from being an open relay: bound to another
// address than loopback it serves this machine and Options.Networks only.
func (p *Proxy) peerGuard(l net.Listener, dir *direction) func(net.Addr) bool {
	bound, err := netip.ParseAddrPort(l.Addr().String())
	if !dir.outbound || err != nil || bound.Addr().IsLoopback() {
		return func(net.Addr) bool { return true }
	}
	return func(a net.Addr) bool {
		peer, err := netip.ParseAddrPort(a.String())
		if err != nil {
			return false
		}
		ip := peer.Addr().Unmap()
		for _, n := range p.o.Networks {
			if n.Contains(ip) {
				return true
			}
		}
		return ip.IsLoopback() || isOwn(ip)
	}
}

func isOwn(ip netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, err := netip.ParsePrefix(a.String()); err == nil && n.Addr().Unmap() == ip.WithZone("") {
			return true
		}
	}
	return false
}

// Drain lets calls end. It says READONLY to everybody on the inbound side, never on
// the outbound side. Calls go on being served on both as long as those take that
// were in flight before; then new ones are refused and the rest ends. It returns
// when nothing is in flight any more, or with an error when ctx ends, a fifth of
// whose time is kept for the rest. Listeners stay open meanwhile.
//
// The host's publications must have been withdrawn before (Java 3.x takes about
// 50 s to come back after a READONLY, CONTRACT §7).
func (p *Proxy) Drain(ctx context.Context) error {
	p.draining.Store(true) // before the list is made: who comes later is told at once
	for _, d := range p.connections() {
		if !d.dir.outbound {
			d.sayReadonly()
		}
	}
	began := p.now()
	serving, cancel := ctx, context.CancelFunc(func() {})
	if end, ok := ctx.Deadline(); ok {
		serving, cancel = context.WithTimeout(ctx, time.Until(end)*4/5)
	}
	defer cancel()
	until(serving, func() bool { return p.inFlight(false) == 0 && !p.outboundSince(began) })
	p.refusing.Store(true)
	if !until(ctx, func() bool { return p.inFlight(true)+p.inFlight(false) == 0 }) {
		return fmt.Errorf("drain: %d calls still in flight: %w", p.inFlight(true)+p.inFlight(false), ctx.Err())
	}
	return nil
}

// until looks every 10 ms; false: ctx has ended before.
func until(ctx context.Context, over func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !over() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// inFlight counts the calls of one side that are not yet answered.
func (p *Proxy) inFlight(outbound bool) (n int64) {
	for _, d := range p.connections() {
		if d.dir.outbound == outbound {
			n += d.calls.Load()
		}
	}
	return n
}

// outboundSince tells whether a call of a local consumer is at an upstream that
// was read at a moment or before.
func (p *Proxy) outboundSince(moment time.Duration) bool {
	return slices.ContainsFunc(p.upstreamConnections(), func(u *upstream) bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return slices.ContainsFunc(u.slots, func(s slot) bool {
			return s.busy && s.start <= moment && s.down.dir.outbound && !s.down.gone.Load()
		})
	})
}

func (p *Proxy) connections() []*downstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.downstreams))
}

func (p *Proxy) upstreamConnections() []*upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.upstreams))
}

// closeAll answers every call in flight, then closes the connections: SDKs do
// not fail calls when a connection closes, they wait their whole time-out.
func (p *Proxy) closeAll() {
	p.stopping.Store(true)
	p.stop() // who connects from here on fails at once
	for _, u := range p.upstreamConnections() {
		u.end(errStopping)
	}
	deadline := time.Now().Add(finishTimeout)
	for _, d := range p.connections() {
		p.workers.Go(func() { d.finish(deadline) })
	}
	p.workers.Wait()
}

// janitor looks now and then for downstream connections that are dead or hold
// half a frame, and for upstream connections that are no longer used.
func (p *Proxy) janitor(ctx context.Context) {
	tick := time.NewTicker(janitorInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := p.now()
		for _, d := range p.connections() {
			d.checkIdle(now)
		}
		for _, u := range p.upstreamConnections() {
			u.checkIdle(now)
		}
	}
}

const (
	janitorInterval = 5 * time.Second
	frameTimeout    = time.Minute      // from the first byte of a frame to its last
	idleDownstream  = 10 * time.Minute // SDKs send a heartbeat every 30 s or 60 s
	idleUpstream    = 5 * time.Minute
	idleUnused      = 30 * time.Second // the same for a peer that no route names any more
	finishTimeout   = time.Second      // for the last answers of a connection to be written
	linger          = 200 * time.Millisecond
	maxDeadline     = 10 * time.Minute // CONTRACT §8
	deadlineGrace   = 100 * time.Millisecond
	maxAwaits       = 1024 // calls that wait for a service to be discovered
	maxLookups      = 2    // connections whose process is looked for at the same time
)
