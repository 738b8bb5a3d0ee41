package route

import (
	"slices"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// metadataServices are exported by every application under its name as group,
// and not registered (org.apache.dubbo.registry.client.metadata, Dubbo 3).
var metadataServices = [...]registry.Service{
	{Interface: "org.apache.dubbo.metadata.MetadataService", Version: "1.0.0"},
	{Interface: "org.apache.dubbo.metadata.MetadataServiceV2", Version: "2.0.0"},
}

// serializations are Dubbo's ids by the name that URLs use
// (org.apache.dubbo.common.serialize.Constants).
var serializations = map[string]byte{
	"hessian2": 2, "java": 3, "compactedjava": 4, "fastjson": 6, "nativejava": 7, "kryo": 8, "fst": 9,
	"native-hessian": 10, "avro": 11, "protostuff": 12, "gson": 16, "jackson": 18, "protobuf-json": 21,
	"protobuf": 22, "fastjson2": 23, "kryo2": 25, "msgpack": 27, "fury": 28,
}

// inbound compiles the local providers into next.
func (c *compiler) inbound(next *Snapshot) {
	set := &localSet{}
	set.list, set.adopts, set.interfaces = c.adopt(c.local)
	set.endpoints = make([]*Endpoint, len(set.list))
	for i, l := range set.list {
		if l.Protocol != protocol || l.Address == "" {
			continue
		}
		f := factsOf(l.URL)
		f.mesh, f.origin = false, ""
		if l.Weight != 0 {
			f.weight = min(max(l.Weight, 0), mostWeight)
		}
		e := newEndpoint(c.peer(Inbound, l.Address), l.URL, f)
		e.readonly = l.Readonly
		set.endpoints[i] = e
	}
	c.hold(set.endpoints, next.inbound.endpoints)
	next.inbound = set
	c.growing = map[*Cluster]bool{}
	next.Inbound = c.table(set, func(Local) bool { return true })
	next.applications = map[string]*Table{}
	for _, name := range c.o.Applications {
		t := c.table(set, func(l Local) bool { return l.Application == name })
		next.applications[name] = &t
	}
	c.warm(place{direction: Inbound})
}

// table compiles the inbound table of the local providers that take selects.
func (c *compiler) table(set *localSet, take func(Local) bool) Table {
	named, aliased := map[string][]entry{}, map[string][]entry{}
	explicit := map[registry.Service]bool{}
	processes := map[string]map[*Peer]*Endpoint{} // by application
	for i, l := range set.list {
		e := set.endpoints[i]
		if e == nil || !take(l) {
			continue
		}
		path := l.Path
		if path == "" {
			path = l.Service.Interface
		}
		if !l.Adopts() {
			x := entry{l.Service, path, e}
			named[l.Service.Interface] = append(named[l.Service.Interface], x)
			if path != l.Service.Interface {
				aliased[path] = append(aliased[path], x)
			}
			explicit[l.Service] = true
		}
		if processes[l.Application] == nil {
			processes[l.Application] = map[*Peer]*Endpoint{}
		}
		if old := processes[l.Application][e.Peer]; old == nil || old.readonly {
			processes[l.Application][e.Peer] = e
		}
	}
	for application, endpoints := range processes {
		for _, s := range metadataServices {
			s.Group = application
			if application == "" || explicit[s] {
				continue
			}
			for _, e := range endpoints {
				plain := &Endpoint{Peer: e.Peer, URL: e.URL, Weight: defaultWeight, facts: &facts{}, readonly: e.readonly}
				named[s.Interface] = append(named[s.Interface], entry{s, s.Interface, plain})
			}
		}
	}
	names := newIndex[[]*VirtualHost]().edit()
	for name := range named {
		sortEntries(named[name])
		names.set(name, c.hosts(Inbound, name, named[name], aliased[name]))
	}
	for name := range aliased {
		if named[name] == nil {
			sortEntries(aliased[name])
			names.set(name, c.hosts(Inbound, name, nil, aliased[name]))
		}
	}
	return Table{names: names.index, opaque: c.opaque(named), Unrouted: c.stats.unrouted(Inbound)}
}

func sortEntries(list []entry) {
	slices.SortStableFunc(list, func(a, b entry) int { return strings.Compare(a.endpoint.Peer.Addr, b.endpoint.Peer.Addr) })
}

// opaque finds for each serialization the one process whose URLs allow it.
func (c *compiler) opaque(named map[string][]entry) *[32]*Cluster {
	var allowed [32]map[*Peer]entry
	for _, list := range named {
		for _, e := range list {
			for _, id := range serializationsOf(e.endpoint.URL) {
				if allowed[id] == nil {
					allowed[id] = map[*Peer]entry{}
				}
				allowed[id][e.endpoint.Peer] = e
			}
		}
	}
	clusters := new([32]*Cluster)
	for id, processes := range allowed {
		if len(processes) != 1 {
			continue
		}
		for _, e := range processes {
			clusters[id] = c.cluster(Inbound, registry.Service{Interface: "*"}, []entry{e})
		}
	}
	return clusters
}

// serializationsOf lists the serializations that a provider's URL allows:
// serialization and prefer.serialization, hessian2 if there is neither.
func serializationsOf(u registry.URL) []byte {
	var ids []byte
	said := false
	for _, key := range [...]string{"serialization", "prefer.serialization"} {
		for name := range strings.SplitSeq(u.Param(key), ",") {
			said = said || name != ""
			if id, ok := serializations[name]; ok {
				ids = append(ids, id)
			}
		}
	}
	if !said {
		ids = append(ids, serializations["hessian2"])
	}
	return ids
}
