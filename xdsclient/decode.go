package xdsclient

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
	"unique"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	hcmURL      = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	tcpURL      = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	resourceURL = "type.googleapis.com/envoy.service.discovery.v3.Resource"
)

var (
	errNoName   = errors.New("the resource has no name")
	errWrongURL = errors.New("not the type of the response")
	// errHeartbeat: it says only that the resource is still there (xDS protocol, "Resource TTL").
	errHeartbeat = errors.New("a heartbeat")
)

// unwrap gives the name, if the wrapper has one, and the content of a resource of a
// response of type url.
func unwrap(url string, a *anypb.Any) (name string, raw []byte, err error) {
	if a.GetTypeUrl() == resourceURL {
		var r discoveryv3.Resource
		if err := proto.Unmarshal(a.GetValue(), &r); err != nil {
			return "", nil, err
		}
		name, a = r.GetName(), r.GetResource()
		if a == nil && name != "" && r.GetTtl() != nil {
			return name, nil, errHeartbeat
		}
		if a == nil {
			return name, nil, errors.New("the wrapper is empty")
		}
	}
	if a.GetTypeUrl() != url {
		return name, nil, fmt.Errorf("%w: %q", errWrongURL, a.GetTypeUrl())
	}
	return name, a.GetValue(), nil
}

// nameOf reads the name of a resource without decoding it: field 1 in all types
// but the endpoints of old servers. "" if it cannot be read.
func nameOf(raw []byte) string {
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return ""
		}
		raw = raw[n:]
		if num == 1 && typ == protowire.BytesType {
			b, n := protowire.ConsumeBytes(raw)
			if n < 0 {
				return ""
			}
			return string(b)
		}
		if n = protowire.ConsumeFieldValue(num, typ, raw); n < 0 {
			return ""
		}
		raw = raw[n:]
	}
	return ""
}

// decoder decodes resources of all types.
type decoder struct {
	filters map[string]*Extension // by type URL of the filter
	routes  map[string]*Extension // by type URL of the route
	follow  func(string) bool
}

func newDecoder(o Options) *decoder {
	d := &decoder{filters: map[string]*Extension{}, routes: map[string]*Extension{}, follow: o.Follow}
	for i := range o.Extensions {
		e := &o.Extensions[i]
		d.filters[e.FilterURL] = e
		if e.RouteURL != "" {
			d.routes[e.RouteURL] = e
		}
	}
	return d
}

// listener decodes a listener. prev may be nil.
func (d *decoder) listener(raw []byte, prev *Listener) (*Listener, error) {
	var m listenerv3.Listener
	if err := proto.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	if m.GetName() == "" {
		return nil, errNoName
	}
	if prev != nil && proto.Equal(prev.Config, &m) {
		return prev, nil
	}
	l := &Listener{Name: m.GetName(), Config: &m}
	if d.follow != nil && !d.follow(l.Name) {
		return l, nil
	}
	if a := m.GetApiListener().GetApiListener(); a != nil {
		if err := d.filter(l, a); err != nil {
			return nil, err
		}
	}
	for _, chain := range append(slices.Clone(m.GetFilterChains()), m.GetDefaultFilterChain()) {
		for _, f := range chain.GetFilters() {
			if err := d.filter(l, f.GetTypedConfig()); err != nil {
				return nil, fmt.Errorf("filter %q: %w", f.GetName(), err)
			}
		}
	}
	l.clusters = sortedSet(l.clusters)
	l.Routes = sortedSet(l.Routes)
	for _, name := range l.Routes {
		l.refs = append(l.refs, key{RouteURL, name})
	}
	for _, f := range l.Filters {
		if url := d.filters[f.TypeURL].RouteURL; url != "" {
			for _, name := range f.Routes {
				l.refs = append(l.refs, key{url, name})
			}
		}
	}
	return l, nil
}

func (d *decoder) filter(l *Listener, a *anypb.Any) error {
	switch url := a.GetTypeUrl(); url {
	case hcmURL:
		var m hcmv3.HttpConnectionManager
		if err := proto.Unmarshal(a.GetValue(), &m); err != nil {
			return err
		}
		for _, h := range l.HTTP {
			if proto.Equal(h, &m) {
				return nil
			}
		}
		l.HTTP = append(l.HTTP, &m)
		if name := m.GetRds().GetRouteConfigName(); name != "" {
			l.Routes = append(l.Routes, name)
		}
		if c := m.GetRouteConfig(); c != nil {
			if c.GetName() == "" { // it needs none here
				c = proto.CloneOf(c)
				c.Name = l.Name
			}
			raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
			if err != nil {
				return err
			}
			r, err := route(raw, nil, nil)
			if err != nil {
				return fmt.Errorf("route configuration: %w", err)
			}
			l.Inline = append(l.Inline, r.Route)
			for _, v := range r.Hosts {
				l.clusters = append(l.clusters, v.Clusters...)
			}
		}
	case tcpURL:
		var m tcpv3.TcpProxy
		if err := proto.Unmarshal(a.GetValue(), &m); err != nil {
			return err
		}
		if c := m.GetCluster(); c != "" {
			l.clusters = append(l.clusters, c)
		}
		for _, c := range m.GetWeightedClusters().GetClusters() {
			l.clusters = append(l.clusters, c.GetName())
		}
	default:
		e := d.filters[url]
		if e == nil {
			return nil // not ours to judge
		}
		value, routes, clusters, err := e.Filter(a.GetValue())
		if err != nil {
			return err
		}
		l.Filters = append(l.Filters, Filter{url, value, routes})
		l.clusters = append(l.clusters, clusters...)
	}
	return nil
}

// decodedRoute is a route with what its virtual hosts were decoded from.
type decodedRoute struct {
	*Route
	raws    [][]byte // of Hosts, within the resource
	ext     *Resource
	domains *domains // of Hosts, once somebody looked for one
}

// only is the route with the virtual hosts alone that match names of listeners, with
// their port or without; whole, if one matches none: then names say nothing.
func (r *decodedRoute) only(listeners map[string]struct{}) *decodedRoute {
	if len(r.Hosts) < 2 || len(listeners) == 0 {
		return r
	}
	keep := map[int]struct{}{}
	for name := range listeners {
		i := r.match(name)
		if host, _, err := net.SplitHostPort(name); i < 0 && err == nil {
			i = r.match(host)
		}
		if i < 0 {
			return r
		}
		keep[i] = struct{}{}
	}
	out := &decodedRoute{Route: &Route{Name: r.Name, Config: r.Config}, ext: r.ext}
	for _, i := range slices.Sorted(maps.Keys(keep)) {
		out.Hosts, out.raws = append(out.Hosts, r.Hosts[i]), append(out.raws, r.raws[i])
	}
	return out
}

// match finds the virtual host of a domain; -1: none.
func (r *decodedRoute) match(name string) int {
	if r.domains == nil {
		r.domains = newDomains(r.Hosts)
	}
	return r.domains.match(name)
}

// domains are those of virtual hosts, in lower case.
type domains struct {
	whole map[string]int
	wild  []wildDomain // the one that is preferred first
}

type wildDomain struct {
	before, after string
	host          int
}

func newDomains(hosts []*VirtualHost) *domains {
	d := &domains{whole: map[string]int{}}
	for i, v := range hosts {
		for _, name := range v.Config.GetDomains() {
			before, after, wild := strings.Cut(strings.ToLower(name), "*")
			if wild {
				d.wild = append(d.wild, wildDomain{before, after, i})
			} else if _, twice := d.whole[before]; !twice {
				d.whole[before] = i
			}
		}
	}
	slices.SortStableFunc(d.wild, func(a, b wildDomain) int {
		return cmp.Or(cmp.Compare(len(b.after), len(a.after)), cmp.Compare(len(b.before), len(a.before)))
	})
	return d
}

// match finds a virtual host as VirtualHost.domains says: by the whole name, the
// longest "*suffix", the longest "prefix*", "*"; -1: none.
func (d *domains) match(name string) int {
	name = strings.ToLower(name)
	if i, ok := d.whole[name]; ok {
		return i
	}
	for _, w := range d.wild {
		if len(name) > len(w.before)+len(w.after) && strings.HasPrefix(name, w.before) && strings.HasSuffix(name, w.after) {
			return w.host
		}
	}
	return -1
}

// byName are the places of the virtual hosts; r may be nil.
func (r *decodedRoute) byName() map[string]int {
	if r == nil {
		return nil
	}
	m := make(map[string]int, len(r.Hosts))
	for i, v := range r.Hosts {
		m[v.Name] = i
	}
	return m
}

// route decodes a route configuration. Virtual hosts whose bytes are those of prev,
// or of another route, are taken from there: one that changed among ten thousand
// costs as one, and so do the copies in the routes of istiod's gRPC generator.
func route(raw []byte, prev, other *decodedRoute) (*decodedRoute, error) {
	var hosts [][]byte
	var rest []byte
	for b := raw; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return nil, protowire.ParseError(m)
		}
		if num == 2 && typ == protowire.BytesType {
			host, _ := protowire.ConsumeBytes(b[n:])
			hosts = append(hosts, host)
		} else {
			rest = append(rest, b[:n+m]...)
		}
		b = b[n+m:]
	}
	r := &decodedRoute{Route: &Route{Config: new(routev3.RouteConfiguration)}, raws: hosts}
	if err := proto.Unmarshal(rest, r.Config); err != nil {
		return nil, err
	}
	r.Name = r.Config.GetName()
	if r.Name == "" {
		return nil, errNoName
	}
	old := prev.byName()
	if prev != nil {
		if proto.Equal(prev.Config, r.Config) {
			r.Config = prev.Config
		}
	}
	global := mirrors(nil, r.Config.GetRequestMirrorPolicies())
	sameGlobal := prev != nil && prev.Config == r.Config
	if other != nil && (len(global) > 0 || len(other.Config.GetRequestMirrorPolicies()) > 0) {
		other = nil // its virtual hosts have other mirrors
	}
	var others map[string]int // of other, once it is looked at
	seen := make(map[string]struct{}, len(hosts))
	var errs []error
	for _, host := range hosts {
		name := nameOf(host)
		v, err := func() (*VirtualHost, error) {
			i, was := old[name]
			was = was && sameGlobal
			if was && bytes.Equal(prev.raws[i], host) {
				return prev.Hosts[i], nil
			}
			if others == nil {
				others = other.byName()
			}
			if i, there := others[name]; there && bytes.Equal(other.raws[i], host) {
				return other.Hosts[i], nil
			}
			v, err := virtualHost(host, global)
			if err == nil && was && proto.Equal(v.Config, prev.Hosts[i].Config) {
				return prev.Hosts[i], nil
			}
			return v, err
		}()
		if err != nil {
			errs = append(errs, fmt.Errorf("virtual host %q: %w", name, err))
			continue
		}
		if _, twice := seen[v.Name]; twice {
			errs = append(errs, fmt.Errorf("virtual host %q is there twice", v.Name))
		}
		seen[v.Name] = struct{}{}
		r.Hosts = append(r.Hosts, v)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs[:min(len(errs), 5)]...)
	}
	return r, nil
}

// imply gives a route configuration a virtual host for domains that it has none for.
func imply(r, prev *decodedRoute, m *routev3.VirtualHost) error {
	if m == nil || slices.ContainsFunc(m.GetDomains(), func(d string) bool { return r.match(d) >= 0 }) {
		return nil
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return err
	}
	v, err := virtualHost(raw, mirrors(nil, r.Config.GetRequestMirrorPolicies()))
	if err != nil {
		return fmt.Errorf("implied virtual host: %w", err)
	}
	v.Implied = true
	if prev != nil && prev.Config == r.Config && len(prev.Hosts) > 0 {
		if last := prev.Hosts[len(prev.Hosts)-1]; last.Implied && proto.Equal(last.Config, v.Config) {
			v = last
		}
	}
	r.Hosts, r.raws, r.domains = append(r.Hosts, v), append(r.raws, nil), nil
	return nil
}

func virtualHost(raw []byte, global []string) (*VirtualHost, error) {
	var m routev3.VirtualHost
	if err := proto.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	if m.GetName() == "" {
		return nil, errNoName
	}
	if len(m.GetDomains()) == 0 {
		return nil, errors.New("no domains")
	}
	clusters := mirrors(slices.Clone(global), m.GetRequestMirrorPolicies())
	for i, r := range m.GetRoutes() {
		var err error
		if clusters, err = routeClusters(clusters, r); err != nil {
			return nil, fmt.Errorf("route %d %q: %w", i, r.GetName(), err)
		}
	}
	return &VirtualHost{Name: m.GetName(), Config: &m, Clusters: sortedSet(clusters)}, nil
}

// routeClusters checks what makes a route unusable, and collects its clusters.
func routeClusters(into []string, r *routev3.Route) ([]string, error) {
	if r.GetMatch() == nil {
		return nil, errors.New("no match")
	}
	if err := matchable(r.GetMatch()); err != nil {
		return nil, err
	}
	a := r.GetRoute()
	if a == nil {
		return into, nil
	}
	switch s := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		if s.Cluster == "" {
			return nil, errors.New("the cluster has no name")
		}
		into = append(into, s.Cluster)
	case *routev3.RouteAction_WeightedClusters:
		var sum uint64
		for _, c := range s.WeightedClusters.GetClusters() {
			if c.GetName() != "" {
				into = append(into, c.GetName())
			}
			sum += uint64(c.GetWeight().GetValue())
		}
		if sum == 0 && len(s.WeightedClusters.GetClusters()) > 0 {
			return nil, errors.New("the weights of all clusters are 0")
		}
		if sum > 1<<32-1 {
			return nil, errors.New("the sum of the weights is more than 32 bits")
		}
	}
	return mirrors(into, a.GetRequestMirrorPolicies()), nil
}

func mirrors(into []string, list []*routev3.RouteAction_RequestMirrorPolicy) []string {
	for _, m := range list {
		if c := m.GetCluster(); c != "" {
			into = append(into, c)
		}
	}
	return into
}

// matchable compiles every regular expression of a match: one that cannot be
// compiled would never match, or always.
func matchable(m *routev3.RouteMatch) error {
	list := []string{m.GetSafeRegex().GetRegex()}
	for _, h := range m.GetHeaders() {
		if h.GetName() == "" {
			return errors.New("a header match has no name")
		}
		//lint:ignore SA1019 it is still sent
		list = append(list, h.GetSafeRegexMatch().GetRegex(), h.GetStringMatch().GetSafeRegex().GetRegex())
		if r := h.GetRangeMatch(); r.GetEnd() < r.GetStart() {
			return fmt.Errorf("header %q: the range ends before it starts", h.GetName())
		}
	}
	for _, q := range m.GetQueryParameters() {
		list = append(list, q.GetStringMatch().GetSafeRegex().GetRegex())
	}
	for _, text := range list {
		if text == "" {
			continue
		}
		if _, err := regexp.Compile(text); err != nil {
			return err
		}
	}
	return nil
}

// extensionRoute decodes a route of an extension as one virtual host.
func (d *decoder) extensionRoute(url string, raw []byte) (*decodedRoute, error) {
	name, value, clusters, err := d.routes[url].Route(raw)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, errNoName
	}
	v := &VirtualHost{Name: name, Clusters: sortedSet(clusters), value: value}
	return &decodedRoute{
		Route: &Route{Name: name, Hosts: []*VirtualHost{v}},
		raws:  [][]byte{raw}, ext: &Resource{name, value},
	}, nil
}

// cluster decodes a cluster. Endpoints is nil when EDS has them.
func cluster(raw []byte, prev *Cluster) (*Cluster, error) {
	var m clusterv3.Cluster
	if err := proto.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	if m.GetName() == "" {
		return nil, errNoName
	}
	inline := m.GetLoadAssignment()
	m.LoadAssignment = nil
	c := &Cluster{Name: m.GetName(), Config: &m}
	if prev != nil && proto.Equal(prev.Config, &m) {
		c.Config = prev.Config
	}
	switch {
	case m.GetType() == clusterv3.Cluster_EDS && m.GetClusterType() == nil:
		c.service = m.GetEdsClusterConfig().GetServiceName()
		if c.service == "" {
			c.service = c.Name
		}
	default:
		var err error
		if c.Endpoints, err = assignment(inline); err != nil {
			return nil, fmt.Errorf("load assignment: %w", err)
		}
	}
	if prev != nil && prev.Config == c.Config && prev.service == c.service &&
		(c.service != "" || c.Endpoints.equal(prev.Endpoints)) {
		return prev, nil
	}
	return c, nil
}

// endpointDecoder decodes resources of EDS. Its buffers are used again and again:
// what is kept is copied out of them.
//
// Metadata is set apart first: its maps would cost more than all the rest, half of
// what a first load leaves to the collector.
type endpointDecoder struct {
	message  endpointv3.ClusterLoadAssignment
	raw      []byte // of message, without metadata
	locality []byte
	endpoint []byte
	metadata [][]byte // of each endpoint, in order
}

func (d *endpointDecoder) decode(raw []byte) (string, *Assignment, error) {
	proto.Reset(&d.message)
	if !d.split(raw) {
		d.raw, d.metadata = append(d.raw[:0], raw...), nil // for the error
	}
	if err := proto.Unmarshal(d.raw, &d.message); err != nil {
		return "", nil, err
	}
	if d.message.GetClusterName() == "" {
		return "", nil, errNoName
	}
	a, err := assignment(&d.message)
	if err != nil {
		return d.message.GetClusterName(), nil, err
	}
	i := 0
	for _, l := range a.Localities {
		for k := range l.Endpoints {
			if i < len(d.metadata) && len(d.metadata[i]) > 0 {
				if l.Endpoints[k].Metadata, err = metadataOf(d.metadata[i]); err != nil {
					return d.message.GetClusterName(), nil, err
				}
			}
			i++
		}
	}
	return d.message.GetClusterName(), a, nil
}

// metadataOf decodes metadata. What is not of the usual form is left to package
// proto, whose maps it is for.
func metadataOf(raw []byte) ([]Metadata, error) {
	if list, ok := plainMetadata(raw); ok {
		return list, nil
	}
	var m corev3.Metadata
	if err := proto.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	return metadata(&m), nil
}

// plainMetadata reads a Metadata with filter_metadata alone, whose values are texts,
// numbers and booleans, each once.
func plainMetadata(raw []byte) (list []Metadata, ok bool) {
	var rest []byte
	ok = eachField(raw, 1, &rest, func(entry []byte) bool {
		filter, fields, ok := mapEntry(entry)
		if !ok {
			return false
		}
		var others []byte
		return eachField(fields, 1, &others, func(entry []byte) bool {
			key, value, ok := mapEntry(entry)
			if !ok {
				return false
			}
			num, typ, n := protowire.ConsumeTag(value)
			if n < 0 {
				return false
			}
			text, m := "", 0
			switch value = value[n:]; {
			case num == 2 && typ == protowire.Fixed64Type:
				var bits uint64
				bits, m = protowire.ConsumeFixed64(value)
				text = strconv.FormatFloat(math.Float64frombits(bits), 'f', -1, 64)
			case num == 3 && typ == protowire.BytesType:
				var b []byte
				b, m = protowire.ConsumeBytes(value)
				if !utf8.Valid(b) {
					return false
				}
				text = string(b)
			case num == 4 && typ == protowire.VarintType:
				var b uint64
				b, m = protowire.ConsumeVarint(value)
				text = strconv.FormatBool(protowire.DecodeBool(b))
			}
			list = append(list, Metadata{shared(string(filter)), shared(string(key)), text})
			return m > 0 && m == len(value)
		}) && len(others) == 0
	}) && len(rest) == 0
	slices.SortFunc(list, Metadata.compare)
	for i := 1; i < len(list); i++ {
		ok = ok && list[i-1].compare(list[i]) != 0
	}
	return list, ok
}

// mapEntry reads an entry of a map: a text, then a message, each once.
func mapEntry(raw []byte) (key, value []byte, ok bool) {
	for want, to := range [...]*[]byte{&key, &value} {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 || num != protowire.Number(want+1) || typ != protowire.BytesType {
			return nil, nil, false
		}
		b, m := protowire.ConsumeBytes(raw[n:])
		if m < 0 {
			return nil, nil, false
		}
		*to, raw = b, raw[n+m:]
	}
	return key, value, len(raw) == 0 && utf8.Valid(key)
}

// split sets the metadata of endpoints apart; false: these are no such bytes.
func (d *endpointDecoder) split(raw []byte) bool {
	const inAssignment, inLocality, inEndpoint = 2, 2, 3 // numbers of the fields endpoints, lb_endpoints, metadata
	d.raw, d.metadata = d.raw[:0], d.metadata[:0]
	return eachField(raw, inAssignment, &d.raw, func(raw []byte) bool {
		d.locality = d.locality[:0]
		ok := eachField(raw, inLocality, &d.locality, func(raw []byte) bool {
			var meta []byte
			d.endpoint = d.endpoint[:0]
			ok := eachField(raw, inEndpoint, &d.endpoint, func(raw []byte) bool {
				if meta == nil {
					meta = raw
				} else { // parts of one message
					meta = append(slices.Clone(meta), raw...)
				}
				return true
			})
			d.metadata = append(d.metadata, meta)
			d.locality = protowire.AppendBytes(protowire.AppendTag(d.locality, inLocality, protowire.BytesType), d.endpoint)
			return ok
		})
		d.raw = protowire.AppendBytes(protowire.AppendTag(d.raw, inAssignment, protowire.BytesType), d.locality)
		return ok
	})
}

// eachField gives every field of a number to f, and appends the others to rest.
func eachField(raw []byte, number protowire.Number, rest *[]byte, f func([]byte) bool) bool {
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return false
		}
		m := protowire.ConsumeFieldValue(num, typ, raw[n:])
		if m < 0 {
			return false
		}
		if num == number && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(raw[n:])
			if !f(value) {
				return false
			}
		} else {
			*rest = append(*rest, raw[:n+m]...)
		}
		raw = raw[n+m:]
	}
	return true
}

func assignment(m *endpointv3.ClusterLoadAssignment) (*Assignment, error) {
	a := &Assignment{Overprovisioning: m.GetPolicy().GetOverprovisioningFactor().GetValue()}
	keep := 1.0
	for _, d := range m.GetPolicy().GetDropOverloads() {
		keep *= 1 - min(1, float64(perMillion(d.GetDropPercentage()))/1e6)
	}
	a.DropPerMillion = uint32((1-keep)*1e6 + 0.5)
	if n := len(m.GetEndpoints()); n > 0 {
		a.Localities = make([]Locality, 0, n)
	}
	unread := func(set bool, field string) {
		if set && !slices.Contains(a.Unread, field) {
			a.Unread = append(a.Unread, field)
		}
	}
	unread(m.GetPolicy().GetEndpointStaleAfter() != nil, "endpoint_stale_after")
	unread(m.GetPolicy().GetWeightedPriorityHealth(), "weighted_priority_health")
	unread(len(m.GetNamedEndpoints()) > 0, "named_endpoints")
	var sum [129]uint64 // of the localities' weights, by priority
	for _, g := range m.GetEndpoints() {
		if g.GetPriority() > 128 {
			return nil, fmt.Errorf("priority %d is above 128", g.GetPriority())
		}
		l := Locality{
			Region: shared(g.GetLocality().GetRegion()), Zone: shared(g.GetLocality().GetZone()), SubZone: shared(g.GetLocality().GetSubZone()),
			Priority: g.GetPriority(), Weight: g.GetLoadBalancingWeight().GetValue(),
		}
		sum[l.Priority] += uint64(l.Weight)
		if n := len(g.GetLbEndpoints()); n > 0 {
			l.Endpoints = make([]Endpoint, 0, n)
		}
		unread(g.GetLedsClusterLocalityConfig() != nil, "leds_cluster_locality_config")
		//lint:ignore SA1019 it could still be sent
		unread(g.GetLoadBalancerEndpoints() != nil, "load_balancer_endpoints")
		var weights uint64
		for _, e := range g.GetLbEndpoints() {
			unread(len(e.GetEndpoint().GetAdditionalAddresses()) > 0, "additional_addresses")
			if s := e.GetEndpoint().GetAddress().GetSocketAddress(); s != nil {
				unread(s.GetProtocol() != corev3.SocketAddress_TCP, "protocol "+s.GetProtocol().String())
				unread(s.GetNamedPort() != "", "named_port")
				unread(s.GetResolverName() != "", "resolver_name")
				unread(s.GetNetworkNamespaceFilepath() != "", "network_namespace_filepath")
			}
			ep, err := endpoint(e)
			if err != nil {
				return nil, err
			}
			weights += uint64(ep.Weight)
			l.Endpoints = append(l.Endpoints, ep)
		}
		if weights > 1<<32-1 {
			return nil, errors.New("the sum of the endpoints' weights is more than 32 bits")
		}
		a.Localities = append(a.Localities, l)
	}
	slices.Sort(a.Unread)
	for priority, s := range sum {
		if s > 1<<32-1 {
			return nil, fmt.Errorf("the sum of the localities' weights of priority %d is more than 32 bits", priority)
		}
	}
	return a, nil
}

func endpoint(m *endpointv3.LbEndpoint) (Endpoint, error) {
	e := Endpoint{Health: Health(min(max(m.GetHealthStatus(), 0), 255)), Weight: m.GetLoadBalancingWeight().GetValue()}
	if e.Health > Degraded {
		e.Health = Unknown
	}
	e.Hostname = m.GetEndpoint().GetHostname()
	switch a := m.GetEndpoint().GetAddress().GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		port := a.SocketAddress.GetPortValue()
		if port > 65535 {
			return e, fmt.Errorf("port %d", port)
		}
		e.Host, e.Port = a.SocketAddress.GetAddress(), uint16(port)
		if e.Host == "" {
			return e, errors.New("an endpoint has no address")
		}
	case *corev3.Address_Pipe:
		e.Host = a.Pipe.GetPath()
	case *corev3.Address_EnvoyInternalAddress:
		e.Host = "internal:" + a.EnvoyInternalAddress.GetServerListenerName()
	default:
		return e, errors.New("an endpoint has no address")
	}
	e.Metadata = metadata(m.GetMetadata())
	return e, nil
}

// metadata is what is plain of it, sorted.
func metadata(m *corev3.Metadata) (list []Metadata) {
	for filter, s := range m.GetFilterMetadata() {
		for k, v := range s.GetFields() {
			if text, ok := plain(v); ok {
				list = append(list, Metadata{shared(filter), shared(k), text})
			}
		}
	}
	slices.SortFunc(list, Metadata.compare)
	return list
}

func (m Metadata) compare(n Metadata) int {
	return cmp.Or(strings.Compare(m.Filter, n.Filter), strings.Compare(m.Key, n.Key))
}

func plain(v *structpb.Value) (string, bool) {
	switch v := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return v.StringValue, true
	case *structpb.Value_NumberValue:
		return strconv.FormatFloat(v.NumberValue, 'f', -1, 64), true
	case *structpb.Value_BoolValue:
		return strconv.FormatBool(v.BoolValue), true
	}
	return "", false
}

// equal compares what a reader can see.
func (a *Assignment) equal(b *Assignment) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Overprovisioning == b.Overprovisioning && a.DropPerMillion == b.DropPerMillion && a.Missing == b.Missing && slices.Equal(a.Unread, b.Unread) &&
		slices.EqualFunc(a.Localities, b.Localities, func(x, y Locality) bool {
			return x.Region == y.Region && x.Zone == y.Zone && x.SubZone == y.SubZone && x.Priority == y.Priority && x.Weight == y.Weight &&
				slices.EqualFunc(x.Endpoints, y.Endpoints, func(e, f Endpoint) bool {
					return e.Host == f.Host && e.Port == f.Port && e.Health == f.Health && e.Weight == f.Weight && e.Hostname == f.Hostname && slices.Equal(e.Metadata, f.Metadata)
				})
		})
}

func perMillion(p *typev3.FractionalPercent) uint64 {
	n := uint64(p.GetNumerator())
	switch p.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
		return n * 10_000
	case typev3.FractionalPercent_TEN_THOUSAND:
		return n * 100
	}
	return n
}

// shared makes one copy of texts that come again and again.
func shared(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value()
}

func sortedSet(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
