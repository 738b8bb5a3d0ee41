package controlplane

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	fault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	dubbo "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/controlplane/istio"
	"github.com/meshferry/meshferry/registry"
)

type (
	virtualService  = istio.Object[*networking.VirtualService]
	destinationRule = istio.Object[*networking.DestinationRule]
)

// Names of the route configurations that hold all services.
const (
	proxyRoutes = "http_proxy" // for agents, as istiod names it
	dubboRoutes = "dubbo"      // for Envoy's dubbo_proxy
)

// service is one host with everything that is known of it.
type service struct {
	registry.Service // zero if only the folder knows the host
	key, host        string
	port             uint32
	dns              bool
	endpoints        []endpointOf
}

type endpointOf struct {
	address  string
	port     uint32
	weight   uint32
	locality catalog.Locality
	has      func(labels map[string]string) bool
}

// rules is a folder by host.
type rules struct {
	virtual     map[string]*virtualService
	destination map[string]*destinationRule
	entries     map[string]*istio.Object[*networking.ServiceEntry]
	workloads   []istio.Object[*networking.WorkloadEntry]
	depends     dependence
}

func index(c *istio.Config) *rules {
	r := &rules{map[string]*virtualService{}, map[string]*destinationRule{}, map[string]*istio.Object[*networking.ServiceEntry]{}, c.WorkloadEntries, depends(c)}
	for i := range c.VirtualServices {
		for _, h := range c.VirtualServices[i].Spec.Hosts {
			r.virtual[istio.Host(h)] = &c.VirtualServices[i]
		}
	}
	for i := range c.DestinationRules {
		r.destination[istio.Host(c.DestinationRules[i].Spec.Host)] = &c.DestinationRules[i]
	}
	for i := range c.ServiceEntries {
		for _, h := range c.ServiceEntries[i].Spec.Hosts {
			r.entries[istio.Host(h)] = &c.ServiceEntries[i]
		}
	}
	return r
}

// differ are the hosts for which another folder says something else. A route's
// hash comes from the rule of its destination.
func (r *rules) differ(old *rules) []string {
	hosts := map[string]bool{}
	changed(hosts, r.virtual, old.virtual)
	changed(hosts, r.entries, old.entries)
	rules := map[string]bool{}
	changed(rules, r.destination, old.destination)
	for host, vs := range r.virtual {
		for _, http := range vs.Spec.Http {
			for _, d := range http.Route {
				if rules[istio.Host(d.Destination.GetHost())] {
					hosts[host] = true
				}
			}
		}
	}
	maps.Copy(hosts, rules)
	if !slices.EqualFunc(r.workloads, old.workloads, istio.Object[*networking.WorkloadEntry].Equal) {
		for host, e := range r.entries {
			if e.Spec.WorkloadSelector != nil {
				hosts[host] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(hosts))
}

// changed adds the hosts whose object is another one.
func changed[T proto.Message](hosts map[string]bool, now, before map[string]*istio.Object[T]) {
	for host, o := range now {
		if old := before[host]; old == nil || !o.Equal(*old) {
			hosts[host] = true
		}
	}
	for host := range before {
		if now[host] == nil {
			hosts[host] = true
		}
	}
}

// service joins what the registries and the folder know of a host; nil when
// nobody knows it. A ServiceEntry for a service of a registry adds endpoints.
func (r *rules) service(host string, s *catalog.Service) *service {
	e := r.entries[host]
	if s == nil && e == nil {
		return nil
	}
	out := &service{host: host, port: catalog.MeshPort}
	seen := map[[2]any]bool{}
	add := func(p endpointOf) {
		if id := [2]any{p.address, p.port}; !seen[id] {
			seen[id] = true
			out.endpoints = append(out.endpoints, p)
		}
	}
	if s != nil {
		out.Service, out.key = s.Service, s.Key()
		for _, p := range s.Endpoints {
			add(endpointOf{p.Address, uint32(p.Port), uint32(p.Weight), p.Locality(), p.Has})
		}
	}
	if e != nil {
		port := e.Spec.Ports[0]
		if s == nil {
			out.port = port.Number
			out.dns = e.Spec.Resolution == networking.ServiceEntry_DNS
		}
		list := e.Spec.Endpoints
		if sel := e.Spec.WorkloadSelector; sel != nil {
			for _, w := range r.workloads {
				if w.Namespace == e.Namespace && contains(w.Spec.Labels, sel.Labels) {
					list = append(slices.Clip(list), w.Spec)
				}
			}
		}
		for _, w := range list {
			add(endpointOf{w.Address, cmp.Or(w.Ports[port.Name], port.TargetPort, port.Number), max(w.Weight, 1), locality(w.Locality),
				func(want map[string]string) bool { return contains(w.Labels, want) }})
		}
		if out.dns && len(list) == 0 {
			add(endpointOf{host, port.Number, 1, catalog.Locality{}, func(map[string]string) bool { return true }})
		}
	}
	return out
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

func locality(text string) catalog.Locality {
	var l catalog.Locality
	for i, part := range splitN(text, '/', 3) {
		*[]*string{&l.Region, &l.Zone, &l.SubZone}[i] = part
	}
	return l
}

func splitN(s string, sep byte, n int) []string {
	var list []string
	for len(list) < n-1 {
		i := slices.Index([]byte(s), sep)
		if i < 0 {
			break
		}
		list, s = append(list, s[:i]), s[i+1:]
	}
	return append(list, s)
}

// compiled is what one host gives.
type compiled struct {
	service             *service
	clusters, endpoints map[string]*entry
	listener            *entry // for gRPC clients
	routed
	named int // how many of group and version the service has
	port  uint32
}

// routed are the routes of one host.
type routed struct {
	virtual []byte // the virtual host, as a field of http_proxy
	dubbo   []byte // the same for dubbo_proxy; nil for a host without an interface
	routes  *entry // for gRPC clients
}

func (r routed) equal(o routed) bool {
	return bytes.Equal(r.virtual, o.virtual) && bytes.Equal(r.dubbo, o.dubbo)
}

// Numbers of the fields that make one configuration of many hosts.
const (
	fieldVirtualHosts = 2 // of RouteConfiguration
	fieldRouteConfig  = 4 // of MultipleRouteConfiguration
)

func asField(num protowire.Number, m proto.Message) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), marshal(m))
}

// compile makes what is the same for all nodes, and what nodes that say nothing of
// themselves are sent.
func (r *rules) compile(s *service) *compiled {
	rule := r.destination[s.host]
	c := &compiled{service: s, clusters: map[string]*entry{}, port: s.port}
	for _, m := range s.clusters(rule) {
		c.clusters[m.Name] = newEntry(m.Name, m)
	}
	c.listener = newEntry(s.host+":"+itoa(s.port), grpcListener(s))
	for _, part := range []string{s.Group, s.Version} {
		if part != "" {
			c.named++
		}
	}
	c.routed = r.routed(s, &profile{})
	c.endpoints = r.endpoints(s, &profile{})
	return c
}

// routed are the routes of a host for nodes like p.
func (r *rules) routed(s *service, p *profile) routed {
	vs := r.virtual[s.host]
	name := clusterName(s.port, "", s.host)
	out := routed{
		virtual: asField(fieldVirtualHosts, s.virtualHost(vs, r.destination, p, false)),
		routes:  newEntry(name, &route.RouteConfiguration{Name: name, VirtualHosts: []*route.VirtualHost{s.virtualHost(vs, r.destination, p, true)}}),
	}
	if s.Interface != "" {
		if d := s.dubboRoutes(vs, r.destination, p); len(d.Routes) > 0 {
			out.dubbo = asField(fieldRouteConfig, d)
		}
	}
	return out
}

// endpoints are those of a host's clusters for nodes like p.
func (r *rules) endpoints(s *service, p *profile) map[string]*entry {
	out := map[string]*entry{}
	if !s.dns {
		for _, m := range s.assignments(r.destination[s.host], p) {
			out[m.ClusterName] = newEntry(m.ClusterName, m)
		}
	}
	return out
}

func httpManager(routes, prefix string) *hcm.HttpConnectionManager {
	return &hcm.HttpConnectionManager{
		StatPrefix:     prefix,
		RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{ConfigSource: ads(), RouteConfigName: routes}},
		HttpFilters: []*hcm.HttpFilter{
			{Name: "envoy.filters.http.fault", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(&fault.HTTPFault{})}},
			{Name: "envoy.filters.http.router", ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: pack(&router.Router{})}},
		},
	}
}

func grpcListener(s *service) *listener.Listener {
	return &listener.Listener{
		Name:        s.host + ":" + itoa(s.port),
		Address:     socket("0.0.0.0", s.port),
		ApiListener: &listener.ApiListener{ApiListener: pack(httpManager(clusterName(s.port, "", s.host), ""))},
	}
}

// agentListener is the one that istiod sends to a sidecar with HTTP_PROXY_PORT and
// INTERCEPTION_MODE NONE.
func agentListener(port uint32) *listener.Listener {
	name := "127.0.0.1_" + itoa(port)
	return filtered(name, port, "envoy.filters.network.http_connection_manager", httpManager(proxyRoutes, "outbound_"+name+";"))
}

// envoyListener takes dubbo2 calls, with routes of their own that change without
// draining connections (DRDS).
func envoyListener(port uint32) *listener.Listener {
	return filtered("dubbo_"+itoa(port), port, "envoy.filters.network.dubbo_proxy", &dubbo.DubboProxy{
		StatPrefix:     "dubbo_" + itoa(port),
		RouteSpecifier: &dubbo.DubboProxy_Drds{Drds: &dubbo.Drds{ConfigSource: ads(), RouteConfigName: dubboRoutes}},
		DubboFilters:   []*dubbo.DubboFilter{{Name: "envoy.filters.dubbo.router"}},
	})
}

func filtered(name string, port uint32, filter string, config proto.Message) *listener.Listener {
	return &listener.Listener{
		Name: name, Address: socket("127.0.0.1", port), TrafficDirection: core.TrafficDirection_OUTBOUND,
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{Name: filter, ConfigType: &listener.Filter_TypedConfig{TypedConfig: pack(config)}}}}},
	}
}

// allRoutes is the route configuration of agents. The hosts are put together as
// they were marshalled, so that a change of one costs no work on the others. Of
// some hosts a group of nodes has routes of its own.
func allRoutes(all map[string]*compiled, own map[string]routed) *entry {
	m := &route.RouteConfiguration{Name: proxyRoutes, ValidateClusters: wrapperspb.Bool(false), IgnorePortInHostMatching: true}
	return together(m, proxyRoutes, all, func(host string, c *compiled) []byte {
		if r, ok := own[host]; ok {
			return r.virtual
		}
		return c.virtual
	})
}

// allDubboRoutes is that of Envoy's dubbo_proxy. An empty group or version takes
// any there and the first that fits wins, so those that name more come first.
func allDubboRoutes(all map[string]*compiled, own map[string]routed) *entry {
	var parts []func(string, *compiled) []byte
	for _, n := range []int{2, 1, 0} {
		parts = append(parts, func(host string, c *compiled) []byte {
			if c.named != n {
				return nil
			}
			if r, ok := own[host]; ok {
				return r.dubbo
			}
			return c.dubbo
		})
	}
	return together(&dubbo.MultipleRouteConfiguration{Name: dubboRoutes}, dubboRoutes, all, parts...)
}

// together is a message with further fields, by host.
func together(m proto.Message, name string, all map[string]*compiled, parts ...func(string, *compiled) []byte) *entry {
	a := pack(m)
	hosts := slices.Sorted(maps.Keys(all))
	size := len(a.Value)
	for _, c := range all {
		size += len(c.virtual)
	}
	a.Value = slices.Grow(a.Value, size)
	for _, part := range parts {
		for _, host := range hosts {
			a.Value = append(a.Value, part(host, all[host])...)
		}
	}
	return packed(name, a)
}
