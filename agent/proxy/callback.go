package proxy

import (
	"maps"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// callback is a request of a provider that waits for the consumer's answer.
type callback struct {
	up    *upstream
	id    uint64
	start time.Duration
}

// maxCallbacks bounds the callbacks in flight on one downstream connection.
const maxCallbacks = 4096

// callback passes a provider's request on to the consumer that owns the
// connection. On a shared connection nobody can tell whom it is for.
func (u *upstream) callback(h dubbo.Header, frame []byte) {
	d := u.owner
	if d == nil {
		u.p.counters.callbacksRefused.Add(1)
		if h.TwoWay() {
			u.send(dubbo.AppendError(nil, h.ID, "meshferry: a provider's call to its consumer needs a service with callbacks (parameter <method>.<n>.callback=true)"))
		}
		return
	}
	u.p.counters.callbacks.Add(1)
	if h.TwoWay() {
		now := u.p.now()
		d.own.Lock()
		if len(d.reverse) >= maxCallbacks { // those that consumers never answered
			maps.DeleteFunc(d.reverse, func(_ uint64, c callback) bool { return now-c.start > maxDeadline })
		}
		full := len(d.reverse) >= maxCallbacks
		if !full {
			if d.reverse == nil {
				d.reverse = map[uint64]callback{}
			}
			d.reverseID++
			d.reverse[d.reverseID] = callback{up: u, id: h.ID, start: now}
			dubbo.PutID(frame, d.reverseID)
		}
		d.own.Unlock()
		if full {
			u.send(dubbo.AppendError(nil, h.ID, "meshferry: too many callbacks in flight"))
			return
		}
	}
	d.send(frame)
}

// forget drops what belongs to a dedicated connection that has ended.
func (d *downstream) forget(u *upstream) {
	d.own.Lock()
	defer d.own.Unlock()
	if d.dedicated[u.peer] == u {
		delete(d.dedicated, u.peer)
	}
	maps.DeleteFunc(d.reverse, func(_ uint64, c callback) bool { return c.up == u })
}

// answerCallback passes a consumer's answer back to the provider that asked.
func (d *downstream) answerCallback(h dubbo.Header, frame []byte) {
	if c, ok := d.callback(h.ID); ok {
		dubbo.PutID(frame, c.id)
		c.up.send(frame)
	}
}

// callback gives the callback that the consumer answers, once.
func (d *downstream) callback(id uint64) (callback, bool) {
	d.own.Lock()
	defer d.own.Unlock()
	c, ok := d.reverse[id]
	delete(d.reverse, id)
	return c, ok
}
