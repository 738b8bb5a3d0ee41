package catalog

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

// MeshPort is the port of services in xDS: that of the agents' inbound listeners.
const MeshPort = 20882

// Protocol is the one whose providers are followed.
const Protocol = "dubbo"

// Service is one service with everybody who provides it.
type Service struct {
	registry.Service
	Host       string
	Endpoints  []Endpoint // by address; never empty but when all have weight 0
	Registries []string   // sorted
}

// Endpoint is one address that provides a service.
type Endpoint struct {
	Address string // IP address or name
	Port    int
	Weight  int // 1 and more
	// URL has the labels: that of the provider, or of the first of several behind
	// one agent.
	URL registry.URL
}

// Locality is where an endpoint is.
type Locality struct{ Region, Zone, SubZone string }

// Locality is the provider's parameters region, zone and subZone, or dubbo2istio's
// aeraki_meta_locality, "region/zone/subzone".
func (e Endpoint) Locality() Locality {
	if l := e.URL.Param("aeraki_meta_locality"); l != "" {
		parts := append(strings.SplitN(l, "/", 3), "", "")
		return Locality{parts[0], parts[1], parts[2]}
	}
	return Locality{e.URL.Param("region"), e.URL.Param("zone"), e.URL.Param("subZone")}
}

var (
	labelKey   = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelValue = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
)

// Labels are the provider's parameters that can be labels of Kubernetes, commas
// as dashes, for the subsets of a DestinationRule. "version" is that of the
// application where it says one (aeraki_meta_app_version, as dubbo2istio has it),
// else that of the service. What changes at every start, and marks, are none.
func (e Endpoint) Labels() map[string]string {
	labels := map[string]string{}
	for k, v := range e.URL.Params {
		switch k {
		case "timestamp", "pid", "methods", "interface", "path", "token":
			continue
		}
		if strings.HasPrefix(k, "bind.") || strings.HasPrefix(k, registry.MarkPrefix) {
			continue
		}
		if v = strings.ReplaceAll(v, ",", "-"); labelKey.MatchString(k) && labelValue.MatchString(v) && v != "" {
			labels[k] = v
		}
	}
	if v, ok := labels["aeraki_meta_app_version"]; ok {
		labels["version"] = v
	}
	return labels
}

// Has tells whether the endpoint has all these labels.
func (e Endpoint) Has(want map[string]string) bool {
	if len(want) == 0 {
		return true
	}
	have := e.Labels()
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

func (s *Service) equal(o *Service) bool {
	return s.Service == o.Service && s.Host == o.Host && slices.Equal(s.Endpoints, o.Endpoints) && slices.Equal(s.Registries, o.Registries)
}

// place is where a provider is, for those that must not be counted twice.
type place struct {
	service registry.Service
	address string
}

// services composes what the registries say of one interface. Sets are in the
// order of the registries. As in the agent (CONTRACT §1, §4): interface-level mesh
// entries at one address are processes behind one agent and their weights are
// summed, an application-level one there is that sum already; a direct entry at
// the origin of a mesh entry is the same provider.
func services(sets []set) []*Service {
	type provider struct {
		registry.Provider
		mesh     bool
		registry string
	}
	var all []provider
	listed := map[place]bool{}  // has interface-level entries
	origins := map[place]bool{} // is behind a mesh entry
	for _, s := range sets {
		for _, p := range s.providers {
			u := rewrite.Canonical(p.URL, p.URL.Host)
			if !utf8.ValidString(u.String()) { // protobuf cannot carry it
				continue
			}
			if u.Protocol != Protocol || u.Host == "" || u.Port == 0 || u.Param("enabled") == "false" || u.Param("disabled") == "true" {
				continue
			}
			q := provider{registry.Provider{URL: u, Model: p.Model}, u.Param(registry.MarkCaps) != "", s.registry}
			all = append(all, q)
			if p.Model == registry.ModelInterface {
				listed[place{u.Service(), u.HostPort()}] = true
			}
			if origin := u.Param(registry.MarkOrigin); q.mesh && origin != "" {
				origins[place{u.Service(), origin}] = true
			}
		}
	}
	slices.SortStableFunc(all, func(a, b provider) int {
		return cmp.Or(cmp.Compare(a.URL.Host, b.URL.Host), cmp.Compare(a.URL.Port, b.URL.Port),
			-cmp.Compare(a.Model, b.Model), cmp.Compare(a.URL.Query, b.URL.Query), cmp.Compare(a.URL.Path, b.URL.Path))
	})
	found := map[registry.Service]*Service{}
	type process struct {
		place
		origin string
	}
	counted := map[process]bool{}
	for _, p := range all {
		at := place{p.URL.Service(), p.URL.HostPort()}
		s := found[at.service]
		if s == nil {
			s = &Service{Service: at.service, Host: rewrite.Host(at.service)}
			found[at.service] = s
		}
		if !slices.Contains(s.Registries, p.registry) {
			s.Registries = append(s.Registries, p.registry)
		}
		id := process{at, p.URL.Param(registry.MarkOrigin)}
		if counted[id] || !p.mesh && origins[at] || p.Model == registry.ModelApplication && listed[at] {
			continue
		}
		counted[id] = true
		weight := rewrite.Weight(p.URL)
		if weight == 0 {
			continue
		}
		if n := len(s.Endpoints); n > 0 && s.Endpoints[n-1].Address == p.URL.Host && s.Endpoints[n-1].Port == p.URL.Port {
			s.Endpoints[n-1].Weight += weight
			continue
		}
		s.Endpoints = append(s.Endpoints, Endpoint{Address: p.URL.Host, Port: p.URL.Port, Weight: weight, URL: content(p.URL)})
	}
	list := make([]*Service, 0, len(found))
	for _, s := range found {
		slices.Sort(s.Registries)
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *Service) int { return cmp.Compare(a.Key(), b.Key()) })
	return list
}

// content is a URL without what changes when its process starts again.
func content(u registry.URL) registry.URL {
	return u.Without(func(k, _ string) bool { return k == "timestamp" || k == "pid" || k == registry.MarkOrigin })
}

// ID names the endpoint within its service.
func (e Endpoint) ID() string { return e.Address + ":" + strconv.Itoa(e.Port) }
