package controlplane

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/controlplane/istio"
)

// dubboType is the type of Envoy's DRDS resources.
const dubboType = "type.googleapis.com/envoy.extensions.filters.network.dubbo_proxy.v3.MultipleRouteConfiguration"

// maxListeners bounds the ports that nodes can ask a listener for.
const maxListeners = 1024

// state has every resource. set and apply are called by one goroutine; nodes ask
// the tables from many.
type state struct {
	clusters, endpoints, routes, dubbo, grpc *table

	mu    sync.Mutex
	local map[string]*table // guarded by mu; listeners by kind of node and port

	// owned by the goroutine of set and apply
	view     *catalog.View
	rules    *rules
	compiled map[string]*compiled
}

func newState() *state {
	return &state{
		clusters: newTable(resource.ClusterType, true), endpoints: newTable(resource.EndpointType, false),
		routes: newTable(resource.RouteType, false), dubbo: newTable(dubboType, false), grpc: newTable(resource.ListenerType, true),
		local: map[string]*table{}, view: &catalog.View{}, rules: index(&istio.Config{}), compiled: map[string]*compiled{},
	}
}

// counts of resources that changed, by type.
type counts struct{ clusters, endpoints, listeners, routes int }

// setRules replaces the folder: what it says otherwise than before is compiled
// again, and what comes out the same is no change.
func (s *state) setRules(c *istio.Config) counts {
	old := s.rules
	s.rules = index(c)
	return s.compile(s.rules.differ(old))
}

// setView replaces what the registries have; changed are the hosts that differ.
func (s *state) setView(v *catalog.View, changed []string) counts {
	s.view = v
	return s.compile(changed)
}

func (s *state) compile(hosts []string) counts {
	clusters, endpoints, routes, listeners := map[string]*entry{}, map[string]*entry{}, map[string]*entry{}, map[string]*entry{}
	again := false // the configurations that hold all services
	for _, host := range hosts {
		old := s.compiled[host]
		var oldPort, newPort uint32
		if old != nil {
			for name := range old.clusters {
				clusters[name] = nil
			}
			for name := range old.endpoints {
				endpoints[name] = nil
			}
			oldPort = old.port
			listeners[host+":"+itoa(oldPort)], routes[clusterName(oldPort, "", host)] = nil, nil
		}
		svc := s.rules.service(host, s.view.Services[host])
		if svc == nil {
			delete(s.compiled, host)
			again = again || old != nil
			continue
		}
		c := s.rules.compile(svc)
		newPort = svc.port
		maps.Copy(clusters, c.clusters)
		maps.Copy(endpoints, c.endpoints)
		listeners[host+":"+itoa(newPort)], routes[clusterName(newPort, "", host)] = c.listener, c.routes
		again = again || old == nil || !bytes.Equal(old.virtual, c.virtual) || !bytes.Equal(old.dubbo, c.dubbo)
		s.compiled[host] = c
	}
	if again || len(s.routes.entries) == 0 {
		routes[proxyRoutes] = allRoutes(s.compiled)
		s.dubbo.update(map[string]*entry{dubboRoutes: allDubboRoutes(s.compiled)})
	}
	// Make before break: what is new has its endpoints before a route names it, and
	// what no route names any more goes last.
	gone, kept := map[string]*entry{}, map[string]*entry{}
	for name, e := range clusters {
		if e == nil {
			gone[name] = nil
		} else {
			kept[name] = e
		}
	}
	var n counts
	n.clusters = s.clusters.update(kept)
	n.endpoints = s.endpoints.update(present(endpoints))
	n.listeners = s.grpc.update(listeners)
	n.routes = s.routes.update(routes)
	n.clusters += s.clusters.update(gone)
	n.endpoints += s.endpoints.update(absent(endpoints))
	return n
}

func present(all map[string]*entry) map[string]*entry {
	return filter(all, func(e *entry) bool { return e != nil })
}

func absent(all map[string]*entry) map[string]*entry {
	return filter(all, func(e *entry) bool { return e == nil })
}

func filter(all map[string]*entry, keep func(*entry) bool) map[string]*entry {
	some := map[string]*entry{}
	for name, e := range all {
		if keep(e) {
			some[name] = e
		}
	}
	return some
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

// table is where a node finds resources of a type; nil for types that are not
// served.
func (s *state) table(typeURL string, n *core.Node) (*table, error) {
	switch typeURL {
	case resource.ClusterType:
		return s.clusters, nil
	case resource.EndpointType:
		return s.endpoints, nil
	case resource.RouteType:
		return s.routes, nil
	case dubboType:
		return s.dubbo, nil
	case resource.ListenerType:
	default:
		return nil, nil
	}
	kind := kindOf(n)
	if kind == "grpc" {
		return s.grpc, nil
	}
	port, err := portOf(n)
	if err != nil {
		return nil, err
	}
	id := kind + itoa(port)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.local[id]; t != nil {
		return t, nil
	}
	if len(s.local) == maxListeners {
		return nil, fmt.Errorf("node %q: too many different ports are asked for", n.GetId())
	}
	l := envoyListener(port)
	if kind == "agent" {
		l = agentListener(port)
	}
	t := newTable(resource.ListenerType, true)
	t.update(map[string]*entry{l.Name: newEntry(l.Name, l)})
	s.local[id] = t
	return t, nil
}
