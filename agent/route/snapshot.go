package route

import (
	"cmp"
	"slices"

	"github.com/meshferry/meshferry/registry"
)

// Snapshot is everything that the data plane needs to route a call. It is
// immutable.
type Snapshot struct {
	Outbound Table // calls of local consumers, by what the registries say
	Inbound  Table // calls to local providers

	interfaces   index[*ifaceSet]
	clusters     index[*Cluster]                       // of rules, by name; each as it is without a service
	unsupported  []flaw                                // what rules say that cannot be honoured, sorted
	general      map[string][]string                   // of these, what the source as a whole cannot honour, by resource
	collided     map[registry.Service]registry.Service // services without rules → who has their host
	inbound      *localSet
	applications map[string]*Table
}

// Interface is what is known of an interface: its usable providers, each counted
// once, of every protocol, from all sources together. False: no source said
// anything, or none follows it.
func (s *Snapshot) Interface(name string) (Update, bool) {
	set, ok := s.interfaces.value(name)
	if !ok {
		return Update{Interface: name, State: Waiting}, false
	}
	return set.merged, true
}

// set is what is known of an interface, nothing if it is not known.
func (s *Snapshot) set(iface string) *ifaceSet {
	if set, ok := s.interfaces.value(iface); ok {
		return set
	}
	return &ifaceSet{}
}

// Services lists the services of protocol dubbo that have a provider, sorted by
// interface, group and version.
func (s *Snapshot) Services() []registry.Service {
	var list []registry.Service
	for _, set := range s.interfaces.all {
		list = append(list, set.services()...)
	}
	slices.SortFunc(list, compareServices)
	return list
}

// Application is the inbound table of one application: what a listener of its
// own dispatches by (CONTRACT §4.1). It is empty unless Options.Applications
// names the application.
func (s *Snapshot) Application(name string) *Table {
	if t, ok := s.applications[name]; ok {
		return t
	}
	return &Table{Unrouted: s.Inbound.Unrouted}
}

func compareServices(a, b registry.Service) int {
	return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Version, b.Version))
}
