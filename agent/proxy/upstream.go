package proxy

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
)

var (
	errStopping   = errors.New("the agent is stopping")
	errCallerGone = errors.New("the caller's connection ended")
	errIdle       = errors.New("idle")
	errSilent     = errors.New("no sign of life")
)

// upstream is one connection to an endpoint or to a local provider, shared by
// many downstream connections (or owned by one, for callbacks). The id of a
// request on it is the number of a slot and how often that slot was used, so that
// a late reply to a call which was given up finds nobody.
type upstream struct {
	conn

	// immutable
	p     *Proxy
	peer  *route.Peer
	owner *downstream // dedicated to it, or nil
	place route.Connection

	gone   atomic.Bool // equals conn.closed
	stands atomic.Bool // equals up

	// owned by read
	done    []reply
	flushes []*downstream

	// guarded by conn.mu
	slots    []slot
	free     []uint32 // numbers of free slots
	busy     int
	retained int   // bytes of frames in slots
	large    int64 // of those in frames above freeBytes, counted in memory
	up       bool  // connected
	lastRead time.Duration
	lastUsed time.Duration
	asked    bool // a heartbeat was sent and nothing came since
	leaving  bool // the peer has said that it is about to stop
	timer    *time.Timer
	wake     time.Duration // when timer fires
}

type slot struct {
	call
	use   uint32
	busy  bool
	begin uint64 // position of the frame in all bytes ever queued
}

// reply is a response and the call that it answers.
type reply struct {
	call
	id    uint64
	frame []byte
}

const (
	maxRetained = 64 << 20 // bytes of frames kept for another try, for each upstream
	firstLook   = 200 * time.Millisecond
)

// connect begins a connection and returns at once; frames may be queued already.
func (p *Proxy) connect(peer *route.Peer, owner *downstream, place route.Connection) *upstream {
	u := &upstream{p: p, peer: peer, owner: owner, place: place}
	u.limit, u.memory = p.o.QueueBytes, &p.memory
	u.writing = true // until there is something to write to
	u.lastRead = p.now()
	u.lastUsed = u.lastRead
	u.wake = p.o.Heartbeat
	u.mu.Lock()
	u.timer = time.AfterFunc(p.o.Heartbeat, u.tick)
	u.mu.Unlock()
	p.mu.Lock()
	p.upstreams[u] = struct{}{} // before run looks whether the agent stops
	p.mu.Unlock()
	p.workers.Go(func() { u.end(u.run()) })
	return u
}

func (u *upstream) run() error {
	ctx, cancel := context.WithTimeout(u.p.ctx, u.p.o.DialTimeout)
	defer cancel()
	settings := u.peer.Dial()
	if t := settings.Timeout; t > 0 && t < u.p.o.DialTimeout {
		var limit context.CancelFunc
		ctx, limit = context.WithTimeout(ctx, t)
		defer limit()
	}
	var dialer net.Dialer
	if k := settings.KeepAlive; k.Enabled {
		dialer.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: k.Idle, Interval: k.Interval, Count: k.Probes}
	}
	nc, err := dialer.DialContext(ctx, "tcp", u.peer.Addr)
	switch {
	case u.p.ctx.Err() != nil:
		if err == nil {
			nc.Close()
		}
		return errStopping
	case err != nil:
		u.p.counters.dialFailed.Add(1)
		u.peer.Failed(time.Now())
		return err
	}
	u.attach(nc)
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		nc.Close()
		return errCallerGone
	}
	u.up = true
	u.stands.Store(true)
	for n := range u.slots {
		u.slots[n].connected()
	}
	u.lastRead = u.p.now()
	u.write()
	return u.read()
}

// start sends every request of the list whose upstream is u, and marks it as
// sent. Those that it cannot take are tried elsewhere or refused.
func (u *upstream) start(list []request, now time.Duration) (flush, shared bool) {
	var left, over []request
	n := int64(0)
	u.mu.Lock()
	first := len(u.buf) == 0
	for i := range list {
		r := &list[i]
		if r.up != u {
			continue
		}
		r.up = nil
		if u.closed || u.full(len(r.frame)) || u.busy >= u.p.o.MaxInFlight || r.copied && u.out+len(u.buf) > mirrorBytes {
			left = append(left, *r)
			continue
		}
		if !u.up && r.route != nil && !r.oneway {
			if r.pending = r.cluster.EnterPending(); !r.pending {
				over = append(over, *r)
				continue
			}
		}
		if !r.oneway {
			n++
		}
		u.enqueue(r, now)
	}
	flush = first && !u.writing && len(u.buf) > 0
	shared = u.busy > int(n)
	u.mu.Unlock()
	if n > 0 {
		u.peer.InFlight.Add(n)
	}
	for i := range left {
		r := &left[i]
		if u.gone.Load() {
			r.retained = r.frame
			r.again(refusal{reason: route.Lost, text: "connection to " + u.peer.Addr + " has ended", notExecuted: true, redial: true})
		} else {
			r.retained = r.frame
			r.again(refusal{reason: route.Limit, text: "too much is waiting for " + u.peer.Addr, notExecuted: true})
		}
	}
	for i := range over { // another endpoint may have its connection already
		r := &over[i]
		r.retained = r.frame
		r.again(refusal{reason: route.Limit, text: "as many calls wait for connections of cluster " + r.cluster.Name + " as its circuit breaker allows", notExecuted: true})
	}
	return flush, shared
}

// connected ends the wait of a call for its connection, as circuit breakers count it.
func (c *call) connected() {
	if c.pending {
		c.pending = false
		c.cluster.LeavePending()
	}
}

// enqueue appends one frame with an id of ours. mu is held.
func (u *upstream) enqueue(r *request, now time.Duration) {
	u.lastUsed = now
	begin := u.queued
	at := len(u.buf)
	if token := r.endpoint.Token; r.cluster.TokenPerEndpoint && token != "" {
		r.putToken(u, token)
	} else {
		u.put(r.frame)
	}
	if r.oneway {
		u.p.counters.oneway.Add(1)
		dubbo.PutID(u.buf[at:], onewayID|begin)
		if r.copied {
			u.buf[at+2] &^= flagTwoWay
		}
		return
	}
	var n uint32
	if last := len(u.free) - 1; last >= 0 {
		n, u.free = u.free[last], u.free[:last]
	} else {
		n = uint32(len(u.slots))
		u.slots = append(u.slots, slot{})
	}
	s := &u.slots[n]
	keep := s.retained[:0]
	s.call = r.call
	s.use++
	s.busy = true
	s.begin = begin
	s.retained = keep
	if size := len(r.frame); u.retained+size <= maxRetained && (size <= freeBytes || !u.memory.short(size)) {
		s.retained = append(keep, r.frame...)
		u.retain(size)
	}
	s.look = s.lookFrom(now)
	u.busy++
	dubbo.PutID(u.buf[at:], uint64(s.use&useMask)<<32|uint64(n))
	if u.wake > s.look {
		u.wake = s.look
		u.timer.Reset(s.look - now)
	}
}

// The highest bit of an id stays clear: dubbo-go reads it as an int64.
const (
	onewayID = 1 << 62
	useMask  = 1<<30 - 1
)

// retain counts bytes of a frame in a slot. mu is held.
func (u *upstream) retain(n int) {
	u.retained += n
	if n > freeBytes || n < -freeBytes {
		u.large += int64(n)
		u.memory.used.Add(int64(n))
	}
}

// release frees the slot of an id and gives its call; false if nobody waits for
// it. mu is held. The retained frame stays with the slot unless keep is set.
func (u *upstream) release(id uint64, keep bool) (call, bool) {
	n := uint32(id)
	if int(n) >= len(u.slots) {
		return call{}, false
	}
	s := &u.slots[n]
	if !s.busy || uint64(s.use&useMask) != id>>32 {
		return call{}, false
	}
	s.connected()
	c := s.call
	u.retain(-len(s.retained))
	buf := s.retained
	s.call = call{}
	s.busy = false
	u.busy--
	u.free = append(u.free, n)
	if keep {
		return c, true
	}
	c.retained = nil
	if cap(buf) <= freeBytes { // a larger one is not kept with its slot
		s.retained = buf[:0]
	}
	return c, true
}

func (u *upstream) read() error {
	r := newReader(u.nc, u.p.o.MaxBody, u.memory)
	defer r.release()
	for {
		if err := r.fill(); err != nil {
			return err
		}
		var broken error
		for {
			h, frame, err := r.next()
			if errors.Is(err, dubbo.ErrTooLarge) {
				u.tooLarge(h)
				r.discard(h)
				continue
			}
			if err != nil {
				broken = err
			}
			if err != nil || frame == nil {
				break
			}
			switch {
			case h.IsEvent():
				u.event(h, frame)
			case h.IsRequest():
				u.callback(h, frame)
			default:
				u.done = append(u.done, reply{id: h.ID, frame: frame})
			}
		}
		u.deliver()
		if broken != nil {
			u.p.counters.protocol.Add(1)
			return broken
		}
	}
}

// deliver gives the replies of one read to their callers: one lock to free the
// slots, then for each caller one write.
func (u *upstream) deliver() {
	now := u.p.now()
	u.peer.Succeeded() // not when it accepts: the kernel does that for a process that hangs
	u.mu.Lock()
	u.lastRead = now
	u.asked = false
	for i := range u.done {
		r := &u.done[i]
		r.call, _ = u.release(r.id, mayRetry(r.frame))
	}
	u.mu.Unlock()
	answered := int64(0)
	var t tally
	for i := range u.done {
		r := &u.done[i]
		if r.down == nil {
			continue // given up, or never asked
		}
		answered++
		if status := r.frame[statusAt]; status != dubbo.StatusOK {
			if r.handle(r.frame) {
				r.down = nil
				continue
			}
			r.cluster.Stats.Fail(route.Remote)
		} else if r.cluster.Report(r.endpoint, route.Answered); dubbo.HideClosing(r.frame[2]&serializationMask, r.frame[dubbo.HeaderSize:]) {
			u.leave(true)
		}
		r.leave()
		t.add(r.cluster.Stats, now-r.start)
		dubbo.PutID(r.frame, r.call.id)
	}
	t.flush()
	if answered > 0 {
		u.peer.InFlight.Add(-answered)
	}
	waiting := false // for answers of other upstreams, which may go into the same write
	for i := 0; i < len(u.done); {
		d := u.done[i].down
		if d == nil {
			i++
			continue
		}
		end := i + 1
		for end < len(u.done) && u.done[end].down == d {
			end++
		}
		if d.take(u.done[i:end]) {
			u.flushes = append(u.flushes, d)
			waiting = waiting || d.calls.Load() > 0
		}
		i = end
	}
	if waiting {
		runtime.Gosched()
	}
	for _, d := range u.flushes {
		d.flush()
	}
	clear(u.done)
	u.done = u.done[:0]
	clear(u.flushes)
	u.flushes = u.flushes[:0]
}

// take queues replies. True: the caller of take has to flush; otherwise somebody
// who queued before does, or nobody reads any more. A reply that does not fit is
// replaced by a refusal.
func (d *downstream) take(replies []reply) bool {
	answered := len(replies)
	var left []call
	d.mu.Lock()
	first := len(d.buf) == 0
	for i := range replies {
		switch r := &replies[i]; {
		case d.closed:
		case d.full(len(r.frame)):
			left = append(left, r.call)
			answered--
		default:
			d.put(r.frame)
		}
	}
	first = first && len(d.buf) > 0
	d.mu.Unlock()
	d.answered(int64(answered)) // finish counts on it: queued, then counted
	for i := range left {
		left[i].refuse(refusal{reason: route.Limit, text: "too many answers wait for the caller"})
	}
	return first
}

// tally counts answered calls, equal ones together.
type tally struct {
	stats *route.Stats
	took  time.Duration
	n     int
}

func (t *tally) add(s *route.Stats, took time.Duration) {
	if t.stats != s || t.took != took {
		t.flush()
		t.stats, t.took = s, took
	}
	t.n++
}

func (t *tally) flush() {
	if t.n > 0 {
		t.stats.ObserveN(t.took, t.n)
		t.n = 0
	}
}

// tooLarge ends the call that a response above the bound belongs to, or answers a
// callback.
func (u *upstream) tooLarge(h dubbo.Header) {
	text := u.p.tooLargeText(h)
	switch {
	case h.IsEvent():
	case h.IsRequest():
		if h.TwoWay() {
			u.send(dubbo.AppendError(nil, h.ID, "meshferry: "+text))
		}
	default:
		u.mu.Lock()
		c, ok := u.release(h.ID, false)
		u.mu.Unlock()
		if ok {
			u.peer.InFlight.Add(-1)
			c.refuse(refusal{reason: route.Limit, text: text})
		}
	}
}

func (p *Proxy) tooLargeText(h dubbo.Header) string {
	text := "a body of " + strconv.FormatUint(uint64(h.BodyLen), 10) + " bytes is above the limit of " + strconv.Itoa(p.o.MaxBody)
	if int64(h.BodyLen) <= int64(p.o.MaxBody) {
		text = "no memory is left for a body of " + strconv.FormatUint(uint64(h.BodyLen), 10) + " bytes"
	}
	return text
}

func (u *upstream) event(h dubbo.Header, frame []byte) {
	switch dubbo.ParseEvent(h, frame[dubbo.HeaderSize:]) {
	case dubbo.Readonly:
		u.leave(true)
	case dubbo.Writeable:
		u.leave(false)
	}
	if h.IsRequest() && h.TwoWay() {
		var scratch [32]byte
		u.send(dubbo.AppendHeartbeatReply(scratch[:0], h.Serialization(), h.ID))
	}
}

// leave notes that the peer is about to stop (Java says so twice, dubbo-go with
// every answer), or takes that back.
func (u *upstream) leave(on bool) {
	u.mu.Lock()
	changed := u.leaving != on && !u.closed
	if changed {
		u.leaving = on
	}
	u.mu.Unlock()
	switch {
	case !changed:
	case on:
		u.p.pool(u.peer).leave(1)
		u.p.log.Info("endpoint is about to stop", "address", u.peer.Addr)
		u.p.o.Readonly(u.peer.Addr)
	default:
		u.p.pool(u.peer).leave(-1)
	}
}

// tick looks at calls that may have passed their deadline, and asks an idle peer
// for a sign of life.
func (u *upstream) tick() {
	now := u.p.now()
	var late []call
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return
	}
	next := now + u.p.o.Heartbeat
	for n := range u.slots {
		s := &u.slots[n]
		if !s.busy {
			continue
		}
		gone := s.down.gone.Load()
		if now >= s.look && !gone {
			s.call.nextLook()
		}
		if now >= s.look || gone {
			c, _ := u.release(uint64(s.use&useMask)<<32|uint64(n), s.route != nil)
			late = append(late, c)
			continue
		}
		next = min(next, s.look)
	}
	quiet := now - u.lastRead
	beat := u.up && quiet >= u.p.o.Heartbeat
	dead := beat && u.asked && quiet >= 3*u.p.o.Heartbeat
	ask := beat && !u.asked
	u.asked = beat
	wait := max(next-now, 20*time.Millisecond)
	u.wake = now + wait
	u.timer.Reset(wait)
	u.mu.Unlock()

	for i := range late {
		u.peer.InFlight.Add(-1)
		c := &late[i]
		if c.down.gone.Load() { // only counted; the slot and the frame are free again
			c.refuse(refusal{reason: route.Abandoned, text: errCallerGone.Error()})
			continue
		}
		c.late(u.peer.Addr)
	}
	switch {
	case dead:
		u.end(errSilent)
	case ask:
		u.send(dubbo.AppendHeartbeat(nil, dubbo.Hessian2, onewayID))
	}
}

// end closes the connection. Calls in flight end at once: those of which not a
// byte was written are tried elsewhere, the others are refused.
func (u *upstream) end(why error) {
	u.mu.Lock()
	u.endLocked(why)
}

// checkIdle ends a shared connection that nobody has used for long, sooner when no
// route leads to it.
func (u *upstream) checkIdle(now time.Duration) {
	limit := idleUpstream
	if !u.peer.Used() {
		limit = idleUnused
	}
	u.mu.Lock()
	if u.owner != nil || u.busy > 0 || u.writing || now-u.lastUsed <= limit {
		u.mu.Unlock()
		return
	}
	u.endLocked(errIdle)
}

// endLocked is end with mu held; it releases mu.
func (u *upstream) endLocked(why error) {
	if u.closed {
		u.mu.Unlock()
		return
	}
	u.closed = true
	u.gone.Store(true)
	up, leaving := u.up, u.leaving
	u.timer.Stop()
	var unsent, lost []call
	for n := range u.slots {
		s := &u.slots[n]
		if !s.busy {
			continue
		}
		s.connected()
		if s.begin >= u.handed {
			unsent = append(unsent, s.call)
		} else {
			lost = append(lost, s.call)
		}
	}
	u.slots, u.free = nil, nil
	u.p.memory.used.Add(-u.large)
	u.drop()
	u.mu.Unlock()
	u.abort()
	u.place.Close()
	u.p.mu.Lock()
	delete(u.p.upstreams, u)
	u.p.mu.Unlock()
	if u.owner != nil {
		u.owner.forget(u)
	}
	if leaving || why == errSilent {
		u.peer.Failed(time.Now())
	}
	if leaving {
		u.p.pool(u.peer).leave(-1)
	}
	u.peer.InFlight.Add(-int64(len(unsent) + len(lost)))
	if why != errStopping && why != errIdle && why != errCallerGone {
		u.p.o.Lost(u.peer.Addr)
	}
	if len(unsent)+len(lost) > 0 {
		u.p.log.Debug("upstream connection ended with calls in flight", "address", u.peer.Addr, "unsent", len(unsent), "lost", len(lost), "err", why)
	}
	reason, text := route.Lost, "connection to "+u.peer.Addr+" was lost: "+why.Error()
	if !up {
		reason, text = route.Refused, "cannot connect to "+u.peer.Addr+": "+why.Error()
	}
	if !up && len(unsent) > 0 {
		unsent[0].cluster.Report(unsent[0].endpoint, route.LocalError) // one connection, one error
	}
	for i := range unsent {
		unsent[i].again(refusal{reason: reason, text: text, notExecuted: true, redial: up})
	}
	for i := range lost {
		lost[i].cluster.Report(lost[i].endpoint, route.LocalError)
		if lost[i].retry(route.RetryLost, text) {
			continue
		}
		lost[i].refuse(refusal{reason: reason, text: text})
	}
}
