package xds

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	dubbov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
	"github.com/meshferry/meshferry/xdsclient"
)

// SourceName is RuleUpdate.Source.
const SourceName = "xds"

// Mode is how the control plane is asked.
type Mode string

// Modes.
const (
	// Sidecar asks for everything that the node may see, as Envoy does, and takes the
	// routes of the listener at the agent's own address.
	Sidecar Mode = "sidecar"
	// GRPC asks for each service by name, as a gRPC client does.
	GRPC Mode = "grpc"
)

// Options of New.
type Options struct {
	// Client is how servers are reached. Wildcard, Follow and Extensions are set here.
	Client xdsclient.Options
	Mode   Mode // "": Sidecar
	// Listeners are the names of those whose routes count, in mode sidecar; none:
	// every listener.
	Listeners []string
	// Port is that of the services in the control plane: of domains, and of
	// listeners in mode grpc.
	Port      int
	MeshPorts []int // endpoints with one of these are other agents
	// Host names a service; nil: rewrite.Host.
	Host func(registry.Service) string
	Log  *slog.Logger
}

// Source is a route.RuleSource that asks ADS servers.
type Source struct {
	// immutable after New
	o      Options
	client *xdsclient.Client
	kick   chan struct{} // capacity 1: the wanted set changed

	mu     sync.Mutex
	wanted []string            // guarded by mu: listeners, sorted; mode grpc
	notes  map[string][]string // guarded by mu: what is not honoured, by resource

	t translator // owned by Run
}

var _ route.RuleSource = (*Source)(nil)

// New is a source that does not run yet.
func New(o Options) (*Source, error) {
	o.Mode = cmp.Or(o.Mode, Sidecar)
	if o.Mode != Sidecar && o.Mode != GRPC {
		return nil, fmt.Errorf("xds: mode %q is neither sidecar nor grpc", o.Mode)
	}
	if o.Port <= 0 || o.Port > 65535 {
		return nil, fmt.Errorf("xds: port %d", o.Port)
	}
	if o.Host == nil {
		o.Host = rewrite.Host
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Client.Wildcard = o.Mode == Sidecar
	o.Client.Extensions = []xdsclient.Extension{dubboProxy}
	if o.Client.Log == nil {
		o.Client.Log = o.Log
	}
	o.Client.Implied = func(name string) *routev3.VirtualHost { return impliedHost(name, o.Port) }
	if o.Mode == Sidecar && len(o.Listeners) > 0 {
		o.Client.Follow = func(name string) bool { return slices.Contains(o.Listeners, name) }
	}
	c, err := xdsclient.New(o.Client)
	if err != nil {
		return nil, err
	}
	return &Source{
		o: o, client: c, kick: make(chan struct{}, 1), notes: map[string][]string{},
		t: newTranslator(o.Mode, o.Port, o.MeshPorts),
	}, nil
}

// SetServices implements route.RuleSource.
func (s *Source) SetServices(set []registry.Service) {
	if s.o.Mode != GRPC {
		return
	}
	var names []string
	for _, service := range set {
		names = append(names, s.o.Host(service)+":"+strconv.Itoa(s.o.Port))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	s.mu.Lock()
	same := slices.Equal(s.wanted, names)
	s.wanted = names
	s.mu.Unlock()
	if same {
		return
	}
	s.client.SetListeners(names)
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Run implements route.RuleSource.
func (s *Source) Run(ctx context.Context, ch chan<- route.RuleUpdate) error {
	g, ctx := errgroup.WithContext(ctx)
	updates := make(chan xdsclient.Update)
	g.Go(func() error { return s.client.Run(ctx, updates) })
	g.Go(func() error { return s.loop(ctx, updates, ch) })
	return g.Wait()
}

func (s *Source) loop(ctx context.Context, updates <-chan xdsclient.Update, ch chan<- route.RuleUpdate) error {
	ready, synced := false, false
	for {
		var out route.RuleUpdate
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick:
			out.Source = SourceName
		case u := <-updates:
			ready = u.Ready
			var changed map[string][]string
			out, changed = s.t.translate(u)
			s.note(changed, &out)
		}
		s.forget()
		out.Synced = ready && s.answered()
		if out.Synced == synced && len(out.Routes)+len(out.Clusters)+len(out.Endpoints) == 0 && out.Unsupported == nil {
			continue
		}
		synced = out.Synced
		select {
		case <-ctx.Done():
			return nil
		case ch <- out:
		}
	}
}

// forget drops the answers about listeners that are not asked for any more.
func (s *Source) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.t.answered {
		if _, wanted := slices.BinarySearch(s.wanted, name); !wanted {
			delete(s.t.answered, name)
		}
	}
}

// answered tells whether the server said something about every listener that is
// asked for by name.
func (s *Source) answered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.wanted {
		if _, ok := s.t.answered[name]; !ok {
			return false
		}
	}
	return true
}

// note keeps what cannot be honoured. The router says it: what belongs to a rule or
// a cluster is there, the rest is in RuleUpdate.Unsupported.
func (s *Source) note(changed map[string][]string, out *route.RuleUpdate) {
	if len(changed) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	general := false
	for resource, lines := range changed {
		if len(lines) == 0 {
			delete(s.notes, resource)
		} else {
			s.notes[resource] = lines
		}
		_, isGeneral := s.t.general[resource]
		general = general || isGeneral
	}
	if general {
		out.Unsupported = maps.Clone(s.t.generalNotes())
	}
}

// Unsupported is what cannot be honoured, by resource.
func (s *Source) Unsupported() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.notes)
}

// Dump is the state of the client, for the admin port.
func (s *Source) Dump() xdsclient.Dump { return s.client.Dump() }

// Status is the state of the client without its resources.
func (s *Source) Status() xdsclient.Status { return s.client.Status() }

// translator remembers what it has translated.
type translator struct {
	mode      Mode
	port      int
	meshPorts []int

	answered  map[string]struct{} // listeners
	clusters  map[string]*xdsclient.Cluster
	hosts     map[string]map[*xdsclient.VirtualHost]string // by route: names of the specs they became, "" for none
	dubbo     map[string][]string                          // by listener or DRDS resource: names of its specs
	general   map[string][]string                          // what is not honoured of listeners
	listeners map[string]*xdsclient.Listener
}

func newTranslator(mode Mode, port int, meshPorts []int) translator {
	return translator{
		mode: mode, port: port, meshPorts: meshPorts, answered: map[string]struct{}{}, clusters: map[string]*xdsclient.Cluster{},
		hosts: map[string]map[*xdsclient.VirtualHost]string{}, dubbo: map[string][]string{}, general: map[string][]string{},
		listeners: map[string]*xdsclient.Listener{},
	}
}

func (t *translator) generalNotes() map[string][]string {
	out := map[string][]string{}
	for k, v := range t.general {
		if len(v) > 0 {
			out[k] = v
		}
	}
	return out
}

// translate gives the change, and the notes of every resource that was looked at.
func (t *translator) translate(u xdsclient.Update) (route.RuleUpdate, map[string][]string) {
	out := route.RuleUpdate{
		Source: SourceName, Routes: map[string]*route.RouteSpec{}, Clusters: map[string]*route.ClusterSpec{}, Endpoints: map[string]*route.EndpointSet{},
	}
	said := map[string][]string{}
	for name, c := range u.Clusters {
		t.cluster(name, c, &out, said)
	}
	for name, r := range u.Routes {
		t.route(name, r, &out, said)
	}
	for name, r := range u.Extensions[dubboRoutesURL] {
		var list []*dubbov3.RouteConfiguration
		if r != nil {
			list = r.Value.(*dubbov3.MultipleRouteConfiguration).GetRouteConfig()
		}
		t.dubboRoutes("drds/"+name, list, &out, said)
	}
	for name, l := range u.Listeners {
		t.listener(name, l, &out, said)
	}
	for ref, why := range u.Refused {
		resource := ref.URL[strings.LastIndexByte(ref.URL, '.')+1:] + " " + ref.Name
		t.general[resource], said[resource] = nil, nil
		if why != "" {
			lines := []string{"refused, the last good one is used: " + why}
			t.general[resource], said[resource] = lines, lines
		}
	}
	return out, said
}

func (t *translator) cluster(name string, c *xdsclient.Cluster, out *route.RuleUpdate, said map[string][]string) {
	if isBuiltin(name) {
		return
	}
	resource := "cluster " + name
	old := t.clusters[name]
	if c == nil {
		if old != nil {
			delete(t.clusters, name)
			t.bare(name, old, nil, out)
			out.Clusters[name], out.Endpoints[name], said[resource], said["endpoints "+name] = nil, nil, nil, nil
		}
		return
	}
	t.clusters[name] = c
	t.bare(name, old, c, out)
	if old == nil || old.Config != c.Config || old.Orphan != c.Orphan {
		spec := clusterSpec(c)
		out.Clusters[name], said[resource] = spec, spec.Unsupported
	}
	secure := func(c *xdsclient.Cluster) bool {
		return slices.ContainsFunc(c.Config.GetTransportSocketMatches(), isIstioTLS)
	}
	if old == nil || old.Endpoints != c.Endpoints || secure(old) != secure(c) {
		var n notes
		set := endpointSet(c.Endpoints, secure(c), t.meshPorts, &n)
		if set != nil {
			set.Unsupported = n
		}
		out.Endpoints[name], said["endpoints "+name] = set, n
	}
}

// hostOf is the host of a cluster as Istio names it, if it is the whole service at
// the port of the mesh.
func hostOf(cluster string, port int) string {
	parts := strings.Split(cluster, "|")
	if len(parts) != 4 || parts[0] != "outbound" || parts[1] != strconv.Itoa(port) || parts[2] != "" {
		return ""
	}
	return strings.ToLower(parts[3])
}

// bare tells a route to a cluster, for a service that has no virtual host: the
// operator named its port tcp-…, and istiod makes no routes of that. old and c are
// the cluster as it was and is, nil for none.
func (t *translator) bare(name string, old, c *xdsclient.Cluster, out *route.RuleUpdate) {
	if t.mode == GRPC {
		return // impliedHost does it
	}
	host := hostOf(name, t.port)
	was, is := old != nil && !old.Orphan, c != nil && !c.Orphan
	if host == "" || was == is {
		return
	}
	spec := &route.RouteSpec{Name: "cluster/" + name, Hosts: []string{host}, Last: true, Routes: []route.RouteRule{{Clusters: []route.WeightedCluster{{Cluster: name, Weight: 1}}}}}
	if !is {
		out.Routes[spec.Name] = nil
		return
	}
	out.Routes[spec.Name] = spec
}

// impliedHost is bare where clusters are asked for by name: the routes that the gRPC
// generator has for a service are named as its cluster.
func impliedHost(routes string, port int) *routev3.VirtualHost {
	host := hostOf(routes, port)
	if host == "" {
		return nil
	}
	return &routev3.VirtualHost{Name: "cluster/" + routes, Domains: []string{host}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: routes}}},
	}}}
}

// route translates the virtual hosts that changed.
func (t *translator) route(name string, r *xdsclient.Route, out *route.RuleUpdate, said map[string][]string) {
	old := t.hosts[name]
	// What has no virtual host to be said with.
	resource := "route configuration " + name
	if has := r != nil && r.Config.GetVhds() != nil; has || len(t.general[resource]) > 0 {
		t.general[resource], said[resource] = nil, nil
		if has {
			t.general[resource] = []string{"vhds is not honoured: virtual hosts on demand are not asked for"}
			said[resource] = t.general[resource]
		}
	}
	next := map[*xdsclient.VirtualHost]string{}
	var fresh []*xdsclient.VirtualHost
	if r != nil {
		for _, v := range r.Hosts {
			if spec, same := old[v]; same {
				next[v] = spec
			} else {
				fresh = append(fresh, v)
			}
		}
	}
	for v, spec := range old {
		if _, stays := next[v]; !stays && spec != "" {
			out.Routes[spec], said["route "+spec] = nil, nil
		}
	}
	for _, v := range fresh {
		spec := virtualHost(specName(r, v), r.Config, v.Config, t.port)
		if spec == nil {
			next[v] = ""
			continue
		}
		spec.Last = v.Implied
		next[v] = spec.Name
		out.Routes[spec.Name] = spec
		lines := notes(slices.Clone(spec.Unsupported))
		for i, rule := range spec.Routes {
			for _, line := range rule.Unsupported {
				lines.add("route %s: %s", cmp.Or(rule.Name, strconv.Itoa(i)), line)
			}
		}
		said["route "+spec.Name] = lines
	}
	if r == nil {
		delete(t.hosts, name)
	} else {
		t.hosts[name] = next
	}
}

func (t *translator) dubboRoutes(name string, list []*dubbov3.RouteConfiguration, out *route.RuleUpdate, said map[string][]string) {
	for _, spec := range t.dubbo[name] {
		out.Routes[spec], said["route "+spec] = nil, nil
	}
	delete(t.dubbo, name)
	for _, spec := range dubboSpecs(name, list) {
		t.dubbo[name] = append(t.dubbo[name], spec.Name)
		out.Routes[spec.Name] = spec
		var lines notes
		for i, rule := range spec.Routes {
			for _, line := range rule.Unsupported {
				lines.add("route %d: %s", i, line)
			}
		}
		said["route "+spec.Name] = lines
	}
}

const (
	httpURL = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	tcpURL  = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
)

// harmless are the filters, of networks, HTTP and clusters, that do nothing to what a
// Dubbo call is; the faults of routes are injected.
var harmless = map[string]bool{
	"istio.metadata_exchange": true, "istio.alpn": true, "istio.stats": true, "envoy.filters.http.grpc_stats": true,
	"envoy.filters.http.fault": true, "envoy.filters.http.cors": true, "envoy.filters.http.router": true,
	"envoy.filters.http.grpc_web": true, "envoy.filters.http.upstream_codec": true,
}

func (t *translator) listener(name string, l *xdsclient.Listener, out *route.RuleUpdate, said map[string][]string) {
	t.answered[name] = struct{}{}
	old := t.listeners[name]
	if old != nil {
		for _, r := range old.Inline {
			t.route(inlineName(name, r), nil, out, said)
		}
		t.dubboRoutes("listener/"+name, nil, out, said)
	}
	resource := "listener " + name
	if l == nil {
		delete(t.listeners, name)
		if len(t.general[resource]) > 0 {
			t.general[resource], said[resource] = nil, nil
		}
		return
	}
	t.listeners[name] = l
	if l.Config.GetTrafficDirection() == corev3.TrafficDirection_INBOUND {
		return // of calls that come to this host
	}
	for _, r := range l.Inline {
		named := *r
		named.Name = inlineName(name, r)
		t.route(named.Name, &named, out, said)
	}
	var n notes
	for _, h := range l.HTTP {
		manager(h, &n)
	}
	filters(l, t.port, &n)
	var list []*dubbov3.RouteConfiguration
	for _, f := range l.Filters {
		m := f.Value.(*dubbov3.DubboProxy)
		source("drds.config_source", m.GetDrds().GetConfigSource(), &n)
		list = append(list, inlineRoutes(m)...)
		for _, f := range m.GetDubboFilters() {
			if f.GetName() != "envoy.filters.dubbo.router" {
				n.add("Dubbo filter %s is not applied", f.GetName())
			}
		}
	}
	t.dubboRoutes("listener/"+name, list, out, said)
	if len(n) > 0 || len(t.general[resource]) > 0 {
		t.general[resource], said[resource] = n, n
	}
}

func inlineName(listener string, r *xdsclient.Route) string {
	return "listener/" + listener + "/" + r.Name
}

func manager(h *hcmv3.HttpConnectionManager, n *notes) {
	for _, f := range h.GetHttpFilters() {
		if !harmless[f.GetName()] && !f.GetDisabled() {
			n.add("HTTP filter %s is not applied", f.GetName())
		}
		var fault faultv3.HTTPFault
		if a := f.GetTypedConfig(); a.GetTypeUrl() == faultURL && proto.Unmarshal(a.GetValue(), &fault) == nil && (fault.GetAbort() != nil || fault.GetDelay() != nil) {
			n.add("the fault of HTTP filter %s is not injected, only those of routes are", f.GetName())
		}
	}
	if h.GetScopedRoutes() != nil {
		n.add("scoped_routes is not honoured")
	}
	source("rds.config_source", h.GetRds().GetConfigSource(), n)
}

// source notes that something is to come from elsewhere than from where this came.
func source(field string, c *corev3.ConfigSource, n *notes) {
	if c != nil && c.GetAds() == nil && c.GetSelf() == nil {
		n.add("%s is not honoured, the server of this resource is asked", field)
	}
}

// filters notes the network filters of a listener that are not applied.
func filters(l *xdsclient.Listener, port int, n *notes) {
	routed := l.Config.GetApiListener() != nil
	var bare []string // clusters of tcp_proxy
	for _, chain := range append(slices.Clone(l.Config.GetFilterChains()), l.Config.GetDefaultFilterChain()) {
		for _, f := range chain.GetFilters() {
			switch url := f.GetTypedConfig().GetTypeUrl(); {
			case url == httpURL, url == dubboProxyURL:
				routed = true
			case url == tcpURL:
				var m tcpv3.TcpProxy
				if proto.Unmarshal(f.GetTypedConfig().GetValue(), &m) == nil && hostOf(m.GetCluster(), port) != "" {
					bare = append(bare, m.GetCluster())
				}
			case !harmless[f.GetName()]:
				n.add("network filter %s is not applied", f.GetName())
			}
		}
	}
	if !routed {
		for _, c := range bare {
			n.add("there are no routes, only tcp_proxy to %s: name the port dubbo, without a protocol", c)
		}
	}
}
