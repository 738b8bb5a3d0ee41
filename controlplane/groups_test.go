package controlplane

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshferry/meshferry/controlplane/istio"
)

// nodeOf is an agent with labels ("a=b") at a place ("region/zone/subzone").
func nodeOf(t testing.TB, place string, labels ...string) *core.Node {
	t.Helper()
	n := agentNode()
	all := map[string]any{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		all[k] = v
	}
	s, err := structpb.NewStruct(all)
	if err != nil {
		t.Fatal(err)
	}
	n.Metadata.Fields["LABELS"] = structpb.NewStructValue(s)
	l := locality(place)
	n.Locality = &core.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.SubZone}
	return n
}

const forOne = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: foo}
spec:
  hosts: [com.a.foo-g1]
  http:
  - name: mine
    match: [{sourceLabels: {app: %s}}]
    route: [{destination: {host: com.a.foo-g1}}]
    timeout: 7s
  - name: others
    route: [{destination: {host: com.a.foo-g1}}]
`

// Rules with sourceLabels are for the nodes with these labels; when the rules tell
// nodes apart otherwise, each is sent what it misses, and no more.
func TestSourceLabels(t *testing.T) {
	f := newFake(t, demoURL, fooURL)
	dir := folder(t, "foo.yaml", fmt.Sprintf(forOne, "a"))
	address, s := start(t, f, dir)
	a, b, none := openStream(t, address, nodeOf(t, "", "app=a")), openStream(t, address, nodeOf(t, "", "app=b")), openStream(t, address, agentNode())
	has := func(c *client, want bool) {
		t.Helper()
		if text := resources(t, c.next()); strings.Contains(text, `"mine"`) != want || !strings.Contains(text, `"others"`) || !strings.Contains(text, "com.acme") && !strings.Contains(text, demoHost) {
			t.Fatalf("want mine: %v, got %s", want, text)
		}
	}
	for _, c := range []*client{a, b, none} {
		c.ask(resource.RouteType, proxyRoutes)
		has(c, c == a)
	}
	write(t, dir, "foo.yaml", fmt.Sprintf(forOne, "b"))
	has(a, false)
	has(b, true) // and nothing for the third
	write(t, dir, "foo.yaml", strings.ReplaceAll(fmt.Sprintf(forOne, "b"), "7s", "8s"))
	if text := resources(t, b.next()); !strings.Contains(text, `"8s"`) {
		t.Error(text)
	}
	f.set(t, "dubbo://10.0.0.9:20880/com.a.New?interface=com.a.New") // everybody learns of it
	has(a, false)
	has(b, true)
	has(none, false)
	if n := s.state.kinds(); n != 1 {
		t.Errorf("%d groups", n)
	}
	for _, n := range s.nodes.list() { // the page tells who is like whom
		if n.Types[0].Group != "" && n.Address != "" && n.Types[0].Group != "routes 1" {
			t.Errorf("%+v", n)
		}
	}
	if err := b.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "left", func() bool { return s.state.kinds() == 0 })
}

// Endpoints are ordered for a node's place, with outlier detection, as an istiod
// orders them (testdata/istiod comes from a node without one; where one was sent,
// same zone and subzone had priority 0, the other subzone 1).
func TestLocality(t *testing.T) {
	urls := []string{}
	for i, place := range []string{"cn/hz/a", "cn/hz/b", "cn/sh/a", "us/la/a", "eu/fr/a"} {
		l := locality(place)
		urls = append(urls, fmt.Sprintf("dubbo://10.0.0.%d:20882/com.a.Foo?interface=com.a.Foo&region=%s&zone=%s&subZone=%s&rack=r%d", i+1, l.Region, l.Zone, l.SubZone, i%2))
	}
	for name, tt := range map[string]struct{ policy, place, labels, want string }{
		"by default, with outlier detection": {"outlierDetection: {consecutive5xxErrors: 3}", "cn/hz/a", "", "cn/hz/a:0 cn/hz/b:1 cn/sh/a:2 us/la/a:3 eu/fr/a:3"},
		"for a node without a place":         {"outlierDetection: {consecutive5xxErrors: 3}", "", "", "cn/hz/a:0 cn/hz/b:0 cn/sh/a:0 us/la/a:0 eu/fr/a:0"},
		"without outlier detection":          {"loadBalancer: {localityLbSetting: {failover: [{from: cn, to: us}]}}", "cn/hz/a", "", "cn/hz/a:0 cn/hz/b:0 cn/sh/a:0 us/la/a:0 eu/fr/a:0"},
		"switched off":                       {"{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}", "cn/hz/a", "", "cn/hz/a:0 cn/hz/b:0 cn/sh/a:0 us/la/a:0 eu/fr/a:0"},
		"failover":                           {"{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: cn, to: eu}]}}}", "cn/sh/a", "", "cn/hz/a:1 cn/hz/b:1 cn/sh/a:0 us/la/a:3 eu/fr/a:2"},
		"failoverPriority":                   {"{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [topology.kubernetes.io/region, rack]}}}", "cn/hz/a", "rack=r1", "cn/hz/a:1 cn/hz/b:0 cn/sh/a:1 us/la/a:2 eu/fr/a:2"},
		"failoverPriority to one value":      {"{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [rack=r0]}}}", "cn/hz/a", "", "cn/hz/a:0 cn/hz/b:1 cn/sh/a:0 us/la/a:1 eu/fr/a:0"},
		"distribute":                         {"loadBalancer: {localityLbSetting: {distribute: [{from: cn/hz/*, to: {cn/hz/*: 80, us/*: 20}}]}}", "cn/hz/b", "", "cn/hz/a:0=40 cn/hz/b:0=40 us/la/a:0=20"},
		"distribute from elsewhere":          {"loadBalancer: {localityLbSetting: {distribute: [{from: cn/hz/*, to: {cn/hz/*: 80, us/*: 20}}]}}", "us/la/a", "", "cn/hz/a:0 cn/hz/b:0 cn/sh/a:0 us/la/a:0 eu/fr/a:0"},
	} {
		t.Run(name, func(t *testing.T) {
			text := "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a}, spec: {host: com.a.foo, trafficPolicy: {" + strings.Trim(tt.policy, "{") + "}}"
			if !strings.HasPrefix(tt.policy, "{") {
				text += "}"
			}
			address, _ := start(t, newFake(t, urls...), folder(t, "a.yaml", text[:len(text)-1]+"}"))
			c := openStream(t, address, nodeOf(t, tt.place, strings.Fields(tt.labels)...))
			c.ask(resource.EndpointType, "outbound|20882||com.a.foo")
			var a endpoint.ClusterLoadAssignment
			if err := c.next().Resources[0].UnmarshalTo(&a); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, l := range a.Endpoints {
				place := l.Locality.Region + "/" + l.Locality.Zone + "/" + l.Locality.SubZone
				got[place] = fmt.Sprintf("%s:%d", place, l.Priority)
				if l.LoadBalancingWeight.Value != 100 {
					got[place] += fmt.Sprintf("=%d", l.LoadBalancingWeight.Value)
				}
			}
			want := strings.Fields(tt.want)
			slices.Sort(want)
			if list := slices.Sorted(maps.Values(got)); !slices.Equal(list, want) {
				t.Errorf("got  %s\nwant %s", list, want)
			}
		})
	}
}

// A provider that comes is told to each group as it sees it.
func TestLocalityFollowsProviders(t *testing.T) {
	at := func(i int, zone string) string {
		return fmt.Sprintf("dubbo://10.0.0.%d:20882/com.a.Foo?interface=com.a.Foo&region=cn&zone=%s", i, zone)
	}
	f := newFake(t, at(1, "a"))
	address, _ := start(t, f, folder(t, "a.yaml", "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a}, spec: {host: com.a.foo, trafficPolicy: {outlierDetection: {}}}}"))
	a, b := openStream(t, address, nodeOf(t, "cn/a")), openStream(t, address, nodeOf(t, "cn/b"))
	for _, c := range []*client{a, b} {
		c.ask(resource.EndpointType, "outbound|20882||com.a.foo")
		c.next()
	}
	f.set(t, at(1, "a"), at(2, "b"))
	for c, near := range map[*client]string{a: "10.0.0.1", b: "10.0.0.2"} {
		var m endpoint.ClusterLoadAssignment
		if err := c.next().Resources[0].UnmarshalTo(&m); err != nil {
			t.Fatal(err)
		}
		for _, l := range m.Endpoints {
			if address := l.LbEndpoints[0].GetEndpoint().Address.GetSocketAddress().Address; (l.Priority == 0) != (address == near) {
				t.Errorf("%s has priority %d for the node beside %s", address, l.Priority, near)
			}
		}
	}
}

// One edit takes a subset away and the route to it: the node is told first that no
// route names the cluster, and then that it is gone. A refused response is not sent
// again, and a request that answers an older response changes nothing.
func TestProtocol(t *testing.T) {
	demo := readFile(t, "testdata/demo/demo.yaml")
	dir := folder(t, "demo.yaml", demo)
	f := newFake(t, demoURL, demoURL2)
	address, _ := start(t, f, dir)
	c := openStream(t, address, agentNode())
	c.ask(resource.ClusterType)
	c.next()
	c.ask(resource.RouteType, proxyRoutes)
	c.next()
	one := strings.NewReplacer("subset: green", "subset: blue", "  - name: green\n    labels: {version: v2}\n    trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}\n", "").Replace(demo)
	write(t, dir, "demo.yaml", one)
	first, second := <-c.in, c.next() // the first is not answered yet
	if short(first.TypeUrl) != "RouteConfiguration" || strings.Contains(resources(t, first), "|green|") || short(second.TypeUrl) != "Cluster" || len(second.Resources) != 2 {
		t.Fatalf("%s, then %s with %d resources", first.TypeUrl, second.TypeUrl, len(second.Resources))
	}
	refuse := func(r *discovery.DiscoveryResponse, nonce string) {
		t.Helper()
		if err := c.stream.Send(&discovery.DiscoveryRequest{TypeUrl: r.TypeUrl, ResourceNames: []string{proxyRoutes}, ResponseNonce: nonce, ErrorDetail: &status.Status{Message: "no"}}); err != nil {
			t.Fatal(err)
		}
	}
	refuse(first, "1") // an older nonce
	refuse(first, first.Nonce)
	write(t, dir, "demo.yaml", strings.ReplaceAll(one, "3s", "4s"))
	if r := c.next(); short(r.TypeUrl) != "RouteConfiguration" || !strings.Contains(resources(t, r), `"4s"`) {
		t.Fatalf("%v", r)
	}
	// Endpoints: names that are added are sent, those that were asked for are not.
	blue, all := "outbound|20882|blue|"+demoHost, "outbound|20882||"+demoHost
	c.ask(resource.EndpointType, blue)
	r := c.next()
	c.names[resource.EndpointType] = []string{blue, all}
	if err := c.stream.Send(&discovery.DiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNames: []string{all, blue}, ResponseNonce: r.Nonce, VersionInfo: r.VersionInfo}); err != nil {
		t.Fatal(err)
	}
	if r := c.next(); len(r.Resources) != 1 || !strings.Contains(resources(t, r), all) {
		t.Fatalf("%v", r)
	}
	// One that begins again, without a nonce, is sent all.
	c.ask(resource.EndpointType, blue, all)
	if r := c.next(); len(r.Resources) != 2 {
		t.Fatalf("%v", r)
	}
}

// A folder that was edited compiles what differs.
func TestDiffer(t *testing.T) {
	read := func(text string) *rules {
		c, problems := istio.Parse(map[string][]byte{"a.yaml": []byte(text)})
		if problems.Err() != nil {
			t.Fatal(problems)
		}
		return index(c)
	}
	vs := func(host, to string) string {
		return fmt.Sprintf("\n---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: %s}, spec: {hosts: [%[1]s], http: [{route: [{destination: {host: %s}}]}]}}", host, to)
	}
	dr := func(host, policy string) string {
		return fmt.Sprintf("\n---\n{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: %s}, spec: {host: %[1]s, trafficPolicy: {loadBalancer: {%s}}}}", host, policy)
	}
	hash := "consistentHash: {httpHeaderName: user}"
	entry := "\n---\n{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e}, spec: {hosts: [e], ports: [{number: 1, name: a}], resolution: STATIC, workloadSelector: {labels: {a: b}}}}"
	load := "\n---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: e}, spec: {address: 10.0.0.1, labels: {a: b}}}"
	base := vs("a", "b") + vs("b", "b") + vs("c", "c") + dr("c", hash) + entry
	for name, tt := range map[string]struct {
		text string
		want string
	}{
		"nothing":                     {base, ""},
		"moved":                       {"# a comment\n" + base, ""},
		"a route":                     {strings.Replace(base, vs("c", "c"), vs("c", "b"), 1), "c"},
		"a rule, and who leads there": {base + dr("b", hash), "a b"},
		"a route is gone":             {strings.Replace(base, vs("a", "b"), "", 1), "a"},
		"a workload":                  {base + load, "e"},
	} {
		if got := strings.Join(read(tt.text).differ(read(base)), " "); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
