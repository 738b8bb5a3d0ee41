package meshferry

import "time"

const (
	awayAfter  = time.Second // both failed for this long: the agent is away
	backAfter  = 2           // both answered this often, one after the other: it is back
	probeDoubt = 200 * time.Millisecond
	probeAway  = 500 * time.Millisecond
	probeLimit = 2 * time.Second // cap of the growing pause while away
)

// presence decides whether the agent is away, from observations of its control
// API and its outbound address. It is pure; times come from the caller.
type presence struct {
	away    bool
	failing time.Time // since when both fail; zero: at least one answered last
	answers int       // while away: how often both answered, one after the other
}

// observe takes one observation and says whether away changed.
func (p *presence) observe(now time.Time, control, outbound bool) (flipped bool) {
	if p.away {
		if !control || !outbound {
			p.answers = 0
			return false
		}
		if p.answers++; p.answers < backAfter {
			return false
		}
		*p = presence{}
		return true
	}
	switch {
	case control || outbound:
		p.failing = time.Time{}
	case p.failing.IsZero():
		p.failing = now
	case now.Sub(p.failing) >= awayAfter:
		*p = presence{away: true}
		return true
	}
	return false
}
