package route

import (
	"math"
	"strconv"
	"strings"
	"sync/atomic"
)

// This file is the circuit breakers of clusters of rules (circuit_breakers.thresholds
// of Envoy's clusters). What they count is over all endpoints of a cluster, survives
// snapshots (clusterState), and takes atomic operations alone. Clusters of the
// registries have none.

// overflows counts what circuit breakers kept out.
type overflows struct{ requests, pending, retries, budget, connections atomic.Int64 }

// unbounded is a bound that is none.
const unbounded = math.MaxInt64

func bound(limit uint32) int64 {
	switch limit {
	case 0, Unlimited:
		return unbounded
	case Nothing:
		return 0
	}
	return int64(limit)
}

func enter(n *atomic.Int64, limit int64, over *atomic.Int64) bool {
	if n.Add(1) > limit {
		n.Add(-1)
		over.Add(1)
		return false
	}
	return true
}

// Enter counts a call that waits for its answer, and tells whether the cluster's
// limit of calls in flight allows it. Leave ends what Enter allowed.
func (c *Cluster) Enter() bool {
	if c.state == nil {
		return true
	}
	return enter(&c.state.inFlight, bound(c.spec.Limits.Requests), &c.state.over.requests)
}

// Leave ends a call that Enter allowed.
func (c *Cluster) Leave() {
	if c.state != nil {
		c.state.inFlight.Add(-1)
	}
}

// EnterPending counts a call that waits for a connection to be made, and tells
// whether the cluster's limit of those allows it. LeavePending ends what it allowed.
func (c *Cluster) EnterPending() bool {
	if c.state == nil {
		return true
	}
	return enter(&c.state.pending, bound(c.spec.Limits.Pending), &c.state.over.pending)
}

// BoundsPending tells that the cluster limits how many calls wait for a connection.
func (c *Cluster) BoundsPending() bool {
	return c.spec != nil && bound(c.spec.Limits.Pending) != unbounded
}

// LeavePending ends the wait that EnterPending allowed.
func (c *Cluster) LeavePending() {
	if c.state != nil {
		c.state.pending.Add(-1)
	}
}

// EnterRetry counts a retry that a route allows, and tells whether the cluster does:
// its budget, or else its limit. LeaveRetry ends what it allowed.
func (c *Cluster) EnterRetry() bool {
	if c.state == nil {
		return true
	}
	s := c.state
	if b := c.spec.Limits.RetryBudget; b != nil {
		return enter(&s.retries, b.allows(s.inFlight.Load()), &s.over.budget)
	}
	return enter(&s.retries, bound(c.spec.Limits.Retries), &s.over.retries)
}

// allows is how many retries may be in flight beside so many calls: those that wait
// for a connection are among them (Envoy adds requests and pending requests).
func (b *RetryBudget) allows(inFlight int64) int64 {
	return max(int64(b.Percent/100*float64(inFlight)), int64(b.Concurrency))
}

// LeaveRetry ends a retry that EnterRetry allowed.
func (c *Cluster) LeaveRetry() {
	if c.state != nil {
		c.state.retries.Add(-1)
	}
}

// BudgetsRetries tells that the cluster has a retry budget of its own.
func (c *Cluster) BudgetsRetries() bool {
	return c.spec != nil && c.spec.Limits.RetryBudget != nil
}

// Connection is the place of an upstream connection among those of the cluster whose
// call opened it. The zero Connection is of no cluster of rules.
type Connection struct{ state *clusterState }

// Close gives the place back.
func (c Connection) Close() {
	if c.state != nil {
		c.state.connections.Add(-1)
	}
}

// ConnectionsFull tells that the cluster has as many connections as its limit allows.
func (c *Cluster) ConnectionsFull() bool {
	return c.state != nil && c.state.connections.Load() >= bound(c.spec.Limits.Connections)
}

// OverConnections counts a call that has no connection of its own because of the
// limit.
func (c *Cluster) OverConnections() { c.state.over.connections.Add(1) }

// OpenConnection counts a connection. False: the limit does not allow it. With must
// it is opened all the same.
func (c *Cluster) OpenConnection(must bool) (Connection, bool) {
	if c.state == nil {
		return Connection{}, true
	}
	if n := c.state.connections.Add(1); !must && n > bound(c.spec.Limits.Connections) {
		c.state.connections.Add(-1)
		return Connection{}, false
	}
	return Connection{c.state}, true
}

// limits says what circuit breakers are set, and how near they are.
func (c *Cluster) limits() string {
	var list []string
	say := func(what string, limit, now int64, over *atomic.Int64, then string) {
		if limit == unbounded {
			return
		}
		text := what + " " + strconv.FormatInt(now, 10) + " of " + strconv.FormatInt(limit, 10)
		if n := over.Load(); n > 0 {
			text += " (" + strconv.FormatInt(n, 10) + " " + then + ")"
		}
		list = append(list, text)
	}
	l, s := &c.spec.Limits, c.state
	say("requests", bound(l.Requests), s.inFlight.Load(), &s.over.requests, "kept out")
	say("pending", bound(l.Pending), s.pending.Load(), &s.over.pending, "kept out")
	if b := l.RetryBudget; b != nil {
		what := "retry budget of " + strconv.FormatFloat(b.Percent, 'g', -1, 64) + "%, at least " + strconv.Itoa(int(b.Concurrency)) + ":"
		say(what, b.allows(s.inFlight.Load()), s.retries.Load(), &s.over.budget, "kept out")
	} else {
		say("retries", bound(l.Retries), s.retries.Load(), &s.over.retries, "kept out")
	}
	say("connections", bound(l.Connections), s.connections.Load(), &s.over.connections, "calls shared another")
	if n := bound(l.HostConnections); n != unbounded {
		list = append(list, "connections to each endpoint at most "+strconv.FormatInt(n, 10))
	}
	return strings.Join(list, ", ")
}
