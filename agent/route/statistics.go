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

	mu       sync.Mutex
	services map[statsKey]*Stats // guarded by mu; at most limit
	others   map[statsKey]*Stats // guarded by mu; those without a service of their own
}

type statsKey struct {
	direction string
	service   registry.Service
}

func newStatistics(limit int) *statistics {
	return &statistics{limit: limit, services: map[statsKey]*Stats{}, others: map[statsKey]*Stats{}}
}

// of is the Stats of a service: its own, or, beyond the limit, the shared one.
func (x *statistics) of(direction string, s registry.Service) *Stats {
	k := statsKey{direction, s}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.services[k] == nil {
		if len(x.services) >= x.limit {
			return x.other(direction, otherServices)
		}
		x.services[k] = &Stats{}
	}
	return x.services[k]
}

func (x *statistics) unrouted(direction string) *Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.other(direction, noService)
}

// other is called with mu held.
func (x *statistics) other(direction, name string) *Stats {
	k := statsKey{direction, registry.Service{Interface: name}}
	if x.others[k] == nil {
		x.others[k] = &Stats{}
	}
	return x.others[k]
}

func (x *statistics) full() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.services) >= x.limit
}

// sweep forgets the services that no cluster uses.
func (x *statistics) sweep(used map[*Stats]bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.services, func(_ statsKey, st *Stats) bool { return !used[st] })
}

func (x *statistics) each(f func(direction string, s registry.Service, st *Stats)) {
	type named struct {
		statsKey
		*Stats
	}
	x.mu.Lock()
	list := make([]named, 0, len(x.services)+len(x.others))
	for _, m := range [...]map[statsKey]*Stats{x.services, x.others} {
		for k, st := range m {
			list = append(list, named{k, st})
		}
	}
	x.mu.Unlock()
	slices.SortFunc(list, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.direction, b.direction), compareServices(a.service, b.service))
	})
	for _, n := range list {
		f(n.direction, n.service, n.Stats)
	}
}
