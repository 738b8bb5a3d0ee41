package controlplane

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/router/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

const (
	demoHost = "org.apache.dubbo.samples.api.demoservice"
	demoURL  = "dubbo://10.0.0.1:20882/org.apache.dubbo.samples.api.DemoService?interface=org.apache.dubbo.samples.api.DemoService&region=cn&zone=hz&subZone=a&aeraki_meta_app_version=v1&meshferry.caps=1&meshferry.origin=10.0.0.1:20880"
	demoURL2 = "dubbo://10.0.0.2:20882/org.apache.dubbo.samples.api.DemoService?interface=org.apache.dubbo.samples.api.DemoService&region=cn&zone=hz&subZone=b&aeraki_meta_app_version=v2&weight=50&meshferry.caps=1&meshferry.origin=10.0.0.2:20880"
	fooURL   = "dubbo://10.0.0.3:20880/com.a.Foo?interface=com.a.Foo&group=g1"
)

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// drop removes keys anywhere in a document.
func drop(v any, keys ...string) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range keys {
			delete(v, k)
		}
		for k := range v {
			v[k] = drop(v[k], keys...)
		}
	case []any:
		for i := range v {
			v[i] = drop(v[i], keys...)
		}
	}
	return v
}

// TestLikeIstiod compares what is sent with what an unmodified istiod sent to the
// same kind of node for the same input: same names, same routes and policies. Left
// out are what only Envoy in Istio's image has (filters, statistics, tracing) and
// the TLS mode of a sidecar.
func TestLikeIstiod(t *testing.T) {
	address, _ := start(t, newFake(t, demoURL, demoURL2), "testdata/demo")
	c := openStream(t, address, agentNode())
	for _, tt := range []struct {
		file, typeURL string
		empty         func() proto.Message
		names         []string
	}{
		{"CDS", resource.ClusterType, func() proto.Message { return &cluster.Cluster{} }, nil},
		{"EDS", resource.EndpointType, func() proto.Message { return &endpoint.ClusterLoadAssignment{} }, []string{
			"outbound|20882|blue|" + demoHost, "outbound|20882|green|" + demoHost, "outbound|20882||" + demoHost}},
		{"EDS-place", resource.EndpointType, func() proto.Message { return &endpoint.ClusterLoadAssignment{} }, []string{ // for a node at cn/hz/a
			"outbound|20882|blue|" + demoHost, "outbound|20882|green|" + demoHost, "outbound|20882||" + demoHost}},
		{"RDS", resource.RouteType, func() proto.Message { return &route.RouteConfiguration{} }, []string{"http_proxy"}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			c := c
			if tt.file == "EDS-place" {
				c = openStream(t, address, nodeOf(t, "cn/hz/a"))
			}
			c.ask(tt.typeURL, tt.names...)
			ours := []any{}
			for _, a := range c.next().Resources {
				m := tt.empty()
				if err := a.UnmarshalTo(m); err != nil {
					t.Fatal(err)
				}
				text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
				var v any
				if err == nil {
					err = json.Unmarshal(text, &v)
				}
				if err != nil {
					t.Fatal(err)
				}
				ours = append(ours, v)
			}
			var theirs any
			if err := json.Unmarshal([]byte(readFile(t, "testdata/istiod/"+tt.file+".json")), &theirs); err != nil {
				t.Fatal(err)
			}
			only := []string{"alt_stat_name", "filters", "services", "decorator", "max_grpc_timeout", "max_direct_response_body_size_bytes",
				"trace_sampled", "disable_shadow_host_suffix_append", "initial_fetch_timeout", "envoy.transport_socket_match", "workload", "metadata_of_endpoint"}
			if tt.typeURL == resource.EndpointType {
				only = append(only, "metadata")
			}
			a, _ := json.MarshalIndent(drop(any(ours), only...), "", " ")
			b, _ := json.MarshalIndent(drop(theirs, only...), "", " ")
			if string(a) != string(b) {
				t.Errorf("- is istiod's, + is ours:\n%s", differences(string(b), string(a)))
			}
		})
	}
	t.Run("LDS", func(t *testing.T) { // istiod sends further listeners for other ports and inbound
		c.ask(resource.ListenerType)
		r := c.next()
		var l listener.Listener
		if len(r.Resources) != 1 || r.Resources[0].UnmarshalTo(&l) != nil || l.Name != "127.0.0.1_20881" || l.Address.GetSocketAddress().GetPortValue() != 20881 {
			t.Errorf("%v", r)
		}
		if text := protojson.Format(&l); !strings.Contains(text, `"http_proxy"`) {
			t.Error(text)
		}
		if !strings.Contains(readFile(t, "testdata/istiod/LDS.json"), `"name": "127.0.0.1_20881"`) {
			t.Error("istiod does not send that listener")
		}
	})
}

// differences are the lines that only one text has, with their neighbours.
func differences(theirs, ours string) string {
	a, b := strings.Split(theirs, "\n"), strings.Split(ours, "\n")
	var out strings.Builder
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	for _, l := range a[:min(len(a), 40)] {
		out.WriteString("- " + l + "\n")
	}
	for _, l := range b[:min(len(b), 40)] {
		out.WriteString("+ " + l + "\n")
	}
	return out.String()
}

// A provider that comes changes EDS and nothing else.
func TestProviderChangesEndpointsOnly(t *testing.T) {
	f := newFake(t, demoURL, fooURL)
	address, _ := start(t, f, "testdata/demo")
	c := openStream(t, address, agentNode())
	c.ask(resource.ClusterType)
	if r := c.next(); len(r.Resources) != 4 {
		t.Fatalf("%d clusters", len(r.Resources))
	}
	c.ask(resource.RouteType, "http_proxy")
	c.next()
	c.ask(resource.ListenerType)
	c.next()
	c.ask(resource.EndpointType, "outbound|20882||"+demoHost, "outbound|20882|green|"+demoHost, "outbound|20882||com.a.foo-g1")
	c.next()
	f.set(t, demoURL, demoURL2)
	r := c.next()
	if r.TypeUrl != resource.EndpointType || len(r.Resources) != 2 { // not the service that stayed as it was
		t.Errorf("%s with %d resources", r.TypeUrl, len(r.Resources))
	}
	f.set(t, "dubbo://10.0.0.4:20880/com.a.New?interface=com.a.New") // a new service changes clusters and routes
	got := map[string]bool{}
	for len(got) < 2 {
		got[short(c.next().TypeUrl)] = true
	}
	if !got["Cluster"] || !got["RouteConfiguration"] {
		t.Errorf("got %v", got)
	}
}

// A folder with a mistake is refused whole, by file and line, while the last good
// one goes on; a repaired one is taken.
func TestBadFolder(t *testing.T) {
	demo := readFile(t, "testdata/demo/demo.yaml")
	dir := folder(t, "demo.yaml", demo)
	address, s := start(t, newFake(t, demoURL, demoURL2), dir)
	c := openStream(t, address, agentNode())
	c.ask(resource.RouteType, "http_proxy")
	first := c.next()
	for name, tt := range map[string]struct{ old, new, want string }{
		"unknown field":    {"timeout: 3s", "timeuot: 3s", "demo.yaml:15: spec.http[0].timeuot: unknown field (did you mean \"timeout\"?)"},
		"weights over 100": {"weight: 10}", "weight: 20}", "demo.yaml:24: spec.http[1].route: the weights sum up to 110: want 100"},
		"missing subset":   {"subset: green}, weight", "subset: red}, weight", "demo.yaml:26: spec.http[1].route[1].destination.subset: there is no subset \"red\""},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, dir, "demo.yaml", strings.Replace(demo, tt.old, tt.new, 1))
			eventually(t, "refused", func() bool { return s.folder.Load().Refused != "" })
			if why := s.folder.Load().Refused; !strings.Contains(why, tt.want) {
				t.Errorf("refused because\n%s\nwant\n%s", why, tt.want)
			}
			write(t, dir, "demo.yaml", demo)
			eventually(t, "repaired", func() bool { return s.folder.Load().Refused == "" })
		})
	}
	t.Run("two files for one host", func(t *testing.T) {
		write(t, dir, "other.yaml", strings.ReplaceAll(demo, "name: demo,", "name: other,"))
		eventually(t, "refused", func() bool { return s.folder.Load().Refused != "" })
		if why := s.folder.Load().Refused; !strings.Contains(why, "other.yaml:6: spec.hosts[0]: "+demoHost+" has a VirtualService at "+dir+"/demo.yaml:6 already") {
			t.Error(why)
		}
		if err := os.Remove(dir + "/other.yaml"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "repaired", func() bool { return s.folder.Load().Refused == "" })
	})
	write(t, dir, "demo.yaml", strings.NewReplacer("weight: 90}", "weight: 50}", "weight: 10}", "weight: 50}").Replace(demo))
	r := c.next() // nothing was sent in between
	if r.VersionInfo == first.VersionInfo || !strings.Contains(resources(t, r), `"weight":50`) {
		t.Errorf("%s", resources(t, r))
	}
}

func resources(t testing.TB, r *discovery.DiscoveryResponse) string {
	t.Helper()
	var all strings.Builder
	for _, a := range r.Resources {
		m, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(strings.ReplaceAll(string(text), " ", ""))
	}
	return all.String()
}

// Two instances with equal input give equal versions, whatever order things came
// in; a node that goes to the other one incrementally is sent nothing again.
func TestNoStateOfItsOwn(t *testing.T) {
	a, sa := start(t, newFake(t, demoURL, demoURL2, fooURL), "testdata/demo")
	f := newFake(t, fooURL)
	b, sb := start(t, f, "testdata/demo")
	f.set(t, demoURL2, demoURL)
	eventually(t, "equal", func() bool {
		x, _ := json.Marshal(sa.versions())
		y, _ := json.Marshal(sb.versions())
		return string(x) == string(y)
	})
	known := map[string]string{}
	ctx := t.Context()
	for i, address := range []string{a, b} {
		stream, err := dial(t, address).DeltaAggregatedResources(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: agentNode(), TypeUrl: resource.ClusterType, InitialResourceVersions: known}); err != nil {
			t.Fatal(err)
		}
		// A subscription to endpoints is answered after the one to clusters, if that is answered.
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"outbound|20882||" + demoHost, "none"}}); err != nil {
			t.Fatal(err)
		}
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if r.TypeUrl != resource.ClusterType || len(r.Resources) != 4 {
				t.Fatalf("first: %v", r)
			}
			for _, one := range r.Resources {
				known[one.Name] = one.Version
			}
		} else if r.TypeUrl != resource.ClusterType || len(r.Resources)+len(r.RemovedResources) > 0 {
			t.Fatalf("the second sent again: %v", r)
		}
		if r, err = stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if r.TypeUrl != resource.EndpointType || len(r.Resources) != 1 || len(r.RemovedResources) != 1 || r.RemovedResources[0] != "none" {
			t.Errorf("instance %d: %v", i, r)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
}

// Incremental: only what changed is sent, removals are named.
func TestIncremental(t *testing.T) {
	f := newFake(t, demoURL, fooURL)
	address, _ := start(t, f, "")
	stream, err := dial(t, address).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exchange := func(req *discovery.DeltaDiscoveryRequest) *discovery.DeltaDiscoveryResponse {
		t.Helper()
		if req != nil {
			if err := stream.Send(req); err != nil {
				t.Fatal(err)
			}
		}
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := exchange(&discovery.DeltaDiscoveryRequest{Node: agentNode(), TypeUrl: resource.EndpointType, ResourceNamesSubscribe: []string{"outbound|20882||" + demoHost, "outbound|20882||com.a.foo-g1"}}); len(r.Resources) != 2 {
		t.Fatalf("%v", r)
	}
	for i := range 20 {
		urls := []string{demoURL}
		if i%2 == 0 {
			urls = append(urls, demoURL2)
		}
		f.set(t, urls...)
		if r := exchange(nil); len(r.Resources) != 1 || r.Resources[0].Name != "outbound|20882||"+demoHost {
			t.Fatalf("%v", r)
		}
	}
}

// What each node was sent, acknowledged and refused can be seen.
func TestNodes(t *testing.T) {
	address, s := start(t, newFake(t, demoURL), "testdata/demo")
	c := openStream(t, address, agentNode())
	c.ask(resource.ListenerType)
	c.next()
	eventually(t, "acknowledged", func() bool {
		n := s.nodes.list()
		return len(n) == 1 && len(n[0].Types) == 1 && n[0].Types[0].Acked != "" && n[0].Kind == "agent"
	})
	c.ask(resource.ClusterType)
	r := <-c.in
	if err := c.stream.Send(&discovery.DiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce, ErrorDetail: &status.Status{Message: "no such policy"}}); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.Admin())
	defer web.Close()
	get := func(path string) string {
		w := httptest.NewRecorder()
		s.Admin().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Body.String()
	}
	eventually(t, "refused", func() bool { return strings.Contains(get("/debug/nodes"), `"nacked": "no such policy"`) })
	for path, want := range map[string]string{
		"/readyz": `"ready"`, "/healthz": `"ok"`, "/debug/status": `"services": 1`,
		"/debug/resources?name=http_proxy": "virtualHosts",
	} {
		if got := get(path); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	for _, want := range []string{`meshferry_control_plane_nodes{kind="agent"} 1`, "meshferry_control_plane_nacks_total 1", `meshferry_control_plane_resources{type="clusters"} 3`, "meshferry_control_plane_ready 1"} {
		if got := get("/metrics"); !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}
