package route

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// peerIdle is how long a peer without endpoints is kept, so that one that
// returns finds its connections and its failures again.
const peerIdle = 5 * time.Minute

// compiler holds what snapshots are made of. The router's loop owns it.
type compiler struct {
	o     Options
	stats *statistics
	now   time.Time // of the step that runs

	updates map[string][]Update            // by interface, sorted by source
	claims  map[string]map[string]struct{} // path alias → interfaces that have it
	callers map[string][]Caller            // by interface, sorted by application; replaced whole
	peers   map[peerKey]*Peer

	dirty    map[string]bool // interfaces to compile
	rules    *ruleState
	rerouted map[string]bool        // interfaces whose rules are to be compiled
	local    []Local                // as SetLocal gave it
	anew     bool                   // local is to be compiled
	here     map[string][]candidate // by interface: what others than agents have registered at Options.Inbound
	growing  map[*Cluster]bool      // clusters made in this step that warm up
	warming  map[place][]*Cluster   // clusters of the snapshot that warm up

	snapshot *Snapshot
}

// place names what one compilation makes: virtual hosts of a name outbound, the
// whole table inbound.
type place struct{ direction, name string }

type peerKey struct{ direction, address string }

// ifaceSet is what is known of one interface.
type ifaceSet struct {
	merged     Update
	candidates []candidate
	endpoints  []*Endpoint // of candidates; nil for those not in the tables
	entries    []entry     // those in the tables
}

// localSet is the local providers.
type localSet struct {
	list       []Local     // with what was adopted
	endpoints  []*Endpoint // of list; nil for those not in the tables
	adopts     bool        // one of list does
	interfaces []string    // of what was adopted
}

func newCompiler(o Options) *compiler {
	if o.Inbound == nil {
		o.Inbound = func() []string { return nil }
	}
	c := &compiler{
		o:        o,
		stats:    newStatistics(cmp.Or(o.MaxStats, 10_000)),
		updates:  map[string][]Update{},
		claims:   map[string]map[string]struct{}{},
		callers:  map[string][]Caller{},
		peers:    map[peerKey]*Peer{},
		dirty:    map[string]bool{},
		here:     map[string][]candidate{},
		warming:  map[place][]*Cluster{},
		rules:    newRuleState(o),
		rerouted: map[string]bool{},
	}
	c.snapshot = &Snapshot{
		Outbound:   Table{names: newIndex[[]*VirtualHost](), Unrouted: c.stats.unrouted(Outbound)},
		Inbound:    Table{names: newIndex[[]*VirtualHost](), Unrouted: c.stats.unrouted(Inbound)},
		interfaces: newIndex[*ifaceSet](),
		clusters:   newIndex[*Cluster](),
		inbound:    &localSet{},
	}
	return c
}

// update takes what one source says of an interface now.
func (c *compiler) update(u Update) {
	list := slices.DeleteFunc(slices.Clone(c.updates[u.Interface]), func(o Update) bool { return o.Source == u.Source })
	if u.State != Dropped {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b Update) int { return cmp.Compare(a.Source, b.Source) })
	c.updates[u.Interface] = list
	if len(list) == 0 {
		delete(c.updates, u.Interface)
	}
	c.dirty[u.Interface] = true
}

// setCallers takes the local subscriptions. Interfaces whose subscriptions
// changed are compiled again.
func (c *compiler) setCallers(set []Caller) {
	callers := map[string][]Caller{}
	for _, caller := range set {
		if registry.Accepts(caller.Protocol, protocol) {
			callers[caller.Service.Interface] = append(callers[caller.Service.Interface], caller)
		}
	}
	for iface, list := range callers {
		slices.SortFunc(list, func(a, b Caller) int {
			return cmp.Or(cmp.Compare(a.Application, b.Application), compareServices(a.Service, b.Service), cmp.Compare(a.URL.String(), b.URL.String()))
		})
		if !slices.Equal(list, c.callers[iface]) {
			c.dirty[iface] = true
		}
	}
	for iface := range c.callers {
		if callers[iface] == nil {
			c.dirty[iface] = true
		}
	}
	c.callers = callers
}

func (c *compiler) setLocal(set []Local) { c.local, c.anew = set, true }

// refresh compiles everything anew.
func (c *compiler) refresh() {
	for iface := range c.updates {
		c.dirty[iface] = true
	}
	for iface := range c.rules.byIface {
		c.rerouted[iface] = true
	}
	for iface := range c.callers {
		c.rerouted[iface] = true
	}
	c.anew = true
}

// changes is what a compilation did to the endpoints of an interface.
type changes struct {
	iface    string
	old, new []string // labels, sorted
}

// compile makes the next snapshot of what changed since the last one, or returns
// nil when nothing did.
func (c *compiler) compile(now time.Time) (*Snapshot, []changes) {
	if len(c.dirty) == 0 && len(c.rerouted) == 0 && len(c.rules.changed) == 0 && len(c.rules.due) == 0 && !c.rules.flaws && !c.anew {
		return nil, nil
	}
	c.now = now
	next := *c.snapshot
	var all []changes
	c.settle(&next)
	if len(c.dirty) > 0 || len(c.rerouted) > 0 {
		all = c.outbound(&next)
	}
	if c.anew {
		c.inbound(&next)
	}
	c.dirty, c.rerouted, c.anew = map[string]bool{}, map[string]bool{}, false
	c.snapshot = &next
	return &next, all
}

// outbound compiles the dirty interfaces into next, and the rules of others.
func (c *compiler) outbound(next *Snapshot) []changes {
	interfaces, names := next.interfaces.edit(), next.Outbound.names.edit()
	touched := map[string]bool{}
	var all []changes
	for _, iface := range slices.Sorted(maps.Keys(c.dirty)) {
		old := next.set(iface)
		set := c.set(iface)
		if len(c.updates[iface]) == 0 {
			interfaces.remove(iface)
		} else {
			interfaces.set(iface, set)
		}
		c.hold(set.endpoints, old.endpoints)
		c.noteHere(iface, set)
		touched[iface] = true
		for _, path := range old.aliases() {
			delete(c.claims[path], iface)
			touched[path] = true
		}
		for _, path := range set.aliases() {
			if c.claims[path] == nil {
				c.claims[path] = map[string]struct{}{}
			}
			c.claims[path][iface] = struct{}{}
			touched[path] = true
		}
		c.rules.follow(iface, c.known(iface, set), c.now)
		all = append(all, changes{iface: iface, old: old.labels(), new: set.labels()})
	}
	next.interfaces = interfaces.index
	for iface := range c.rerouted {
		if c.dirty[iface] {
			continue
		}
		set := next.set(iface)
		c.rules.follow(iface, c.known(iface, set), c.now)
		touched[iface] = true
		for _, path := range set.aliases() {
			touched[path] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(touched)) {
		var aliased []entry
		for _, iface := range slices.Sorted(maps.Keys(c.claims[name])) {
			for _, e := range next.set(iface).entries {
				if e.path == name {
					aliased = append(aliased, e)
				}
			}
		}
		if len(aliased) == 0 {
			delete(c.claims, name)
		}
		c.growing = map[*Cluster]bool{}
		if hosts := c.hosts(Outbound, name, c.withRuled(name, next.set(name).entries), aliased); len(hosts) > 0 {
			names.set(name, hosts)
		} else {
			names.remove(name)
		}
		c.warm(place{Outbound, name})
	}
	next.Outbound.names = names.index
	return all
}

// set compiles what the sources say of an interface.
func (c *compiler) set(iface string) *ifaceSet {
	updates := c.updates[iface]
	set := &ifaceSet{candidates: merge(updates)}
	set.merged = join(iface, updates, set.candidates)
	set.endpoints = make([]*Endpoint, len(set.candidates))
	for i, x := range set.candidates {
		if x.excluded == "" && x.provider.URL.Protocol == protocol {
			e := newEndpoint(c.peer(Outbound, x.address), x.provider.URL, x.facts)
			c.share(e, x.registries)
			set.endpoints[i] = e
			set.entries = append(set.entries, entry{x.service, e.URL.Path, e})
		}
	}
	return set
}

// share makes an endpoint count as the registries that list it say.
func (c *compiler) share(e *Endpoint, registries []string) {
	if c.o.Registry == nil {
		return
	}
	best := Share{}
	for _, name := range registries {
		s := c.o.Registry(name)
		best.Weight, best.Preferred = max(best.Weight, s.Weight), best.Preferred || s.Preferred
	}
	if e.Weight > 0 && best.Weight > 0 {
		e.Weight = min(max(1, e.Weight*best.Weight/100), mostWeight)
	} else {
		e.Weight = 0
	}
	e.second = !best.Preferred
}

// aliases lists the paths that differ from the interface.
func (s *ifaceSet) aliases() []string {
	var paths []string
	for _, e := range s.entries {
		if e.path != "" && e.path != e.service.Interface {
			paths = append(paths, e.path)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// labels names the endpoints for people.
func (s *ifaceSet) labels() []string {
	var list []string
	for _, e := range s.entries {
		label := e.service.Key() + "@" + e.endpoint.Peer.Addr
		if e.endpoint.Origin != "" {
			label += "(" + e.endpoint.Origin + ")"
		}
		list = append(list, label)
	}
	slices.Sort(list)
	return list
}

// services lists the service keys in the tables.
func (s *ifaceSet) services() []registry.Service {
	var list []registry.Service
	for _, e := range s.entries {
		list = append(list, e.service)
	}
	slices.SortFunc(list, compareServices)
	return slices.Compact(list)
}

// peer is the one Peer of an address.
func (c *compiler) peer(direction, address string) *Peer {
	k := peerKey{direction, address}
	p := c.peers[k]
	if p == nil {
		p = newPeer(address)
		c.peers[k] = p
	}
	return p
}

// hold counts the endpoints that need each peer.
func (c *compiler) hold(added, removed []*Endpoint) {
	for _, e := range added {
		if e != nil {
			e.Peer.refs.Add(1)
		}
	}
	for _, e := range removed {
		if e != nil && e.Peer.refs.Add(-1) == 0 {
			e.Peer.idle = c.now.Sub(e.Peer.start)
		}
	}
}

// sweep forgets peers that no endpoint needed for a while, and, when there are
// too many, statistics of services that are gone.
func (c *compiler) sweep(now time.Time) {
	maps.DeleteFunc(c.peers, func(_ peerKey, p *Peer) bool {
		return !p.Used() && now.Sub(p.start)-p.idle > peerIdle
	})
	if !c.stats.full() {
		return
	}
	used := map[*Stats]bool{}
	for _, t := range [...]*Table{&c.snapshot.Outbound, &c.snapshot.Inbound} {
		for cl := range t.clusters {
			used[cl.Stats] = true
		}
	}
	c.stats.sweep(used)
}

// warm remembers which of the clusters just made warm up.
func (c *compiler) warm(at place) {
	delete(c.warming, at)
	if len(c.growing) > 0 {
		c.warming[at] = slices.Collect(maps.Keys(c.growing))
	}
}

// grow replaces the weights of the clusters that warm up.
func (c *compiler) grow(now time.Time) {
	c.now = now
	for at, clusters := range c.warming {
		left := slices.DeleteFunc(clusters, func(cl *Cluster) bool { return !c.weigh(cl) })
		if len(left) == 0 {
			delete(c.warming, at)
			continue
		}
		c.warming[at] = left
	}
}
