package proxy

import (
	"bytes"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
)

// call is one request from the moment it was read until it is answered.
type call struct {
	down          *downstream
	cluster       *route.Cluster
	endpoint      *route.Endpoint
	route         *route.Route // of rules; nil: none
	tried         [maxTries - 1]*route.Endpoint
	tries         uint8 // endpoints in tried
	moves         uint8 // to another endpoint, because the one before had not executed it
	attempts      uint8 // retries that the route allowed
	redials       uint8
	serialization byte
	oneway        bool
	inFlight      bool   // counted as such
	looked        bool   // the time-out attachment has been read
	entered       bool   // counted by the cluster's circuit breaker
	retrying      bool   // the same for retries
	pending       bool   // the same for calls that wait for a connection
	keyed         bool   // key counts
	copied        bool   // a mirror's copy: nobody waits, and nothing is said about its end
	key           uint32 // of a consistent hash
	delayed       uint32 // milliseconds, by a fault: the route's time-out begins behind it
	id            uint64
	start         time.Duration // p.now()
	limit         time.Duration // of the subscription or provider URL, 0 when there is none
	look          time.Duration // p.now() at which to look whether it is late
	tryDue        time.Duration // p.now() at which the time of this try ends, 0 when it has none
	retained      []byte        // the frame, for another try
}

// maxTries is how many endpoints one call may be sent to, if the ones before have
// certainly not executed it (CONTRACT §3).
const maxTries = 3

// pick chooses an endpoint, or refuses.
func (c *call) pick() bool {
	if c.down.p.stopping.Load() {
		c.refuse(refusal{reason: route.Refused, text: errStopping.Error(), notExecuted: true})
		return false
	}
	if c.endpoint = c.another(); c.endpoint == nil {
		c.cluster.Stats.Request(1)
		c.refuse(refusal{reason: route.NoEndpoint, text: "no provider is available", notExecuted: true})
		return false
	}
	return true
}

// again sends a call that was certainly not executed to another endpoint, while
// there is one, the number of tries and the budget allow it; else it refuses.
func (c *call) again(r refusal) {
	p := c.down.p
	if c.down.gone.Load() {
		c.refuse(refusal{reason: route.Abandoned, text: errCallerGone.Error(), notExecuted: true})
		return
	}
	if c.down.dir.outbound && !r.redial && r.reason != route.Limit {
		p.o.Refused(c.cluster.Service.Interface, c.endpoint.Peer.Addr)
	}
	redial := r.redial && c.redials == 0
	if len(c.retained) == 0 || c.oneway || int(c.moves) >= len(c.tried) && !redial || p.stopping.Load() {
		c.refuse(r)
		return
	}
	if redial { // the connection was up and ended: the endpoint may be there all the same
		c.redials++
	} else {
		c.exclude()
		c.moves++
	}
	endpoint := c.another()
	if endpoint == nil || !p.budget.take() {
		c.refuse(r)
		return
	}
	c.endpoint = endpoint
	p.counters.retries.Add(1)
	frame := c.retained
	c.retained = nil
	c.send(frame)
}

// send gives a call that stands alone to the connection of its endpoint.
func (c *call) send(frame []byte) {
	up := c.down.upstream(c)
	if up == nil {
		c.refuse(c.down.unconnected(c))
		return
	}
	one := [1]request{{call: *c, frame: frame, up: up}}
	up.start(one[:], c.down.p.now())
	up.flush()
}

// statusAt is where a frame holds the status of a response.
const statusAt = 3

// mayRetry tells from a response whether the request may be needed once more.
func mayRetry(frame []byte) bool { return frame[statusAt] != dubbo.StatusOK }

// handle deals with a reply of another agent's inbound side that must not go on
// as it is: what was not executed is tried elsewhere, and the rest is told in the
// form of our own side (CONTRACT §6). False: an ordinary reply.
func (c *call) handle(frame []byte) bool {
	if !c.down.dir.outbound {
		return false
	}
	var text []byte
	ok := false
	if frame[statusAt] == dubbo.StatusServerError {
		text, ok = dubbo.ErrorText(frame[2]&serializationMask, frame[dubbo.HeaderSize:])
	}
	switch {
	case ok && bytes.HasPrefix(text, []byte(notExecuted)):
		c.cluster.Report(c.endpoint, route.GatewayError)
		c.again(refusal{reason: route.Refused, text: c.endpoint.Peer.Addr + " says: " + string(text), notExecuted: true})
	case ok && bytes.HasPrefix(text, []byte(unknownOutcome)):
		c.cluster.Report(c.endpoint, route.GatewayError)
		if says := c.endpoint.Peer.Addr + " says: " + string(text); !c.retry(route.RetryLost, says) {
			c.refuse(refusal{reason: route.Lost, text: says})
		}
	default:
		c.cluster.Report(c.endpoint, route.RemoteError)
		return c.retry(route.RetryError, "an answer with an error status")
	}
	return true
}

const (
	serializationMask = 0x1f
	flagTwoWay        = 0x40
)

// nextLook moves look behind the deadline of the call, if that is later. The
// caller's time-out attachment stands behind the arguments, so it is read only
// for calls that take long: at the first look, from the retained frame.
// Deadline = caller's time-out + 100 ms, at most 10 min (CONTRACT §8). On the
// inbound side only the attachment counts: a consumer may wait longer than the
// provider's own URL says.
func (c *call) nextLook() {
	c.learnTimeout(c.retained)
	if c.look = c.due(); c.tryDue > 0 {
		c.look = min(c.look, c.tryDue)
	}
}

// learnTimeout reads the time-out attachment, once.
func (c *call) learnTimeout(frame []byte) {
	if c.looked {
		return
	}
	c.looked = true
	if t := c.attachedTimeout(frame); t > 0 {
		c.limit = t
	}
}

func (c *call) attachedTimeout(frame []byte) time.Duration {
	if len(frame) < dubbo.HeaderSize {
		return 0
	}
	var f dubbo.Front
	var a dubbo.Attachments
	body := frame[dubbo.HeaderSize:]
	if dubbo.ParseFront(c.serialization, body, &f) != nil || dubbo.FindAttachments(c.serialization, body, &f, &a) != nil {
		return 0
	}
	text, _ := a.Lookup("timeout")
	return milliseconds(text)
}

// milliseconds reads a decimal number; what is none, or too large, counts as 0.
func milliseconds(text []byte) time.Duration {
	n := int64(0)
	for _, b := range text {
		if b < '0' || b > '9' || n > int64(24*time.Hour/time.Millisecond) {
			return 0
		}
		n = 10*n + int64(b-'0')
	}
	return time.Duration(n) * time.Millisecond
}

// putToken queues the frame with the endpoint's token among its attachments. Where
// the form of the attachments forbids it the frame goes as it is, and the provider
// decides.
func (r *request) putToken(u *upstream, token string) {
	var f dubbo.Front
	var a dubbo.Attachments
	body := r.frame[dubbo.HeaderSize:]
	at := len(u.buf)
	if dubbo.ParseFront(r.serialization, body, &f) == nil && dubbo.FindAttachments(r.serialization, body, &f, &a) == nil {
		if out, err := dubbo.AppendWithAttachment(u.buf, r.frame, &a, "token", token); err == nil {
			u.buf = out
			u.queued += uint64(len(out) - at)
			return
		}
	}
	u.put(r.frame)
}
