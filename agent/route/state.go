package route

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of outlier_detection (config.cluster.v3.OutlierDetection).
const (
	outlierInterval = 10 * time.Second
	baseEjection    = 30 * time.Second
	maxEjection     = 300 * time.Second
	successHosts    = 5
	successRequests = 100
	successFactor   = 1.9
)

// Outcome is how a call ended, seen from its endpoint.
type Outcome uint8

const (
	Answered     Outcome = iota // with status OK: a result, or an exception of the service
	RemoteError                 // with another status
	GatewayError                // another agent could not reach its provider
	LocalError                  // refused, lost, or no answer in time
)

// clusterState is what survives snapshots of a cluster of rules, by its name.
type clusterState struct {
	name string
	wake func() // tells the router's loop that somebody was ejected; never blocks

	turn                                    atomic.Uint64
	inFlight, pending, retries, connections atomic.Int64 // now, over all endpoints
	over                                    overflows
	ejections                               atomic.Int64
	changed                                 atomic.Bool // somebody was ejected since the loop last looked
	busy                                    atomic.Bool // somebody is ejected, or was not long ago

	mu    sync.Mutex
	hosts map[string]*host // guarded by mu; by address
	size  int              // guarded by mu; endpoints now
	spec  *Outlier         // guarded by mu
	check time.Time        // guarded by mu; when the interval ends
}

// host is what is known of an endpoint in one cluster. It survives snapshots by the
// cluster's name and its address.
type host struct {
	remote, gateway, local atomic.Uint32 // errors in a row
	remotely, locally      successes     // in this interval
	ejected                atomic.Bool
	panicking              atomic.Bool // its priority panics: ejection does not count

	// guarded by clusterState.mu
	until time.Time // of the ejection
	times int       // ejections, less the intervals since
	why   string
}

// successes are the calls of an interval, for the success rate.
type successes struct{ total, good atomic.Uint32 }

func (s *successes) add(good bool) {
	s.total.Add(1)
	if good {
		s.good.Add(1)
	}
}

func (h *host) out() bool { return h.ejected.Load() && !h.panicking.Load() }

// Report tells how a call at an endpoint ended. It costs a load or two where no
// outlier detection is set.
func (c *Cluster) Report(e *Endpoint, o Outcome) {
	if c.spec == nil || c.spec.Outlier == nil || e.host == nil {
		return
	}
	h, spec := e.host, c.spec.Outlier
	if spec.SuccessRate && !(spec.Split && o == LocalError) {
		h.remotely.add(o == Answered)
	}
	if spec.LocalSuccessRate && spec.Split {
		h.locally.add(o != LocalError) // it was reached
	}
	if o == Answered {
		clear := func(n *atomic.Uint32) {
			if n.Load() != 0 {
				n.Store(0)
			}
		}
		clear(&h.remote)
		clear(&h.gateway)
		clear(&h.local)
		return
	}
	reached := func(n *atomic.Uint32, limit uint32) bool { return n.Add(1) >= limit && limit > 0 }
	why := ""
	if o == LocalError && spec.Split {
		if reached(&h.local, spec.ConsecutiveLocal) {
			why = "consecutive local errors"
		}
	} else {
		if reached(&h.remote, spec.Consecutive) {
			why = "consecutive errors"
		}
		if o == RemoteError {
			h.gateway.Store(0)
		} else if reached(&h.gateway, spec.ConsecutiveGateway) {
			why = "consecutive gateway errors"
		}
	}
	if why != "" && !h.ejected.Load() && c.state.eject(h, why, time.Now()) {
		c.state.wake()
	}
}

// eject takes an endpoint out, if so many may be out at a time.
func (s *clusterState) eject(h *host, why string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	spec := s.spec
	if spec == nil || h.ejected.Load() {
		return false
	}
	out := 0
	for _, other := range s.hosts {
		if other.ejected.Load() {
			out++
		}
	}
	if (out+1)*100 > int(spec.MaxEjectionPercent)*s.size && (out > 0 || !spec.AlwaysOne) {
		return false
	}
	h.times++
	base := spec.base()
	h.until = now.Add(min(base*time.Duration(h.times), max(base, orElse(spec.MaxEjection, maxEjection))))
	if spec.Jitter > 0 {
		h.until = h.until.Add(rand.N(spec.Jitter + 1))
	}
	h.why = why
	h.ejected.Store(true)
	h.clear()
	s.ejections.Add(1)
	s.changed.Store(true)
	s.busy.Store(true)
	return true
}

func (h *host) clear() {
	h.remote.Store(0)
	h.gateway.Store(0)
	h.local.Store(0)
}

func (o *Outlier) base() time.Duration { return orElse(o.BaseEjection, baseEjection) }

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// sweep lets endpoints return whose time is over, and judges the success rates at
// the end of an interval. It tells whether somebody went or came since the last
// sweep.
func (s *clusterState) sweep(now time.Time) bool {
	if !s.busy.Load() && (s.spec == nil || !s.spec.SuccessRate && !s.spec.LocalSuccessRate) { // only the loop writes spec
		return false
	}
	changed := s.changed.Swap(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if h.ejected.Load() && (s.spec == nil || !now.Before(h.until)) {
			h.clear()
			h.ejected.Store(false)
			changed = true
		}
	}
	if s.spec == nil {
		return changed
	}
	interval := orElse(s.spec.Interval, outlierInterval)
	if s.check.IsZero() {
		s.check = now.Add(interval)
	}
	if now.Before(s.check) {
		return changed
	}
	s.check = now.Add(interval)
	var low []*host
	if s.spec.SuccessRate {
		low = s.lowest(func(h *host) *successes { return &h.remotely })
	}
	if s.spec.LocalSuccessRate && s.spec.Split {
		low = append(low, s.lowest(func(h *host) *successes { return &h.locally })...)
	}
	s.mu.Unlock()
	for _, h := range low {
		if s.eject(h, "success rate", now) {
			changed = true
		}
	}
	s.mu.Lock()
	busy := false
	for _, h := range s.hosts {
		if !h.ejected.Load() && h.times > 0 && now.After(h.until.Add(interval)) {
			h.times--
		}
		busy = busy || h.times > 0
	}
	s.busy.Store(busy)
	return changed
}

// lowest finds the endpoints whose success rate lies further below the mean than
// the factor times the standard deviation, and begins a new interval. mu is held.
func (s *clusterState) lowest(of func(*host) *successes) (low []*host) {
	type rated struct {
		*host
		rate float64
	}
	var all []rated
	for _, h := range s.hosts {
		calls := of(h)
		total, good := calls.total.Swap(0), calls.good.Swap(0)
		if !h.ejected.Load() && int(total) >= orElse(s.spec.SuccessRateRequests, successRequests) {
			all = append(all, rated{h, float64(min(good, total)) / float64(total)})
		}
	}
	if len(all) == 0 || len(all) < orElse(s.spec.SuccessRateHosts, successHosts) {
		return nil
	}
	var mean, variance float64
	for _, x := range all {
		mean += x.rate / float64(len(all))
	}
	for _, x := range all {
		variance += (x.rate - mean) * (x.rate - mean) / float64(len(all))
	}
	limit := mean - orElse(s.spec.SuccessRateFactor, successFactor)*math.Sqrt(variance)
	slices.SortFunc(all, func(a, b rated) int {
		switch {
		case a.rate < b.rate:
			return -1
		case a.rate > b.rate:
			return 1
		}
		return 0
	})
	for _, x := range all {
		if x.rate < limit {
			low = append(low, x.host)
		}
	}
	return low
}

// host is the one of an address.
func (s *clusterState) host(address string) *host {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[address]
	if h == nil {
		h = &host{}
		s.hosts[address] = h
	}
	return h
}

// adopt takes a new compilation: endpoints that are gone are forgotten.
func (s *clusterState) adopt(spec *ClusterSpec, endpoints []*Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spec, s.size = spec.Outlier, len(endpoints)
	if len(s.hosts) == len(endpoints) {
		return
	}
	there := make(map[*host]bool, len(endpoints))
	for _, e := range endpoints {
		there[e.host] = true
	}
	for address, h := range s.hosts {
		if !there[h] {
			delete(s.hosts, address)
		}
	}
}
