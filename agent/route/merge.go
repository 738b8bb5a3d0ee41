package route

import (
	"cmp"
	"slices"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// protocol of the tables.
const protocol = "dubbo"

// candidate is one provider that registries list, and what becomes of it.
type candidate struct {
	*facts
	provider   registry.Provider
	registries []string // that list it
	address    string   // host:port to dial
}

// merge joins what several sources say of an interface, so that each provider is
// used once (CONTRACT §1, §4):
//   - The same (protocol, ip:port, service key, origin) is one provider, whatever
//     model or registry lists it. The interface-level URL is used, because it has
//     the parameters of one process where an instance may sum several; it gets
//     the instance's timestamp if it has none.
//   - Interface-level mesh entries at an ip:port list the processes behind it one
//     by one; an application-level one there is their sum and not counted again.
//     The same goes for an interface-level one that names several origins (Nacos
//     has one instance for an address) where another registry lists them one by one.
//   - A direct entry at the origin of a mesh entry, or at one of several, is the
//     same provider; the mesh one is used.
//
// The result names every entry once, sorted, those that are not used with the
// reason.
func merge(updates []Update) []candidate {
	var all []candidate
	type text struct {
		model registry.Model
		url   registry.URL
	}
	known := map[text]int{}
	for _, u := range updates {
		for _, p := range u.Providers {
			k := text{p.Model, p.URL}
			if i, ok := known[k]; ok {
				if !slices.Contains(all[i].registries, u.Source) {
					all[i].registries = append(all[i].registries, u.Source)
				}
				continue
			}
			known[k] = len(all)
			all = append(all, candidate{factsOf(p.URL), p, []string{u.Source}, p.URL.HostPort()})
		}
	}
	slices.SortFunc(all, compareCandidates)

	type place struct {
		protocol, address string
		service           registry.Service
	}
	type process struct {
		place
		path, origin string
	}
	first := map[process]*candidate{}
	listed := map[process]bool{}      // places, and their paths, that have interface-level mesh entries
	represented := map[place]string{} // address of a provider → mesh entry that stands for it
	for i := range all {
		c := &all[i]
		if c.excluded != "" {
			continue
		}
		at := place{c.provider.URL.Protocol, c.address, c.service}
		id := process{at, c.provider.URL.Path, c.origin}
		if one, ok := first[id]; ok {
			c.excluded = "duplicate of " + string(one.provider.Model) + " level"
			one.listedToo(c)
			for origin := range strings.SplitSeq(c.origins, ",") {
				if more := first[process{at, id.path, origin}]; more != nil {
					more.listedToo(c)
				}
			}
			if one.began.IsZero() && !c.began.IsZero() {
				one.began, one.stamp = c.began, c.stamp
				one.provider.URL = one.provider.URL.With(registry.KeyTimestamp, c.stamp)
			}
			continue
		}
		first[id] = c
		alike := process{at, c.provider.URL.Path, ""}
		if c.mesh && (c.provider.Model == registry.ModelApplication && listed[process{place: at}] || c.origins != "" && listed[alike]) {
			c.excluded = "duplicate: sum of the interface level"
			for origin := range strings.SplitSeq(c.origins, ",") {
				if more := first[process{at, id.path, origin}]; more != nil {
					more.listedToo(c)
				}
			}
			continue
		}
		if c.mesh && c.provider.Model == registry.ModelInterface {
			listed[process{place: at}], listed[alike] = true, true
		}
		for origin := range strings.SplitSeq(cmp.Or(c.origins, c.origin), ",") {
			if origin != "" {
				represented[place{at.protocol, origin, at.service}] = c.address
			}
		}
	}
	for i := range all {
		c := &all[i]
		at := place{c.provider.URL.Protocol, c.address, c.service}
		if by, ok := represented[at]; ok && c.excluded == "" && !c.mesh {
			c.excluded = "duplicate of mesh endpoint " + by
		}
	}
	return all
}

// listedToo notes that the registries which list other list c's provider with it.
func (c *candidate) listedToo(other *candidate) {
	for _, name := range other.registries {
		if !slices.Contains(c.registries, name) {
			c.registries = append(c.registries, name)
		}
	}
}

// compareCandidates orders by service and place; at one place the interface
// level first, what stands for one provider before what stands for several, and of
// one model the latest start.
func compareCandidates(a, b candidate) int {
	return cmp.Or(
		cmp.Compare(a.provider.URL.Protocol, b.provider.URL.Protocol),
		compareServices(a.service, b.service),
		cmp.Compare(a.provider.URL.Host, b.provider.URL.Host),
		cmp.Compare(a.provider.URL.Port, b.provider.URL.Port),
		-cmp.Compare(a.provider.Model, b.provider.Model), // "interface" before "application"
		cmp.Compare(len(a.origins), len(b.origins)),
		cmp.Compare(a.origin, b.origin),
		b.began.Compare(a.began),
		cmp.Compare(a.provider.URL.Query, b.provider.URL.Query),
		cmp.Compare(a.provider.URL.Path, b.provider.URL.Path),
	)
}

// join is the state of several sources together. Updates are sorted by source.
func join(iface string, updates []Update, all []candidate) Update {
	merged := Update{Interface: iface}
	var sources, reasons []string
	states := map[SetState]bool{}
	for _, u := range updates {
		sources = append(sources, u.Source)
		states[u.State] = true
		if u.Reason != "" {
			reasons = append(reasons, u.Source+": "+u.Reason)
		}
	}
	for _, c := range all {
		if c.excluded == "" {
			merged.Providers = append(merged.Providers, c.provider)
		}
	}
	merged.Source = strings.Join(sources, ",")
	merged.Reason = strings.Join(reasons, "; ")
	switch {
	case states[Protected]:
		merged.State = Protected
	case states[Waiting] && len(merged.Providers) == 0:
		merged.State = Waiting
	case len(merged.Providers) == 0:
		merged.State = Empty
	default:
		merged.State = Ready
	}
	return merged
}
