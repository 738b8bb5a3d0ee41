package route

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// rulesFor are options under which rules decide about every service.
func rulesFor(routing Routing) Options {
	return Options{
		Host:    func(s registry.Service) string { return strings.ToLower(s.Interface) },
		Routing: func(registry.Service) Routing { return routing },
	}
}

// ruled is a compiler whose clock the test turns.
type ruledTest struct {
	*compiler
	t    *testing.T
	time time.Time
}

func newRuledTest(t *testing.T, routing Routing) *ruledTest {
	return &ruledTest{newCompiler(rulesFor(routing)), t, time.Unix(1_700_000_000, 0)}
}

// said is what cannot be honoured.
func (r *ruledTest) said() (lines []string) {
	for _, f := range r.snapshot.unsupported {
		lines = append(lines, f.String())
	}
	return lines
}

func (r *ruledTest) send(u RuleUpdate) { r.rules.update(u, r.time); r.compile(r.time) }

func (r *ruledTest) pass(d time.Duration) {
	for range int(d / time.Second) {
		r.time = r.time.Add(time.Second)
		r.tick(r.time)
		r.compile(r.time)
	}
}

// endpoints are of one locality.
func endpoints(addresses ...string) *EndpointSet {
	l := LocalitySpec{}
	for _, a := range addresses {
		l.Endpoints = append(l.Endpoints, EndpointSpec{Address: a})
	}
	return &EndpointSet{Localities: []LocalitySpec{l}}
}

func vhost(host string, routes ...RouteRule) map[string]*RouteSpec {
	return map[string]*RouteSpec{host: {Name: host, Hosts: []string{host}, Routes: routes}}
}

func split(pairs ...any) RouteRule {
	var r RouteRule
	for i := 0; i < len(pairs); i += 2 {
		r.Clusters = append(r.Clusters, WeightedCluster{Cluster: pairs[i].(string), Weight: uint32(pairs[i+1].(int))})
	}
	return r
}

// chosen draws clusters of the route of a call of com.a.Foo.
func (r *ruledTest) chosen(n int) map[string]int {
	r.t.Helper()
	got := map[string]int{}
	cl := r.snapshot.Outbound.find("com.a.Foo", "", "")
	if cl == nil || cl.Routes() == nil {
		return got
	}
	route := cl.Routes().Find([]byte("say"), nil)
	if route == nil {
		return got
	}
	for range n {
		if c, _ := route.Choose(); c != nil {
			got[c.Name]++
		} else {
			got[""]++
		}
	}
	return got
}

func (r *ruledTest) want(when string, clusters ...string) {
	r.t.Helper()
	got := r.chosen(200)
	for _, c := range clusters {
		if got[c] == 0 {
			r.t.Errorf("%s: %s is not chosen: %v", when, c, got)
		}
		delete(got, c)
	}
	if len(got) > 0 {
		r.t.Errorf("%s: chosen too: %v", when, got)
	}
}

func clusters(names ...string) map[string]*ClusterSpec {
	m := map[string]*ClusterSpec{}
	for _, n := range names {
		m[n] = &ClusterSpec{Name: n}
	}
	return m
}

func withCaller(r *ruledTest) *ruledTest {
	r.setCallers([]Caller{{Application: "app", Service: registry.Service{Interface: "com.a.Foo"}, URL: mustURL(r.t, "consumer://h/com.a.Foo?timeout=2000")}})
	r.compile(r.time)
	return r
}

// Shares are those of the weights.
func TestWeightedShares(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	r.send(RuleUpdate{Source: "xds", Synced: true, Clusters: clusters("blue", "green", "red"),
		Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882"), "green": endpoints("10.0.0.2:20882"), "red": endpoints("10.0.0.3:20882")}})
	for _, weights := range [][3]int{{1, 1, 0}, {100, 0, 0}, {0, 0, 7}, {50, 30, 20}, {1, 1, 1}, {99, 1, 0}} {
		r.send(RuleUpdate{Routes: vhost("com.a.foo", split("blue", weights[0], "green", weights[1], "red", weights[2]))})
		const n = 100_000
		got := r.chosen(n)
		sum := float64(weights[0] + weights[1] + weights[2])
		for i, name := range []string{"blue", "green", "red"} {
			p := float64(weights[i]) / sum
			if weights[i] == 0 && got[name] != 0 {
				t.Errorf("%v: %s with weight 0 was chosen", weights, name)
			}
			if d := math.Abs(float64(got[name]) - n*p); d > 5*math.Sqrt(n*p*(1-p)) {
				t.Errorf("%v: %s %d of %d", weights, name, got[name], n)
			}
		}
	}
}

// What is missing, or has no endpoints, leaves its share to the others and is
// counted call by call.
func TestMissingClusters(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	r.send(RuleUpdate{Source: "xds", Synced: true, Clusters: clusters("blue", "empty", "green"),
		Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882"), "green": endpoints("10.0.0.2:20882"), "empty": {}},
		Routes:    vhost("com.a.foo", split("blue", 30, "absent", 25, "empty", 25, "green", 20))})
	r.pass(holdRules)
	const n = 50_000
	got := r.chosen(n)
	if got["blue"]+got["green"] != n {
		t.Fatalf("chosen: %v", got)
	}
	if d := math.Abs(float64(got["blue"]) - 0.6*n); d > 5*math.Sqrt(n*.24) {
		t.Errorf("blue got %d of %d", got["blue"], n)
	}
	route := r.snapshot.Outbound.find("com.a.Foo", "", "").Routes().Find([]byte("say"), nil)
	if missed := float64(route.Stats.Missing.Load()); math.Abs(missed-n/2) > 5*math.Sqrt(n*.25) {
		t.Errorf("%v of %d counted as missing", missed, n)
	}
	r.send(RuleUpdate{Routes: vhost("com.a.foo", split("absent", 1))})
	r.pass(2 * holdRules)
	if got := r.chosen(10); got[""] != 10 {
		t.Errorf("chosen: %v", got)
	}
}

// A route changes when its clusters have endpoints; until then its predecessor
// serves, also when its cluster is removed first.
func TestMakeBeforeBreak(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	r.want("before anything")
	if cl := r.snapshot.Outbound.find("com.a.Foo", "", ""); cl == nil || !cl.Routes().Waiting() {
		t.Fatal("the service does not wait for rules")
	}
	r.send(RuleUpdate{Source: "xds", Synced: true, Clusters: clusters("blue"), Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882")},
		Routes: vhost("com.a.foo", split("blue", 1))})
	r.want("first", "blue")
	r.send(RuleUpdate{Routes: vhost("com.a.foo", split("green", 1))})
	r.want("green is not known", "blue")
	r.send(RuleUpdate{Clusters: map[string]*ClusterSpec{"green": {Name: "green"}, "blue": nil}})
	r.pass(3 * time.Second)
	r.want("green has no endpoints yet", "blue")
	r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"green": endpoints("10.0.0.2:20882")}})
	r.want("green is warm", "green")

	r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"green": {}}})
	r.pass(holdRules - 2*time.Second)
	r.want("green became empty: last good", "green")
	r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"green": endpoints("10.0.0.3:20882")}})
	r.want("green is back", "green")

	// The cluster goes before the route does, as istiod sends it.
	r.send(RuleUpdate{Clusters: map[string]*ClusterSpec{"green": nil}})
	r.pass(2 * time.Second)
	r.want("green was removed", "green")
	r.send(RuleUpdate{Clusters: clusters("blue"), Routes: vhost("com.a.foo", split("blue", 1))})
	r.want("blue came", "blue")
	r.pass(time.Second)
	if rc := r.rules.clusters["green"]; rc == nil || rc.core != nil || r.peers[peerKey{Outbound, "10.0.0.3:20882"}].Used() {
		t.Error("the removed cluster is still there")
	}
}

// Rules that lead nowhere give way to the registries after a while, and return
// when they lead somewhere for a while.
func TestFallBack(t *testing.T) {
	r := newRuledTest(t, FromXDSThenRegistry)
	r.compiler.update(ready("com.a.Foo", ifaceLevel(t, "dubbo://10.0.0.9:20880/com.a.Foo?interface=com.a.Foo")))
	r.compile(r.time)
	on := func(when, want, why string) {
		t.Helper()
		if x := r.snapshot.explain(Query{Service: registry.Service{Interface: "com.a.Foo"}}, r.time); !strings.Contains(x.Reason, why) || why == "" && x.Reason != "" {
			t.Errorf("%s: explained by %q", when, x.Reason)
		}
		cl := r.snapshot.Outbound.find("com.a.Foo", "", "")
		got := "registry"
		if cl.Routes() != nil {
			got = "rules"
		}
		if got != want || len(cl.Endpoints) != 1 {
			t.Errorf("%s: %s decides, want %s; registry has %v", when, got, want, addresses(cl))
		}
	}
	on("no rules", "registry", "has not told yet")
	r.send(RuleUpdate{Source: "xds", Synced: true, Clusters: clusters("blue"), Routes: vhost("com.a.foo", split("blue", 1))})
	on("rules without endpoints", "registry", "no endpoint for route #1")
	r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882")}})
	on("rules", "rules", "")
	r.want("rules", "blue")
	r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"blue": {}}})
	r.pass(holdRules - time.Second)
	on("held", "rules", "")
	r.want("held", "blue")
	r.pass(2 * time.Second)
	on("fallen back", "registry", "no endpoint for route #1")
	r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882")}})
	r.pass(riseRules - 2*time.Second)
	on("not yet back", "registry", "can be used again")
	r.pass(3 * time.Second)
	on("back", "rules", "")
	r.send(RuleUpdate{Routes: map[string]*RouteSpec{"com.a.foo": nil}})
	r.pass(2 * time.Second)
	on("the virtual host went: held", "rules", "")
	r.pass(holdRules)
	on("the virtual host went", "registry", "have no virtual host com.a.foo")
}

// One service's rules come by host, by pattern in order, or from "*".
func TestWhichSpec(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	spec := func(name string, order int, cluster string, hosts []string, patterns ...ServicePattern) *RouteSpec {
		return &RouteSpec{Name: name, Order: order, Hosts: hosts, Services: patterns, Routes: []RouteRule{split(cluster, 1)}}
	}
	u := RuleUpdate{Source: "xds", Synced: true, Clusters: map[string]*ClusterSpec{}, Endpoints: map[string]*EndpointSet{}}
	for i := range 6 {
		name := fmt.Sprint("c", i)
		u.Clusters[name], u.Endpoints[name] = &ClusterSpec{Name: name}, endpoints("10.0.0.1:20882")
	}
	r.send(u)
	set := func(s *RouteSpec) { r.send(RuleUpdate{Routes: map[string]*RouteSpec{s.Name: s}}) }
	set(spec("wild", 0, "c0", []string{"*"}))
	r.want("only *", "c0")
	set(spec("p2", 2, "c2", nil, ServicePattern{Interface: "com.*"}))
	r.want("a pattern", "c2")
	set(spec("p1", 1, "c1", nil, ServicePattern{Interface: "com.a.Foo", Version: "9"}, ServicePattern{Interface: "*.Foo"}))
	r.want("a pattern before it", "c1")
	set(spec("z", 0, "c4", []string{"other", "com.a.foo"}))
	r.want("a host", "c4")
	set(spec("a", 0, "c3", []string{"com.a.foo"}))
	r.want("the first by name", "c3")
	for _, name := range []string{"a", "z", "p1"} {
		r.send(RuleUpdate{Routes: map[string]*RouteSpec{name: nil}})
	}
	r.want("all removed but one", "c2")
}

// Services are asked for as long as somebody needs their rules.
func TestWantedServices(t *testing.T) {
	r := newRuledTest(t, FromXDS)
	if _, changed := r.rules.wants(); changed {
		t.Error("changed at the start")
	}
	withCaller(r)
	r.ask(registry.Service{Interface: "com.a.Foo", Group: "g"}, r.time)
	r.compiler.update(ready("com.a.Bar", ifaceLevel(t, "dubbo://10.0.0.9:20880/com.a.Bar?interface=com.a.Bar&version=2")))
	r.compile(r.time)
	got, changed := r.rules.wants()
	if want := "[com.a.Bar:2 com.a.Foo g/com.a.Foo]"; fmt.Sprint(got) != want || !changed {
		t.Errorf("wanted %v, want %s", got, want)
	}
	r.used(registry.Service{Interface: "com.a.Foo", Group: "g"}, r.time.Add(time.Minute))
	r.forget(r.time.Add(askedFor + time.Second))
	r.setCallers(nil)
	r.compile(r.time)
	if got, _ := r.rules.wants(); fmt.Sprint(got) != "[com.a.Bar:2 g/com.a.Foo]" {
		t.Errorf("wanted %v", got)
	}
	r.forget(r.time.Add(askedFor + 2*time.Minute))
	r.compile(r.time)
	if got, _ := r.rules.wants(); fmt.Sprint(got) != "[com.a.Bar:2]" {
		t.Errorf("wanted %v", got)
	}
}

// A call of a service with rules takes no lock and allocates nothing.
func TestRulesAllocateNothing(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	canary := split("green", 1)
	canary.Match = Match{Method: StringMatch{Kind: Prefix, Text: "s"}, Attachments: []AttachmentMatch{{Key: "tag", StringMatch: StringMatch{Kind: Regex, Text: "gr.*"}}},
		Arguments: []ArgumentMatch{{Index: 1, StringMatch: StringMatch{Kind: Exact, Text: "x"}}}}
	canary.Hash = []HashPolicy{{Attachment: "tag"}}
	u := RuleUpdate{Source: "xds", Synced: true, Clusters: map[string]*ClusterSpec{
		"blue":  {Name: "blue", Policy: LeastRequest, Outlier: &Outlier{Consecutive: 5, MaxEjectionPercent: 50, SuccessRate: true}, Limits: Limits{Requests: 10, Retries: 3}},
		"green": {Name: "green", Policy: RingHash}},
		Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:1", "10.0.0.2:1"), "green": endpoints("10.0.0.3:1", "10.0.0.4:1")},
		Routes:    vhost("com.a.foo", canary, split("blue", 1, "green", 1))}
	r.send(u)
	a := queried{&Query{Attachments: map[string]string{"tag": "gray"}, Arguments: map[int]string{1: "x"}}}
	name, method := []byte("com.a.Foo"), []byte("say")
	if n := testing.AllocsPerRun(1000, func() {
		cl := r.snapshot.Outbound.Lookup(name, nil).Only()
		for _, from := range []Attachments{a, nil} {
			route := cl.Routes().Find(method, from)
			to, _ := route.Choose()
			key, _ := route.Key(method, nil, from)
			e := to.PickBy(key, nil)
			if !to.Enter() {
				panic("over the limit")
			}
			to.Report(e, Answered)
			to.Leave()
		}
	}); n > 3 { // what queried converts
		t.Errorf("%v allocations", n)
	}
}

// A service that no registry lists has the endpoints to which its rules lead.
func TestRuledProviders(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	asked := registry.Service{Interface: "com.a.Foo"}
	if got := r.snapshot.Ruled(asked); len(got) != 0 {
		t.Errorf("before the rules: %v", got)
	}
	r.send(RuleUpdate{Source: "xds", Synced: true, Clusters: clusters("blue", "green"),
		Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882", "10.0.0.2:20882"), "green": endpoints("10.0.0.2:20882", "10.0.0.3:20882")},
		Routes:    vhost("com.a.foo", split("blue", 1, "green", 1), split("absent", 1))})
	r.pass(2 * holdRules)
	var got []string
	for _, p := range r.snapshot.Ruled(asked) {
		got = append(got, p.URL.String())
	}
	want := "dubbo://10.0.0.1:20882/com.a.Foo?interface=com.a.Foo dubbo://10.0.0.2:20882/com.a.Foo?interface=com.a.Foo dubbo://10.0.0.3:20882/com.a.Foo?interface=com.a.Foo"
	if strings.Join(got, " ") != want {
		t.Errorf("got %v", got)
	}
	if got := r.snapshot.Ruled(registry.Service{Interface: "com.a.Foo", Group: "g"}); len(got) != 0 {
		t.Errorf("another group: %v", got)
	}
}

// Providers whose tokens differ are called with theirs where rules lead to their
// addresses; an address that the registries do not know, or that stands for several,
// has none.
func TestTokensOfRuledEndpoints(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	const base = "dubbo://10.0.0.%d:20882/com.a.Foo?interface=com.a.Foo&token=%s&meshferry.origin=10.0.0.%[1]d:%[3]d&meshferry.caps=1"
	with := func(tokens ...string) (all []registry.Provider) {
		for i, token := range tokens {
			all = append(all, ifaceLevel(t, fmt.Sprintf(base, i+1, token, 20880)))
		}
		return all
	}
	one, two := with("a", "b")[0], with("a", "b")[1]
	third, other := ifaceLevel(t, fmt.Sprintf(base, 3, "c", 20880)), ifaceLevel(t, fmt.Sprintf(base, 3, "d", 20890))
	r.list(t, one, two, third, other)
	r.send(RuleUpdate{Source: "xds", Synced: true, Clusters: clusters("blue"), Routes: vhost("com.a.foo", split("blue", 1)),
		Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882", "10.0.0.2:20882", "10.0.0.3:20882", "10.0.0.4:20882")}})
	check := func(when, want string, each bool) {
		t.Helper()
		route, _ := r.snapshot.Outbound.find("com.a.Foo", "", "").Routes().ByMethod([]byte("say"))
		cl, _ := route.Choose()
		var got []string
		for _, e := range cl.Endpoints {
			got = append(got, e.Token)
		}
		if text := strings.Join(got, ","); text != want || cl.TokenPerEndpoint != each {
			t.Errorf("%s: tokens %q, for each %v", when, text, cl.TokenPerEndpoint)
		}
		if tried := cl.Endpoints[:3]; cl.Pick(tried) != cl.Endpoints[3] {
			t.Errorf("%s: the last one was not picked", when)
		}
	}
	check("different", "a,b,,", true)
	r.list(t, one, with("b", "a")[1], third) // all tokens but one changed
	check("changed", "a,a,c,", true)
	r.list(t, one, with("b", "a")[1])
	check("all the same: the consumer has it", ",,,", false)
}

func (r *ruledTest) list(t *testing.T, list ...registry.Provider) {
	t.Helper()
	r.compiler.update(ready("com.a.Foo", list...))
	r.compile(r.time)
}

// Services that differ in capitals alone have one host. Its rules are those of the
// service whose key sorts first; the other is refused by name.
func TestCollidingHosts(t *testing.T) {
	for _, routing := range []Routing{FromXDS, FromXDSThenRegistry} {
		r := newRuledTest(t, routing)
		upper, lower := registry.Service{Interface: "com.a.Foo"}, registry.Service{Interface: "com.a.foo"}
		r.compiler.update(ready("com.a.foo", ifaceLevel(t, "dubbo://10.0.0.9:20880/com.a.foo?interface=com.a.foo")))
		r.send(RuleUpdate{Source: "xds", Synced: true, Clusters: clusters("blue"), Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882")},
			Routes: vhost("com.a.foo", split("blue", 1))})
		ruled := func(s registry.Service) bool {
			cl := r.snapshot.Outbound.find(s.Interface, "", "")
			return cl != nil && cl.Routes() != nil && cl.Routes().spec != nil
		}
		if !ruled(lower) || len(r.snapshot.unsupported) != 0 {
			t.Errorf("%s: alone it has the host: %v %q", routing, ruled(lower), r.snapshot.unsupported)
		}
		withCaller(r)
		r.pass(2 * holdRules)
		const line = "host com.a.foo: service com.a.foo has no rules: the host is that of com.a.Foo"
		if !ruled(upper) || ruled(lower) || len(r.snapshot.unsupported) != 1 || r.said()[0] != line {
			t.Errorf("%s: ruled %v and %v, said %q", routing, ruled(upper), ruled(lower), r.snapshot.unsupported)
		}
		x := r.snapshot.explain(Query{Service: lower}, r.time)
		if !strings.Contains(x.Reason, "is that of com.a.Foo") || x.Routed != (routing == FromXDSThenRegistry) {
			t.Errorf("%s: routed %v: %q", routing, x.Routed, x.Reason)
		}
		if x := r.snapshot.explain(Query{Service: upper}, r.time); x.Source != "rules" || strings.Contains(x.Reason, "host") {
			t.Errorf("%s: %+v", routing, x)
		}
		r.setCallers(nil)
		r.compile(r.time)
		r.pass(2 * holdRules)
		if !ruled(lower) || len(r.snapshot.unsupported) != 0 || len(r.snapshot.collided) != 0 {
			t.Errorf("%s: alone again: %v %q", routing, ruled(lower), r.snapshot.unsupported)
		}
	}
}

// A spec that is a last resort decides when the source is synced and no other spec is
// for the service: neither by host, nor by pattern, nor for all. It is said.
func TestLastResort(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	spec := func(name, cluster string, last bool, hosts []string, patterns ...ServicePattern) map[string]*RouteSpec {
		return map[string]*RouteSpec{name: {Name: name, Last: last, Hosts: hosts, Services: patterns, Routes: []RouteRule{split(cluster, 1)}}}
	}
	u := RuleUpdate{Source: "xds", Clusters: clusters("bare", "ruled"), Routes: spec("cluster/bare", "bare", true, []string{"com.a.foo"}),
		Endpoints: map[string]*EndpointSet{"bare": endpoints("10.0.0.1:20882"), "ruled": endpoints("10.0.0.2:20882")}}
	r.send(u)
	r.want("not synced: a virtual host may come")
	r.send(RuleUpdate{Source: "xds", Synced: true})
	r.want("synced", "bare")
	r.pass(time.Second)
	const line = "service com.a.Foo: there is no virtual host com.a.foo, calls go by cluster/bare"
	said := func(want bool) {
		t.Helper()
		r.pass(time.Second)
		x := r.snapshot.explain(Query{Service: registry.Service{Interface: "com.a.Foo"}}, r.time)
		if is := slices.Contains(r.said(), line); is != want || strings.Contains(x.Reason, "there is no virtual host") != want || !x.Routed {
			t.Errorf("said: %v, want %v; explain: %q, routed %v", is, want, x.Reason, x.Routed)
		}
	}
	said(true)
	for name, other := range map[string]map[string]*RouteSpec{
		"host": spec("a", "ruled", false, []string{"com.a.foo"}), "pattern": spec("a", "ruled", false, nil, ServicePattern{Interface: "com.*"}), "all": spec("a", "ruled", false, []string{"*"}),
	} {
		r.send(RuleUpdate{Routes: other})
		r.want("by "+name, "ruled")
		said(false)
		r.send(RuleUpdate{Routes: map[string]*RouteSpec{"a": nil}})
		r.want("without "+name, "bare")
		said(true)
	}
	r.setCallers(nil)
	r.compile(r.time)
	r.pass(time.Second)
	if len(r.snapshot.unsupported) > 0 {
		t.Errorf("said of nobody: %q", r.snapshot.unsupported)
	}
}

// With rules before registries the registries decide until the first rules that lead
// to endpoints, and then there is one change of mind, in whatever order these come.
// Rules that come and go fast change nothing, also when some of their clusters are
// missing for good.
func TestRulesBeforeRegistriesDoNotFlap(t *testing.T) {
	route := RuleUpdate{Routes: vhost("com.a.foo", split("blue", 1))}
	cluster, set := RuleUpdate{Clusters: clusters("blue")}, RuleUpdate{Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:20882")}}
	synced := RuleUpdate{Source: "xds", Synced: true}
	for name, order := range map[string][]RuleUpdate{
		"synced first": {synced, route, cluster, set}, "synced last": {cluster, set, route, synced}, "endpoints first": {set, cluster, synced, route}, "route first": {route, synced, set, cluster},
	} {
		r := newRuledTest(t, FromXDSThenRegistry)
		r.compiler.update(ready("com.a.Foo", ifaceLevel(t, "dubbo://10.0.0.9:20880/com.a.Foo?interface=com.a.Foo")))
		r.compile(r.time)
		ruled := func() bool { return r.snapshot.Outbound.find("com.a.Foo", "", "").Routes() != nil }
		changes, is := 0, false
		watch := func(d time.Duration) {
			for range int(d / time.Second) {
				r.pass(time.Second)
				if now := ruled(); now != is {
					changes, is = changes+1, now
				}
			}
		}
		watch(20 * time.Second) // the server does not answer
		if is {
			t.Errorf("%s: rules from nowhere", name)
		}
		for _, u := range order {
			r.send(u)
			watch(2 * time.Second)
		}
		if !is || changes != 1 {
			t.Errorf("%s: rules decide: %v, after %d changes", name, is, changes)
		}
		// Endpoints come and go every three seconds: they are held.
		for range 10 {
			r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"blue": {}}})
			watch(3 * time.Second)
			r.send(set)
			watch(3 * time.Second)
		}
		if !is || changes != 1 {
			t.Errorf("%s: held: rules decide: %v, after %d changes", name, is, changes)
		}
		// They are away for longer, and then come and go: the registries keep deciding,
		// also when the rule is written anew each time and names a cluster that is not
		// there.
		r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"blue": {}}})
		watch(holdRules + 2*time.Second)
		if is || changes != 2 {
			t.Errorf("%s: fallen back: %v, after %d changes", name, !is, changes)
		}
		for range 10 {
			again := RuleUpdate{Endpoints: set.Endpoints, Routes: vhost("com.a.foo", split("blue", 1, "absent", 1))}
			r.send(again)
			watch(riseRules - 2*time.Second)
			r.send(RuleUpdate{Endpoints: map[string]*EndpointSet{"blue": {}}})
			watch(2 * time.Second)
		}
		if is || changes != 2 {
			t.Errorf("%s: coming and going: %v, after %d changes", name, is, changes)
		}
		r.send(set)
		watch(riseRules + 2*time.Second)
		if !is || changes != 3 {
			t.Errorf("%s: back: %v, after %d changes", name, is, changes)
		}
	}
}
