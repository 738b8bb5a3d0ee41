// Package admin answers those who watch an agent: is it alive, is it ready, and
// its metrics. It only reads.
//
// Invariants:
//   - A scrape takes no lock that a call needs, and its cost grows with the number
//     of services, not of calls.
//   - Metric names begin with meshferry_ and use the words of DESIGN §10; labels
//     are direction, service, reason, registry, state, and, of rules, route and
//     cluster; never a peer or a call.
package admin

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meshferry/meshferry/agent/discovery"
	"github.com/meshferry/meshferry/agent/proxy"
	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/xdsclient"
)

// Options say where the figures come from. All are needed.
type Options struct {
	Version    string
	Routes     Routes
	Counters   func() proxy.Counters
	Workloads  *watch.Value[workload.View]
	Registries func() []Registry
	Discovery  func() []discovery.Status
	XDS        XDS // nil: there is none
	// NotReady lists why this agent should get no new work; none: it is ready.
	NotReady func() []string
}

// Routes is what is read of a *route.Router.
type Routes interface {
	EachStats(f func(direction string, s registry.Service, st *route.Stats))
	EachCluster(f func(route.ClusterStats))
	EachRoute(f func(s registry.Service, name string, st *route.RouteStats))
}

// XDS is what is read of an *xds.Source; it serves /debug/xds itself.
type XDS interface {
	http.Handler
	Status() xdsclient.Status
}

// Registry is one registry and the loop that keeps it.
type Registry struct {
	Name   string
	Status func() registry.Status
	State  *watch.Value[reconcile.State]
}

// New serves /healthz (200 while the process answers), /readyz (503 with the
// reasons while it is not ready) and /metrics (Prometheus and OpenMetrics text).
func New(o Options) http.Handler {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collector{o},
	)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := o.NotReady(); len(why) > 0 {
			answer(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "reasons": why})
			return
		}
		answer(w, http.StatusOK, map[string]any{"status": "ready"})
	})
	if o.XDS != nil {
		mux.Handle("GET /debug/xds", o.XDS)
	}
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return mux
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error means that the client has gone.
	_ = json.NewEncoder(w).Encode(body)
}
