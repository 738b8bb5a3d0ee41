package proxy

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

// downstream is a connection that somebody opened to one of our listeners.
type downstream struct {
	conn

	// immutable
	p    *Proxy
	dir  *direction
	lane uint32 // which of an endpoint's upstream connections it uses

	// owned by read
	requests    []request // of one read, on their way out
	flushes     []*upstream
	attachments dubbo.Attachments
	decisions   decisions

	caller        caller
	lastRead      atomic.Int64 // p.now() of the last bytes
	begun         atomic.Int64 // p.now() at which a frame began that has not ended; 0: there is none
	serialization atomic.Uint32
	calls         atomic.Int64 // not yet answered

	gone atomic.Bool // nobody reads answers any more

	own       sync.Mutex
	dedicated map[*route.Peer]*upstream // guarded by own
	reverse   map[uint64]callback       // guarded by own; requests of a provider that wait for this consumer's answer
	reverseID uint64                    // guarded by own
}

// request is one frame on its way to an upstream.
type request struct {
	call
	frame []byte // aliases the read buffer
	up    *upstream
}

func (p *Proxy) serve(nc net.Conn, dir *direction) {
	d := &downstream{p: p, dir: dir}
	d.quiet = make(chan struct{}, 1)
	dir.open.Add(1)
	d.lane = dir.served.Add(1)
	if dir.open.Load() <= fewConnections {
		d.lane %= 2
	}
	d.limit, d.memory = p.o.QueueBytes, &p.memory
	d.serialization.Store(uint32(dubbo.Hessian2))
	d.lastRead.Store(int64(p.now()))
	d.attach(nc)
	p.mu.Lock()
	p.downstreams[d] = struct{}{}
	p.mu.Unlock()
	if !dir.outbound && p.draining.Load() {
		d.sayReadonly()
	}
	p.workers.Go(func() {
		err := d.read()
		d.end()
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			p.log.Debug("connection ended", "listener", dir.name, "peer", nc.RemoteAddr().String(), "err", err)
		}
	})
}

// end releases everything that belongs to the connection. Calls that are still in
// flight are answered into the void.
func (d *downstream) end() {
	d.gone.Store(true) // before own is taken: upstream opens nothing afterwards
	poke(d.quiet)
	d.close()
	d.nc.Close()
	d.own.Lock()
	dedicated := slices.Collect(maps.Values(d.dedicated))
	d.own.Unlock()
	for _, u := range dedicated {
		u.end(errCallerGone)
	}
	d.p.mu.Lock()
	delete(d.p.downstreams, d)
	d.p.mu.Unlock()
	d.dir.open.Add(-1)
}

// finish closes the connection when every call is answered and every answer
// written, at the deadline at the latest. It says that nothing more comes before
// it closes: closing with requests unread would take back answers on their way.
func (d *downstream) finish(deadline time.Time) {
	d.wait(deadline, func() bool {
		answered := d.calls.Load() == 0 // looked at first: an answer is queued, then counted
		d.mu.Lock()
		defer d.mu.Unlock()
		return answered && len(d.buf) == 0 && !d.writing
	})
	d.close()
	if half, ok := d.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		d.wait(time.Now().Add(linger), func() bool { return false })
	}
	d.abort()
}

// wait returns when over says so, which is asked again after each change that
// quiet tells of, when the reader has ended, and at the deadline.
func (d *downstream) wait(deadline time.Time, over func() bool) {
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	for !d.gone.Load() && !over() {
		select {
		case <-d.quiet:
		case <-late.C:
			return
		}
	}
}

// answered counts calls that were.
func (d *downstream) answered(n int64) {
	if d.calls.Add(-n) == 0 {
		poke(d.quiet)
	}
}

// answer sends the reply to a call that no upstream answers.
func (d *downstream) answer(c *call, frame []byte) {
	d.send(frame)
	if c.inFlight {
		d.answered(1)
	}
}

func (d *downstream) sayReadonly() {
	d.send(dubbo.AppendReadonly(nil, byte(d.serialization.Load())))
}

func (d *downstream) checkIdle(now time.Duration) {
	quiet := now - time.Duration(d.lastRead.Load())
	begun := time.Duration(d.begun.Load())
	late := begun > 0 && now-begun > frameTimeout // however many bytes came since
	if late || quiet > idleDownstream && d.calls.Load() == 0 {
		d.abort()
	}
}

// fewConnections use only two of the connections to an endpoint: the more calls
// share one, the more of them share a write. With more, one reader for each would
// be the bottleneck.
const fewConnections = 16

const (
	minRead = 4 << 10
	maxRead = 64 << 10
)

func (d *downstream) read() error {
	r := newReader(d.nc, d.p.o.MaxBody, d.memory)
	defer r.release()
	for {
		if err := r.fill(); err != nil {
			return err
		}
		now := d.p.now()
		d.lastRead.Store(int64(now))
		snap := d.p.o.Router.Snapshot()
		cut := false
		for {
			h, frame, err := r.next()
			if errors.Is(err, dubbo.ErrTooLarge) {
				d.tooLarge(h)
				r.discard(h)
				continue
			}
			if err != nil {
				d.refuseBytes(r.bytes(), err)
				return err
			}
			if frame == nil {
				break
			}
			d.frame(snap, now, h, frame)
			cut = true
		}
		switch rest := len(r.bytes()) > 0 || r.skip > 0; {
		case !rest:
			d.begun.Store(0)
		case cut || d.begun.Load() == 0:
			d.begun.Store(int64(now))
		}
		d.dispatch(now)
	}
}

// refuseBytes ends a connection that speaks something else. What was read before
// is sent on and answered.
func (d *downstream) refuseBytes(b []byte, err error) {
	d.dispatch(d.p.now())
	d.p.counters.protocol.Add(1)
	if looksLikeHTTP(b) {
		d.send([]byte("HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nmeshferry: this port takes dubbo2 calls (protocol dubbo), not HTTP or triple.\n"))
	}
	d.p.log.Debug("bytes that are no dubbo2 frame", "listener", d.dir.name, "peer", d.nc.RemoteAddr().String(), "err", err)
	d.finish(time.Now().Add(finishTimeout))
}

func looksLikeHTTP(b []byte) bool {
	for _, m := range []string{"GET ", "POST ", "PUT ", "HEAD ", "DELETE ", "OPTIONS ", "PRI * "} {
		if bytes.HasPrefix(b, []byte(m)) {
			return true
		}
	}
	return false
}

// frame looks at one frame and either answers it here or notes where it goes.
func (d *downstream) frame(snap *route.Snapshot, now time.Duration, h dubbo.Header, frame []byte) {
	switch {
	case !h.IsRequest() && !h.IsEvent():
		d.answerCallback(h, frame)
	case h.IsEvent():
		if h.IsRequest() && h.TwoWay() {
			d.p.counters.heartbeats.Add(1)
			var scratch [32]byte
			d.send(dubbo.AppendHeartbeatReply(scratch[:0], h.Serialization(), h.ID))
		}
	default:
		d.request(snap, now, h, frame)
	}
}

// tooLarge answers a request, or ends a callback, whose frame is thrown away.
func (d *downstream) tooLarge(h dubbo.Header) {
	text := d.p.tooLargeText(h)
	switch {
	case h.IsEvent():
	case h.IsRequest():
		c := call{down: d, id: h.ID, serialization: h.Serialization(), oneway: !h.TwoWay()}
		c.refuse(refusal{reason: route.Limit, text: text, notExecuted: true})
	default:
		if c, ok := d.callback(h.ID); ok {
			c.up.send(dubbo.AppendError(nil, c.id, "meshferry: "+text))
		}
	}
}

func (d *downstream) request(snap *route.Snapshot, now time.Duration, h dubbo.Header, frame []byte) {
	c := call{down: d, id: h.ID, serialization: h.Serialization(), oneway: !h.TwoWay(), start: now}
	if uint32(c.serialization) != d.serialization.Load() {
		d.serialization.Store(uint32(c.serialization))
	}
	body := frame[dubbo.HeaderSize:]
	if known := d.decisions.find(snap, c.serialization, body); known != nil {
		c.cluster, c.limit, c.route = known.cluster, known.limit, known.route
		d.place(&c, frame)
		return
	}
	table := d.dir.table(snap)
	var front dubbo.Front
	if err := dubbo.ParseFront(c.serialization, body, &front); err != nil {
		d.p.counters.unreadable.Add(1)
		if c.cluster = table.Opaque(c.serialization); c.cluster == nil {
			c.refuse(refusal{reason: route.NoRoute, text: "the request's serialization (id " + strconv.Itoa(int(c.serialization)) + ") cannot be read, and not exactly one service takes it"})
			return
		}
		d.place(&c, frame)
		return
	}
	host := table.Lookup(front.Path, front.Version)
	switch {
	case host != nil:
		switch d.choose(table, host, &front, &c, frame, &d.attachments) {
		case lasting:
			d.decisions.add(decision{c.serialization, body[:front.Args], c.cluster, c.route, c.limit})
			d.place(&c, frame)
		case chosen:
			d.place(&c, frame)
		case unheard:
			c.cluster = nil
			d.await(c, frame, string(front.Path))
		}
	case d.dir.outbound || snap.Adopts():
		d.await(c, frame, string(front.Path))
	default:
		c.refuse(noService(&front, nil))
	}
}

// choose sets the cluster, the route and the time-out, or refuses. Attachments stand
// behind the arguments and are reached only if something depends on them.
//
// Where only one group of a service is there, a consumer's first call of a method is
// looked at: it may ask for another one. Later calls are not, so one with another
// group than the first goes to the provider, which refuses it.
func (d *downstream) choose(table *route.Table, host *route.VirtualHost, front *dubbo.Front, c *call, frame []byte, a *dubbo.Attachments) verdict {
	c.cluster = host.Only()
	how, read := lasting, false
	if c.cluster == nil {
		how = chosen
	}
	if d.dir.outbound || how == chosen {
		err := dubbo.FindAttachments(c.serialization, frame[dubbo.HeaderSize:], front, a)
		read = err == nil
		if d.dir.outbound && !d.caller.asked() && (c.cluster == nil || c.cluster.NeedsCaller()) {
			d.caller.learn(a)
		}
		switch group, _ := a.Lookup("group"); {
		case c.cluster != nil && err == nil && string(group) != c.cluster.Service.Group:
			return d.nobody(front, group, c)
		case c.cluster != nil:
		case err != nil:
			c.refuse(refusal{reason: route.NoRoute, text: "several groups provide " + string(front.Path) + " and the attachments cannot be read: " + err.Error()})
			return refused
		default:
			// Java puts the interface into the body and the path here, and dispatches
			// by the path.
			if path, ok := a.Lookup("path"); ok && !bytes.Equal(path, front.Path) {
				if byPath := table.Lookup(path, front.Version); byPath != nil {
					host = byPath
				}
			}
			if c.cluster = host.Group(group); c.cluster == nil {
				return d.nobody(front, group, c)
			}
		}
	}
	if d.dir.outbound {
		application, final := d.application(c.cluster)
		c.limit = c.cluster.Timeout(application, front.Method)
		if !final {
			how = min(how, chosen)
		}
		if routes := c.cluster.Routes(); routes != nil {
			how = min(how, d.byRules(routes, front, c, frame, a, read))
		}
	}
	return how
}

// place picks an endpoint and notes the frame for dispatch.
func (d *downstream) place(c *call, frame []byte) {
	if d.p.refusing.Load() {
		c.refuse(refusal{reason: route.Refused, text: errStopping.Error(), notExecuted: true})
		return
	}
	if c.route != nil && !d.act(c, &frame) {
		return
	}
	if !c.pick() {
		return
	}
	up := d.upstream(c)
	if up == nil {
		c.cluster.Stats.Request(1)
		c.refuse(d.unconnected(c))
		return
	}
	c.inFlight = !c.oneway
	d.requests = append(d.requests, request{call: *c, frame: frame, up: up})
}

// upstream is the connection for a call, nil when it would be one of a caller that
// has gone, or one for this caller alone beyond what a circuit breaker allows.
func (d *downstream) upstream(c *call) *upstream {
	if !c.cluster.Dedicated {
		return d.p.shared(c.cluster, c.endpoint.Peer, d.lane)
	}
	d.own.Lock()
	defer d.own.Unlock()
	u := d.dedicated[c.endpoint.Peer]
	switch {
	case d.gone.Load():
		return nil
	case u == nil || u.gone.Load():
		if d.dedicated == nil {
			d.dedicated = map[*route.Peer]*upstream{}
		}
		place, ok := c.cluster.OpenConnection(false)
		if !ok {
			c.cluster.OverConnections()
			return nil
		}
		u = d.p.connect(c.endpoint.Peer, d, place)
		d.dedicated[c.endpoint.Peer] = u
	}
	return u
}

// unconnected is why upstream gave no connection.
func (d *downstream) unconnected(c *call) refusal {
	if d.gone.Load() {
		return refusal{reason: route.Abandoned, text: errCallerGone.Error(), notExecuted: true}
	}
	return refusal{reason: route.Limit, text: "cluster " + c.cluster.Name + " has as many connections as its circuit breaker allows", notExecuted: true}
}

// dispatch sends what one read brought: for each upstream all of its frames
// under one lock, then for each one write.
func (d *downstream) dispatch(now time.Duration) {
	if len(d.requests) == 0 {
		return
	}
	d.p.budget.add(int64(len(d.requests)))
	d.count()
	shared := false
	for i := range d.requests {
		if u := d.requests[i].up; u != nil {
			flush, busy := u.start(d.requests[i:], now)
			if flush {
				d.flushes = append(d.flushes, u)
				shared = shared || busy
			}
		}
	}
	if shared {
		// Others use these connections too: let readers that are ready add their
		// frames to the writes. That makes 1.5 times as many calls of one at a time.
		runtime.Gosched()
	}
	for _, u := range d.flushes {
		u.flush()
	}
	clear(d.flushes)
	d.flushes = d.flushes[:0]
	clear(d.requests)
	d.requests = d.requests[:0]
}

// count notes the requests of one read, equal ones together.
func (d *downstream) count() {
	inFlight := int64(0)
	for i := 0; i < len(d.requests); {
		cluster, n := d.requests[i].cluster, 0
		for ; i < len(d.requests) && d.requests[i].cluster == cluster; i++ {
			n++
			if d.requests[i].inFlight {
				inFlight++
			}
		}
		cluster.Stats.Request(n)
	}
	d.calls.Add(inFlight)
}

// await parks a call for a service that nobody has asked for before, until the
// registries have answered, at most a second. The reader goes on meanwhile. On the
// inbound side the service may be one that a local application has registered
// itself.
func (d *downstream) await(c call, frame []byte, path string) {
	refuse := func() {
		c.refuse(refusal{reason: route.Limit, text: "too many calls wait for services to be discovered; " + path + " is not known yet"})
	}
	if len(frame) > freeBytes && d.memory.short(len(frame)) {
		refuse()
		return
	}
	select {
	case d.p.awaits <- struct{}{}:
	default:
		refuse()
		return
	}
	frame = bytes.Clone(frame)
	counted := d.memory.settle(0, len(frame))
	if c.inFlight = !c.oneway; c.inFlight {
		d.calls.Add(1)
	}
	d.p.workers.Go(func() {
		defer func() { d.memory.settle(counted, 0); <-d.p.awaits }()
		var front dubbo.Front
		if err := dubbo.ParseFront(c.serialization, frame[dubbo.HeaderSize:], &front); err != nil {
			c.refuse(refusal{reason: route.NoRoute, text: err.Error()})
			return
		}
		var a dubbo.Attachments
		if d.dir.outbound {
			_ = dubbo.FindAttachments(c.serialization, frame[dubbo.HeaderSize:], &front, &a) // none if they cannot be read
			d.p.o.Router.AwaitService(d.p.ctx, service(&front, &a))
		} else {
			iface := path // Java names the interface there, dubbo-go the path
			if dubbo.FindAttachments(c.serialization, frame[dubbo.HeaderSize:], &front, &a) == nil {
				if name, ok := a.Lookup("interface"); ok {
					iface = string(name)
				}
			}
			d.p.o.Router.AwaitLocal(d.p.ctx, iface, front.Path, front.Version, d.dir.application)
		}
		table := d.dir.table(d.p.o.Router.Snapshot())
		host := table.Lookup(front.Path, front.Version)
		if host == nil {
			c.refuse(noService(&front, nil))
			return
		}
		switch d.choose(table, host, &front, &c, frame, &a) {
		case unheard:
			if c.cluster == nil {
				group, _ := a.Lookup("group")
				c.refuse(noService(&front, group))
				return
			}
			c.cluster.Stats.Request(1)
			c.refuse(refusal{reason: route.NoRoute, text: c.cluster.Routes().Why()})
		case chosen, lasting:
			if c.route != nil {
				d.actParked(&c, frame)
			} else if c.pick() {
				c.cluster.Stats.Request(1)
				c.send(frame)
			}
		}
	})
}

// nobody refuses a call of a group that the snapshot does not have. Rules may have
// it and tell only when they are asked.
func (d *downstream) nobody(f *dubbo.Front, group []byte, c *call) verdict {
	c.cluster = nil
	s := registry.Service{Group: string(group), Interface: string(f.Path), Version: registry.NormalVersion(string(f.Version))}
	if d.dir.outbound && d.p.o.Router.Routing(s) != route.FromRegistry {
		return unheard
	}
	c.refuse(noService(f, group))
	return refused
}

func noService(f *dubbo.Front, group []byte) refusal {
	s := registry.Service{Group: string(group), Interface: string(f.Path), Version: registry.NormalVersion(string(f.Version))}
	return refusal{reason: route.NoRoute, text: "no provider of " + s.Key()}
}
