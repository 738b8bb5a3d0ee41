package controlplane

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/controlplane/istio"
)

// dubboType is the type of Envoy's DRDS resources.
const dubboType = "type.googleapis.com/envoy.extensions.filters.network.dubbo_proxy.v3.MultipleRouteConfiguration"

const (
	maxListeners = 1024 // ports that nodes can ask a listener for
	maxGroups    = 256  // of nodes that are told apart
)

// state has every resource. One goroutine changes it; nodes ask from many.
type state struct {
	clusters, grpc *table // the same for all nodes
	base           *group // for nodes that say nothing of themselves

	mu       sync.Mutex // guards what follows
	view     *catalog.View
	rules    *rules
	compiled map[string]*compiled
	local    map[string]*table // listeners by kind of node and port
	groups   map[string]*group // of nodes that are sent something else than others

	epoch atomic.Uint64 // counts how often groups were made anew
}

// group is nodes that are sent the same: of routes, or of endpoints. Its tables
// have all resources, most of them those of the others.
type group struct {
	id            string
	profile       *profile
	nodes         int    // that are sent from it
	routes, dubbo *table // nil in a group of endpoints
	endpoints     *table // nil in a group of routes
	own           map[string]routed
}

func newState() *state {
	return &state{
		clusters: newTable(resource.ClusterType, true), grpc: newTable(resource.ListenerType, true),
		base: &group{profile: &profile{}, endpoints: newTable(resource.EndpointType, false), routes: newTable(resource.RouteType, false),
			dubbo: newTable(dubboType, false), own: map[string]routed{}},
		local: map[string]*table{}, groups: map[string]*group{}, view: &catalog.View{}, rules: index(&istio.Config{}), compiled: map[string]*compiled{},
	}
}

// counts of resources that changed, by type.
type counts struct{ clusters, endpoints, listeners, routes int }

// setRules replaces the folder: what it says otherwise than before is compiled
// again, and what comes out the same is no change.
func (s *state) setRules(c *istio.Config) counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.rules
	s.rules = index(c)
	if !s.rules.depends.same(old.depends) { // streams look for their groups again
		clear(s.groups)
		defer s.epoch.Add(1)
	}
	return s.compile(s.rules.differ(old))
}

// setView replaces what the registries have; changed are the hosts that differ.
func (s *state) setView(v *catalog.View, changed []string) counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view = v
	return s.compile(changed)
}

// changes are resources by name; nil: gone.
type changes map[string]*entry

func (c changes) only(gone bool) changes {
	some := changes{}
	for name, e := range c {
		if (e == nil) == gone {
			some[name] = e
		}
	}
	return some
}

// compile makes the resources of some hosts again. mu is held.
func (s *state) compile(hosts []string) counts {
	clusters, listeners, endpoints, routes := changes{}, changes{}, changes{}, changes{}
	again := len(s.base.routes.entries) == 0 // the configurations that hold all services
	services := map[string]*service{}
	for _, host := range hosts {
		old := s.compiled[host]
		if old != nil {
			for name := range old.clusters {
				clusters[name] = nil
			}
			for name := range old.endpoints {
				endpoints[name] = nil
			}
			listeners[host+":"+itoa(old.port)], routes[clusterName(old.port, "", host)] = nil, nil
		}
		svc := s.rules.service(host, s.view.Services[host])
		if svc == nil {
			delete(s.compiled, host)
			again = again || old != nil
			continue
		}
		c := s.rules.compile(svc)
		maps.Copy(clusters, c.clusters)
		maps.Copy(endpoints, c.endpoints)
		listeners[host+":"+itoa(svc.port)], routes[clusterName(svc.port, "", host)] = c.listener, c.routes
		again = again || old == nil || !old.equal(c.routed)
		s.compiled[host], services[host] = c, svc
	}
	dubbo := changes{}
	if again {
		routes[proxyRoutes], dubbo[dubboRoutes] = allRoutes(s.compiled, nil), allDubboRoutes(s.compiled, nil)
	}
	// Make before break: what is new has its endpoints before a route names it, and
	// what no route names any more goes last.
	var n counts
	n.clusters = s.clusters.update(clusters.only(false))
	n.endpoints = s.base.endpoints.update(endpoints.only(false))
	var gone []func()
	for _, g := range s.groups {
		if g.endpoints != nil {
			own := g.place(s.rules, services, endpoints)
			g.endpoints.update(own.only(false))
			gone = append(gone, func() { g.endpoints.update(own.only(true)) })
		}
	}
	n.listeners = s.grpc.update(listeners)
	n.routes = s.base.routes.update(routes)
	s.base.dubbo.update(dubbo)
	for _, g := range s.groups {
		if g.routes != nil {
			g.route(s, hosts, services, routes, dubbo)
		}
	}
	n.clusters += s.clusters.update(clusters.only(true))
	n.endpoints += s.base.endpoints.update(endpoints.only(true))
	for _, f := range gone {
		f()
	}
	return n
}

func copied(c changes) changes {
	out := make(changes, len(c))
	maps.Copy(out, c)
	return out
}

// place is a change of endpoints as a group sees it.
func (g *group) place(r *rules, services map[string]*service, all changes) changes {
	own := copied(all)
	for host, svc := range services {
		if r.depends.endpoints[host] {
			maps.Copy(own, r.endpoints(svc, g.profile))
		}
	}
	return own
}

// route brings the routes of a group up to date.
func (g *group) route(s *state, hosts []string, services map[string]*service, routes, dubbo changes) {
	routes, dubbo = copied(routes), copied(dubbo)
	again := routes[proxyRoutes] != nil
	for _, host := range hosts {
		svc := services[host]
		old, had := g.own[host]
		delete(g.own, host)
		if svc != nil && s.rules.depends.routes[host] {
			now := s.rules.routed(svc, g.profile)
			g.own[host] = now
			routes[clusterName(svc.port, "", host)] = now.routes
			again = again || !had || !old.equal(now)
		} else {
			again = again || had
		}
	}
	if again && len(g.own) > 0 {
		routes[proxyRoutes], dubbo[dubboRoutes] = allRoutes(s.compiled, g.own), allDubboRoutes(s.compiled, g.own)
	} else if again {
		routes[proxyRoutes], dubbo[dubboRoutes] = s.base.routes.lookup(proxyRoutes), s.base.dubbo.lookup(dubboRoutes)
	}
	g.routes.update(routes)
	g.dubbo.update(dubbo)
}

// kindOf tells what a node is: "grpc", "agent" or "envoy".
func kindOf(n *core.Node) string {
	fields := n.GetMetadata().GetFields()
	switch {
	case fields["GENERATOR"].GetStringValue() == "grpc", strings.HasPrefix(n.GetUserAgentName(), "gRPC"):
		return "grpc"
	case strings.HasPrefix(n.GetId(), "sidecar~") && fields["HTTP_PROXY_PORT"] != nil:
		return "agent"
	}
	return "envoy"
}

// port of the listener that a node asks for.
func portOf(n *core.Node) (uint32, error) {
	text := "20881"
	for _, key := range []string{"HTTP_PROXY_PORT", "DUBBO_PORT"} {
		if v := n.GetMetadata().GetFields()[key]; v != nil {
			text = cmp.Or(v.GetStringValue(), fmt.Sprint(v.GetNumberValue()))
		}
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("node %q: bad port %q", n.GetId(), text)
	}
	return uint32(port), nil
}

// groupOf is the group whose resources of a type a node is sent. It is to be left
// again. mu is held.
func (s *state) groupOf(typeURL string, n *core.Node) (*group, error) {
	p := profileOf(n)
	kind, id := "endpoints ", s.rules.depends.endpointGroup(p)
	if typeURL != resource.EndpointType {
		kind, id = "routes ", s.rules.depends.routeGroup(p)
	}
	if id == "" {
		return s.base, nil
	}
	id = kind + id
	if g := s.groups[id]; g != nil {
		g.nodes++
		return g, nil
	}
	if len(s.groups) == maxGroups {
		return nil, fmt.Errorf("node %q: the nodes fall into more than %d groups by what localityLbSetting, outlierDetection and sourceLabels tell apart", n.GetId(), maxGroups)
	}
	g := &group{id: id, profile: p, nodes: 1, own: map[string]routed{}}
	services := map[string]*service{}
	if typeURL == resource.EndpointType {
		g.endpoints = s.base.endpoints.clone()
		s.services(s.rules.depends.endpoints, services)
		g.endpoints.update(g.place(s.rules, services, nil))
	} else {
		g.routes, g.dubbo = s.base.routes.clone(), s.base.dubbo.clone()
		s.services(s.rules.depends.routes, services)
		g.route(s, slices.Sorted(maps.Keys(services)), services, nil, nil)
	}
	s.groups[id] = g
	return g, nil
}

// services finds the services of some hosts.
func (s *state) services(hosts map[string]bool, found map[string]*service) {
	for host := range hosts {
		if svc := s.rules.service(host, s.view.Services[host]); svc != nil {
			found[host] = svc
		}
	}
}

// leave is called when a node is sent nothing from a group any more.
func (s *state) leave(g *group) {
	if g == nil || g == s.base {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.nodes--; g.nodes == 0 && s.groups[g.id] == g {
		delete(s.groups, g.id)
	}
}

// kinds are how many groups there are beside the base.
func (s *state) kinds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.groups)
}

// table is where a node finds resources of a type, and its group if they depend on
// one; nil for types that are not served.
func (s *state) table(typeURL string, n *core.Node) (*table, *group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch typeURL {
	case resource.ClusterType:
		return s.clusters, nil, nil
	case resource.EndpointType, resource.RouteType, dubboType:
		g, err := s.groupOf(typeURL, n)
		if err != nil {
			return nil, nil, err
		}
		return map[string]*table{resource.EndpointType: g.endpoints, resource.RouteType: g.routes, dubboType: g.dubbo}[typeURL], g, nil
	case resource.ListenerType:
	default:
		return nil, nil, nil
	}
	kind := kindOf(n)
	if kind == "grpc" {
		return s.grpc, nil, nil
	}
	port, err := portOf(n)
	if err != nil {
		return nil, nil, err
	}
	id := kind + itoa(port)
	if t := s.local[id]; t != nil {
		return t, nil, nil
	}
	if len(s.local) == maxListeners {
		return nil, nil, fmt.Errorf("node %q: too many different ports are asked for", n.GetId())
	}
	l := envoyListener(port)
	if kind == "agent" {
		l = agentListener(port)
	}
	t := newTable(resource.ListenerType, true)
	t.update(changes{l.Name: newEntry(l.Name, l)})
	s.local[id] = t
	return t, nil, nil
}
