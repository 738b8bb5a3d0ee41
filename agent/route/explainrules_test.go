package route

import (
	"slices"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// What rules decide is told with the author's names, what each filter left, and what
// cannot be honoured.
func TestExplainRules(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDSThenRegistry))
	r.compiler.update(ready("com.a.Foo", ifaceLevel(t, "dubbo://10.0.0.9:20880/com.a.Foo?interface=com.a.Foo")))
	r.compile(r.time)
	asked := registry.Service{Interface: "com.a.Foo"}
	golden(t, "explain-rules-none", r.snapshot.explain(Query{Service: asked}, r.time))

	canary := RouteRule{
		Name: "canary", Origin: "virtual-service dubbo/demo",
		Match: Match{Method: StringMatch{Kind: Prefix, Text: "say"}, Attachments: []AttachmentMatch{
			{Key: "tag", StringMatch: StringMatch{Kind: Exact, Text: "gray"}}, {Key: "user", StringMatch: StringMatch{Kind: Range, From: 0, To: 1000}}}},
		Clusters: []WeightedCluster{{Cluster: "green", Weight: 1, Attachments: Changes{Set: []Attachment{{Key: "lane", Value: "canary"}}}}},
		Timeout:  500 * time.Millisecond, Retry: Retry{Attempts: 2, PerTry: 100 * time.Millisecond, On: RetryLost | RetryError},
		Mirrors: []Mirror{{Cluster: "blue", Share: Million / 10}}, Attachments: Changes{Remove: []string{"secret"}, Set: []Attachment{{Key: "x", Value: "1", When: Append}}},
	}
	other := split("blue", 3, "green", 1, "none", 0, "absent", 4)
	other.Unsupported = []string{"url rewrite"}
	other.Fault = Fault{DelayShare: Million / 4, Delay: time.Second, AbortShare: 5000, AbortStatus: 503}
	u := RuleUpdate{Source: "xds", Synced: true,
		Routes: map[string]*RouteSpec{"http_proxy/com.a.foo:20882": {Name: "http_proxy/com.a.foo:20882", Hosts: []string{"com.a.foo"}, Origin: "virtual-service dubbo/demo",
			Routes: []RouteRule{canary, other}, Unsupported: []string{"cors"}}},
		Clusters: map[string]*ClusterSpec{
			"blue": {Name: "blue", Origin: "destination-rule dubbo/demo", Policy: LeastRequest, Limits: Limits{Requests: 100, Retries: Unlimited, Pending: 7, Connections: 9},
				Outlier: &Outlier{Consecutive: 2, MaxEjectionPercent: 50}, Unsupported: []string{"subset load balancing"}},
			"green": {Name: "green", Policy: RingHash}},
		Endpoints: map[string]*EndpointSet{
			"blue": {Localities: []LocalitySpec{
				{Region: "r1", Zone: "z1", Endpoints: []EndpointSpec{{Address: "10.0.0.1:20882", Mesh: true}, {Address: "10.0.0.2:20882", Weight: 3}, {Address: "10.0.0.3:20882", Health: Unhealthy}, {Address: "10.0.0.4:20882"}}},
				{Region: "r1", Zone: "z2", Priority: 1, Endpoints: []EndpointSpec{{Address: "10.0.1.1:20882"}}}}},
			"green": {Localities: []LocalitySpec{{Endpoints: []EndpointSpec{{Address: "10.0.0.5:20882", Host: "green.example"}}}},
				Unsupported: []string{"host green.example cannot be looked up (no such host), its last addresses are used"}}},
		Unsupported: map[string][]string{"listener 127.0.0.1_20881": {"filter envoy.filters.http.lua"}, "Cluster green": {"refused, the last good one is used: port 70000"},
			"Cluster other": {"refused"}, "listener com.a.bar:20882": {"of another service"}, "RouteConfiguration http_proxy": {"refused, the last good one is used: no domains"}},
	}
	r.send(u)
	r.pass(2 * holdRules) // "absent" is missing for long
	blue := r.rules.clusters["blue"]
	for _, e := range blue.core.Endpoints[1:2] {
		blue.core.Report(e, RemoteError)
		blue.core.Report(e, RemoteError)
	}
	blue.core.Endpoints[3].Peer.Failed(time.Now())
	r.outliers(time.Now())
	blue.state.hosts["10.0.0.2:20882"].until = r.time.Add(30 * time.Second)

	golden(t, "explain-rules-canary", r.snapshot.explain(Query{Service: asked, Method: "sayHello", Attachments: map[string]string{"tag": "gray", "user": "7"}}, r.time))
	golden(t, "explain-rules-split", r.snapshot.explain(Query{Service: asked, Method: "sayHello", Attachments: map[string]string{"tag": "blue"}}, r.time))
	want := []string{"Cluster green: refused, the last good one is used: port 70000", "Cluster other: refused", "RouteConfiguration http_proxy: refused, the last good one is used: no domains", "cluster blue: subset load balancing", "endpoints of green: host green.example cannot be looked up (no such host), its last addresses are used", "listener 127.0.0.1_20881: filter envoy.filters.http.lua", "listener com.a.bar:20882: of another service",
		"virtual host http_proxy/com.a.foo:20882: cors", "virtual host http_proxy/com.a.foo:20882: route #2: url rewrite"}
	if said := r.said(); !slices.Equal(said, want) {
		t.Errorf("not honoured: %q", said)
	}
	// What generated resources say alike is one line.
	r.send(RuleUpdate{Unsupported: map[string][]string{}, Clusters: map[string]*ClusterSpec{
		"a": {Unsupported: []string{"tls", "subset load balancing"}}, "c": {Unsupported: []string{"tls"}}, "b": {Unsupported: []string{"tls"}},
	}})
	if said := r.said(); len(said) != 5 || said[0] != "cluster a and 1 more: subset load balancing" || said[1] != "cluster a and 2 more: tls" {
		t.Errorf("not honoured: %q", said)
	}
	r.send(RuleUpdate{Clusters: map[string]*ClusterSpec{"blue": nil, "a": nil, "b": nil, "c": nil}, Endpoints: map[string]*EndpointSet{"green": endpoints("10.0.0.5:20882")}, Unsupported: map[string][]string{},
		Routes: map[string]*RouteSpec{"http_proxy/com.a.foo:20882": {Name: "http_proxy/com.a.foo:20882", Hosts: []string{"com.a.foo"}, Routes: []RouteRule{{Direct: &DirectResponse{Status: 503, Text: "closed"}}}}}})
	if len(r.snapshot.unsupported) != 0 {
		t.Errorf("not honoured: %q", r.snapshot.unsupported)
	}
	golden(t, "explain-rules-direct", r.snapshot.explain(Query{Service: asked}, r.time))
}

// The router says who decides.
func TestExplainSource(t *testing.T) {
	o := rulesFor(FromXDS)
	r := New(o)
	x := r.Explain(Query{Service: registry.Service{Interface: "com.a.Foo"}})
	if x.Routing != FromXDS || x.Source != "registry" {
		t.Errorf("routing %q, source %q", x.Routing, x.Source)
	}
	if x := New(Options{}).Explain(Query{Service: registry.Service{Interface: "com.a.Foo"}}); x.Routing != "" || x.Source != "" {
		t.Errorf("without rules: routing %q, source %q", x.Routing, x.Source)
	}
}
