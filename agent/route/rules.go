package route

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meshferry/meshferry/registry"
)

const (
	// holdRules is how long routes that lead to endpoints serve on, when what came
	// after them does not (make before break), and how long a removed cluster does.
	holdRules = 10 * time.Second
	// riseRules is how long rules must lead to endpoints before a service that fell
	// back to the registries returns to them.
	riseRules = 5 * time.Second
	// askedFor is how long a service that only a call has asked for is remembered
	// without calls.
	askedFor = 10 * time.Minute
	// mostAsked bounds those.
	mostAsked = 10_000
)

// ruleState is what is known of rules. The router's loop owns it, as part of the
// compiler.
type ruleState struct {
	host    func(registry.Service) string
	routing func(registry.Service) Routing
	wake    func() // of the loop, when somebody was ejected

	source      string
	synced      bool
	specs       map[string]*RouteSpec
	hosts       map[string][]*RouteSpec // by host, sorted by name
	patterns    []*RouteSpec            // with Services, sorted
	clusters    map[string]*ruleCluster
	unsupported map[string][]string // of the source as a whole
	flawed      map[string][]string // by spec or cluster: what of it cannot be honoured
	flaws       bool                // one of both changed

	services map[registry.Service]*ruled               // whose routing asks for rules
	byHost   map[string]map[registry.Service]bool      // of services
	byIface  map[string][]registry.Service             // of services, sorted
	collided map[registry.Service]registry.Service     // services without rules, because another one has their host; replaced whole
	users    map[string]map[registry.Service]struct{}  // by name of cluster
	asked    map[string]map[registry.Service]time.Time // by interface: by calls, until when
	asks     int                                       // in asked
	changed  map[string]bool                           // clusters to compile
	due      map[registry.Service]bool                 // services to look at again
	waits    map[registry.Service]bool                 // services that time will change
	wanted   bool                                      // services changed since wants
}

// ruled is one service whose routing asks for rules.
type ruled struct {
	service registry.Service
	host    string
	routing Routing
	users   []string // clusters that its spec names

	spec       *RouteSpec    // conditions are of
	conditions []*conditions // by route; nil: cannot be read
	accepted   *RouteSpec    // has served, or waited long enough
	last       *Routes       // that led to endpoints
	bad, good  time.Time     // since when; zero: is not
	first      time.Time     // when it was asked for
	fallen     bool          // to the registries
	stats      map[string]*RouteStats
	problems   []string
}

// ruleCluster is one cluster of rules.
type ruleCluster struct {
	spec    *ClusterSpec
	set     *EndpointSet // nil: not known
	removed time.Time    // when its spec went; zero: it is there
	state   *clusterState
	core    *Cluster // nil: not complete; of no service
}

func newRuleState(o Options) *ruleState {
	return &ruleState{
		host: o.Host, routing: o.Routing, wake: func() {},
		specs: map[string]*RouteSpec{}, hosts: map[string][]*RouteSpec{}, clusters: map[string]*ruleCluster{}, unsupported: map[string][]string{}, flawed: map[string][]string{},
		services: map[registry.Service]*ruled{}, byHost: map[string]map[registry.Service]bool{}, byIface: map[string][]registry.Service{},
		users: map[string]map[registry.Service]struct{}{}, asked: map[string]map[registry.Service]time.Time{},
		changed: map[string]bool{}, due: map[registry.Service]bool{}, waits: map[registry.Service]bool{},
	}
}

// routingOf is how a service is routed: by the registries while there is no source
// of rules.
func (x *ruleState) routingOf(s registry.Service) Routing {
	if x.routing == nil || x.host == nil {
		return FromRegistry
	}
	return orElse(x.routing(s), FromRegistry)
}

// update takes a change of the source.
func (x *ruleState) update(u RuleUpdate, now time.Time) {
	x.source = u.Source
	if u.Synced && !x.synced {
		x.synced = true
		for s := range x.services {
			x.due[s] = true
		}
	}
	if u.Unsupported != nil {
		x.unsupported, x.flaws = u.Unsupported, true
	}
	for name, spec := range u.Clusters {
		c := x.cluster(name)
		x.changed[name] = true
		switch {
		case spec != nil:
			c.spec, c.removed = spec, time.Time{}
			x.flaw("cluster "+name, spec.Unsupported)
		case c.spec != nil && c.removed.IsZero():
			c.removed = now
			x.flaw("cluster "+name, nil)
		}
	}
	for name, set := range u.Endpoints {
		x.cluster(name).set = set
		x.changed[name] = true
		var lines []string
		if set != nil {
			lines = set.Unsupported
		}
		x.flaw("endpoints of "+name, lines)
	}
	patterns := false
	for name, spec := range u.Routes {
		old := x.specs[name]
		for _, one := range [...]*RouteSpec{old, spec} {
			if one == nil {
				continue
			}
			patterns = patterns || len(one.Services) > 0
			for _, host := range one.Hosts {
				x.touchHost(host)
			}
		}
		if old != nil {
			for _, host := range old.Hosts {
				x.hosts[host] = slices.DeleteFunc(slices.Clone(x.hosts[host]), func(o *RouteSpec) bool { return o == old })
				if len(x.hosts[host]) == 0 {
					delete(x.hosts, host)
				}
			}
			delete(x.specs, name)
		}
		x.flaw("virtual host "+name, spec.flaws())
		if spec == nil {
			continue
		}
		x.specs[name] = spec
		for _, host := range spec.Hosts {
			x.hosts[host] = append(slices.Clone(x.hosts[host]), spec)
			slices.SortFunc(x.hosts[host], func(a, b *RouteSpec) int { return cmp.Or(lastly(a, b), cmp.Compare(a.Name, b.Name)) })
		}
	}
	if patterns {
		x.patterns = x.patterns[:0:0]
		for _, spec := range x.specs {
			if len(spec.Services) > 0 {
				x.patterns = append(x.patterns, spec)
			}
		}
		slices.SortFunc(x.patterns, func(a, b *RouteSpec) int {
			return cmp.Or(cmp.Compare(a.Order, b.Order), cmp.Compare(a.Name, b.Name))
		})
		for s := range x.services {
			x.due[s] = true
		}
	}
}

// flaw notes what of a resource cannot be honoured.
func (x *ruleState) flaw(of string, lines []string) {
	if len(lines) == 0 && len(x.flawed[of]) == 0 {
		return
	}
	x.flaws = true
	if x.flawed[of] = lines; len(lines) == 0 {
		delete(x.flawed, of)
	}
}

// flaws lists what of a spec cannot be honoured, that of its routes too.
func (s *RouteSpec) flaws() []string {
	if s == nil {
		return nil
	}
	lines := slices.Clone(s.Unsupported)
	for i := range s.Routes {
		rule := &s.Routes[i]
		for _, u := range rule.Unsupported {
			lines = append(lines, "route "+rule.label(i)+": "+u)
		}
		if _, err := newConditions(rule.Match, registry.Service{}); err != nil {
			lines = append(lines, "route "+rule.label(i)+" is passed over: "+err.Error())
		}
	}
	return lines
}

// mostFlaws bounds what status lists, and the log says; moreFlaws is where the rest
// is.
const (
	mostFlaws = 100
	moreFlaws = "…"
)

// flaw is something that cannot be honoured, and where.
type flaw struct {
	text string
	of   string // the first of the resources that say it, by name
	more int    // others
}

func (f flaw) String() string {
	if f.more > 0 {
		return fmt.Sprintf("%s and %d more: %s", f.of, f.more, f.text)
	}
	return f.of + ": " + f.text
}

// allFlaws lists what cannot be honoured, sorted. What many resources say, as
// generated ones do, is one flaw.
func (x *ruleState) allFlaws() []flaw {
	byText := map[string]flaw{}
	for _, m := range [...]map[string][]string{x.unsupported, x.flawed} {
		for of, lines := range m {
			for _, line := range lines {
				if f, known := byText[line]; known {
					byText[line] = flaw{line, min(f.of, of), f.more + 1}
				} else {
					byText[line] = flaw{line, of, 0}
				}
			}
		}
	}
	list := slices.SortedFunc(maps.Values(byText), func(a, b flaw) int {
		return cmp.Or(cmp.Compare(a.of, b.of), cmp.Compare(a.text, b.text))
	})
	if more := len(list) - mostFlaws; more > 0 {
		list = append(list[:mostFlaws], flaw{of: moreFlaws, text: fmt.Sprintf("and %d more", more)})
	}
	return list
}

func (x *ruleState) cluster(name string) *ruleCluster {
	c := x.clusters[name]
	if c == nil {
		c = &ruleCluster{state: &clusterState{name: name, hosts: map[string]*host{}, wake: func() { x.wake() }}}
		c.state.turn.Store(rand.Uint64N(maxSchedule)) // not every agent begins with the first endpoint
		x.clusters[name] = c
	}
	return c
}

// touchHost has the services of a host looked at again; "*" is everybody's.
func (x *ruleState) touchHost(host string) {
	if host == "*" {
		for s := range x.services {
			x.due[s] = true
		}
		return
	}
	for s := range x.byHost[host] {
		x.due[s] = true
	}
}

// find is the spec that decides about a service, nil if there is none.
func (x *ruleState) find(r *ruled) *RouteSpec {
	var own []*RouteSpec
	if _, refused := x.collided[r.service]; !refused {
		own = x.hosts[r.host]
	}
	if len(own) > 0 && !own[0].Last {
		return own[0]
	}
	for _, spec := range x.patterns {
		for _, p := range spec.Services {
			if p.matches(r.service) {
				return spec
			}
		}
	}
	if list := x.hosts["*"]; len(list) > 0 {
		return list[0]
	}
	if len(own) > 0 && x.synced {
		return own[0]
	}
	return nil
}

// lastly sorts specs that are a last resort behind the others.
func lastly(a, b *RouteSpec) int {
	switch {
	case a.Last == b.Last:
		return 0
	case a.Last:
		return 1
	}
	return -1
}

// lastResort is what is said of a service that no rule names.
func (x *ruleState) lastResort(r *ruled, spec *RouteSpec) {
	var lines []string
	if spec != nil && spec.Last {
		lines = []string{spec.without(r)}
	}
	x.flaw("service "+r.service.Key(), lines)
}

// without says that a service has no virtual host of its own.
func (s *RouteSpec) without(r *ruled) string {
	return fmt.Sprintf("there is no virtual host %s, calls go by %s", r.host, s.Name)
}

// follow sets the services of an interface that rules may decide about.
func (x *ruleState) follow(iface string, services []registry.Service, now time.Time) {
	if x.routing == nil {
		return
	}
	services = slices.DeleteFunc(slices.Clone(services), func(s registry.Service) bool { return x.routingOf(s) == FromRegistry })
	slices.SortFunc(services, compareServices)
	services = slices.Compact(services)
	for _, s := range services {
		r := x.services[s]
		if r == nil {
			r = &ruled{service: s, host: x.host(s), first: now, stats: map[string]*RouteStats{}}
			x.services[s] = r
			if x.byHost[r.host] == nil {
				x.byHost[r.host] = map[registry.Service]bool{}
			}
			x.byHost[r.host][s] = true
			x.collide(r.host)
			x.wanted = true
			x.waits[s] = true
		}
		r.routing = x.routingOf(s)
	}
	for _, s := range x.byIface[iface] {
		if slices.Contains(services, s) {
			continue
		}
		r := x.services[s]
		delete(x.services, s)
		delete(x.waits, s)
		delete(x.byHost[r.host], s)
		x.collide(r.host, s)
		x.lastResort(r, nil)
		if len(x.byHost[r.host]) == 0 {
			delete(x.byHost, r.host)
		}
		x.use(r, nil)
		x.wanted = true
	}
	if x.byIface[iface] = services; len(services) == 0 {
		delete(x.byIface, iface)
	}
}

// collide finds who has a host that services share: the one whose key sorts first, as
// in the control plane. The others are refused by name (CONTRACT §9).
func (x *ruleState) collide(host string, gone ...registry.Service) {
	if len(x.byHost[host]) < 2 && len(x.collided) == 0 {
		return
	}
	sharing := slices.SortedFunc(maps.Keys(x.byHost[host]), func(a, b registry.Service) int { return cmp.Compare(a.Key(), b.Key()) })
	collided := maps.Clone(x.collided)
	if collided == nil {
		collided = map[registry.Service]registry.Service{}
	}
	for _, s := range gone {
		delete(collided, s)
	}
	var lines []string
	for i, s := range sharing {
		if delete(collided, s); i > 0 {
			collided[s] = sharing[0]
			lines = append(lines, fmt.Sprintf("service %s has no rules: the host is that of %s", s.Key(), sharing[0].Key()))
		}
	}
	if maps.Equal(collided, x.collided) {
		return
	}
	x.collided = collided
	x.flaw("host "+host, lines)
	for _, s := range sharing {
		x.due[s] = true
	}
}

// use notes which clusters a service needs.
func (x *ruleState) use(r *ruled, spec *RouteSpec) {
	for _, name := range r.users {
		if delete(x.users[name], r.service); len(x.users[name]) == 0 {
			delete(x.users, name)
		}
	}
	r.users = r.users[:0]
	if spec == nil {
		return
	}
	for name := range spec.clusterNames {
		if x.users[name] == nil {
			x.users[name] = map[registry.Service]struct{}{}
		}
		x.users[name][r.service] = struct{}{}
		r.users = append(r.users, name)
	}
}

// usable tells whether each route of a spec leads to an endpoint, and warm whether
// all its clusters are known, with their endpoints.
func (x *ruleState) usable(spec *RouteSpec) (usable, warm bool) {
	usable, warm = len(spec.Routes) > 0, true
	for i := range spec.Routes {
		some, all := x.leads(&spec.Routes[i])
		usable, warm = usable && some, warm && all
	}
	return usable, warm
}

// leads tells whether a route leads to an endpoint, and whether all its clusters are
// known.
func (x *ruleState) leads(rule *RouteRule) (some, all bool) {
	some, all = rule.Direct != nil || len(rule.Clusters) == 0, true
	for _, w := range rule.Clusters {
		if w.Weight == 0 {
			continue
		}
		c := x.clusters[w.Cluster]
		there := c != nil && c.core != nil
		all = all && there
		some = some || there && len(c.core.Endpoints) > 0
	}
	return some, all
}

// settle compiles the clusters that changed, and marks the interfaces whose
// services they and changed routes belong to.
func (c *compiler) settle(next *Snapshot) {
	x := c.rules
	if len(x.changed) > 0 {
		clusters := next.clusters.edit()
		for _, name := range slices.Sorted(maps.Keys(x.changed)) {
			old := x.clusters[name].core
			c.ruleCluster(name)
			if rc := x.clusters[name]; rc == nil || rc.core == nil {
				clusters.remove(name)
			} else {
				clusters.set(name, rc.core)
			}
			if rc := x.clusters[name]; rc == nil || rc.core != old {
				for s := range x.users[name] {
					x.due[s] = true
				}
			}
		}
		clear(x.changed)
		next.clusters = clusters.index
	}
	if x.flaws {
		x.flaws = false
		next.unsupported, next.general, next.collided = x.allFlaws(), x.unsupported, x.collided
	}
	for s := range x.due {
		c.rerouted[s.Interface] = true
	}
	clear(x.due)
}

// ruleCluster compiles one cluster of rules.
func (c *compiler) ruleCluster(name string) {
	x := c.rules
	rc := x.clusters[name]
	var old []*Endpoint
	if rc.core != nil {
		old = rc.core.Endpoints
	}
	if !rc.removed.IsZero() {
		if c.now.Sub(rc.removed) < holdRules && len(x.users[name]) > 0 {
			return // serves on
		}
		rc.spec, rc.removed = nil, time.Time{}
	}
	if rc.spec == nil || rc.set == nil {
		c.hold(nil, old)
		if rc.core = nil; rc.spec == nil && rc.set == nil {
			delete(x.clusters, name)
		}
		return
	}
	core := &Cluster{
		Name: name, Policy: rc.spec.Policy, policyWhy: "cluster " + name, balance: new(atomic.Pointer[balance]), turn: &rc.state.turn,
		spec: rc.spec, set: rc.set, state: rc.state,
	}
	dial := &Dial{Timeout: rc.spec.ConnectTimeout, KeepAlive: rc.spec.KeepAlive}
	seen := map[*Peer]bool{}
	for i := range rc.set.Localities {
		l := &rc.set.Localities[i]
		for k := range l.Endpoints {
			one := &l.Endpoints[k]
			peer := c.peer(Outbound, one.Address)
			if one.Address == "" || seen[peer] {
				continue
			}
			seen[peer] = true
			core.Endpoints = append(core.Endpoints, &Endpoint{
				Peer: peer, Mesh: one.Mesh, Weight: int(min(max(one.Weight, 1), mostWeight)), facts: noFacts,
				spec: one, locality: l, host: rc.state.host(one.Address),
			})
		}
	}
	if n := bound(rc.spec.Limits.HostConnections); n != unbounded {
		dial.Connections = int(max(1, n))
	}
	if *dial != (Dial{}) {
		for _, e := range core.Endpoints {
			e.Peer.dial.Store(dial)
		}
	}
	slices.SortFunc(core.Endpoints, func(a, b *Endpoint) int { return cmp.Compare(a.Peer.Addr, b.Peer.Addr) })
	rc.state.adopt(rc.spec, core.Endpoints)
	core.balance.Store(spread(rc.spec, rc.set, core.Endpoints))
	c.hold(core.Endpoints, old)
	rc.core = core
}

var noFacts = &facts{}

// routesOf compiles the rules of a service; nil: the registries decide. entry is
// its cluster of the registries.
func (c *compiler) routesOf(entry *Cluster) *Routes {
	x := c.rules
	r := x.services[entry.Service]
	if r == nil {
		return nil
	}
	delete(x.waits, r.service)
	spec := x.find(r)
	x.use(r, spec)
	x.lastResort(r, spec)
	usable, warm := false, false
	if spec != nil {
		usable, warm = x.usable(spec)
	}
	wait := func() { x.waits[r.service] = true }
	if usable && r.fallen { // back from the registries, after a while
		if r.good.IsZero() {
			r.good = c.now
		}
		if c.now.Sub(r.good) < riseRules {
			wait()
			entry.noRules = "rules of " + orElse(x.source, "xds") + " can be used again, and decide when that has lasted " + riseRules.String()
			return nil
		}
		r.fallen = false
	}
	switch {
	case usable && (warm || spec == r.accepted):
		r.bad = time.Time{}
		r.accepted = spec
		r.last = c.newRoutes(r, spec, entry)
		return r.last
	case r.last != nil:
		if r.bad.IsZero() {
			r.bad = c.now
		}
		if c.now.Sub(r.bad) < holdRules {
			wait()
			return r.last
		}
	}
	r.good = time.Time{}
	if usable { // some clusters are missing for long
		r.accepted, r.bad = spec, time.Time{}
		r.last = c.newRoutes(r, spec, entry)
		return r.last
	}
	waiting := c.now.Sub(r.first) < holdRules
	if waiting {
		wait() // its clusters may be on their way, or have waited
	}
	last := r.last
	r.last = nil
	if r.routing == FromXDSThenRegistry {
		r.fallen = r.fallen || last != nil
		entry.noRules = x.noRules(r, spec, waiting)
		return nil
	}
	if spec == nil {
		return &Routes{why: x.noRules(r, nil, waiting), waiting: waiting}
	}
	routes := c.newRoutes(r, spec, entry)
	routes.waiting = waiting
	return routes
}

// noRules says why no rules decide about a service, for people. spec is what there
// is, which cannot be used; waiting, that there may be one soon.
func (x *ruleState) noRules(r *ruled, spec *RouteSpec, waiting bool) string {
	source := orElse(x.source, "xds")
	if spec != nil {
		why := "virtual host " + spec.Name + " is not in effect: "
		for i := range spec.Routes {
			if some, _ := x.leads(&spec.Routes[i]); !some {
				return why + "no endpoint for route " + spec.Routes[i].label(i)
			}
		}
		return why + "it has no routes"
	}
	if owner, refused := x.collided[r.service]; refused {
		return "host " + r.host + " is that of " + owner.Key()
	}
	if !x.synced || waiting {
		return source + " has not told yet whether there is a virtual host " + r.host
	}
	return "rules of " + source + " have no virtual host " + r.host
}

// newRoutes makes the routes of a spec ready for a service.
func (c *compiler) newRoutes(r *ruled, spec *RouteSpec, entry *Cluster) *Routes {
	if r.spec != spec {
		r.spec, r.conditions, r.problems = spec, make([]*conditions, len(spec.Routes)), slices.Clone(spec.Unsupported)
		for i := range spec.Routes {
			when, err := newConditions(spec.Routes[i].Match, r.service)
			if err != nil {
				r.problems = append(r.problems, fmt.Sprintf("route %s is passed over: %v", spec.Routes[i].label(i), err))
				continue
			}
			r.conditions[i] = when
			for _, u := range spec.Routes[i].Unsupported {
				r.problems = append(r.problems, "route "+spec.Routes[i].label(i)+": "+u)
			}
		}
		labels := map[string]*RouteStats{}
		for i := range spec.Routes {
			label := spec.Routes[i].label(i)
			labels[label] = orElse(r.stats[label], &RouteStats{})
		}
		r.stats = labels
	}
	views := map[string]*Cluster{}
	view := func(name string) *Cluster {
		rc := c.rules.clusters[name]
		if rc == nil || rc.core == nil {
			return nil
		}
		if views[name] == nil {
			v := *rc.core
			v.Service, v.Stats, v.deadlines, v.Dedicated = entry.Service, entry.Stats, entry.deadlines, entry.Dedicated
			v.Endpoints, v.TokenPerEndpoint = withTokens(v.Endpoints, entry)
			views[name] = &v
		}
		return views[name]
	}
	routes := &Routes{spec: spec}
	if spec.Last {
		routes.why = spec.without(r)
	}
	for i := range spec.Routes {
		if when := r.conditions[i]; when != nil && !when.never {
			rule := &spec.Routes[i]
			routes.list = append(routes.list, newRoute(rule, rule.label(i), when, r.stats[rule.label(i)], view))
		}
	}
	return routes
}

// withTokens gives endpoints of rules the tokens that the registries know for their
// addresses, where the providers of the service have different ones (CONTRACT §8). An
// address behind which several want different tokens gets none.
func withTokens(endpoints []*Endpoint, entry *Cluster) (list []*Endpoint, some bool) {
	if !entry.TokenPerEndpoint {
		return endpoints, false
	}
	tokens, mixed := map[*Peer]string{}, map[*Peer]bool{}
	for _, e := range entry.Endpoints {
		token, seen := tokens[e.Peer]
		mixed[e.Peer] = mixed[e.Peer] || seen && token != e.Token
		tokens[e.Peer] = e.Token
	}
	list = slices.Clone(endpoints)
	for i, e := range list {
		if token := tokens[e.Peer]; token != "" && !mixed[e.Peer] {
			known := *e
			known.Token = token
			list[i], some = &known, true
		}
	}
	return list, some
}

// label names a route among those of its spec.
func (r *RouteRule) label(i int) string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("#%d", i+1)
}

// known lists the services of an interface: that the registries list, that local
// consumers subscribed to, and that calls have asked for.
func (c *compiler) known(iface string, set *ifaceSet) []registry.Service {
	list := set.services()
	for _, caller := range c.callers[iface] {
		if s := caller.Service; !strings.ContainsAny(s.Group+s.Version, "*,") {
			s.Version = registry.NormalVersion(s.Version)
			list = append(list, s)
		}
	}
	for s := range c.rules.asked[iface] {
		list = append(list, s)
	}
	return list
}

// withRuled adds to the entries of an interface the services that no registry
// lists and that are routed by rules alone.
func (c *compiler) withRuled(iface string, entries []entry) []entry {
	more := entries[:len(entries):len(entries)]
	for _, s := range c.rules.byIface[iface] {
		if c.rules.services[s].routing == FromXDS || c.rules.find(c.rules.services[s]) != nil {
			if !slices.ContainsFunc(entries, func(e entry) bool { return e.service == s }) {
				more = append(more, entry{service: s, path: iface})
			}
		}
	}
	return more
}

// ask notes a service that a call needs.
func (c *compiler) ask(s registry.Service, now time.Time) {
	x := c.rules
	if x.routingOf(s) == FromRegistry {
		return
	}
	if _, ok := x.asked[s.Interface][s]; !ok {
		if x.asks >= mostAsked {
			return
		}
		x.asks++
		if x.asked[s.Interface] == nil {
			x.asked[s.Interface] = map[registry.Service]time.Time{}
		}
		c.rerouted[s.Interface] = true
	}
	x.asked[s.Interface][s] = now.Add(askedFor)
}

// used notes that a service was called.
func (c *compiler) used(s registry.Service, now time.Time) {
	if list := c.rules.asked[s.Interface]; list != nil {
		if _, ok := list[s]; ok {
			list[s] = now.Add(askedFor)
		}
	}
}

// forget drops the services that calls have asked for once and not used since.
func (c *compiler) forget(now time.Time) {
	x := c.rules
	for iface, list := range x.asked {
		for s, until := range list {
			if now.Before(until) {
				continue
			}
			delete(list, s)
			x.asks--
			c.rerouted[iface] = true
		}
		if len(list) == 0 {
			delete(x.asked, iface)
		}
	}
}

// tick looks at what time changes: rules that wait, removed clusters, ejections.
func (c *compiler) tick(now time.Time) {
	x := c.rules
	for s := range x.waits {
		if r := x.services[s]; r != nil {
			x.due[s] = true
		}
	}
	for name, rc := range x.clusters {
		if !rc.removed.IsZero() && (now.Sub(rc.removed) >= holdRules || len(x.users[name]) == 0) {
			x.changed[name] = true
		}
	}
	c.outliers(now)
}

// outliers shares calls anew in clusters where somebody was ejected or returned.
func (c *compiler) outliers(now time.Time) {
	for _, rc := range c.rules.clusters {
		if rc.core != nil && (rc.spec.Outlier != nil || rc.state.ejections.Load() > 0) && rc.state.sweep(now) {
			rc.core.balance.Store(spread(rc.spec, rc.set, rc.core.Endpoints))
		}
	}
}

// wants lists the services whose rules are needed, if they changed.
func (x *ruleState) wants() ([]registry.Service, bool) {
	if !x.wanted {
		return nil, false
	}
	x.wanted = false
	return slices.SortedFunc(maps.Keys(x.services), compareServices), true
}
