package proxy

import (
	"sync/atomic"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
)

// caller is the application at the other end of an outbound connection. It is
// looked for only while local subscriptions of a service disagree (CONTRACT §8):
// first in attachment remote.application of a call, which Java sends, then by the
// process that has the connection.
type caller struct {
	name atomic.Pointer[string] // of the first call that was looked at; empty: it did not say
	pid  atomic.Int64           // or one of the values below
}

const (
	pidNotAsked = 0
	pidAsked    = -1
	pidUnknown  = -2
)

// asked tells whether a call was looked at.
func (c *caller) asked() bool { return c.name.Load() != nil }

// learn takes the name from a call's attachments.
func (c *caller) learn(a *dubbo.Attachments) {
	name, _ := a.Lookup("remote.application")
	application := string(name)
	c.name.Store(&application)
}

// application is that of the caller of a service, empty if it is not known. final
// is false while its process is being looked for. The reader never waits for that:
// it takes milliseconds, and until then the longest time-out counts.
func (d *downstream) application(cl *route.Cluster) (name string, final bool) {
	if known := d.caller.name.Load(); known != nil && *known != "" {
		return *known, true
	}
	if !cl.NeedsCaller() || d.p.o.Process == nil {
		return "", true
	}
	switch pid := d.caller.pid.Load(); pid {
	case pidUnknown:
		return "", true
	case pidAsked:
		return "", false
	case pidNotAsked:
		select {
		case d.p.lookups <- struct{}{}:
		default:
			return "", false // others are looked for; the next call tries again
		}
		if !d.caller.pid.CompareAndSwap(pidNotAsked, pidAsked) {
			<-d.p.lookups
			return "", false
		}
		d.p.workers.Go(func() {
			defer func() { <-d.p.lookups }()
			pid := int64(d.p.o.Process(d.nc.RemoteAddr(), d.nc.LocalAddr()))
			if pid <= 0 {
				pid = pidUnknown
				d.p.counters.unknownCallers.Add(1)
			}
			d.caller.pid.Store(pid)
		})
		return "", false
	default:
		return cl.Application(int(pid)), true
	}
}
