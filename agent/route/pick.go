package route

import (
	"math/rand/v2"
	"sort"
)

// Policy is how a cluster shares calls between its endpoints.
type Policy uint8

const (
	Random       Policy = iota // weighted; Dubbo's "random"
	RoundRobin                 // smooth and weighted; Dubbo's "roundrobin"
	LeastRequest               // the better of two weighted draws; Dubbo's "leastactive"
	RingHash                   // consistent hash on a ring; rules only
	Maglev                     // consistent hash in a table; rules only
)

// String is Dubbo's name of the policy where it has one.
func (p Policy) String() string {
	return [...]string{"random", "roundrobin", "leastactive", "ringhash", "maglev"}[p]
}

// ParsePolicy reads Dubbo's name of a policy; false: a name that this agent does
// not know.
func ParsePolicy(name string) (Policy, bool) {
	for p := Random; p <= LeastRequest; p++ {
		if p.String() == name {
			return p, true
		}
	}
	return Random, false
}

// maxSchedule bounds the precomputed round robin sequence; weights with a larger
// sum are scaled down. A cluster with more endpoints gets one turn for each.
const maxSchedule = 2048

// balance is the effective weights of a cluster's endpoints, ready for drawing.
type balance struct {
	weights  []uint32 // by endpoint; 0 gets nothing; all 0 only if nobody may be called
	upTo     []uint64 // sums of weights up to and with each endpoint
	total    uint64
	schedule []uint16 // round robin: which endpoint at which turn
	reserve  []uint32 // of rules: weights of healthy endpoints that have no share now, for a call that found nobody else
	ring     *ring    // consistent hash
	steps    []step   // of rules: how the weights came about
}

// newBalance prepares weights. When all are zero every endpoint counts the same,
// but round robin takes the first (RoundRobinLoadBalance, RandomLoadBalance).
func newBalance(weights []uint32, p Policy) *balance {
	b := &balance{weights: weights, upTo: make([]uint64, len(weights))}
	zero := true
	for _, w := range weights {
		zero = zero && w == 0
	}
	if zero {
		b.weights = make([]uint32, len(weights))
		for i := range b.weights {
			b.weights[i] = 1
		}
	}
	for i, w := range b.weights {
		b.total += uint64(w)
		b.upTo[i] = b.total
	}
	switch {
	case p != RoundRobin:
	case zero:
		b.schedule = []uint16{0}
	default:
		b.schedule = smooth(b.weights)
	}
	return b
}

// smooth is one period of smooth weighted round robin: each step raises every
// endpoint by its weight, takes the highest and lowers it by the sum.
func smooth(weights []uint32) []uint16 {
	turns := shares(weights)
	var sum int64
	equal := true
	for _, t := range turns {
		sum += t
		equal = equal && t == turns[0]
	}
	schedule := make([]uint16, 0, sum)
	if equal {
		for i := range turns {
			schedule = append(schedule, uint16(i))
		}
		return schedule
	}
	current := make([]int64, len(turns))
	for range sum {
		best := -1
		for i, t := range turns {
			if t == 0 {
				continue
			}
			current[i] += t
			if best < 0 || current[i] > current[best] {
				best = i
			}
		}
		current[best] -= sum
		schedule = append(schedule, uint16(best))
	}
	return schedule
}

// shares divides weights by their greatest common divisor, and scales them
// further, none to zero, while their sum is above maxSchedule.
func shares(weights []uint32) []int64 {
	var divisor, sum uint64
	for _, w := range weights {
		for a := uint64(w); a != 0; {
			divisor, a = a, divisor%a
		}
		sum += uint64(w)
	}
	turns := make([]int64, len(weights))
	limit := uint64(max(maxSchedule, len(weights)))
	for i, w := range weights {
		switch {
		case w == 0:
		case sum/divisor <= limit:
			turns[i] = int64(uint64(w) / divisor)
		default:
			turns[i] = max(1, int64(uint64(w)*limit/sum))
		}
	}
	return turns
}

// Pick chooses the endpoint for a call by the cluster's policy. It passes over
// tried ones, prefers usable peers, then avoided ones, then readonly ones, and
// returns nil when none is left. An endpoint of weight 0 gets nothing unless all
// have it.
func (c *Cluster) Pick(tried []*Endpoint) *Endpoint { return c.pick(tried, rand.Uint64N) }

// PickBy is Pick for a call with a key (Route.Key): with a hash as policy the key
// decides, and when its endpoint is tried or unusable, the one that follows.
func (c *Cluster) PickBy(key uint64, tried []*Endpoint) *Endpoint {
	if b := c.balance.Load(); b.ring != nil {
		if e := c.pickRing(b, key, tried); e != nil {
			return e
		}
	}
	return c.pick(tried, rand.Uint64N)
}

func (c *Cluster) pick(tried []*Endpoint, draw func(uint64) uint64) *Endpoint {
	if len(c.Endpoints) <= 1 && c.state == nil {
		if len(c.Endpoints) == 0 || has(tried, c.Endpoints[0]) {
			return nil
		}
		return c.Endpoints[0]
	}
	b := c.balance.Load()
	if b.total == 0 {
		return nil
	}
	switch c.Policy {
	case RoundRobin:
		for range b.schedule {
			turn := (c.turn.Add(1) - 1) % uint64(len(b.schedule))
			if e := c.Endpoints[b.schedule[turn]]; free(e, tried) {
				return e
			}
		}
	case LeastRequest:
		i := b.draw(draw(b.total))
		if first := c.Endpoints[i]; free(first, tried) {
			if c.spec != nil {
				for range min(c.spec.Choices, MostChoices) - 2 {
					i = c.lighter(b, i, tried, draw)
				}
			}
			return c.Endpoints[c.lighter(b, i, tried, draw)]
		}
	default:
		if e := c.Endpoints[b.draw(draw(b.total))]; free(e, tried) {
			return e
		}
	}
	e, r := c.pickAny(b.weights, tried, draw)
	if r != usable && b.reserve != nil {
		if other, better := c.pickAny(b.reserve, tried, draw); better < r {
			return other
		}
	}
	return e
}

// draw is the endpoint that owns the point at, which is below total.
func (b *balance) draw(at uint64) int {
	return sort.Search(len(b.upTo), func(i int) bool { return at < b.upTo[i] })
}

// lighter draws a second endpoint beside the i-th, and takes the one with fewer
// calls in flight for its weight; the first when they are equal.
func (c *Cluster) lighter(b *balance, i int, tried []*Endpoint, draw func(uint64) uint64) int {
	first, w := c.Endpoints[i], uint64(b.weights[i])
	if b.total == w {
		return i
	}
	at := draw(b.total - w)
	if at >= b.upTo[i]-w {
		at += w
	}
	j := b.draw(at)
	second := c.Endpoints[j]
	if free(second, tried) &&
		second.Peer.InFlight.Load()*int64(b.weights[i]) < first.Peer.InFlight.Load()*int64(b.weights[j]) {
		return j
	}
	return i
}

// pickAny draws by weight among the endpoints of the best rank that were not
// tried: one pass, in which each takes the place of those before it with the
// probability of its share so far. The rank is that of the endpoint, ranks if there
// is none. Of rules an ejected one is none.
func (c *Cluster) pickAny(weights []uint32, tried []*Endpoint, draw func(uint64) uint64) (*Endpoint, rank) {
	var total [ranks]uint64
	var chosen [ranks]*Endpoint
	for i, e := range c.Endpoints {
		w := uint64(weights[i])
		if w == 0 || has(tried, e) {
			continue
		}
		r := e.rank()
		total[r] += w
		if draw(total[r]) < w {
			chosen[r] = e
		}
	}
	for r, e := range chosen[:ejected] {
		if e != nil {
			return e, rank(r)
		}
	}
	return nil, ranks
}

func free(e *Endpoint, tried []*Endpoint) bool { return !has(tried, e) && e.rank() == usable }

// has compares by what the endpoint stands for: the tried ones may come from an
// older snapshot.
func has(tried []*Endpoint, e *Endpoint) bool {
	for _, t := range tried {
		if same(t, e) {
			return true
		}
	}
	return false
}
