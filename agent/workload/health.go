package workload

import "time"

// outcome is what a probe saw.
type outcome int

const (
	noVerdict     outcome = iota // the agent itself could not look: no descriptors, no memory
	answered                     // a heartbeat was answered
	accepted                     // the port accepts connections; no heartbeat was asked for, or none answered
	missed                       // time-out
	refused                      // connection refused, twice
	closed                       // the provider closed the connection that the prober keeps
	saidReadonly                 // READONLY: it is about to stop
	saidWriteable                // WRITEABLE: it thought better of it (Dubbo 3)
)

// health of one local address: a pure state machine, fed with outcomes.
type health struct {
	live   bool
	reason string    // why not live
	since  time.Time // when live or reason changed last
	fails  int       // time-outs in a row
	rises  int       // answers in a row since it is not live

	// fresh: published anew and not yet answered. One answer makes it live, since
	// nothing was wrong with it before.
	fresh   bool
	freshAt time.Time
	// beats: it has answered a heartbeat, so from now on silence means that it
	// hangs. A server that never answered one counts as alive as long as it
	// accepts connections: some refuse heartbeats in hessian2, and to hold them
	// back for that would be worse than to miss that they hang.
	beats bool
	// readonly until the process that said it is gone.
	readonly bool
}

// published starts over, for a publication that is new or has new content: most
// likely a new process. What is live stays so.
func (h *health) published(now time.Time) {
	if h.live && !h.readonly {
		return
	}
	*h = health{reason: ReasonSettling, since: now, fresh: true, freshAt: now, beats: h.beats}
}

// observe takes one outcome in. heartbeat tells whether the address was asked
// for one.
func (h *health) observe(o outcome, heartbeat bool, set ProbeSettings, now time.Time) {
	if o == accepted && heartbeat && h.beats {
		o = missed
	}
	switch o {
	case answered:
		h.beats = true
		h.up(set, now)
	case accepted:
		h.up(set, now)
	case missed:
		h.rises = 0
		if h.fails++; !h.live || h.fails >= set.Fall {
			h.down(ReasonNoAnswer, now)
		}
	case refused:
		h.beats, h.readonly = false, false // whoever listens there next is another process
		h.down(ReasonPortClosed, now)
	case closed:
		if h.readonly { // the old process goes; its listener may outlive the connection by a moment: rise, not one answer
			h.readonly, h.fresh = false, false
			h.down(ReasonPortClosed, now)
		}
	case saidReadonly:
		h.readonly = true
	case saidWriteable:
		h.readonly = false
	}
}

func (h *health) up(set ProbeSettings, now time.Time) {
	h.fails = 0
	if h.live {
		return
	}
	if h.rises++; h.fresh || h.rises >= set.Rise {
		h.live, h.reason, h.since, h.fresh, h.rises = true, "", now, false, 0
	}
}

func (h *health) down(reason string, now time.Time) {
	h.rises = 0
	if h.live || h.reason != reason {
		h.live, h.reason, h.since = false, reason, now
	}
}

// status is what a View shows.
func (h *health) status() (live bool, reason string) {
	if h.readonly {
		return false, ReasonReadonly
	}
	return h.live, h.reason
}

// gone tells that nobody listens, and nothing says that somebody will soon.
func (h *health) gone() bool { return !h.live && h.reason == ReasonPortClosed && h.rises == 0 }

const (
	eagerFor   = 3 * time.Second        // how long a port that is about to open is watched closely
	eagerPause = 100 * time.Millisecond // how closely
)

// pause until the next probe. A port that was published before it opened is
// looked at more often at first.
func (h *health) pause(set ProbeSettings, now time.Time) time.Duration {
	if h.fresh && now.Sub(h.freshAt) < eagerFor {
		return min(eagerPause, set.Interval)
	}
	return set.Interval
}
