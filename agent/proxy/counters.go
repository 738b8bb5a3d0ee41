package proxy

import "sync/atomic"

// counters are what belongs to no service.
type counters struct {
	unchanged, mirrored, mirrorsDropped                                                                                  atomic.Int64
	rejected, protocol, oneway, callbacks, callbacksRefused, heartbeats, retries, unreadable, dialFailed, unknownCallers atomic.Int64
}

// Counters is a reading of what the proxy counts apart from services. All but
// Downstream, Upstream and InFlight only grow.
type Counters struct {
	Downstream, InFlight map[string]int64 // by direction; now
	Upstream             int64            // connections; now
	Rejected             int64            // connections refused at accept
	ProtocolErrors       int64            // connections closed because the bytes were no dubbo2
	Oneway               int64            // requests without an answer
	Callbacks            int64            // requests of a provider to its consumer, passed on
	CallbacksRefused     int64            // the same on a shared connection, answered with an error
	Heartbeats           int64            // answered
	Retries              int64            // calls sent to another endpoint because the first had not executed them
	Unreadable           int64            // requests whose serialization could not be read
	DialFailures         int64
	Unchanged            int64 // requests whose attachments could not be changed as a route wants
	Mirrored             int64 // copies of calls
	MirrorsDropped       int64 // copies that were not sent
	UnknownCallers       int64 // local connections whose application was looked for and not found
}

// Counters reads the counters.
func (p *Proxy) Counters() Counters {
	c := &p.counters
	r := Counters{
		Downstream:       map[string]int64{p.out.name: p.out.open.Load(), p.in.name: p.in.open.Load()},
		InFlight:         map[string]int64{p.out.name: p.inFlight(true), p.in.name: p.inFlight(false)},
		Rejected:         c.rejected.Load(),
		ProtocolErrors:   c.protocol.Load(),
		Oneway:           c.oneway.Load(),
		Callbacks:        c.callbacks.Load(),
		CallbacksRefused: c.callbacksRefused.Load(),
		Heartbeats:       c.heartbeats.Load(),
		Retries:          c.retries.Load(),
		Unreadable:       c.unreadable.Load(),
		DialFailures:     c.dialFailed.Load(),
		Unchanged:        c.unchanged.Load(),
		Mirrored:         c.mirrored.Load(),
		MirrorsDropped:   c.mirrorsDropped.Load(),
		UnknownCallers:   c.unknownCallers.Load(),
	}
	for _, d := range p.extra {
		r.Downstream[d.name] += d.open.Load()
	}
	p.mu.Lock()
	r.Upstream = int64(len(p.upstreams))
	p.mu.Unlock()
	return r
}
