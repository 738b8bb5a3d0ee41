package e2e

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

var xdsOutage = flag.Duration("xds-outage", 10*time.Second, "how long TestXDS keeps the ADS server away")

// Names of clusters as istiod gives them, and what providers answer.
const (
	blue, green = "blue", "green"
	xdsRate     = 300 // calls a second
)

func cluster(subset string) string {
	return fmt.Sprintf("outbound|20882|%s|%s", subset, rewrite.Host(registry.Service{Interface: service}))
}

// adsServer is the cache and the server of go-control-plane on loopback. It can be
// stopped and started again, at the same address.
type adsServer struct {
	t       *testing.T
	cache   cache.SnapshotCache
	address string
	version int
	grpc    *grpc.Server // nil: stopped
	served  chan struct{}
}

// everybody is sent the same.
type everybody struct{}

func (everybody) ID(*corev3.Node) string { return "everybody" }

func newADS(t *testing.T) *adsServer {
	t.Helper()
	// Below the ports that the kernel gives to dialers, and on an address that no
	// other test has: the port must still be there after a stop.
	s := &adsServer{t: t, cache: cache.NewSnapshotCache(true, everybody{}, nil), address: net.JoinHostPort(freeNet(t)+"1", strconv.Itoa(10_000+rand.IntN(20_000)))}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *adsServer) start() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.grpc, s.served = grpc.NewServer(), make(chan struct{})
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s.grpc, server.NewServer(context.Background(), s.cache, nil))
	go func(g *grpc.Server, served chan struct{}) {
		defer close(served)
		_ = g.Serve(l)
	}(s.grpc, s.served)
}

// stop cuts every connection.
func (s *adsServer) stop() {
	if s.grpc != nil {
		s.grpc.Stop()
		<-s.served
		s.grpc = nil
	}
}

// mesh is what one TestXDS has: providers blue and green on two hosts, and a
// consumer on a third one whose agent knows where to send its calls by rules alone.
type mesh struct {
	*world
	ads         *adsServer
	blue, green *agent
	agent       *agent // of the consumer
	last        *app   // the provider green
	consumer    *app
	more        []types.Resource // clusters beside blue and green
}

// set serves routes for the service, whose last one takes every call, and waits
// until the agent decides by them. That route gets a name of its own, which is
// returned.
func (m *mesh) set(routes ...*routev3.Route) string {
	m.t.Helper()
	name := m.put(routes...)
	m.decides(name)
	return name
}

// put is set without waiting.
func (m *mesh) put(routes ...*routev3.Route) string {
	m.t.Helper()
	m.ads.version++
	version := strconv.Itoa(m.ads.version)
	name := "rule-" + version
	routes[len(routes)-1].Name = name
	host := xdstest.VirtualHost(rewrite.Host(registry.Service{Interface: service})+":20882", blue)
	host.Routes = routes
	content := map[resource.Type][]types.Resource{
		resource.ClusterType: {xdstest.Cluster(cluster(blue)), xdstest.Cluster(cluster(green))},
		resource.EndpointType: {
			xdstest.Endpoints(cluster(blue), m.blue.inbound()), xdstest.Endpoints(cluster(green), m.green.inbound()),
		},
		resource.ListenerType: {xdstest.Listener(m.agent.host+"_"+outboundPort, "http_proxy")},
		resource.RouteType:    {xdstest.Routes("http_proxy", host)},
	}
	for _, c := range m.more {
		content[resource.ClusterType] = append(content[resource.ClusterType], c)
		content[resource.EndpointType] = append(content[resource.EndpointType], xdstest.Endpoints(cache.GetResourceName(c), m.blue.inbound(), m.green.inbound()))
	}
	snapshot, err := cache.NewSnapshot(version, content)
	if err == nil {
		err = snapshot.Consistent()
	}
	if err == nil {
		err = m.ads.cache.SetSnapshot(m.t.Context(), "everybody", snapshot)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return name
}

// explanation is what the tests read of GET /v1/explain.
type explanation struct {
	Source, Cluster, Reason string
	Routed                  bool
	Rules                   struct {
		VirtualHost, Route string
		Match, PassedOver  []string
		Clusters           []struct {
			Cluster string
			Share   float64
		}
	}
	Candidates []struct {
		Address, Reason string
		Used            bool
	}
}

func (m *mesh) explain(query string) (e explanation) {
	m.t.Helper()
	m.agent.get("/v1/explain?method=SayHello&service="+service+query, &e)
	return e
}

// decides waits until the agent sends calls by a route.
func (m *mesh) decides(name string) {
	m.t.Helper()
	eventually(m.t, m.agent.name+" to decide by "+name, func() error {
		if e := m.explain(""); e.Source != "rules" || e.Rules.Route != name {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
}

// connected waits until the agent has a stream to the server, or none.
func (m *mesh) connected(want bool) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("a stream: %v", want), func() error {
		var state struct{ Servers []struct{ Connected bool } }
		if m.agent.get("/debug/xds", &state); len(state.Servers) != 1 || state.Servers[0].Connected != want {
			return fmt.Errorf("%+v", state)
		}
		return nil
	})
}

// keepCalling makes calls until it is stopped.
func (m *mesh) keepCalling(rate int) (stop func() ledger) {
	end, done := make(chan struct{}), make(chan ledger, 1)
	go func() {
		var all ledger
		for {
			select {
			case <-end:
				done <- all
				return
			default:
				all = append(all, m.consumer.load(rate, time.Second)()...)
			}
		}
	}()
	return func() ledger { close(end); return <-done }
}

// to sends everything, or everything that match selects, to clusters by weight.
func to(match *routev3.RouteMatch, weights map[string]uint32) *routev3.Route {
	if match == nil {
		match = &routev3.RouteMatch{}
	}
	match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
	w := &routev3.WeightedCluster{}
	for _, subset := range []string{blue, green} {
		if n, ok := weights[subset]; ok {
			w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: cluster(subset), Weight: wrapperspb.UInt32(n)})
		}
	}
	return &routev3.Route{Match: match, Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: w}}}}
}

// share fails if of n things more or fewer had a property than chance explains: by
// 4.5 standard deviations, once in 150 000 times.
func share(t *testing.T, what string, got, n int, p float64) {
	t.Helper()
	allowed := 4.5 * math.Sqrt(float64(n)*p*(1-p))
	t.Logf("%s: %d of %d (%.1f %%), want %.0f %% ± %.1f", what, got, n, 100*float64(got)/float64(n), 100*p, 100*allowed/float64(n))
	if n == 0 || math.Abs(float64(got)-p*float64(n)) > allowed {
		t.Errorf("%s: %d of %d, want %.0f ± %.0f", what, got, n, p*float64(n), allowed)
	}
}

// clean fails if a call failed.
func clean(t *testing.T, l ledger) ledger {
	t.Helper()
	if len(l) == 0 || len(l.failed()) > 0 {
		t.Error(l)
	}
	return l
}

// Rules of an ADS server decide where calls of a consumer go, who makes no retries
// of its own.
func TestXDS(t *testing.T) {
	if testing.Short() {
		t.Skip("starts agents and applications")
	}
	t.Parallel()
	program(t, "app") // built before any clock runs
	m := &mesh{world: &world{t: t, dir: t.TempDir(), net: freeNet(t)}, ads: newADS(t)}
	m.registry = "local://" + m.file("registry", "") + ".d"
	m.blue, m.green = m.world.agent("blue"), m.world.agent("green")
	m.agent = m.world.agent("consumer", withFile(fmt.Sprintf("xds: {servers: ['%s'], listeners: ['*']}\nservices: [{match: '*', routing: xds}]\n", m.ads.address)))
	m.provider(options{agent: m.blue, name: blue, application: "shop"})
	m.last = m.provider(options{agent: m.green, name: green, application: "shop"})
	m.blue.published(1)
	m.green.published(1)
	m.consumer = m.world.consumer(options{agent: m.agent, flags: []string{"--retries", "0", "--timeout", "20s"}})
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"shares", m.shares}, {"canary", m.canary}, {"abort", m.abort}, {"delay", m.delay}, {"ejection", m.ejection}, {"outage", m.outage},
	} {
		if !t.Run(test.name, test.run) {
			return
		}
	}
}

// Routes move from 100:0 over 50:50 to 0:100 while calls run.
func (m *mesh) shares(t *testing.T) {
	m.set(to(nil, map[string]uint32{blue: 100, green: 0}))
	clean(t, m.consumer.call(1))
	stop := m.keepCalling(xdsRate / 3)
	for _, percent := range []uint32{0, 10, 50, 100} {
		m.set(to(nil, map[string]uint32{blue: 100 - percent, green: percent}))
		l := clean(t, m.consumer.load(xdsRate, 3*time.Second)())
		share(t, green, l.answers()[green], len(l), float64(percent)/100)
	}
	t.Logf("beside it, over all changes: %v", clean(t, stop()))
}

// Calls with an attachment go another way.
func (m *mesh) canary(t *testing.T) {
	m.set(
		to(&routev3.RouteMatch{Headers: []*routev3.HeaderMatcher{{Name: "user", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
			StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "jason"}},
		}}}}, map[string]uint32{green: 1}),
		to(nil, map[string]uint32{blue: 1}),
	)
	loads := []struct {
		wait func() ledger
		want string
	}{
		{m.consumer.loadWith("user=jason", xdsRate/3, 2*time.Second), green},
		{m.consumer.loadWith("user=joe", xdsRate/3, 2*time.Second), blue},
		{m.consumer.load(xdsRate/3, 2*time.Second), blue},
	}
	for i, one := range loads {
		if l := clean(t, one.wait()); l.answers()[one.want] != len(l) {
			t.Errorf("load %d: %v, want %s alone", i, l.answers(), one.want)
		}
	}
	if e := m.explain("&attachment=" + url.QueryEscape("user=jason")); e.Cluster != cluster(green) || len(e.Candidates) != 1 || e.Candidates[0].Address != m.green.inbound() {
		t.Errorf("%+v", e)
	}
}

func percentage(n uint32) *typev3.FractionalPercent { return &typev3.FractionalPercent{Numerator: n} }

// faulty adds a fault to a route, as Istio does.
func faulty(r *routev3.Route, f *faultv3.HTTPFault) *routev3.Route {
	r.TypedPerFilterConfig = map[string]*anypb.Any{"envoy.filters.http.fault": xdstest.Any(f)}
	return r
}

// events is how often a route did something.
func (m *mesh) events(route, event string) int {
	m.t.Helper()
	return m.agent.metrics().sum(m.t, "meshferry_route_events_total", `route="`+route+`"`, `event="`+event+`"`)
}

func (m *mesh) abort(t *testing.T) {
	name := m.set(faulty(to(nil, map[string]uint32{blue: 1}), &faultv3.HTTPFault{Abort: &faultv3.FaultAbort{
		ErrorType: &faultv3.FaultAbort_HttpStatus{HttpStatus: 503}, Percentage: percentage(30),
	}}))
	before := m.blue.calls("inbound", service)
	l := m.consumer.load(xdsRate, 4*time.Second)()
	bad := l.failed()
	share(t, "aborted", len(bad), len(l), 0.3)
	for _, e := range bad {
		if !strings.Contains(e.Error, "fault injected by route "+name) {
			t.Fatalf("%+v", e)
		}
	}
	if n := m.events(name, "abort"); n != len(bad) {
		t.Errorf("%d calls failed, %d aborts were counted", len(bad), n)
	}
	eventually(t, "the calls to be counted", func() error { // an agent may count one just after it answered
		if n := m.blue.calls("inbound", service) - before; n != len(l)-len(bad) {
			return fmt.Errorf("%d calls came to the provider's agent, want %d", n, len(l)-len(bad))
		}
		return nil
	})
}

func (m *mesh) delay(t *testing.T) {
	const delay = 300 * time.Millisecond
	name := m.set(faulty(to(nil, map[string]uint32{blue: 1}), &faultv3.HTTPFault{Delay: &faultcommonv3.FaultDelay{
		FaultDelaySecifier: &faultcommonv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(delay)}, Percentage: percentage(50),
	}}))
	l := clean(t, m.consumer.load(xdsRate, 3*time.Second)())
	late := 0
	for _, e := range l {
		if e.MS >= float64(delay.Milliseconds()) {
			late++
		}
	}
	n := m.events(name, "delay")
	share(t, "delayed", n, len(l), 0.5)
	t.Logf("%d calls took %s or more", late, delay)
	if late < n { // a slow machine may make more calls as slow
		t.Errorf("%d calls took %s, %d delays were counted", late, delay, n)
	}
}

// ejected is how many endpoints of a cluster are ejected, and how often one was.
func (m *mesh) ejected(name string) (now, ever int) {
	m.t.Helper()
	all := m.agent.metrics()
	label := `cluster="` + name + `"`
	return all.sum(m.t, "meshferry_cluster_ejected_endpoints", label), all.sum(m.t, "meshferry_cluster_ejections_total", label)
}

// A provider dies under load, which its control plane does not know. It is ejected,
// and returns when it lives again. No call fails.
func (m *mesh) ejection(t *testing.T) {
	c := xdstest.Cluster("outbound|20882||both")
	c.LbPolicy = clusterv3.Cluster_RANDOM // two loads at a time count apart
	c.OutlierDetection = &clusterv3.OutlierDetection{
		Consecutive_5Xx: wrapperspb.UInt32(3), Interval: durationpb.New(200 * time.Millisecond), BaseEjectionTime: durationpb.New(5 * time.Second),
		MaxEjectionPercent: wrapperspb.UInt32(50), EnforcingSuccessRate: wrapperspb.UInt32(0),
	}
	m.more = append(m.more, c)
	r := to(nil, nil)
	r.Action = &routev3.Route_Route{Route: &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c.GetName()},
		// What was under way when it died may have been executed. Here it may be again.
		RetryPolicy: &routev3.RetryPolicy{RetryOn: "5xx,reset", NumRetries: wrapperspb.UInt32(2)},
	}}
	m.set(r)
	l := clean(t, m.consumer.load(xdsRate, time.Second)())
	share(t, "green before", l.answers()[green], len(l), 0.5)
	stop := m.keepCalling(xdsRate)

	died := time.Now()
	m.last.Kill()
	eventually(t, "an ejection", func() error {
		if now, ever := m.ejected(c.GetName()); now != 1 {
			return fmt.Errorf("%d now, %d ever", now, ever)
		}
		return nil
	})
	t.Logf("ejected %d ms after its death", time.Since(died).Milliseconds())
	eventually(t, "its reason", func() error {
		e := m.explain("")
		for _, one := range e.Candidates {
			if one.Address == m.green.inbound() && !one.Used && strings.Contains(one.Reason, "ejected") {
				t.Logf("explain: %s", one.Reason)
				return nil
			}
		}
		return fmt.Errorf("%+v", e.Candidates)
	})
	m.last = m.provider(options{agent: m.green, name: green, application: "shop"})
	m.green.published(1)
	// It lives, and nobody calls it while it is ejected.
	now, ever := m.ejected(c.GetName())
	probe := clean(t, m.consumer.call(50))
	if n, e := m.ejected(c.GetName()); now == 1 && n == 1 && e == ever {
		if probe.answers()[green] > 0 {
			t.Errorf("%v while it was ejected", probe.answers())
		}
		t.Logf("while it lives and is ejected: %v", probe.answers())
	}
	eventually(t, "its return", func() error {
		if now, ever := m.ejected(c.GetName()); now != 0 {
			return fmt.Errorf("%d now, %d ever", now, ever)
		}
		return nil
	})
	l = clean(t, m.consumer.load(xdsRate, 2*time.Second)())
	share(t, "green after", l.answers()[green], len(l), 0.5)
	t.Logf("beside it, over death and return: %v", clean(t, stop()))
}

// The ADS server is away, and comes back with another rule.
func (m *mesh) outage(t *testing.T) {
	m.set(to(nil, map[string]uint32{blue: 50, green: 50}))
	stop := m.keepCalling(xdsRate / 3)
	wait := m.consumer.load(xdsRate, *xdsOutage)
	m.ads.stop()
	m.connected(false)
	l := clean(t, wait())
	share(t, "green while it was away", l.answers()[green], len(l), 0.5)
	name := m.put(to(nil, map[string]uint32{green: 100}))
	m.ads.start()
	m.decides(name)
	l = clean(t, m.consumer.load(xdsRate, time.Second)())
	share(t, "green after its return", l.answers()[green], len(l), 1)
	t.Logf("beside it: %v", clean(t, stop()))
}
