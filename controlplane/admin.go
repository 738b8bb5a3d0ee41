package controlplane

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meshferry/meshferry/registry"
)

// Admin are the read-only pages: /healthz, /readyz, /metrics, /debug/nodes (what
// each node was sent and acknowledged), /debug/status, and /debug/resources?name=
// (every resource of that name, as it is sent).
func (s *Server) Admin() http.Handler {
	mux := http.NewServeMux()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() {
			reply(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "waiting": s.catalog.Waiting()})
			return
		}
		reply(w, http.StatusOK, map[string]string{"status": "ready"})
	})
	mux.HandleFunc("GET /debug/nodes", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.nodes.list()) })
	mux.HandleFunc("GET /debug/status", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"folder": s.folder.Load(), "registries": s.catalog.Statuses(), "totals": s.totals.Load(), "versions": s.versions()})
	})
	mux.HandleFunc("GET /debug/resources", func(w http.ResponseWriter, r *http.Request) {
		found := map[string]json.RawMessage{}
		for kind, t := range s.tables() {
			if e := t.lookup(r.FormValue("name")); e != nil {
				if m, err := e.resource.Resource.UnmarshalNew(); err == nil {
					if text, err := protojson.Marshal(m); err == nil {
						found[kind] = text
					}
				}
			}
		}
		code := http.StatusOK
		if len(found) == 0 {
			code = http.StatusNotFound
		}
		reply(w, code, found)
	})
	return mux
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the client has gone
}

func (s *Server) tables() map[string]*table {
	return map[string]*table{"clusters": s.state.clusters, "endpoints": s.state.base.endpoints, "routes": s.state.base.routes, "dubbo": s.state.base.dubbo, "listeners": s.state.grpc}
}

// versions of everything by type: equal on instances that serve the same.
func (s *Server) versions() map[string]string {
	all := map[string]string{}
	for kind, t := range s.tables() {
		all[kind], _ = t.summary()
	}
	return all
}

func (t *table) lookup(name string) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.entries[name].entry
}

func (t *table) summary() (version string, resources int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.version(), len(t.entries)
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("meshferry_control_plane_"+name, help, labels, nil)
}

var (
	readyDesc     = desc("ready", "1 once every registry has answered.")
	nodesDesc     = desc("nodes", "Streams that are open.", "kind")
	responsesDesc = desc("responses_total", "Responses that were sent.")
	nacksDesc     = desc("nacks_total", "Responses that a node refused.")
	resourcesDesc = desc("resources", "Resources that are served.", "type")
	servicesDesc  = desc("services", "Services that the registries have.")
	endpointsDesc = desc("endpoints", "Endpoints that the registries have.")
	refusedDesc   = desc("services_refused", "Services without a host, because another one has it.")
	changesDesc   = desc("registry_changes_total", "Changes of the registries that were served.")
	groupsDesc    = desc("groups", "Kinds of nodes that are sent something else than others, for routes and for endpoints.")
	folderDesc    = desc("folder_refused", "1 while the folder is wrong and the last good one is served.")
	registryDesc  = desc("registry_connected", "1 while the registry can be read.", "registry")
)

// collector reads everything at a scrape.
type collector struct{ s *Server }

func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	flag := func(on bool) float64 {
		if on {
			return 1
		}
		return 0
	}
	gauge(readyDesc, flag(c.s.ready.Load()))
	open, responses, nacks := c.s.nodes.totals()
	for kind, n := range open {
		gauge(nodesDesc, float64(n), kind)
	}
	counter(responsesDesc, int(responses))
	counter(nacksDesc, int(nacks))
	for kind, t := range c.s.tables() {
		_, n := t.summary()
		gauge(resourcesDesc, float64(n), kind)
	}
	totals := c.s.totals.Load()
	gauge(servicesDesc, float64(totals.Services))
	gauge(endpointsDesc, float64(totals.Endpoints))
	gauge(refusedDesc, float64(len(totals.Refused)))
	counter(changesDesc, totals.Changes)
	gauge(groupsDesc, float64(c.s.state.kinds()))
	gauge(folderDesc, flag(c.s.folder.Load().Refused != ""))
	for _, r := range c.s.catalog.Statuses() {
		gauge(registryDesc, flag(r.Registry.State == registry.Connected), r.Name)
	}
}
