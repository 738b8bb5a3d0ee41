package xdsclient_test

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// patience bounds every wait of a test.
const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type logs struct{ t *testing.T }

func (l logs) Write(b []byte) (int, error) {
	l.t.Logf("%s", strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

func newServer(t *testing.T, o xdstest.Options) server {
	t.Helper()
	s, err := xdstest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return server{s, t}
}

// server is a control plane with a test.
type server struct {
	*xdstest.Server
	t *testing.T
}

// await gives the first request from the given number on that satisfies ok.
func (s server) await(what string, from int, ok func(xdstest.Request) bool) (xdstest.Request, int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, next, err := s.Await(ctx, from, ok)
	if err != nil {
		s.t.Fatalf("no request: %s; there were %+v", what, s.Requests())
	}
	return r, next
}

// answered waits for the answer to a nonce.
func (s server) answered(nonce string) xdstest.Request {
	s.t.Helper()
	r, _ := s.await("answer to "+nonce, 0, func(r xdstest.Request) bool { return r.Nonce == nonce })
	return r
}

func (s server) asked(url string, names ...string) {
	s.t.Helper()
	s.await(url+" "+strings.Join(names, ","), 0, func(r xdstest.Request) bool { return r.TypeURL == url && slices.Equal(r.Names, names) })
}

// respond sends a response of state of the world.
func (s server) respond(url, version, nonce string, list ...proto.Message) {
	m := &discoveryv3.DiscoveryResponse{TypeUrl: url, VersionInfo: version, Nonce: nonce}
	for _, r := range list {
		m.Resources = append(m.Resources, xdstest.Any(r))
	}
	s.Send(m)
}

func (s server) restart() {
	s.t.Helper()
	if err := s.Start(); err != nil {
		s.t.Fatal(err)
	}
}

var node = &corev3.Node{Id: "sidecar~10.0.0.5~agent.dubbo~dubbo.svc.cluster.local"}

// fast are options with short pauses between streams.
func fast(servers ...server) xdsclient.Options {
	o := xdsclient.Options{Node: node, Backoff: 10 * time.Millisecond, BackoffMost: 50 * time.Millisecond, Wildcard: true}
	for _, s := range servers {
		o.Servers = append(o.Servers, xdsclient.Server{Address: s.Address()})
	}
	return o
}

// client is a running client and what it delivered so far.
type client struct {
	*xdsclient.Client
	t       *testing.T
	ch      chan xdsclient.Update
	stop    func()
	steps   []xdsclient.Update
	ready   bool
	cluster map[string]*xdsclient.Cluster
	route   map[string]*xdsclient.Route
	listen  map[string]*xdsclient.Listener
	ext     map[string]map[string]*xdsclient.Resource
}

func start(t *testing.T, o xdsclient.Options) *client {
	t.Helper()
	if o.Log == nil {
		w := io.Discard
		if testing.Verbose() {
			w = logs{t}
		}
		o.Log = slog.New(slog.NewTextHandler(w, nil))
	}
	c, err := xdsclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	cl := &client{
		Client: c, t: t, ch: make(chan xdsclient.Update), cluster: map[string]*xdsclient.Cluster{}, route: map[string]*xdsclient.Route{},
		listen: map[string]*xdsclient.Listener{}, ext: map[string]map[string]*xdsclient.Resource{},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, cl.ch) }()
	stopped := false
	cl.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not end")
		}
	}
	t.Cleanup(cl.stop)
	return cl
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

// apply takes a step, and checks that it is coherent.
func (c *client) apply(u xdsclient.Update) {
	c.t.Helper()
	set(c.cluster, u.Clusters)
	set(c.route, u.Routes)
	set(c.listen, u.Listeners)
	for url, list := range u.Extensions {
		if c.ext[url] == nil {
			c.ext[url] = map[string]*xdsclient.Resource{}
		}
		set(c.ext[url], list)
	}
	if c.ready && !u.Ready {
		c.t.Error("not ready any more")
	}
	c.ready = u.Ready
	c.steps = append(c.steps, u)
	for name, cl := range c.cluster {
		if cl.Endpoints == nil {
			c.t.Errorf("cluster %s has no endpoints, not even none", name)
		}
	}
}

// coherent fails if a delivered virtual host names a cluster that is not there.
func (c *client) coherent() {
	c.t.Helper()
	for _, r := range c.route {
		for _, v := range r.Hosts {
			for _, name := range v.Clusters {
				if c.cluster[name] == nil {
					c.t.Errorf("virtual host %s was delivered without its cluster %s", v.Name, name)
				}
			}
		}
	}
}

// until takes steps until done.
func (c *client) until(what string, done func() bool) {
	c.t.Helper()
	deadline := time.After(patience)
	for !done() {
		select {
		case u := <-c.ch:
			c.apply(u)
		case <-deadline:
			c.t.Fatalf("never %s; clusters %v, routes %v, listeners %v, ready %t\n%s", what, slices.Sorted(maps.Keys(c.cluster)),
				slices.Sorted(maps.Keys(c.route)), slices.Sorted(maps.Keys(c.listen)), c.ready, c.brief())
		}
	}
}

// eventually polls what has no event, and takes steps meanwhile.
func (c *client) eventually(what string, done func(xdsclient.Dump) bool) xdsclient.Dump {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		d := c.Dump()
		if done(d) {
			return d
		}
		select {
		case u := <-c.ch:
			c.apply(u)
		case <-time.After(2 * time.Millisecond):
		case <-deadline:
			c.t.Fatalf("never %s\n%s", what, c.brief())
		}
	}
}

func (c *client) brief() string {
	var b strings.Builder
	d := c.Dump()
	for _, s := range d.Servers {
		b.WriteString(s.Address + " connected=" + boolText(s.Connected) + " " + s.Err + "\n")
	}
	for _, r := range d.Resources {
		b.WriteString(r.State + " " + r.URL[strings.LastIndexByte(r.URL, '.')+1:] + " " + r.Name + "\n")
	}
	for _, h := range d.Held {
		b.WriteString("held " + h.Listener + h.Route + " " + h.VirtualHost + " for " + strings.Join(h.Needs, ", ") + "\n")
	}
	return b.String()
}

func boolText(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// endpoints are the addresses of a delivered cluster.
func (c *client) endpoints(name string) []string {
	var list []string
	if cl := c.cluster[name]; cl != nil {
		for _, l := range cl.Endpoints.Localities {
			for _, e := range l.Endpoints {
				list = append(list, e.Host)
			}
		}
	}
	return list
}

func (c *client) hosts(route string) []string {
	var list []string
	if r := c.route[route]; r != nil {
		for _, v := range r.Hosts {
			list = append(list, v.Name+"="+strings.Join(v.Clusters, "+"))
		}
	}
	return list
}

func (c *client) has(route string, hosts ...string) func() bool {
	return func() bool { return slices.Equal(c.hosts(route), hosts) }
}

func (c *client) serves(cluster string, hosts ...string) func() bool {
	return func() bool { return c.cluster[cluster] != nil && slices.Equal(c.endpoints(cluster), hosts) }
}

func resource(d xdsclient.Dump, url, name string) xdsclient.ResourceState {
	for _, r := range d.Resources {
		if r.URL == url && r.Name == name {
			return r
		}
	}
	return xdsclient.ResourceState{}
}

func typeOf(d xdsclient.Dump, url string) xdsclient.TypeState {
	for _, s := range d.Types {
		if s.URL == url {
			return s
		}
	}
	return xdsclient.TypeState{}
}

const (
	lds = xdsclient.ListenerURL
	rds = xdsclient.RouteURL
	cds = xdsclient.ClusterURL
	eds = xdsclient.EndpointURL
)
