package route

import (
	"fmt"
	"math"
	"slices"
)

// step is what one filter left of a cluster's endpoints, for people.
type step struct {
	filter string
	left   int
}

// wholeWeight is what the weights of a cluster add up to when priorities or
// localities had to be mixed.
const wholeWeight = 1 << 24

// spread makes a cluster's endpoints ready for drawing: health, ejection, panic,
// priorities and localities become one weight for each endpoint. The rules are
// Envoy's (intro/arch_overview/upstream/load_balancing: priority, degraded,
// panic_threshold, locality_weight); the loads are those of its documentation's
// tables. It also tells each endpoint whether its priority panics.
func spread(spec *ClusterSpec, set *EndpointSet, endpoints []*Endpoint) *balance {
	f := flattening{spec: spec, factor: float64(orElse(set.Overprovisioning, 140)) / 100, weights: make([]uint32, len(endpoints)), reserve: make([]uint32, len(endpoints))}
	f.step("endpoints of the cluster", len(endpoints))
	healthy, in := 0, 0
	for i, e := range endpoints {
		e.host.panicking.Store(false)
		if e.spec.Health == Healthy {
			healthy++
			if !e.host.ejected.Load() {
				in++
				f.reserve[i] = uint32(e.Weight)
			}
		}
	}
	if healthy < len(endpoints) {
		f.step("healthy by the control plane", healthy)
	}
	if in < healthy {
		f.step("not ejected", in)
	}
	f.priorities(endpoints)
	f.share(endpoints)
	b := newSpread(f.weights, spec.Policy)
	b.reserve, b.steps = f.reserve, f.steps
	left := 0
	for i := range f.weights {
		if f.weights[i] > 0 {
			left++
			b.reserve[i] = 0
		}
	}
	b.steps = append(b.steps, step{"with a share of the calls", left})
	switch spec.Policy {
	case RingHash:
		b.ring = newRing(endpoints, b.weights, spec.Ring)
	case Maglev:
		b.ring = newMaglev(endpoints, b.weights, spec.Table)
	}
	return b
}

// newSpread is newBalance where all weights may be zero: then nobody is called.
func newSpread(weights []uint32, p Policy) *balance {
	if !slices.ContainsFunc(weights, func(w uint32) bool { return w > 0 }) {
		return &balance{weights: weights, upTo: make([]uint64, len(weights))}
	}
	return newBalance(weights, p)
}

// flattening is the state of one spread.
type flattening struct {
	spec    *ClusterSpec
	factor  float64 // overprovisioning
	list    []*priority
	weights []uint32
	reserve []uint32
	steps   []step
}

// priority is the endpoints of one, and the load that it gets.
type priority struct {
	number                 uint32
	all, healthy, degraded int
	load, degradedLoad     float64 // 0 to 1
	panics                 bool
	members                []int // indices of endpoints
	localities             []*LocalitySpec
	byLocality             map[*LocalitySpec][]int
}

func (f *flattening) step(filter string, left int) { f.steps = append(f.steps, step{filter, left}) }

func (e *Endpoint) available() bool { return e.spec.Health == Healthy && !e.host.ejected.Load() }

func (e *Endpoint) degraded() bool { return e.spec.Health == Degraded && !e.host.ejected.Load() }

// priorities finds the load of each priority.
func (f *flattening) priorities(endpoints []*Endpoint) {
	byNumber := map[uint32]*priority{}
	for i, e := range endpoints {
		p := byNumber[e.locality.Priority]
		if p == nil {
			p = &priority{number: e.locality.Priority, byLocality: map[*LocalitySpec][]int{}}
			byNumber[p.number] = p
			f.list = append(f.list, p)
		}
		p.all++
		switch {
		case e.available():
			p.healthy++
		case e.degraded():
			p.degraded++
		}
		p.members = append(p.members, i)
		if p.byLocality[e.locality] == nil {
			p.localities = append(p.localities, e.locality)
		}
		p.byLocality[e.locality] = append(p.byLocality[e.locality], i)
	}
	slices.SortFunc(f.list, func(a, b *priority) int { return int(int64(a.number) - int64(b.number)) })

	var total float64
	for _, p := range f.list {
		total += min(1, f.factor*float64(p.healthy+p.degraded)/float64(p.all))
	}
	total = min(1, total)
	left := 1.0
	if total > 0 {
		for _, degraded := range [...]bool{false, true} {
			for _, p := range f.list {
				n, load := p.healthy, &p.load
				if degraded {
					n, load = p.degraded, &p.degradedLoad
				}
				*load = min(left, min(1, f.factor*float64(n)/float64(p.all))/total)
				if left -= *load; left < 1e-9 {
					left = 0
				}
			}
		}
	}
	if total >= 1 || f.spec.PanicPercent == 0 {
		return
	}
	everywhere := true
	for _, p := range f.list {
		p.panics = 100*float64(p.healthy+p.degraded) < f.spec.PanicPercent*float64(p.all)
		everywhere = everywhere && p.panics
	}
	if everywhere { // by the number of endpoints, whatever their health
		for _, p := range f.list {
			p.load, p.degradedLoad = float64(p.all)/float64(len(endpoints)), 0
		}
	}
}

// share divides the loads among the endpoints.
func (f *flattening) share(endpoints []*Endpoint) {
	active := 0
	mixed := f.spec.LocalityWeighted
	for _, p := range f.list {
		if p.load > 0 || p.degradedLoad > 0 {
			active++
			mixed = mixed || p.degradedLoad > 0
		}
	}
	mixed = mixed || active > 1
	for _, p := range f.list {
		if p.load == 0 && p.degradedLoad == 0 {
			continue
		}
		if p.panics {
			for _, i := range p.members {
				endpoints[i].host.panicking.Store(true)
			}
			f.step(fmt.Sprintf("of priority %d, in panic: health does not count", p.number), p.all)
		} else if len(f.list) > 1 {
			f.step(fmt.Sprintf("of priority %d, load %.0f%%", p.number, 100*(p.load+p.degradedLoad)), p.healthy+p.degraded)
		}
		if !mixed {
			for _, i := range p.members {
				if p.panics || endpoints[i].available() {
					f.weights[i] = uint32(endpoints[i].Weight)
				}
			}
			continue
		}
		f.divide(p, p.load, endpoints, func(e *Endpoint) bool { return p.panics || e.available() })
		f.divide(p, p.degradedLoad, endpoints, (*Endpoint).degraded)
	}
}

// divide gives a load of one priority to the endpoints that take selects.
func (f *flattening) divide(p *priority, load float64, endpoints []*Endpoint, take func(*Endpoint) bool) {
	if load == 0 {
		return
	}
	type part struct {
		members []int
		weight  float64
	}
	var parts []part
	var sum float64
	add := func(members []int, weight float64) {
		taken := slices.DeleteFunc(slices.Clone(members), func(i int) bool { return !take(endpoints[i]) })
		if len(taken) == 0 || weight == 0 {
			return
		}
		if f.spec.LocalityWeighted && !p.panics {
			weight *= min(1, f.factor*float64(len(taken))/float64(len(members)))
		}
		parts = append(parts, part{taken, weight})
		sum += weight
	}
	if f.spec.LocalityWeighted && !p.panics { // in panic all endpoints are one set
		for _, l := range p.localities {
			add(p.byLocality[l], float64(l.Weight))
		}
	} else {
		add(p.members, 1)
	}
	for _, one := range parts {
		var weights float64
		for _, i := range one.members {
			weights += float64(endpoints[i].Weight)
		}
		for _, i := range one.members {
			w := load * one.weight / sum * float64(endpoints[i].Weight) / weights
			f.weights[i] += uint32(max(1, math.Round(w*wholeWeight)))
		}
	}
}
