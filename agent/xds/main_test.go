package xds

import (
	"context"
	"flag"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

const patience = 20 * time.Second

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rules is a running source and everything that it has told.
type rules struct {
	*Source
	t         *testing.T
	ch        chan route.RuleUpdate
	synced    bool
	last      route.RuleUpdate
	count     int
	routes    map[string]*route.RouteSpec
	clusters  map[string]*route.ClusterSpec
	endpoints map[string]*route.EndpointSet
	general   map[string][]string
}

func start(t *testing.T, s *xdstest.Server, o Options, services ...registry.Service) *rules {
	t.Helper()
	o.Client.Servers = []xdsclient.Server{{Address: s.Address()}}
	o.Client.Node = &corev3.Node{Id: "sidecar~10.0.0.5~agent.dubbo~dubbo.svc.cluster.local"}
	if o.Port == 0 {
		o.Port = 20882
	}
	o.Client.ResourceTimeout, o.Client.MissingHold = 300*time.Millisecond, 100*time.Millisecond
	o.Client.Backoff, o.Client.BackoffMost = 10*time.Millisecond, 50*time.Millisecond
	src, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rules{
		Source: src, t: t, ch: make(chan route.RuleUpdate), routes: map[string]*route.RouteSpec{},
		clusters: map[string]*route.ClusterSpec{}, endpoints: map[string]*route.EndpointSet{},
	}
	src.SetServices(services)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx, r.ch) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *rules) until(what string, done func() bool) {
	r.t.Helper()
	deadline := time.After(patience)
	for !done() {
		select {
		case u := <-r.ch:
			set(r.routes, u.Routes)
			set(r.clusters, u.Clusters)
			set(r.endpoints, u.Endpoints)
			if u.Unsupported != nil {
				r.general = u.Unsupported
			}
			if u.Source != SourceName {
				r.t.Errorf("source %q", u.Source)
			}
			r.synced, r.last = u.Synced, u
			r.count++
		case <-deadline:
			r.t.Fatalf("never %s; synced %t, %d routes, %d clusters", what, r.synced, len(r.routes), len(r.clusters))
		}
	}
}

func set[T any](into map[string]*T, from map[string]*T) {
	for k, v := range from {
		if v == nil {
			delete(into, k)
		} else {
			into[k] = v
		}
	}
}

func control(t *testing.T) *xdstest.Server {
	t.Helper()
	s, err := xdstest.New(xdstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}
