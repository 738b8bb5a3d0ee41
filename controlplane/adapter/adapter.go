// Package adapter tells istiod the providers that registries have: it serves
// ServiceEntries over MCP-over-xDS, which istiod reads as a config source
// (configSources: xds://…), with Kubernetes and without.
//
// Invariants, each because istiod would else hang, forget or not notice
// (observed on 1.29 and master):
//   - The first request for a type is answered whatever nonce it has: istiod puts
//     a timestamp there. Every type that is asked is answered once, an unknown one
//     with nothing, and with the type URL that was asked.
//   - What is absent from an answer is deleted there, so an answer is whole, and
//     nothing is answered before every registry was read.
//   - The version of a resource changes with its content and never else.
//   - One response is under way for each stream and type; what changes meanwhile
//     is sent after the acknowledgement.
package adapter

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshferry/meshferry/controlplane"
	"github.com/meshferry/meshferry/controlplane/catalog"
)

// Options of New.
type Options struct {
	Registries []catalog.Named // at least one, running
	Namespace  string          // of the ServiceEntries; empty: dubbo
	Hold       time.Duration   // see catalog.Options
	TLS        *controlplane.TLS
	Log        *slog.Logger
}

// Adapter serves istiods.
type Adapter struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	// immutable after New
	o       Options
	log     *slog.Logger
	catalog *catalog.Catalog
	tls     credentials.TransportCredentials

	mu      sync.Mutex
	current *snapshot            // guarded by mu; nil until every registry was read
	changed chan struct{}        // guarded by mu; closed when current is replaced
	istiods map[*istiod]struct{} // guarded by mu
	sent    int                  // guarded by mu; responses of all time
}

// istiod is one stream. It is guarded by the adapter's mu.
type istiod struct {
	id, address string
	since       time.Time
	sent, acked string // version of the ServiceEntries
	nack        string
}

// New checks the options.
func New(o Options) (*Adapter, error) {
	if o.Namespace == "" {
		o.Namespace = "dubbo"
	}
	if strings.Contains(o.Namespace, "/") {
		return nil, fmt.Errorf("bad namespace %q", o.Namespace)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c, err := catalog.New(catalog.Options{Registries: o.Registries, Hold: o.Hold, Log: o.Log})
	if err != nil {
		return nil, err
	}
	a := &Adapter{o: o, log: o.Log, catalog: c, changed: make(chan struct{}), istiods: map[*istiod]struct{}{}}
	if o.TLS != nil {
		if a.tls, err = controlplane.ServerCredentials(*o.TLS, o.Log); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Run serves istiods on one listener and the admin pages on another, which may be
// nil, until ctx ends. It closes both.
func (a *Adapter) Run(ctx context.Context, listen, admin net.Listener) error {
	return controlplane.Serve(ctx, a, a.tls, nil, a.admin(), listen, admin, func(ctx context.Context) error {
		byHost := map[string]*anypb.Any{}
		return a.catalog.Run(ctx, func(v *catalog.View, changed []string) { a.deliver(byHost, v, changed) })
	})
}

// deliver brings byHost up to date and tells the streams.
func (a *Adapter) deliver(byHost map[string]*anypb.Any, v *catalog.View, changed []string) {
	for _, host := range changed {
		s := v.Services[host]
		if s == nil {
			delete(byHost, host)
			continue
		}
		r, skipped := resource(a.o.Namespace, s)
		if skipped > 0 {
			a.log.Warn("endpoints left out: istiod wants IP addresses", "service", s.Key(), "endpoints", skipped)
		}
		byHost[host] = r
	}
	for _, c := range v.Refused {
		a.log.Warn("service left out", "err", c)
	}
	next := collect(byHost)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current != nil && a.current.version == next.version {
		return
	}
	a.current = next
	close(a.changed)
	a.changed = make(chan struct{})
	a.log.Info("registries changed", "services", len(next.entries), "changed", len(changed), "istiods", len(a.istiods))
}

func (a *Adapter) watch() (*snapshot, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current, a.changed
}

// topic is one type on a stream.
type topic struct {
	nonce   string // of the response under way; empty: acknowledged
	last    string // nonce of the last response
	version string // that was sent
}

// StreamAggregatedResources serves one istiod.
func (a *Adapter) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	current, changed := a.watch()
	if current == nil { // istiod keeps what it has, and asks again
		return status.Error(codes.Unavailable, "the registries were not read yet: "+strings.Join(a.catalog.Waiting(), "; "))
	}
	one := &istiod{since: time.Now()}
	if p, ok := peer.FromContext(stream.Context()); ok {
		one.address = p.Addr.String()
	}
	a.mu.Lock()
	a.istiods[one] = struct{}{}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.istiods, one)
		a.mu.Unlock()
		a.log.Info("istiod has gone", "id", one.id, "address", one.address)
	}()
	requests, failed := make(chan *discovery.DiscoveryRequest), make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	topics := map[string]*topic{}
	nonces := 0
	send := func(typeURL string) error {
		t := topics[typeURL]
		out := &discovery.DiscoveryResponse{TypeUrl: typeURL, VersionInfo: "0"}
		if isServiceEntry(typeURL) {
			out.VersionInfo, out.Resources = current.version, current.entries
		}
		nonces++
		t.nonce = strconv.Itoa(nonces)
		t.last, t.version, out.Nonce = t.nonce, out.VersionInfo, t.nonce
		a.note(func() {
			a.sent++
			if isServiceEntry(typeURL) {
				one.sent = out.VersionInfo
			}
		})
		return stream.Send(out)
	}
	for {
		select {
		case r := <-requests:
			typeURL := r.GetTypeUrl()
			if r.GetNode() != nil && one.id == "" {
				a.note(func() { one.id = r.GetNode().GetId() })
				a.log.Info("istiod is here", "id", one.id, "address", one.address)
			}
			t := topics[typeURL]
			if t == nil { // whatever its nonce is
				topics[typeURL] = &topic{}
				if err := send(typeURL); err != nil {
					return err
				}
				continue
			}
			if r.GetResponseNonce() != t.last {
				continue // of an older response
			}
			t.nonce = ""
			if e := r.GetErrorDetail(); e != nil { // none was ever seen
				a.log.Error("istiod refused what it was sent", "type", typeURL, "err", e.GetMessage())
				a.note(func() { one.nack = e.GetMessage() })
			} else if isServiceEntry(typeURL) {
				a.note(func() { one.acked, one.nack = t.version, "" })
			}
			if isServiceEntry(typeURL) && t.version != current.version {
				if err := send(typeURL); err != nil {
					return err
				}
			}
		case <-changed:
			current, changed = a.watch()
			for typeURL, t := range topics {
				if isServiceEntry(typeURL) && t.nonce == "" && t.version != current.version {
					if err := send(typeURL); err != nil {
						return err
					}
				}
			}
		case <-failed:
			return nil
		case <-stream.Context().Done():
			return nil
		}
	}
}

// isServiceEntry takes every version of the API: older istiods ask for v1alpha3.
func isServiceEntry(typeURL string) bool {
	return strings.HasPrefix(strings.TrimPrefix(typeURL, "type.googleapis.com/"), "networking.istio.io/") && strings.HasSuffix(typeURL, "/ServiceEntry")
}

func (a *Adapter) note(f func()) {
	a.mu.Lock()
	f()
	a.mu.Unlock()
}

// admin are /healthz, /readyz, /metrics and /debug/istiods.
func (a *Adapter) admin() http.Handler {
	answer := func(w http.ResponseWriter, code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v) // the client has gone
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collector{a})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, map[string]string{"status": "ok"}) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s, _ := a.watch(); s == nil {
			answer(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "waiting": a.catalog.Waiting()})
			return
		}
		answer(w, 200, map[string]string{"status": "ready"})
	})
	mux.HandleFunc("GET /debug/istiods", func(w http.ResponseWriter, _ *http.Request) {
		type view struct {
			ID      string    `json:"id"`
			Address string    `json:"address"`
			Since   time.Time `json:"since"`
			Sent    string    `json:"sent"`
			Acked   string    `json:"acked"`
			Nack    string    `json:"nack,omitempty"`
		}
		list := []view{}
		a.note(func() {
			for i := range a.istiods {
				list = append(list, view{i.id, i.address, i.since, i.sent, i.acked, i.nack})
			}
		})
		answer(w, 200, map[string]any{"istiods": list, "registries": a.catalog.Statuses()})
	})
	return mux
}

var (
	istiodsDesc  = prometheus.NewDesc("meshferry_adapter_istiods", "Streams of istiods that are open.", nil, nil)
	servicesDesc = prometheus.NewDesc("meshferry_adapter_services", "ServiceEntries that are served.", nil, nil)
	sentDesc     = prometheus.NewDesc("meshferry_adapter_responses_total", "Responses that were sent.", nil, nil)
	readyDesc    = prometheus.NewDesc("meshferry_adapter_ready", "1 once every registry was read.", nil, nil)
)

type collector struct{ a *Adapter }

func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.a.mu.Lock()
	istiods, sent, s := len(c.a.istiods), c.a.sent, c.a.current
	c.a.mu.Unlock()
	services, ready := 0, 0.0
	if s != nil {
		services, ready = len(s.entries), 1
	}
	ch <- prometheus.MustNewConstMetric(istiodsDesc, prometheus.GaugeValue, float64(istiods))
	ch <- prometheus.MustNewConstMetric(servicesDesc, prometheus.GaugeValue, float64(services))
	ch <- prometheus.MustNewConstMetric(sentDesc, prometheus.CounterValue, float64(sent))
	ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, ready)
}
