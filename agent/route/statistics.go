package route

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/meshferry/meshferry/registry"
)

// Names under which calls are counted that have no service of their own.
const (
	otherServices = "_other"    // beyond Options.MaxStats
	noService     = "_unrouted" // no cluster was found
)

// statistics finds Stats by name. Only the router's loop adds and removes.
type statistics struct {
	limit int

	mu   sync.Mutex
	byID map[statsKey]*Stats // guarded by mu; written by the loop only
}

type statsKey struct {
	direction string
	service   registry.Service
}

func newStatistics(limit int) *statistics {
	return &statistics{limit: limit, byID: map[statsKey]*Stats{}}
}

// of is the Stats of a service: its own, or, beyond the limit, the shared one.
func (x *statistics) of(direction string, s registry.Service) *Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	st := x.byID[statsKey{direction, s}]
	if st == nil && len(x.byID) < x.limit {
		st = &Stats{}
		x.byID[statsKey{direction, s}] = st
	}
	if st == nil {
		return x.reserved(direction, otherServices)
	}
	return st
}

func (x *statistics) unrouted(direction string) *Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.reserved(direction, noService)
}

// sweep makes room: at the limit, it forgets what no cluster uses.
func (x *statistics) sweep(used map[*Stats]bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.byID, func(k statsKey, st *Stats) bool {
		return !used[st] && k.service.Interface != otherServices && k.service.Interface != noService
	})
}

func (x *statistics) full() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.byID) >= x.limit
}

// reserved is called with mu held.
func (x *statistics) reserved(direction, name string) *Stats {
	k := statsKey{direction, registry.Service{Interface: name}}
	st := x.byID[k]
	if st == nil {
		st = &Stats{}
		x.byID[k] = st
	}
	return st
}

func (x *statistics) each(f func(direction string, s registry.Service, st *Stats)) {
	type named struct {
		statsKey
		*Stats
	}
	x.mu.Lock()
	list := make([]named, 0, len(x.byID))
	for k, st := range x.byID {
		list = append(list, named{k, st})
	}
	x.mu.Unlock()
	slices.SortFunc(list, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.direction, b.direction), compareServices(a.service, b.service))
	})
	for _, n := range list {
		f(n.direction, n.service, n.Stats)
	}
}
