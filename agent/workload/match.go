package workload

import (
	"fmt"

	"github.com/meshferry/meshferry/registry"
)

// check errs for a Match that would select everything.
func (m Match) check() error {
	if m == (Match{}) {
		return fmt.Errorf("%w: say what to remove: a URL, an interface, a workload, …", ErrInvalid)
	}
	return nil
}

// publication tells whether p is meant, and if so, whether it still has the
// content that the URL names.
func (m Match) publication(p *Publication) (meant, same bool) {
	meant = m.fields(p.Workload, p.Protocol, p.Service, p.URL) &&
		(m.Path == "" || m.Path == p.Path) &&
		(m.Port == 0 || m.Port == p.Port)
	if !meant || m.URL == nil {
		return meant, meant
	}
	named := identify(*m.URL)
	named.Workload = p.Workload
	return named == p.Identity, *m.URL == p.URL
}

// subscription tells whether s is meant. A consumer URL names no content that
// matters here: identity is enough.
func (m Match) subscription(s *Subscription) bool {
	if !m.fields(s.Workload, s.Protocol, s.Service, s.URL) {
		return false
	}
	if m.URL == nil {
		return true
	}
	if (m.URL.Protocol == ProviderRules) != (s.Protocol == ProviderRules) {
		return false
	}
	protocol, given := m.URL.Lookup("protocol")
	return m.URL.Service() == s.Service && (!given || protocol == s.Protocol || s.Protocol == ProviderRules)
}

func (m Match) fields(workload, protocol string, service registry.Service, u registry.URL) bool {
	return (m.Workload == "" || m.Workload == workload) &&
		(m.Application == "" || m.Application == u.Param("application")) &&
		(m.Protocol == "" || m.Protocol == protocol) &&
		(m.Interface == "" || m.Interface == service.Interface) &&
		(m.Group == nil || *m.Group == service.Group) &&
		(m.Version == nil || registry.NormalVersion(*m.Version) == service.Version)
}

// identify is the identity that a provider URL names, without the workload.
func identify(u registry.URL) Identity {
	id := Identity{Protocol: u.Protocol, Service: u.Service(), Path: u.Path, Port: u.Port}
	if id.Path == "" {
		id.Path = id.Service.Interface
	}
	return id
}
