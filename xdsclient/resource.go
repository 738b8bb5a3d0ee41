package xdsclient

import (
	"maps"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// Type URLs of the resources that the client knows itself.
const (
	ListenerURL = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteURL    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	ClusterURL  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointURL = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
)

// Update is one coherent step. Everything in it is to be applied together, and
// only what changed is in it. A nil value means that the resource is gone, or
// that the server does not have it. Nothing in it may be changed.
type Update struct {
	Clusters  map[string]*Cluster
	Routes    map[string]*Route
	Listeners map[string]*Listener
	// Extensions are the routes of Options.Extensions, by type URL and name.
	Extensions map[string]map[string]*Resource
	// Refused are resources that could not be used, with the reason, and with "" those
	// that can be used again. The last good one of each is still in effect.
	Refused map[Ref]string
	// Ready tells that everything asked for was answered, by a server or by the
	// file. It stays true once it was.
	Ready bool
}

// Ref names a resource.
type Ref struct{ URL, Name string }

// Empty tells whether nothing is in it.
func (u Update) Empty() bool {
	return len(u.Clusters)+len(u.Routes)+len(u.Listeners)+len(u.Extensions)+len(u.Refused) == 0
}

// merge puts a later step on top.
func (u *Update) merge(v Update) {
	u.Clusters = merged(u.Clusters, v.Clusters)
	u.Routes = merged(u.Routes, v.Routes)
	u.Listeners = merged(u.Listeners, v.Listeners)
	if len(u.Refused) == 0 {
		u.Refused = v.Refused
	} else {
		maps.Copy(u.Refused, v.Refused)
	}
	for url, set := range v.Extensions {
		if u.Extensions == nil {
			u.Extensions = map[string]map[string]*Resource{}
		}
		u.Extensions[url] = merged(u.Extensions[url], set)
	}
	u.Ready = u.Ready || v.Ready
}

func merged[T any](into, from map[string]T) map[string]T {
	if len(into) == 0 {
		return from
	}
	maps.Copy(into, from)
	return into
}

// Listener is a listener and what it refers to.
type Listener struct {
	Name   string
	Config *listenerv3.Listener
	// HTTP are its HTTP connection managers, in order of the filter chains, once
	// each; that of an API listener too.
	HTTP []*hcmv3.HttpConnectionManager
	// Routes are the names of their route configurations, sorted.
	Routes []string
	// Inline are the route configurations that stand in them.
	Inline []*Route
	// Filters are those of Options.Extensions.
	Filters []Filter

	clusters []string // named by the listener itself, sorted
	refs     []key    // routes of all types
}

// Filter is a network filter that an Extension decoded.
type Filter struct {
	TypeURL string
	Value   any
	Routes  []string // names of resources of the extension's RouteURL
}

// Route is a route configuration.
type Route struct {
	Name string
	// Config is the route configuration without its virtual hosts.
	Config *routev3.RouteConfiguration
	// Hosts are the virtual hosts, in order. One that did not change is the same
	// pointer as before.
	Hosts []*VirtualHost
}

// VirtualHost is a virtual host and the clusters that it names.
type VirtualHost struct {
	Name     string
	Config   *routev3.VirtualHost
	Clusters []string // sorted, once each; mirrors too
	Implied  bool     // made by Options.Implied

	value any // instead of Config: of an extension
}

// Resource is a route of an extension.
type Resource struct {
	Name  string
	Value any // what Extension.Route made of it
}

// Cluster is a cluster with its endpoints.
type Cluster struct {
	Name string
	// Config is the cluster without its load assignment.
	Config *clusterv3.Cluster
	// Endpoints are those of EDS, or those that stood in the cluster (STATIC,
	// STRICT_DNS, LOGICAL_DNS: then Host may be a name to resolve). It is never nil.
	Endpoints *Assignment
	// Orphan: the server does not have it any more, but a delivered virtual host
	// still names it.
	Orphan bool

	service string // of EDS, else ""
}

// Assignment is a set of endpoints: a ClusterLoadAssignment in a form that takes
// little memory.
type Assignment struct {
	Localities []Locality
	// Overprovisioning is the factor in percent; 0: the default, 140.
	Overprovisioning uint32
	// DropPerMillion of the calls are to be refused (policy.drop_overloads, all
	// categories together).
	DropPerMillion uint32
	// Unread are fields that are set and that this form has no place for, sorted, once
	// each: "endpoint_stale_after".
	Unread []string
	// Missing: the server did not answer for it.
	Missing bool
}

// Len is the number of endpoints.
func (a *Assignment) Len() int {
	n := 0
	for _, l := range a.Localities {
		n += len(l.Endpoints)
	}
	return n
}

// Locality is the endpoints of one place with one priority.
type Locality struct {
	Region, Zone, SubZone string
	Priority              uint32
	Weight                uint32 // 0: not given
	Endpoints             []Endpoint
}

// Health is that of an endpoint as the control plane sees it: envoy.config.core.v3.HealthStatus.
type Health uint8

// The values of envoy.config.core.v3.HealthStatus.
const (
	Unknown Health = iota // treat as healthy
	Healthy
	Unhealthy
	Draining
	TimedOut
	Degraded
)

// String is the name in the API.
func (h Health) String() string {
	if int(h) < len(healthNames) {
		return healthNames[h]
	}
	return "UNKNOWN"
}

var healthNames = [...]string{"UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"}

// Endpoint is one address.
type Endpoint struct {
	Host     string // an IP address; a name only in clusters of type STRICT_DNS and LOGICAL_DNS; a path if Port is 0
	Port     uint16
	Health   Health
	Weight   uint32 // 0: not given, counts as 1
	Hostname string
	// Metadata are the plain values of the endpoint's filter metadata (text, numbers,
	// truth values; others are left out), sorted by filter and key.
	Metadata []Metadata
}

// Metadata is one value of filter metadata.
type Metadata struct{ Filter, Key, Value string }

// Meta is the value of a key, or "".
func (e *Endpoint) Meta(filter, key string) string {
	for _, m := range e.Metadata {
		if m.Key == key && m.Filter == filter {
			return m.Value
		}
	}
	return ""
}
