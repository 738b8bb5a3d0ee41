package admin

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/discovery"
	"github.com/meshferry/meshferry/agent/proxy"
	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/xdsclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type routes struct{ stats *route.Stats }

func (r routes) EachStats(f func(string, registry.Service, *route.Stats)) {
	f(route.Outbound, registry.Service{Group: "g1", Interface: "com.a.Foo", Version: "1.0"}, r.stats)
}

func (r routes) EachCluster(f func(route.ClusterStats)) {
	f(route.ClusterStats{Name: "outbound|20882|blue|com.a.foo", Endpoints: 3, Ejected: 1, Ejections: 2, OverRequests: 4, OverRetryBudget: 6, Connections: 5})
}

func (r routes) EachRoute(f func(registry.Service, string, *route.RouteStats)) {
	var st route.RouteStats
	st.Calls.Add(9)
	st.Retried.Add(2)
	f(registry.Service{Interface: "com.a.Foo"}, "canary", &st)
}

// ads is an xDS client with two servers and something that it refused.
type ads struct{ http.Handler }

func (ads) Status() xdsclient.Status {
	return xdsclient.Status{
		Servers: []xdsclient.ServerState{{Address: "a:15010", Asked: true}, {Address: "b:15010", Asked: true, Connected: true, Serving: true}},
		Types:   []xdsclient.TypeState{{URL: xdsclient.ClusterURL, Responses: 7, NACKs: 2, Refused: 1, Waiting: 3}},
	}
}

func options() (Options, *route.Stats, *[]string) {
	var view watch.Value[workload.View]
	view.Store(&workload.View{
		Publications:  []workload.Publication{{Identity: workload.Identity{Workload: "w1"}, Live: true}, {Identity: workload.Identity{Workload: "w1"}}},
		Subscriptions: []workload.Subscription{{Workload: "w2"}},
	})
	var state watch.Value[reconcile.State]
	state.Store(&reconcile.State{InSync: true, LastCompare: time.Now(), Publications: map[workload.Identity]reconcile.PublicationState{
		{Workload: "w1"}: {State: reconcile.Published},
		{Workload: "w2"}: {State: reconcile.Pending, Reason: reconcile.ReasonConflict},
	}})
	st := &route.Stats{}
	var why []string
	return Options{
		Version: "test",
		Routes:  routes{st},
		Counters: func() proxy.Counters {
			return proxy.Counters{Downstream: map[string]int64{"outbound": 3}, InFlight: map[string]int64{"outbound": 2}, Retries: 5}
		},
		Workloads: &view,
		Registries: func() []Registry {
			return []Registry{{"main", func() registry.Status {
				return registry.Status{State: registry.Connected, Since: time.Now()}
			}, &state}}
		},
		Discovery: func() []discovery.Status { return []discovery.Status{{Name: "main", Interfaces: 7, Protected: 1}} },
		XDS:       ads{http.NotFoundHandler()},
		NotReady:  func() []string { return why },
	}, st, &why
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestMetrics(t *testing.T) {
	o, st, _ := options()
	st.Request(4)
	st.Fail(route.NoEndpoint)
	st.ObserveN(2*time.Millisecond, 3)
	w := get(New(o), "/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(w.Body.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, w.Body)
	}
	for name := range families {
		if !strings.HasPrefix(name, "meshferry_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("metric %s has no prefix of ours", name)
		}
		if families[name].GetHelp() == "" {
			t.Errorf("metric %s has no help", name)
		}
	}
	for _, line := range []string{
		`meshferry_requests_total{direction="outbound",service="g1/com.a.Foo:1.0"} 4`,
		`meshferry_failures_total{direction="outbound",reason="no_endpoint",service="g1/com.a.Foo:1.0"} 1`,
		`meshferry_request_duration_seconds_bucket{direction="outbound",service="g1/com.a.Foo:1.0",le="0.001"} 0`,
		`meshferry_request_duration_seconds_bucket{direction="outbound",service="g1/com.a.Foo:1.0",le="0.0025"} 3`,
		`meshferry_request_duration_seconds_count{direction="outbound",service="g1/com.a.Foo:1.0"} 3`,
		`meshferry_downstream_connections{direction="outbound"} 3`,
		`meshferry_requests_in_flight{direction="outbound"} 2`,
		`meshferry_retries_total 5`,
		`meshferry_registry_connected{registry="main"} 1`,
		`meshferry_registry_in_sync{registry="main"} 1`,
		`meshferry_registry_protected_interfaces{registry="main"} 1`,
		`meshferry_publications{reason="",registry="main",state="published"} 1`,
		`meshferry_publications{reason="conflict",registry="main",state="pending"} 1`,
		`meshferry_route_requests_total{route="canary",service="com.a.Foo"} 9`,
		`meshferry_route_events_total{event="retry",route="canary",service="com.a.Foo"} 2`,
		`meshferry_cluster_endpoints{cluster="outbound|20882|blue|com.a.foo"} 3`,
		`meshferry_cluster_ejected_endpoints{cluster="outbound|20882|blue|com.a.foo"} 1`,
		`meshferry_cluster_ejections_total{cluster="outbound|20882|blue|com.a.foo"} 2`,
		`meshferry_cluster_overflow_total{cluster="outbound|20882|blue|com.a.foo",limit="requests"} 4`,
		`meshferry_cluster_overflow_total{cluster="outbound|20882|blue|com.a.foo",limit="retry_budget"} 6`,
		`meshferry_xds_connected{server="a:15010"} 0`,
		`meshferry_xds_serving{server="b:15010"} 1`,
		`meshferry_xds_responses_total{type="Cluster"} 7`,
		`meshferry_xds_nacks_total{type="Cluster"} 2`,
		`meshferry_xds_refused_resources{type="Cluster"} 1`,
		`meshferry_xds_waiting_resources{type="Cluster"} 3`,
		`meshferry_workloads 2`,
		`meshferry_publications_live 1`,
		`meshferry_subscriptions 1`,
		`meshferry_state_on_disk 1`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() {
		t.Log(w.Body)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	o, _, why := options()
	h := New(o)
	if w := get(h, "/healthz"); w.Code != http.StatusOK {
		t.Errorf("/healthz: %d", w.Code)
	}
	if w := get(h, "/readyz"); w.Code != http.StatusOK {
		t.Errorf("/readyz: %d %s", w.Code, w.Body)
	}
	*why = []string{"stopping"}
	if w := get(h, "/readyz"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), `"stopping"`) {
		t.Errorf("/readyz while stopping: %d %s", w.Code, w.Body)
	}
	if w := get(h, "/healthz"); w.Code != http.StatusOK {
		t.Errorf("/healthz while stopping: %d", w.Code)
	}
}
