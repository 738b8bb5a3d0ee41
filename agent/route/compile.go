package route

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/meshferry/meshferry/registry"
)

// entry is an endpoint on its way into the tables.
type entry struct {
	service  registry.Service
	path     string
	endpoint *Endpoint // nil: of a service that rules alone know
}

// hosts compiles the virtual hosts of one name, one for each version: from the
// providers of the interface of that name, and for versions without one from
// those whose URL has it as path.
func (c *compiler) hosts(direction, name string, named, aliased []entry) []*VirtualHost {
	var list []*VirtualHost
	for _, entries := range [][]entry{named, aliased} {
		byVersion := map[string][]entry{}
		for _, e := range entries {
			byVersion[e.service.Version] = append(byVersion[e.service.Version], e)
		}
		for _, h := range list { // of the interface: these hide the aliases
			delete(byVersion, h.version)
		}
		for version, es := range byVersion {
			list = append(list, c.host(direction, name, version, es))
		}
	}
	slices.SortFunc(list, func(a, b *VirtualHost) int { return strings.Compare(a.version, b.version) })
	return list
}

func (c *compiler) host(direction, name, version string, entries []entry) *VirtualHost {
	v := &VirtualHost{version: version}
	onePath, oneProcess := true, direction == Inbound
	byGroup := map[string][]entry{}
	for _, e := range entries {
		byGroup[e.service.Group] = append(byGroup[e.service.Group], e)
		onePath = onePath && e.path == entries[0].path
		oneProcess = oneProcess && e.endpoint.Peer == entries[0].endpoint.Peer
	}
	for group := range byGroup {
		v.groups = append(v.groups, group)
	}
	slices.Sort(v.groups)
	for _, group := range v.groups {
		es := byGroup[group]
		if exact := slices.DeleteFunc(slices.Clone(es), func(e entry) bool { return e.path != name }); len(exact) > 0 {
			es = exact
		}
		v.clusters = append(v.clusters, c.cluster(direction, es[0].service, es))
	}
	switch {
	case len(v.clusters) == 1 && onePath && !c.otherwiseAsked(direction, v.clusters[0].Service):
		v.only = v.clusters[0]
	case oneProcess:
		s := entries[0].service
		s.Group = "*"
		v.only = c.cluster(direction, s, entries)
	}
	return v
}

// otherwiseAsked tells whether a local consumer subscribed to another group of
// this interface and version. Its calls must be told apart although only one
// group is there.
func (c *compiler) otherwiseAsked(direction string, s registry.Service) bool {
	if direction == Inbound {
		return false
	}
	for _, caller := range c.callers[s.Interface] {
		any := caller.Service
		any.Group = "*"
		if any.Matches(s) && !caller.Service.Matches(s) {
			return true
		}
	}
	return false
}

// cluster compiles one cluster. Each (address, origin) counts once.
func (c *compiler) cluster(direction string, s registry.Service, entries []entry) *Cluster {
	cl := &Cluster{Service: s, Stats: c.stats.of(direction, s), balance: new(atomic.Pointer[balance])}
	cl.turn = &cl.Stats.turn
	type place struct {
		peer   *Peer
		origin string
	}
	counted := map[place]bool{}
	for _, e := range entries {
		if e.endpoint == nil {
			continue // of rules alone
		}
		at := place{e.endpoint.Peer, e.endpoint.Origin}
		if counted[at] {
			continue
		}
		counted[at] = true
		cl.Endpoints = append(cl.Endpoints, e.endpoint)
		cl.Dedicated = cl.Dedicated || e.endpoint.facts.callsBack
		cl.TokenPerEndpoint = cl.TokenPerEndpoint || e.endpoint.Token != cl.Endpoints[0].Token
	}
	var callers []Caller
	if direction == Outbound {
		for _, caller := range c.callers[s.Interface] {
			if caller.Service.Matches(s) {
				callers = append(callers, caller)
			}
		}
	}
	cl.Policy, cl.policyWhy = c.policy(s, callers, cl.Endpoints)
	cl.deadlines = newDeadlines(callers, cl.Endpoints)
	if c.weigh(cl) {
		c.growing[cl] = true
	}
	if direction == Outbound {
		cl.routes = c.routesOf(cl)
	}
	return cl
}

// weigh makes the cluster's balance and tells whether endpoints warm up.
func (c *compiler) weigh(cl *Cluster) (warming bool) {
	weights := make([]uint32, len(cl.Endpoints))
	reserve, preferred := make([]uint32, len(cl.Endpoints)), false
	for i, e := range cl.Endpoints {
		w, more := e.effective(c.now)
		weights[i], warming = w, warming || more
		preferred = preferred || w > 0 && !e.second
	}
	if preferred { // those of other registries wait until none of these can be called
		for i, e := range cl.Endpoints {
			if e.second {
				reserve[i], weights[i] = weights[i], 0
			}
		}
	}
	b := newBalance(weights, cl.Policy)
	if preferred {
		b.reserve = reserve
	}
	cl.balance.Store(b)
	return warming
}

// policy resolves the load balancing of a cluster, and says from where it is:
// the configuration, then the subscriptions, then the provider URLs.
func (c *compiler) policy(s registry.Service, callers []Caller, providers []*Endpoint) (Policy, string) {
	var configured, subscribed, provided []string
	if c.o.Policy != nil {
		configured = []string{c.o.Policy(s)}
	}
	for _, caller := range callers {
		subscribed = append(subscribed, caller.URL.Param("loadbalance"))
	}
	for _, e := range providers {
		provided = append(provided, e.facts.loadbalance)
	}
	var note string
	for _, from := range [...]struct {
		who   string
		names []string
	}{{"configuration", configured}, {"subscription", subscribed}, {"provider", provided}} {
		names := slices.DeleteFunc(from.names, func(name string) bool { return name == "" })
		slices.Sort(names)
		names = slices.Compact(names)
		switch len(names) {
		case 0:
		case 1:
			p, known := ParsePolicy(names[0])
			if !known {
				return p, note + from.who + " wants " + names[0] + ", which is not known"
			}
			return p, note + from.who
		default:
			note += from.who + "s disagree: " + strings.Join(names, ", ") + "; "
		}
	}
	return Random, note + "default"
}

// same tells whether two endpoints stand for the same provider.
func same(a, b *Endpoint) bool { return a == b || a.Peer == b.Peer && a.Origin == b.Origin }

func newEndpoint(p *Peer, u registry.URL, f *facts) *Endpoint {
	return &Endpoint{Peer: p, URL: u, Origin: f.origin, Mesh: f.mesh, Token: f.token, Weight: f.weight, facts: f}
}
