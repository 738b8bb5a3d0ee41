package adapter

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	mcp "istio.io/api/mcp/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const within = 10 * time.Second

func parse(t testing.TB, text string) registry.URL {
	t.Helper()
	u, err := registry.ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

const (
	meshed = "dubbo://10.0.0.1:20882/com.a.Foo?interface=com.a.Foo&group=g1&version=1.0.0&dubbo.tag=gray&methods=a,b&region=cn&zone=hz&weight=50&timestamp=1&pid=7&meshferry.origin=10.0.0.1:20880&meshferry.caps=1"
	direct = "dubbo://10.0.0.2:20880/com.a.Bar?interface=com.a.Bar&application=shop&aeraki_meta_app_version=v2"
)

// The ServiceEntry of a service, whole.
func TestResource(t *testing.T) {
	s := &catalog.Service{Service: registry.Service{Group: "g1", Interface: "com.a.Foo", Version: "1.0.0"}, Host: "com.a.foo-g1-1-0-0", Endpoints: []catalog.Endpoint{
		{Address: "10.0.0.1", Port: 20882, Weight: 50, URL: parse(t, meshed)},
		{Address: "10.0.0.2", Port: 20880, Weight: 100, URL: parse(t, direct)},
		{Address: "named", Port: 20880, Weight: 100, URL: parse(t, direct)},
	}}
	r, skipped := resource("dubbo", s)
	if skipped != 1 {
		t.Errorf("%d endpoints left out", skipped)
	}
	var envelope mcp.Resource
	if err := r.UnmarshalTo(&envelope); err != nil {
		t.Fatal(err)
	}
	version := envelope.Metadata.Version
	envelope.Metadata.Version = ""
	got := strings.ReplaceAll(protojson.MarshalOptions{}.Format(&envelope), " ", "")
	const want = `{"metadata":{"name":"dubbo/com.a.foo-g1-1-0-0","createTime":"1970-01-01T00:00:00Z","labels":{"manager":"meshferry"},"annotations":{"group":"g1","interface":"com.a.Foo","meshferry.io/service":"g1/com.a.Foo:1.0.0","version":"1.0.0"}},` +
		`"body":{"@type":"type.googleapis.com/istio.networking.v1alpha3.ServiceEntry","hosts":["com.a.foo-g1-1-0-0"],"ports":[{"number":20882,"name":"dubbo"}],"location":"MESH_INTERNAL","resolution":"STATIC",` +
		`"endpoints":[{"address":"10.0.0.1","labels":{"dubbo.tag":"gray","group":"g1","region":"cn","version":"1.0.0","weight":"50","zone":"hz"},"locality":"cn/hz","weight":50},` +
		`{"address":"10.0.0.2","ports":{"dubbo":20880},"labels":{"aeraki_meta_app_version":"v2","application":"shop","version":"v2"},"weight":100}]}}`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again, _ := resource("dubbo", s); !proto.Equal(again, r) {
		t.Error("equal services have different resources")
	}
	s.Endpoints[0].Weight = 51
	other, _ := resource("dubbo", s)
	if err := other.UnmarshalTo(&envelope); err != nil || envelope.Metadata.Version == version {
		t.Errorf("another content has the same version (%v)", err)
	}
}

// publisher writes into a local registry.
func publisher(t *testing.T, dir string) (publish func(urls ...string)) {
	t.Helper()
	r, err := local.New(local.Options{Dir: dir, HostID: "publisher"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, r)
	return func(urls ...string) {
		t.Helper()
		var d registry.Desired
		for _, u := range urls {
			d.Providers = append(d.Providers, parse(t, u))
		}
		for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
			_, err := r.Apply(context.Background(), d)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
}

func run(t *testing.T, r registry.Registry) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// start runs an adapter.
func start(t *testing.T, registries ...catalog.Named) (address string, a *Adapter) {
	t.Helper()
	a, err := New(Options{Registries: registries, Hold: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, l, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), a
}

func reader(t *testing.T, dir string) catalog.Named {
	t.Helper()
	r, err := local.New(local.Options{Dir: dir, HostID: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, r)
	return catalog.Named{Name: "main", Registry: r}
}

func ready(t *testing.T, a *Adapter) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(2 * time.Millisecond) {
		if s, _ := a.watch(); s != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("never ready")
		}
	}
}

// istiodClient behaves as istiod does: one request for each type with a nonce of
// its own making, then acknowledgements and nothing else; and it keeps, by type,
// what the last response said, applying a resource only if its version is new.
type istiodClient struct {
	t      *testing.T
	stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	in     chan *discovery.DiscoveryResponse

	has     map[string]*mcp.Resource // ServiceEntries
	applied int
}

// types are those that an istiod asked for in a recorded dialogue, in its order.
func types(t *testing.T, file string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)<- (\S+) v="" nonce="[^"]+" names=\[\] err=<nil>`).FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	return all
}

func connect(t *testing.T, address string, types []string) *istiodClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &istiodClient{t: t, stream: stream, in: make(chan *discovery.DiscoveryResponse, 100), has: map[string]*mcp.Resource{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			c.in <- r
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	node := &core.Node{Id: "sidecar~192.0.2.2~istiod-0.istio-system~istio-system.svc.cluster.local"}
	for i, typeURL := range types {
		r := &discovery.DiscoveryRequest{TypeUrl: typeURL, ResponseNonce: fmt.Sprintf("2026-11-20 12:12:59.%d +0000 UTC m=+0.083", i)}
		if i == 0 {
			r.Node = node
		}
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *istiodClient) next() *discovery.DiscoveryResponse {
	c.t.Helper()
	select {
	case r := <-c.in:
		if err := c.stream.Send(&discovery.DiscoveryRequest{Node: &core.Node{Id: "sidecar~192.0.2.2~istiod-0.istio-system~istio-system.svc.cluster.local"},
			TypeUrl: r.TypeUrl, VersionInfo: r.VersionInfo, ResponseNonce: r.Nonce}); err != nil {
			c.t.Fatal(err)
		}
		if strings.HasSuffix(r.TypeUrl, "/ServiceEntry") {
			now := map[string]*mcp.Resource{}
			for _, a := range r.Resources {
				one := &mcp.Resource{}
				if err := a.UnmarshalTo(one); err != nil {
					c.t.Fatal(err)
				}
				if strings.Count(one.Metadata.Name, "/") != 1 || one.Metadata.Version == "" {
					c.t.Errorf("istiod cannot take %v", one.Metadata)
				}
				if old := c.has[one.Metadata.Name]; old != nil && old.Metadata.Version == one.Metadata.Version {
					if !proto.Equal(old, one) {
						c.t.Errorf("%s has changed, its version has not", one.Metadata.Name)
					}
					one = old
				} else {
					c.applied++
				}
				now[one.Metadata.Name] = one
			}
			c.has = now
		}
		return r
	case <-time.After(within):
		c.t.Fatal("no response")
		return nil
	}
}

// endpoints of a host that istiod would have now.
func (c *istiodClient) endpoints(name string) (list []string) {
	c.t.Helper()
	one := c.has[name]
	if one == nil {
		return nil
	}
	var e networking.ServiceEntry
	if err := one.Body.UnmarshalTo(&e); err != nil {
		c.t.Fatal(err)
	}
	for _, w := range e.Endpoints {
		list = append(list, w.Address)
	}
	return list
}

// TestRecordedDialogue holds the dialogues of istiod 1.29 and of master: every
// type that was asked is answered once, with the type URL that was asked; the
// changes after it are ServiceEntries alone.
func TestRecordedDialogue(t *testing.T) {
	for _, version := range []string{"1.29", "master"} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			publish := publisher(t, dir)
			publish(meshed, direct)
			address, a := start(t, reader(t, dir))
			ready(t, a)
			asked := types(t, "testdata/istiod-"+version+".log")
			if len(asked) < 15 {
				t.Fatalf("%d types in the record", len(asked))
			}
			c := connect(t, address, asked)
			for _, typeURL := range asked {
				r := c.next()
				want := 0
				if typeURL == "networking.istio.io/v1/ServiceEntry" {
					want = 2
				}
				if r.TypeUrl != typeURL || len(r.Resources) != want || r.VersionInfo == "" || r.Nonce == "" {
					t.Errorf("%s is answered with %s, %d resources", typeURL, r.TypeUrl, len(r.Resources))
				}
			}
			if got := c.endpoints("dubbo/com.a.bar"); len(got) != 1 || got[0] != "10.0.0.2" {
				t.Errorf("endpoints %v", got)
			}
			before := c.applied
			publish(meshed, direct, strings.Replace(direct, "0.2", "0.3", 1))
			if r := c.next(); r.TypeUrl != "networking.istio.io/v1/ServiceEntry" || len(c.endpoints("dubbo/com.a.bar")) != 2 || c.applied != before+1 {
				t.Errorf("%s: %v, %d applied", r.TypeUrl, c.endpoints("dubbo/com.a.bar"), c.applied-before)
			}
			publish(meshed) // the whole service goes, after a while
			if c.next(); len(c.has) != 1 || c.applied != before+1 {
				t.Errorf("has %v, %d applied", c.has, c.applied-before)
			}
		})
	}
}

// Older istiods ask for v1alpha3; two istiods are served at once; one that comes
// again has the same versions; what changed meanwhile is there.
func TestSeveralIstiods(t *testing.T) {
	dir := t.TempDir()
	publish := publisher(t, dir)
	publish(meshed)
	address, a := start(t, reader(t, dir))
	ready(t, a)
	one, other := connect(t, address, []string{"networking.istio.io/v1/ServiceEntry"}), connect(t, address, []string{"networking.istio.io/v1alpha3/ServiceEntry"})
	x, y := one.next(), other.next()
	if x.VersionInfo != y.VersionInfo || y.TypeUrl != "networking.istio.io/v1alpha3/ServiceEntry" || len(y.Resources) != 1 {
		t.Errorf("%v, %v", x, y)
	}
	publish(meshed, direct)
	if one.next(); len(one.has) != 2 {
		t.Errorf("%v", one.has)
	}
	if other.next(); len(other.has) != 2 {
		t.Errorf("%v", other.has)
	}
	again := connect(t, address, []string{"networking.istio.io/v1/ServiceEntry"})
	if r := again.next(); len(r.Resources) != 2 {
		t.Errorf("%v", r)
	}
	w := httptest.NewRecorder()
	a.admin().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"meshferry_adapter_istiods 3", "meshferry_adapter_services 2", "meshferry_adapter_ready 1"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in %s", want, w.Body)
		}
	}
}

// away is a registry that was never heard.
type away struct{}

func (away) List(ctx context.Context, _ chan<- []string) error { <-ctx.Done(); return nil }
func (away) Subscribe(ctx context.Context, _ string, _ chan<- registry.Endpoints) error {
	<-ctx.Done()
	return nil
}
func (away) Status() registry.Status { return registry.Status{State: "away"} }

// While a registry was not read, nothing is answered: an empty answer would take
// everything away.
func TestNothingBeforeTheRegistry(t *testing.T) {
	dir := t.TempDir()
	publisher(t, dir)(meshed)
	address, _ := start(t, reader(t, dir), catalog.Named{Name: "other", Registry: away{}})
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "registry other was not listed yet") {
		t.Errorf("%v", err)
	}
}
