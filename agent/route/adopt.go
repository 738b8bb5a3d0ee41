package route

import (
	"maps"
	"slices"

	"github.com/meshferry/meshferry/registry"
)

// Adopts tells whether the services of the local application are those that it
// has registered itself at Options.Inbound, and not named here.
func (l Local) Adopts() bool { return l.Service == (registry.Service{}) }

// noteHere keeps what of an interface others than agents have registered at
// Options.Inbound, and has the inbound side compiled again if that changed.
func (c *compiler) noteHere(iface string, set *ifaceSet) {
	var here []candidate
	inbound := c.o.Inbound()
	for _, x := range set.candidates {
		if !x.mesh && slices.Contains(inbound, x.address) {
			here = append(here, x)
		}
	}
	if slices.EqualFunc(here, c.here[iface], func(a, b candidate) bool { return a.provider == b.provider }) {
		return
	}
	if c.here[iface] = here; len(here) == 0 {
		delete(c.here, iface)
	}
	c.anew = true
}

// adopt lists the local providers with, behind each that adopts, what it has
// registered. An entry that is disabled counts too: whether an application is
// called is for its callers to decide, who have read the same entry.
func (c *compiler) adopt(set []Local) (list []Local, adopts bool, interfaces []string) {
	type slot struct {
		address, path string
		service       registry.Service
	}
	for _, l := range set {
		list = append(list, l)
		if !l.Adopts() {
			continue
		}
		adopts = true
		seen := map[slot]bool{} // both levels of a registry say the same
		for _, iface := range slices.Sorted(maps.Keys(c.here)) {
			for _, x := range c.here[iface] {
				u := x.provider.URL
				at := slot{l.Address, u.Path, x.service}
				if x.application != l.Application || u.Protocol != l.Protocol || seen[at] {
					continue
				}
				seen[at] = true
				one := l
				one.Service, one.Path, one.URL, one.Weight = x.service, u.Path, u, defaultWeight
				list = append(list, one)
				interfaces = append(interfaces, iface)
			}
		}
	}
	return list, adopts, slices.Compact(interfaces)
}

// Adopts tells whether a local application registers itself: then a service that
// Inbound does not have may be one of its, and Router.AwaitLocal finds out.
func (s *Snapshot) Adopts() bool { return s.inbound.adopts }

// Local is what the inbound side was compiled from: the local providers, and
// those that were adopted. It must not be changed.
func (s *Snapshot) Local() []Local { return s.inbound.list }
