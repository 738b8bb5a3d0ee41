package proxy

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

// This file is what a route of rules does to a call: route.Route says it, here it is
// done. Calls of services without rules pass none of it.

// verdict is what choose found.
type verdict uint8

const (
	refused verdict = iota // and answered
	unheard                // rules decide, and their source has not told them yet
	chosen                 // for this call
	lasting                // for each call with this front
)

const (
	maxParked = 4096 // calls that wait for an injected delay or before a retry
	// mirrorBytes may wait for a connection when a copy of a call is added.
	mirrorBytes = 1 << 20
	retryBase   = 25 * time.Millisecond // Envoy's default back-off
)

// byRules finds the route of a call. read tells that a holds its attachments.
func (d *downstream) byRules(routes *route.Routes, front *dubbo.Front, c *call, frame []byte, a *dubbo.Attachments, read bool) verdict {
	found, decided := routes.ByMethod(front.Method)
	if !decided {
		if !read {
			read = dubbo.FindAttachments(c.serialization, frame[dubbo.HeaderSize:], front, a) == nil
		}
		if read {
			found = routes.Find(front.Method, a)
		} else { // what cannot be read is missing
			found = routes.Find(front.Method, nil)
		}
	}
	switch {
	case found == nil && routes.Waiting():
		return unheard
	case found == nil:
		c.cluster.Stats.Request(1)
		c.refuse(refusal{reason: route.NoRoute, text: routes.Why()})
		return refused
	}
	c.route = found
	if decided {
		return lasting
	}
	return chosen
}

// act does what the route of a call says before an endpoint is chosen. True: the
// call goes on, perhaps with another frame. False: it is answered or parked.
func (d *downstream) act(c *call, frame *[]byte) bool {
	c.route.Stats.Calls.Add(1)
	delay, abort := c.route.Inject()
	if delay > 0 && d.park(*c, *frame, delay, func(c *call, frame []byte) {
		d.resume(c, frame, abort)
	}) {
		return false
	}
	if abort {
		c.abort()
		return false
	}
	copies, on := d.apply(c, frame, &d.attachments)
	d.requests = append(d.requests, copies...)
	return on
}

// actParked is act for a call that was parked before.
func (d *downstream) actParked(c *call, frame []byte) {
	c.route.Stats.Calls.Add(1)
	delay, abort := c.route.Inject()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-d.p.ctx.Done():
		}
	}
	d.resume(c, frame, abort)
}

// resume goes on with a call that was parked.
func (d *downstream) resume(c *call, frame []byte, abort bool) {
	if abort {
		c.abort()
		return
	}
	now := d.p.now()
	c.delayed = uint32(min(max(0, now-c.start)/time.Millisecond, math.MaxUint32))
	// Nobody waits any more for a call whose own time has passed: it is not sent.
	if c.learnTimeout(frame); now >= c.due() {
		c.cluster.Stats.Request(1)
		c.refuse(refusal{reason: route.Deadline, text: "the delay that route " + c.label() + " injects is longer than the time-out", notExecuted: true})
		return
	}
	var a dubbo.Attachments
	copies, on := d.apply(c, &frame, &a)
	for i := range copies {
		copies[i].call.send(frame)
	}
	if on && c.pick() {
		c.cluster.Stats.Request(1)
		c.send(frame)
	}
}

// abort answers a call with the fault that its route injects; a oneway call is
// dropped.
func (c *call) abort() {
	c.cluster.Stats.Request(1)
	f := c.route.Fault
	c.refuse(refusal{reason: route.Injected, code: route.RPCCode(f.AbortStatus), text: fmt.Sprintf("fault injected by route %s (status %d)", c.label(), f.AbortStatus)})
}

// label names the route for people.
func (c *call) label() string {
	name := c.route.Name
	if c.route.Origin != "" {
		name = strings.TrimSpace(name + " of " + c.route.Origin)
	}
	if name == "" {
		name = "without a name"
	}
	return name
}

// apply chooses the cluster, changes the attachments and makes the copies for
// mirrors. False: the call was answered.
func (d *downstream) apply(c *call, frame *[]byte, a *dubbo.Attachments) (copies []request, on bool) {
	r := c.route
	if r.Direct != nil {
		c.direct()
		return nil, false
	}
	cluster, changes := r.Choose()
	if cluster == nil {
		c.cluster.Stats.Request(1)
		c.refuse(refusal{reason: route.NoEndpoint, text: "route " + c.label() + " leads to no cluster that exists", notExecuted: true})
		return nil, false
	}
	c.cluster = cluster
	hashed := len(r.Hash) > 0 && cluster.Hashed()
	changed := !r.Attachments.Empty() || !changes.Empty()
	if hashed || changed {
		var front dubbo.Front
		body := (*frame)[dubbo.HeaderSize:]
		err := dubbo.ParseFront(c.serialization, body, &front)
		if err == nil && (changed || r.HashesAttachments()) {
			err = dubbo.FindAttachments(c.serialization, body, &front, a)
		}
		if hashed {
			var from route.Attachments
			if err == nil && r.HashesAttachments() {
				from = a
			}
			var key uint64
			key, c.keyed = r.Key(front.Method, []byte(d.p.o.Host), from)
			c.key = uint32(key >> 32)
		}
		if changed {
			*frame = d.edited(*frame, a, err, r, changes)
		}
	}
	if !c.oneway {
		if !cluster.Enter() {
			c.cluster.Stats.Request(1)
			c.refuse(refusal{reason: route.Limit, text: "cluster " + cluster.Name + " has as many calls in flight as its circuit breaker allows", notExecuted: true})
			return nil, false
		}
		c.entered = true
	}
	if r.Mirrored() {
		copies = d.mirror(c, *frame)
	}
	return copies, true
}

// direct answers a call in place of a provider.
func (c *call) direct() {
	answer := c.route.Direct
	c.cluster.Stats.Request(1)
	if answer.Status >= 400 {
		text := answer.Text
		if text == "" {
			text = fmt.Sprintf("answered by route %s with status %d", c.label(), answer.Status)
		}
		c.refuse(refusal{reason: route.Injected, code: route.RPCCode(answer.Status), text: text})
		return
	}
	if c.oneway {
		c.down.p.counters.oneway.Add(1)
		return
	}
	frame, err := dubbo.AppendNull(nil, c.serialization, c.id)
	if err != nil {
		c.refuse(refusal{reason: route.Injected, text: "the answer of route " + c.label() + " cannot be written in the request's serialization"})
		return
	}
	c.cluster.Stats.Observe(c.down.p.now() - c.start)
	c.down.answer(c, frame)
}

// edited is a frame with the attachments that the route and its destination want.
// What the form of the attachments forbids is counted; the call goes on as it came.
func (d *downstream) edited(frame []byte, a *dubbo.Attachments, err error, r *route.Route, more *route.Changes) []byte {
	if err == nil {
		var out []byte
		if out, err = dubbo.AppendWithEdits(nil, frame, a, edits(a, inOrder(r, more)...)); err == nil {
			return out
		}
	}
	d.p.counters.unchanged.Add(1)
	return frame
}

// inOrder are the changes of a route and of its destination, as they are made.
func inOrder(r *route.Route, destination *route.Changes) []*route.Changes {
	if r.DestinationLast {
		return []*route.Changes{&r.Attachments, destination}
	}
	return []*route.Changes{destination, &r.Attachments}
}

// edits are changes, one after the other, for attachments.
func edits(a *dubbo.Attachments, all ...*route.Changes) []dubbo.Edit {
	var list []dubbo.Edit
	now := func(key string) (string, bool) { // with the edits so far
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].Key == key {
				return list[i].Value, !list[i].Remove
			}
		}
		value, ok := a.Lookup(key)
		return string(value), ok
	}
	for _, c := range all {
		for _, key := range c.Remove {
			list = append(list, dubbo.Edit{Key: key, Remove: true})
		}
		for _, set := range c.Set {
			value, there := now(set.Key)
			switch {
			case set.When == route.IfAbsent && there, set.When == route.IfPresent && !there:
				continue
			case set.When == route.Append && there:
				value += "," + set.Value
			default:
				value = set.Value
			}
			list = append(list, dubbo.Edit{Key: set.Key, Value: value})
		}
	}
	return list
}

// mirror makes the copies of a call: oneway, without a second try, and dropped
// before anything else has to wait.
func (d *downstream) mirror(c *call, frame []byte) (copies []request) {
	c.route.EachMirror(func(cluster *route.Cluster) {
		m := call{down: d, cluster: cluster, id: c.id, serialization: c.serialization, oneway: true, copied: true, start: c.start}
		if m.endpoint = cluster.Pick(nil); m.endpoint == nil {
			d.p.counters.mirrorsDropped.Add(1)
			return
		}
		if up := d.upstream(&m); up != nil {
			d.p.counters.mirrored.Add(1)
			copies = append(copies, request{call: m, frame: frame, up: up})
		}
	})
	return copies
}

// park keeps a call for a while; then next goes on with it on a goroutine of its
// own. False: too much is parked, or there is no memory.
func (d *downstream) park(c call, frame []byte, wait time.Duration, next func(*call, []byte)) bool {
	if len(frame) > freeBytes && d.memory.short(len(frame)) {
		return false
	}
	if d.p.parked.Add(1) > maxParked {
		d.p.parked.Add(-1)
		return false
	}
	frame = bytes.Clone(frame)
	counted := d.memory.settle(0, len(frame))
	if !c.inFlight && !c.oneway {
		c.inFlight = true
		d.calls.Add(1)
	}
	d.p.workers.Go(func() {
		defer func() { d.memory.settle(counted, 0); d.p.parked.Add(-1) }()
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-d.p.ctx.Done():
		}
		if d.gone.Load() {
			c.refuse(refusal{reason: route.Abandoned, text: errCallerGone.Error(), notExecuted: true})
			return
		}
		next(&c, frame)
	})
	return true
}

// leave gives back what circuit breakers count of a call.
func (c *call) leave() {
	if c.entered {
		c.entered = false
		c.cluster.Leave()
	}
	c.leaveRetry()
}

func (c *call) leaveRetry() {
	if c.retrying {
		c.retrying = false
		c.cluster.LeaveRetry()
	}
}

// retry sends a call once more that may have been executed, if its route allows that
// for this reason; False: it is still to be answered.
func (c *call) retry(on route.RetryOn, why string) bool {
	if c.route == nil || c.route.Retry.On&on == 0 {
		return false
	}
	p, r := c.down.p, c.route
	c.leaveRetry()
	if c.attempts >= r.Retry.Attempts || len(c.retained) == 0 || c.oneway || c.down.gone.Load() || p.stopping.Load() || p.now() >= c.due() {
		return false
	}
	if !c.cluster.EnterRetry() {
		r.Stats.Limited.Add(1)
		return false
	}
	c.retrying = true
	if !c.cluster.BudgetsRetries() && !p.budget.take() {
		r.Stats.Limited.Add(1)
		return false
	}
	if !r.Retry.SameEndpoint {
		c.exclude()
	}
	endpoint := c.another()
	if endpoint == nil {
		endpoint = c.cluster.Pick(nil) // the only one there is
	}
	if endpoint == nil {
		return false
	}
	c.endpoint = endpoint
	c.attempts++
	r.Stats.Retried.Add(1)
	p.counters.retries.Add(1)
	p.log.Debug("call is tried again", "service", c.cluster.Service.Key(), "route", c.label(), "attempt", c.attempts, "endpoint", endpoint.Peer.Addr, "why", why)
	frame := c.retained
	c.retained = nil
	base := orBase(r.Retry.Backoff)
	most := r.Retry.MaxDelay
	if most <= 0 {
		most = 10 * base
	}
	wait := time.Duration(rand.Int64N(int64(min(base<<min(c.attempts-1, 10), most)) + 1))
	if !c.down.park(*c, frame, wait, func(c *call, frame []byte) { c.send(frame) }) {
		c.send(frame)
	}
	return true
}

func orBase(d time.Duration) time.Duration {
	if d <= 0 {
		return retryBase
	}
	return d
}

// exclude keeps the endpoint from being chosen again, of several the last ones.
func (c *call) exclude() {
	if int(c.tries) < len(c.tried) {
		c.tried[c.tries] = c.endpoint
		c.tries++
		return
	}
	copy(c.tried[:], c.tried[1:])
	c.tried[len(c.tried)-1] = c.endpoint
}

// another is the next endpoint of the cluster for the call, nil when none is left.
func (c *call) another() *route.Endpoint {
	if c.keyed {
		return c.cluster.PickBy(spread(c.key), c.tried[:c.tries])
	}
	return c.cluster.Pick(c.tried[:c.tries])
}

// spread makes a key that fills 64 bits; call keeps half of one.
func spread(key uint32) uint64 { return uint64(key) * 0x9e3779b97f4a7c15 }

// due is when a call must be answered, as p.now().
func (c *call) due() time.Duration {
	due := maxDeadline
	if c.limit > 0 {
		due = min(c.limit+deadlineGrace, maxDeadline)
	}
	if c.route != nil && c.route.Timeout > 0 {
		due = min(due, c.routed()+c.route.Timeout-c.start)
	}
	return c.start + due
}

// routed is when the time-out of the route began: behind a delay that it injects, as
// in Envoy, whose fault filter stands before the router.
func (c *call) routed() time.Duration { return c.start + time.Duration(c.delayed)*time.Millisecond }

// lookFrom is when to look first at a call that is sent now.
func (c *call) lookFrom(now time.Duration) time.Duration {
	look := now + firstLook
	if c.route == nil {
		return look
	}
	c.tryDue = 0
	if t := c.route.Retry.PerTry; t > 0 && c.route.Retry.On != 0 {
		c.tryDue = now + t
		look = min(look, c.tryDue)
	}
	if t := c.route.Timeout; t > 0 {
		look = min(look, c.routed()+t)
	}
	return look
}

// late ends a call whose time is over, or the time of this try.
func (c *call) late(addr string) {
	c.cluster.Report(c.endpoint, route.LocalError)
	if c.tryDue > 0 && c.tryDue < c.due() && c.retry(route.RetryTryTimeout, "no answer in the time of a try") {
		return
	}
	c.refuse(refusal{reason: route.Deadline, text: "no answer from " + addr + " within " + (c.look - c.start).Round(time.Millisecond).String()})
}

// service is the service key that a request names.
func service(front *dubbo.Front, a *dubbo.Attachments) registry.Service {
	s := registry.Service{Interface: string(front.Path), Version: registry.NormalVersion(string(front.Version))}
	if iface, ok := a.Lookup("interface"); ok {
		s.Interface = string(iface)
	}
	group, _ := a.Lookup("group")
	s.Group = string(group)
	return s
}
