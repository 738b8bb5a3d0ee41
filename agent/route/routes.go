package route

import (
	"math/rand/v2"
	"sort"
	"sync/atomic"
	"time"
)

// Routes is what rules say about one service. Its methods may be called from any
// goroutine, take no lock and allocate nothing.
type Routes struct {
	list    []*Route
	spec    *RouteSpec // nil: there is none
	waiting bool       // the source has not told yet
	why     string     // what there is to say about it, for people
}

// Waiting tells that the source has not said yet whether it has rules for the
// service. Router.Await waits for it.
func (r *Routes) Waiting() bool { return r.waiting }

// Why says why no route was found.
func (r *Routes) Why() string {
	if r.spec == nil {
		return r.why
	}
	return "no route of " + r.spec.Name + " matches the call"
}

// ByMethod finds the route of a method if nothing else decides: then the answer,
// which may be nil, holds for every call of it. Else decided is false, and Find
// needs the attachments.
func (r *Routes) ByMethod(method []byte) (route *Route, decided bool) {
	for _, one := range r.list {
		if one.when.byMethod(method) {
			if one.when.open() {
				return nil, false
			}
			return one, true
		}
	}
	return nil, true
}

// Find is the route of a call, nil if none matches. a is nil when the attachments
// cannot be read: then every attachment is missing.
func (r *Routes) Find(method []byte, a Attachments) *Route { return r.find(method, a, rand.Uint64N) }

func (r *Routes) find(method []byte, a Attachments, draw func(uint64) uint64) *Route {
	for _, one := range r.list {
		if one.when.byMethod(method) && one.when.holds(a, draw) {
			return one
		}
	}
	return nil
}

// Route is one rule, ready for calls of one service.
type Route struct {
	*RouteRule
	Stats *RouteStats // survives snapshots

	label   string
	when    *conditions
	split   []destination // those with weight
	upTo    []uint64      // sums of weights up to and with each of split
	total   uint64
	there   []int // of split, those that have endpoints
	mirrors []mirrorTarget
}

// destination is a WeightedCluster.
type destination struct {
	*WeightedCluster
	cluster *Cluster // nil: missing
}

type mirrorTarget struct {
	share   uint32
	cluster *Cluster
}

// RouteStats counts what a route did to calls.
type RouteStats struct {
	Calls   atomic.Int64 // that matched
	Missing atomic.Int64 // drawn for a cluster that is missing or has no endpoints
	Delayed atomic.Int64 // by Fault
	Aborted atomic.Int64 // by Fault
	Retried atomic.Int64 // tries that Retry allowed
	Limited atomic.Int64 // retries that the budget or a limit forbade
	Copied  atomic.Int64 // mirrored
}

// Choose draws the cluster for a call by the weights, exactly: a cluster of weight 0
// is never chosen. When the one drawn is missing or has no endpoints, its share is
// divided between the others and counted. It returns nil when none is left.
// changes are those of the destination.
func (r *Route) Choose() (cl *Cluster, changes *Changes) { return r.choose(rand.Uint64N) }

func (r *Route) choose(draw func(uint64) uint64) (*Cluster, *Changes) {
	if len(r.split) == 0 {
		return nil, nil
	}
	d := &r.split[0]
	if len(r.split) > 1 {
		d = r.drawn(draw)
	}
	if d.usable() {
		return d.cluster, &d.Attachments
	}
	r.Stats.Missing.Add(1)
	if len(r.there) == 0 {
		return d.cluster, &d.Attachments // with no endpoints, or nil
	}
	var total uint64
	for _, i := range r.there {
		total += uint64(r.split[i].Weight)
	}
	at := draw(total)
	for _, i := range r.there {
		w := uint64(r.split[i].Weight)
		if at < w {
			d = &r.split[i]
			break
		}
		at -= w
	}
	return d.cluster, &d.Attachments
}

func (r *Route) drawn(draw func(uint64) uint64) *destination {
	at := draw(r.total)
	return &r.split[sort.Search(len(r.upTo), func(i int) bool { return at < r.upTo[i] })]
}

func (d *destination) usable() bool { return d.cluster != nil && len(d.cluster.Endpoints) > 0 }

// EachMirror calls f for each cluster that this call is to be copied to.
func (r *Route) EachMirror(f func(*Cluster)) {
	for _, m := range r.mirrors {
		if m.cluster != nil && chance(m.share) {
			r.Stats.Copied.Add(1)
			f(m.cluster)
		}
	}
}

// Mirrored tells whether calls may be copied.
func (r *Route) Mirrored() bool { return len(r.mirrors) > 0 }

// Inject draws what Fault does to a call.
func (r *Route) Inject() (delay time.Duration, abort bool) {
	if r.Fault.DelayShare > 0 && r.Fault.Delay > 0 && chance(r.Fault.DelayShare) {
		r.Stats.Delayed.Add(1)
		delay = r.Fault.Delay
	}
	if abort = r.Fault.AbortShare > 0 && chance(r.Fault.AbortShare); abort {
		r.Stats.Aborted.Add(1)
	}
	return delay, abort
}

func chance(share uint32) bool { return share >= Million || rand.Uint32N(Million) < share }

// Empty tells that nothing is changed.
func (c *Changes) Empty() bool { return len(c.Remove) == 0 && len(c.Set) == 0 }

// Key is the hash of a call for a cluster whose policy is a hash; false: no policy
// of the route has a value, and any endpoint will do.
func (r *Route) Key(method []byte, source []byte, a Attachments) (uint64, bool) {
	var key uint64
	found := false
	for i := range r.Hash {
		p := &r.Hash[i]
		var text []byte
		there := false
		switch {
		case p.Attachment != "":
			if a != nil {
				text, there = a.Lookup(p.Attachment)
			}
		case p.Method:
			text, there = method, true
		case p.Source:
			text, there = source, len(source) > 0
		}
		if !there {
			continue
		}
		key = (key<<1 | key>>63) ^ hashBytes(text)
		if found = true; p.Terminal {
			break
		}
	}
	return key, found
}

// HashesAttachments tells whether Key looks at attachments.
func (r *Route) HashesAttachments() bool {
	for _, p := range r.Hash {
		if p.Attachment != "" {
			return true
		}
	}
	return false
}

// newRoute makes a rule ready. clusters gives the cluster of a name, nil if it is
// missing.
func newRoute(rule *RouteRule, label string, when *conditions, stats *RouteStats, clusters func(name string) *Cluster) *Route {
	r := &Route{RouteRule: rule, label: label, when: when, Stats: stats}
	for i := range rule.Clusters {
		w := &rule.Clusters[i]
		if w.Weight == 0 {
			continue
		}
		d := destination{w, clusters(w.Cluster)}
		if d.usable() {
			r.there = append(r.there, len(r.split))
		}
		r.split = append(r.split, d)
		r.total += uint64(w.Weight)
		r.upTo = append(r.upTo, r.total)
	}
	for _, m := range rule.Mirrors {
		if m.Share == 0 {
			continue
		}
		cl := clusters(m.Cluster)
		if cl != nil {
			shadow := *cl
			shadow.Stats = &Stats{} // a copy is no call of the service
			cl = &shadow
		}
		r.mirrors = append(r.mirrors, mirrorTarget{m.Share, cl})
	}
	return r
}

// clusterNames lists the clusters that a spec names, mirrors too.
func (s *RouteSpec) clusterNames(yield func(name string, needed bool) bool) {
	for i := range s.Routes {
		for _, c := range s.Routes[i].Clusters {
			if c.Weight > 0 && !yield(c.Cluster, true) {
				return
			}
		}
		for _, m := range s.Routes[i].Mirrors {
			if !yield(m.Cluster, false) {
				return
			}
		}
	}
}
