package route

import (
	"cmp"
	"slices"

	"github.com/meshferry/meshferry/registry"
)

// ClusterStats is a reading of one cluster of rules. Counts only grow.
type ClusterStats struct {
	Name                                    string
	Endpoints, Ejected                      int   // now
	InFlight, Pending, Retries, Connections int64 // now
	Ejections                               int64
	// Kept out by circuit breakers; OverConnections are calls that had to share a
	// connection.
	OverRequests, OverPending, OverRetries, OverRetryBudget, OverConnections int64
}

// EachCluster calls f for each cluster of rules, sorted by name.
func (r *Router) EachCluster(f func(ClusterStats)) {
	var list []*Cluster
	for _, cl := range r.Snapshot().clusters.all {
		list = append(list, cl)
	}
	slices.SortFunc(list, func(a, b *Cluster) int { return cmp.Compare(a.Name, b.Name) })
	for _, cl := range list {
		s := cl.state
		out := ClusterStats{
			Name: cl.Name, Endpoints: len(cl.Endpoints), Ejections: s.ejections.Load(),
			InFlight: s.inFlight.Load(), Pending: s.pending.Load(), Retries: s.retries.Load(), Connections: s.connections.Load(),
			OverRequests: s.over.requests.Load(), OverPending: s.over.pending.Load(), OverRetries: s.over.retries.Load(),
			OverRetryBudget: s.over.budget.Load(), OverConnections: s.over.connections.Load(),
		}
		for _, e := range cl.Endpoints {
			if e.host.ejected.Load() {
				out.Ejected++
			}
		}
		f(out)
	}
}

// EachRoute calls f for each route of each service that rules decide about, sorted
// by service; name is the route's, or its place among the routes: "#2".
func (r *Router) EachRoute(f func(s registry.Service, name string, st *RouteStats)) {
	seen := map[registry.Service]*Routes{}
	for cl := range r.Snapshot().Outbound.clusters {
		if cl.routes != nil && cl.routes.spec != nil {
			seen[cl.Service] = cl.routes
		}
	}
	var services []registry.Service
	for s := range seen {
		services = append(services, s)
	}
	slices.SortFunc(services, compareServices)
	for _, s := range services {
		for _, route := range seen[s].list {
			f(s, route.label, route.Stats)
		}
	}
}

// mostRuled bounds Ruled.
const mostRuled = 16

// Ruled lists where rules lead calls of a service, as providers that say no more
// than the service and an address; at most 16, those of the first routes first. It
// is for services that no registry lists.
func (s *Snapshot) Ruled(service registry.Service) []registry.Provider {
	cl := s.Outbound.cluster(service)
	if cl == nil || cl.routes == nil {
		return nil
	}
	seen := map[*Peer]bool{}
	var list []registry.Provider
	for _, r := range cl.routes.list {
		for _, d := range r.split {
			if !d.usable() {
				continue
			}
			for _, e := range d.cluster.Endpoints {
				if seen[e.Peer] || len(list) == mostRuled {
					continue
				}
				seen[e.Peer] = true
				text := "dubbo://" + e.Peer.Addr + "/" + service.Interface + "?interface=" + service.Interface
				u, err := registry.ParseURL(text)
				if err != nil {
					continue // an address that is none
				}
				if service.Group != "" {
					u = u.With("group", service.Group)
				}
				if service.Version != "" {
					u = u.With("version", service.Version)
				}
				list = append(list, registry.Provider{URL: u, Model: registry.ModelInterface})
			}
		}
	}
	return list
}
