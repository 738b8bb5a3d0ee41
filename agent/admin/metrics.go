package admin

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("meshferry_"+name, help, labels, nil)
}

var (
	build = desc("build_info", "Version of the agent; always 1.", "version")

	requests = desc("requests_total", "Calls that came in.", "direction", "service")
	failures = desc("failures_total", "Calls that were not answered by their callee, or with an error status.", "direction", "service", "reason")
	duration = desc("request_duration_seconds", "From reading a call to reading its answer.", "direction", "service")

	downstream = desc("downstream_connections", "Connections to a listener.", "direction")
	upstream   = desc("upstream_connections", "Connections to endpoints and local providers.")
	inFlight   = desc("requests_in_flight", "Calls that wait for their answer.", "direction")

	rejected         = desc("connections_rejected_total", "Connections refused at accept: not this machine's, or too many.")
	protocolErrors   = desc("protocol_errors_total", "Connections ended because the bytes were no dubbo2.")
	oneway           = desc("oneway_requests_total", "Requests without an answer.")
	unreadable       = desc("unreadable_requests_total", "Requests in a serialization that cannot be read.")
	retries          = desc("retries_total", "Calls sent to another endpoint because the one before had not executed them.")
	dialFailures     = desc("dial_failures_total", "Connections that could not be made.")
	unknownCallers   = desc("unknown_callers_total", "Connections of local consumers whose application was looked for, because subscriptions disagree, and not found.")
	callbacks        = desc("callbacks_total", "Requests of providers to their consumers, passed on.")
	callbacksRefused = desc("callbacks_refused_total", "Requests of providers on connections that several consumers share.")

	routed      = desc("route_requests_total", "Calls that matched a route of rules.", "service", "route")
	routeEvents = desc("route_events_total", "What a route did to calls: retry, retry_limited, delay, abort, mirror, missing_cluster.", "service", "route", "event")
	members     = desc("cluster_endpoints", "Endpoints of a cluster of rules.", "cluster")
	outNow      = desc("cluster_ejected_endpoints", "Of these: ejected now.", "cluster")
	ejections   = desc("cluster_ejections_total", "Endpoints ejected by outlier detection.", "cluster")
	overflow    = desc("cluster_overflow_total", "Calls and retries that a circuit breaker kept out.", "cluster", "limit")
	unchanged   = desc("unchanged_attachments_total", "Calls whose attachments a route wanted changed and that went on as they came: their form forbids it.")
	mirrorDrops = desc("mirrors_dropped_total", "Copies for a mirror that were not sent.")

	connected = desc("registry_connected", "1 while the session with the registry is up.", "registry")
	stateAge  = desc("registry_state_age_seconds", "How long the connection has been as it is.", "registry", "state")
	inSync    = desc("registry_in_sync", "1 while the registry holds everything that this agent wants.", "registry")
	compared  = desc("registry_compared_age_seconds", "Since the last complete comparison with the registry.", "registry")
	followed  = desc("registry_interfaces", "Interfaces that are followed in the registry.", "registry")
	protected = desc("registry_protected_interfaces", "Interfaces of which providers are held that the registry does not list.", "registry")
	stale     = desc("registry_stale_interfaces", "Interfaces of which nothing was heard since the start; the set is from disk.", "registry")
	published = desc("publications", "Publications by registry and state; reason says why one is not there.", "registry", "state", "reason")

	xdsConnected = desc("xds_connected", "1 while a stream to the ADS server stands; a server that is not needed now has none.", "server")
	xdsServing   = desc("xds_serving", "1 for the ADS server that answered last.", "server")
	xdsResponses = desc("xds_responses_total", "Responses of ADS servers.", "type")
	xdsNacks     = desc("xds_nacks_total", "Of these: refused, wholly or in part.", "type")
	xdsRefused   = desc("xds_refused_resources", "Resources whose newest version cannot be used; the last good ones are in effect.", "type")
	xdsWaiting   = desc("xds_waiting_resources", "Resources that were asked for by name and not answered yet.", "type")

	workloads     = desc("workloads", "Local applications that are known.")
	live          = desc("publications_live", "Publications whose local port answers.")
	subscriptions = desc("subscriptions", "Subscriptions of local applications.")
	disk          = desc("state_on_disk", "1 while what applications asked for is safe on disk.")
)

// collector reads everything at a scrape; it keeps nothing.
type collector struct{ o Options }

// Describe sends nothing: which metrics there are depends on services and
// registries (an "unchecked" collector).
func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	flag := func(d *prometheus.Desc, on bool, labels ...string) {
		v := 0.0
		if on {
			v = 1
		}
		gauge(d, v, labels...)
	}

	gauge(build, 1, c.o.Version)
	buckets := route.Buckets()
	c.o.Routes.EachStats(func(direction string, s registry.Service, st *route.Stats) {
		service := s.Key()
		counter(requests, st.Requests(), direction, service)
		for _, f := range route.Failures() {
			if n := st.Failed(f); n > 0 {
				counter(failures, n, direction, service, f.String())
			}
		}
		count, sum, atMost := st.Latency()
		upTo := make(map[float64]uint64, len(buckets))
		for i, b := range buckets {
			upTo[b.Seconds()] = uint64(atMost[i])
		}
		ch <- prometheus.MustNewConstHistogram(duration, uint64(count), sum.Seconds(), upTo, direction, service)
	})

	c.o.Routes.EachRoute(func(s registry.Service, name string, st *route.RouteStats) {
		service := s.Key()
		counter(routed, st.Calls.Load(), service, name)
		for event, n := range map[string]int64{
			"retry": st.Retried.Load(), "retry_limited": st.Limited.Load(), "delay": st.Delayed.Load(), "abort": st.Aborted.Load(),
			"mirror": st.Copied.Load(), "missing_cluster": st.Missing.Load(),
		} {
			if n > 0 {
				counter(routeEvents, n, service, name, event)
			}
		}
	})
	c.o.Routes.EachCluster(func(cl route.ClusterStats) {
		gauge(members, float64(cl.Endpoints), cl.Name)
		gauge(outNow, float64(cl.Ejected), cl.Name)
		if cl.Ejections > 0 {
			counter(ejections, cl.Ejections, cl.Name)
		}
		for limit, n := range map[string]int64{
			"requests": cl.OverRequests, "pending": cl.OverPending, "retries": cl.OverRetries,
			"retry_budget": cl.OverRetryBudget, "connections": cl.OverConnections,
		} {
			if n > 0 {
				counter(overflow, n, cl.Name, limit)
			}
		}
	})

	n := c.o.Counters()
	for direction, v := range n.Downstream {
		gauge(downstream, float64(v), direction)
	}
	for direction, v := range n.InFlight {
		gauge(inFlight, float64(v), direction)
	}
	gauge(upstream, float64(n.Upstream))
	counter(rejected, n.Rejected)
	counter(protocolErrors, n.ProtocolErrors)
	counter(oneway, n.Oneway)
	counter(unreadable, n.Unreadable)
	counter(retries, n.Retries)
	counter(dialFailures, n.DialFailures)
	counter(unchanged, n.Unchanged)
	counter(mirrorDrops, n.MirrorsDropped)
	counter(unknownCallers, n.UnknownCallers)
	counter(callbacks, n.Callbacks)
	counter(callbacksRefused, n.CallbacksRefused)

	for _, r := range c.o.Registries() {
		s := r.Status()
		flag(connected, s.State == registry.Connected, r.Name)
		gauge(stateAge, time.Since(s.Since).Seconds(), r.Name, s.State)
		state := r.State.Load()
		flag(inSync, state.InSync && s.State == registry.Connected, r.Name)
		if !state.LastCompare.IsZero() {
			gauge(compared, time.Since(state.LastCompare).Seconds(), r.Name)
		}
		by := map[[2]string]int{{reconcile.Published, ""}: 0}
		for _, p := range state.Publications {
			by[[2]string{p.State, p.Reason}]++
		}
		for k, n := range by {
			gauge(published, float64(n), r.Name, k[0], k[1])
		}
	}
	for _, d := range c.o.Discovery() {
		gauge(followed, float64(d.Interfaces), d.Name)
		gauge(protected, float64(d.Protected), d.Name)
		gauge(stale, float64(d.Stale), d.Name)
	}

	if c.o.XDS != nil {
		x := c.o.XDS.Status()
		for _, s := range x.Servers {
			flag(xdsConnected, s.Connected, s.Address)
			flag(xdsServing, s.Serving, s.Address)
		}
		for _, t := range x.Types {
			name := t.Name()
			counter(xdsResponses, int64(t.Responses), name)
			counter(xdsNacks, int64(t.NACKs), name)
			gauge(xdsRefused, float64(t.Refused), name)
			gauge(xdsWaiting, float64(t.Waiting), name)
		}
	}

	view := c.o.Workloads.Load()
	names, alive := map[string]bool{}, 0
	for _, p := range view.Publications {
		names[p.Workload] = true
		if p.Live {
			alive++
		}
	}
	for _, s := range view.Subscriptions {
		names[s.Workload] = true
	}
	gauge(workloads, float64(len(names)))
	gauge(live, float64(alive))
	gauge(subscriptions, float64(len(view.Subscriptions)))
	flag(disk, view.DiskError == "")
}
