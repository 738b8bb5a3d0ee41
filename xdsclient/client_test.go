package xdsclient_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// shop is a small mesh: one listener, one route, two clusters.
func shop(s server) {
	s.Set(
		xdstest.Cluster("blue"), xdstest.Cluster("green"),
		xdstest.Endpoints("blue", "10.0.0.1:20882"), xdstest.Endpoints("green", "10.0.0.2:20882"),
		xdstest.Listener("127.0.0.1_20881", "http_proxy"),
		xdstest.Routes("http_proxy", xdstest.VirtualHost("shop", "blue", "green")),
	)
}

// both runs a test with state of the world and incrementally.
func both(t *testing.T, f func(t *testing.T, delta bool)) {
	t.Run("sotw", func(t *testing.T) { f(t, false) })
	t.Run("delta", func(t *testing.T) { f(t, true) })
}

func TestFirstAnswersAndChanges(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		shop(s)
		o := fast(s)
		o.Delta = delta
		c := start(t, o)
		c.until("ready", func() bool { return c.ready && len(c.listen) == 1 && len(c.route) == 1 })
		c.coherent()
		if !c.has("http_proxy", "shop=blue+green")() || !c.serves("blue", "10.0.0.1")() || !c.serves("green", "10.0.0.2")() {
			t.Fatalf("hosts %v, blue %v, green %v", c.hosts("http_proxy"), c.endpoints("blue"), c.endpoints("green"))
		}

		// One endpoint: one cluster in one step, and nothing else.
		steps := len(c.steps)
		s.Set(xdstest.Endpoints("blue", "10.0.0.1:20882", "10.0.0.3:20882"))
		c.until("a third endpoint", c.serves("blue", "10.0.0.1", "10.0.0.3"))
		u := c.steps[len(c.steps)-1]
		if len(c.steps) != steps+1 || len(u.Clusters) != 1 || len(u.Routes)+len(u.Listeners) != 0 {
			t.Errorf("an endpoint's change took %d steps, the last %+v", len(c.steps)-steps, u)
		}

		// A second virtual host: the first keeps its pointer.
		first := c.route["http_proxy"].Hosts[0]
		s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("shop", "blue", "green"), xdstest.VirtualHost("stock", "green")))
		c.until("a second virtual host", c.has("http_proxy", "shop=blue+green", "stock=green"))
		if c.route["http_proxy"].Hosts[0] != first {
			t.Error("a virtual host that did not change is another pointer")
		}

		// Deletion.
		s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("stock", "green")))
		c.until("the first virtual host gone", c.has("http_proxy", "stock=green"))
		s.Delete(cds, "blue")
		c.until("blue gone", func() bool { return c.cluster["blue"] == nil })
		c.coherent()
		s.Delete(lds, "127.0.0.1_20881")
		c.until("everything gone but green", func() bool { return len(c.listen) == 0 && len(c.route) == 0 && len(c.cluster) == 1 })
	})
}

// Checklist 1, 2, 3, 12: node first, version kept, nonce cleared, reconnect, GOAWAY.
func TestRequestsOfAStream(t *testing.T) {
	for name, end := range map[string]func(server){
		"stream": func(s server) { s.EndStreams() },
		"goaway": func(s server) {
			if err := s.GoAway(); err != nil {
				s.t.Fatal(err)
			}
		},
		"server": func(s server) { s.Stop(); s.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, xdstest.Options{})
			shop(s)
			c := start(t, fast(s))
			c.until("delivered", c.has("http_proxy", "shop=blue+green"))
			for _, url := range []string{cds, eds, lds, rds} {
				s.await("ACK", 0, func(r xdstest.Request) bool { return r.TypeURL == url && r.Nonce != "" && r.Version == "1" })
			}
			steps := len(c.steps)
			end(s)
			s.Set(xdstest.Endpoints("blue", "10.0.0.9:20882")) // while it is away, or just before
			c.until("the change of meanwhile", c.serves("blue", "10.0.0.9"))
			for _, u := range c.steps[steps:] {
				if len(u.Routes)+len(u.Listeners) > 0 {
					t.Errorf("a new stream delivered what did not change: %+v", u)
				}
			}

			first := map[string]bool{} // by stream and type
			nodes := map[int]int{}
			acked := map[string]string{}
			for _, r := range s.Requests() {
				id := fmt.Sprint(r.Stream, r.TypeURL)
				if nodes[r.Stream]++; (r.Node != nil) != (nodes[r.Stream] == 1) {
					t.Errorf("stream %d, request %d: node %v", r.Stream, nodes[r.Stream], r.Node)
				}
				if r.Node != nil && r.Node.GetId() != node.GetId() {
					t.Errorf("node %v", r.Node)
				}
				if !first[id] {
					first[id] = true
					if r.Nonce != "" || r.Version != acked[r.TypeURL] {
						t.Errorf("the first request of stream %d for %s: nonce %q version %q, want the last acknowledged, %q", r.Stream, r.TypeURL, r.Nonce, r.Version, acked[r.TypeURL])
					}
				} else if r.Nonce == "" {
					t.Errorf("a later request without a nonce: %+v", r)
				}
				if r.NACK != "" {
					t.Errorf("NACK: %+v", r)
				}
				acked[r.TypeURL] = r.Version
			}
			if len(nodes) < 2 {
				t.Errorf("%d streams", len(nodes))
			}
		})
	}
}

// Checklist 3, 6, 10: each response is answered once; the good ones of a bad
// response are used; the old one stays; the version is the previous one.
func TestBadResourceDoesNotDiscardGoodOnes(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	c := start(t, fast(s))
	s.asked(cds)
	s.respond(cds, "1", "a", xdstest.Cluster("blue"), xdstest.Cluster("green"))
	s.asked(eds, "blue", "green")
	s.respond(eds, "1", "b", xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Endpoints("green", "10.0.0.2:1"))
	c.until("two clusters", func() bool { return c.serves("blue", "10.0.0.1")() && c.serves("green", "10.0.0.2")() })
	if r := s.answered("b"); r.Version != "1" || !slices.Equal(r.Names, []string{"blue", "green"}) || r.NACK != "" {
		t.Errorf("ACK: %+v", r)
	}

	bad := xdstest.Endpoints("green", "10.0.0.7:1")
	bad.Endpoints[0].LbEndpoints[0].GetEndpoint().GetAddress().GetSocketAddress().PortSpecifier = nil
	bad.Endpoints[0].LbEndpoints[0].GetEndpoint().GetAddress().GetSocketAddress().Address = ""
	s.respond(eds, "2", "c", bad, xdstest.Endpoints("blue", "10.0.0.3:1"))
	c.until("the good one", c.serves("blue", "10.0.0.3"))
	r := s.answered("c")
	if r.Version != "1" || !strings.Contains(r.NACK, "green") || strings.Contains(r.NACK, "blue") || !slices.Equal(r.Names, []string{"blue", "green"}) {
		t.Errorf("NACK: %+v", r)
	}
	c.until("told", func() bool {
		return slices.ContainsFunc(c.steps, func(u xdsclient.Update) bool {
			return strings.Contains(u.Refused[xdsclient.Ref{URL: eds, Name: "green"}], "no address")
		})
	})
	d := c.Dump()
	green := resource(d, eds, "green")
	if green.State != xdsclient.Nacked || green.Version != "1" || green.NACK == nil || green.NACK.Version != "2" || !strings.Contains(green.NACK.Reason, "no address") {
		t.Errorf("in the dump: %+v", green)
	}
	if ty := typeOf(d, eds); ty.NACKs != 1 || ty.NACK == nil || ty.Version != "1" || ty.Nonce != "c" || ty.Responses != 2 {
		t.Errorf("in the dump: %+v", ty)
	}
	if !c.serves("green", "10.0.0.2")() {
		t.Errorf("green has %v", c.endpoints("green"))
	}

	// Corrected.
	s.respond(eds, "3", "d", xdstest.Endpoints("green", "10.0.0.4:1"))
	c.until("corrected", c.serves("green", "10.0.0.4"))
	if why, ok := c.steps[len(c.steps)-1].Refused[xdsclient.Ref{URL: eds, Name: "green"}]; !ok || why != "" {
		t.Errorf("not told that it can be used again: %+v", c.steps[len(c.steps)-1])
	}
	if r := s.answered("d"); r.Version != "3" || r.NACK != "" {
		t.Errorf("ACK: %+v", r)
	}
	if green := resource(c.Dump(), eds, "green"); green.State != xdsclient.Acked || green.NACK != nil {
		t.Errorf("in the dump: %+v", green)
	}
	answers := map[string]int{}
	for _, r := range s.Requests() {
		if r.Nonce != "" && r.TypeURL == eds {
			answers[r.Nonce]++
		}
	}
	for _, nonce := range []string{"b", "c", "d"} {
		if answers[nonce] != 1 {
			t.Errorf("%d answers to %s", answers[nonce], nonce)
		}
	}
}

// A bad cluster that was good before is not deleted by the response that has it.
func TestBadClusterKeepsTheOldOne(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	c := start(t, fast(s))
	s.asked(cds)
	static := func(name, host string) *clusterv3.Cluster {
		return &clusterv3.Cluster{Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, LoadAssignment: xdstest.Endpoints(name, host+":1")}
	}
	s.respond(cds, "1", "a", static("blue", "10.0.0.1"), static("green", "10.0.0.2"))
	c.until("inline endpoints", func() bool { return c.serves("blue", "10.0.0.1")() && c.serves("green", "10.0.0.2")() })
	bad := static("green", "10.0.0.3")
	bad.LoadAssignment.Endpoints[0].Priority = 200
	s.respond(cds, "2", "b", bad, static("red", "10.0.0.4"))
	c.until("red and no blue", func() bool { return c.cluster["red"] != nil && c.cluster["blue"] == nil })
	if !c.serves("green", "10.0.0.2")() {
		t.Errorf("green has %v", c.endpoints("green"))
	}
	if r := s.answered("b"); r.Version != "1" || !strings.Contains(r.NACK, "green: ") {
		t.Errorf("answer %+v", r)
	}

	// Bytes without a name: nothing can be concluded from what is not there.
	s.Send(&discoveryv3.DiscoveryResponse{TypeUrl: cds, VersionInfo: "3", Nonce: "c", Resources: []*anypb.Any{
		{TypeUrl: cds, Value: []byte{0xff, 0xff, 0xff}}, xdstest.Any(static("pink", "10.0.0.5")),
	}})
	c.until("pink", c.serves("pink", "10.0.0.5"))
	if c.cluster["red"] == nil || c.cluster["green"] == nil {
		t.Error("garbage deleted clusters")
	}
	if r := s.answered("c"); r.Version != "1" || !strings.Contains(r.NACK, "without a name") {
		t.Errorf("answer %+v", r)
	}
	// A wrong type, a wrapper that lies, an empty wrapper, an empty name.
	for i, a := range []*anypb.Any{
		xdstest.Any(xdstest.Endpoints("green")),
		xdstest.Any(&discoveryv3.Resource{Name: "green", Resource: xdstest.Any(static("blue", "10.0.0.1"))}),
		xdstest.Any(&discoveryv3.Resource{Name: "green"}),
		xdstest.Any(static("", "10.0.0.1")),
	} {
		nonce := fmt.Sprint("x", i)
		s.Send(&discoveryv3.DiscoveryResponse{TypeUrl: cds, VersionInfo: "4", Nonce: nonce, Resources: []*anypb.Any{a, xdstest.Any(static("green", "10.0.0.2"))}})
		if r := s.answered(nonce); r.NACK == "" {
			t.Errorf("%d was accepted", i)
		}
	}
}

// Checklist 4: neither ACK nor NACK for a type that was not asked for; unrequested
// names are ignored; duplicates are refused.
func TestUnrequestedAndDuplicate(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	c := start(t, fast(s))
	s.asked(cds)
	s.respond(rds, "1", "strange", xdstest.Routes("r", xdstest.VirtualHost("a", "b")))
	s.respond("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "1", "stranger", xdstest.Cluster("x"))
	s.respond(cds, "1", "a", xdstest.Cluster("blue"))
	s.asked(eds, "blue")
	s.respond(eds, "1", "b", xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Endpoints("other", "10.0.0.2:1"))
	c.until("blue", c.serves("blue", "10.0.0.1"))
	if r := s.answered("b"); r.NACK != "" {
		t.Errorf("an unrequested name was refused: %+v", r)
	}
	s.respond(eds, "2", "c", xdstest.Endpoints("blue", "10.0.0.3:1"), xdstest.Endpoints("blue", "10.0.0.4:1"))
	if r := s.answered("c"); r.Version != "1" || !strings.Contains(r.NACK, "twice") {
		t.Errorf("duplicates: %+v", r)
	}
	for _, r := range s.Requests() {
		if strings.HasPrefix(r.Nonce, "strange") {
			t.Errorf("answered what was not asked for: %+v", r)
		}
	}
	if resource(c.Dump(), eds, "other").Name != "" {
		t.Error("an unrequested resource was kept")
	}
}

// Checklist 5: a change of names uses the latest nonce and version, with the full
// list; names that are not needed any more go.
func TestNamesAreTheFullSet(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	c := start(t, fast(s))
	s.asked(cds)
	s.respond(cds, "1", "a", xdstest.Cluster("blue"))
	s.asked(eds, "blue")
	s.respond(eds, "7", "b", xdstest.Endpoints("blue", "10.0.0.1:1"))
	s.respond(eds, "8", "c", xdstest.Endpoints("blue", "10.0.0.1:1"))
	s.answered("c")
	s.respond(cds, "2", "d", xdstest.Cluster("blue"), xdstest.Cluster("green"))
	r, next := s.await("two names", 0, func(r xdstest.Request) bool { return r.TypeURL == eds && len(r.Names) == 2 })
	if r.Nonce != "c" || r.Version != "8" || !slices.Equal(r.Names, []string{"blue", "green"}) {
		t.Errorf("%+v", r)
	}
	s.respond(eds, "9", "e", xdstest.Endpoints("green", "10.0.0.2:1"))
	c.until("green", c.serves("green", "10.0.0.2"))
	s.respond(cds, "3", "f", xdstest.Cluster("green"))
	r, next = s.await("one name", next, func(r xdstest.Request) bool { return r.TypeURL == eds && len(r.Names) == 1 })
	if r.Nonce != "e" || r.Names[0] != "green" {
		t.Errorf("%+v", r)
	}
	s.respond(cds, "4", "g")
	s.await("no name", next, func(r xdstest.Request) bool { return r.TypeURL == eds && len(r.Names) == 0 && r.Nonce == "e" })
}

// Checklist 7, 8: absent endpoints and routes mean nothing; empty ones mean empty;
// the same version with a new nonce is applied.
func TestPartialEmptyAndSameVersion(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	c := start(t, fast(s))
	s.asked(cds)
	s.respond(cds, "1", "a", xdstest.Cluster("blue"), xdstest.Cluster("green"))
	s.asked(eds, "blue", "green")
	s.respond(eds, "1", "b", xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Endpoints("green", "10.0.0.2:1"))
	c.until("two clusters", func() bool { return len(c.cluster) == 2 })
	s.respond(eds, "1", "c", xdstest.Endpoints("blue", "10.0.0.3:1")) // partial; the version of before
	c.until("blue changed", c.serves("blue", "10.0.0.3"))
	if !c.serves("green", "10.0.0.2")() {
		t.Error("a partial answer took endpoints away")
	}
	s.respond(eds, "1", "d")
	if r := s.answered("d"); r.NACK != "" {
		t.Errorf("an empty answer was refused: %+v", r)
	}
	s.respond(eds, "1", "e", xdstest.Endpoints("green"))
	c.until("green empty", c.serves("green"))
	if c.cluster["green"].Endpoints.Missing {
		t.Error("empty is not missing")
	}
	if !c.serves("blue", "10.0.0.3")() {
		t.Error("an empty answer took endpoints away")
	}

	// The same content again, with a new version: nothing is delivered, and it is
	// acknowledged.
	steps := len(c.steps)
	s.respond(eds, "2", "f", xdstest.Endpoints("blue", "10.0.0.3:1"), xdstest.Endpoints("green"))
	s.respond(cds, "2", "g", xdstest.Cluster("green"), xdstest.Cluster("blue"))
	if r := s.answered("f"); r.Version != "2" {
		t.Errorf("%+v", r)
	}
	s.answered("g")
	s.respond(eds, "3", "h", xdstest.Endpoints("blue", "10.0.0.4:1"))
	c.until("blue changed again", c.serves("blue", "10.0.0.4"))
	if len(c.steps) != steps+1 {
		t.Errorf("what did not change was delivered: %+v", c.steps[steps:])
	}
}

// Checklist 8: the timer of what was asked for by name.
func TestDoesNotExist(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		s.Set(xdstest.APIListener("shop:20882", "outbound|20882||shop"), xdstest.APIListener("lost:20882", "outbound|20882||lost"),
			xdstest.Routes("outbound|20882||shop", xdstest.VirtualHost("shop", "blue", "ghost")),
			xdstest.Cluster("blue"))
		o := fast(s)
		o.Delta, o.Wildcard, o.ResourceTimeout, o.MissingHold = delta, false, 100*time.Millisecond, 20*time.Millisecond
		c := start(t, o)
		c.SetListeners([]string{"shop:20882", "nobody:20882", "lost:20882"})
		told := func(name string) func() bool {
			return func() bool {
				return slices.ContainsFunc(c.steps, func(u xdsclient.Update) bool { l, ok := u.Listeners[name]; return ok && l == nil })
			}
		}
		c.until("nobody is gone", told("nobody:20882"))
		c.until("shop without the ghost", c.has("outbound|20882||shop", "shop=blue+ghost"))
		c.until("lost is there", func() bool { return c.listen["lost:20882"] != nil && c.ready })
		if c.cluster["ghost"] != nil || c.cluster["blue"] == nil || !c.cluster["blue"].Endpoints.Missing {
			t.Errorf("clusters %v", c.cluster)
		}
		d := c.Dump()
		for _, k := range [][2]string{{lds, "nobody:20882"}, {rds, "outbound|20882||lost"}, {cds, "ghost"}, {eds, "blue"}} {
			if r := resource(d, k[0], k[1]); r.State != xdsclient.DoesNotExist {
				t.Errorf("%v: %+v", k, r)
			}
		}

		// They come after all.
		s.Set(xdstest.APIListener("nobody:20882", "outbound|20882||lost"), xdstest.Routes("outbound|20882||lost", xdstest.VirtualHost("lost", "blue")),
			xdstest.Cluster("ghost"), xdstest.Endpoints("ghost", "10.0.0.6:1"), xdstest.Endpoints("blue", "10.0.0.1:1"))
		c.until("all there", func() bool {
			return c.listen["nobody:20882"] != nil && c.has("outbound|20882||lost", "lost=blue")() && c.serves("blue", "10.0.0.1")() && c.serves("ghost", "10.0.0.6")()
		})
	})
}

// Listeners by name, as with istiod's gRPC generator: everything else follows, and
// goes when nothing refers to it.
func TestByName(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		for _, n := range []string{"shop", "stock"} {
			s.Set(xdstest.APIListener(n+":20882", "route-"+n), xdstest.Routes("route-"+n, xdstest.VirtualHost(n, "cluster-"+n)),
				xdstest.Cluster("cluster-"+n), xdstest.Endpoints("cluster-"+n, "10.0.0.1:1"))
		}
		o := fast(s)
		o.Delta, o.Wildcard = delta, false
		c := start(t, o)
		c.until("ready with nothing", func() bool { return c.ready })
		c.SetListeners([]string{"shop:20882"})
		c.until("shop", func() bool { return c.listen["shop:20882"] != nil })
		c.coherent()
		if len(c.cluster) != 1 || len(c.route) != 1 {
			t.Errorf("clusters %v, routes %v", c.cluster, c.route)
		}
		c.SetListeners([]string{"stock:20882", "shop:20882"})
		c.until("both", func() bool { return len(c.listen) == 2 && len(c.cluster) == 2 && len(c.route) == 2 })
		c.coherent()
		c.SetListeners([]string{"stock:20882"})
		c.until("only stock", func() bool { return len(c.listen) == 1 && len(c.cluster) == 1 && len(c.route) == 1 })
		c.coherent()
		if !c.serves("cluster-stock", "10.0.0.1")() {
			t.Error("the wrong one went")
		}
		if delta {
			s.await("unsubscribed", 0, func(r xdstest.Request) bool {
				return r.TypeURL == eds && slices.Equal(r.Unsubscribe, []string{"cluster-shop"}) && r.Nonce == ""
			})
		} else {
			s.await("one name", 0, func(r xdstest.Request) bool {
				return r.TypeURL == eds && slices.Equal(r.Names, []string{"cluster-stock"})
			})
		}
		// A service goes as istiod lets it go: listener and cluster are left out.
		s.Delete(lds, "stock:20882")
		s.Delete(cds, "cluster-stock")
		c.until("gone", func() bool { return len(c.listen)+len(c.cluster)+len(c.route) == 0 })
	})
}

// istiod's gRPC generator sends every virtual host of a port with the route of each
// listener. Only the clusters of the listener's own are asked for.
func TestByNameOfMany(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		names := []string{"shop", "stock", "*.wild", "other"}
		var hosts []*routev3.VirtualHost
		for _, n := range names {
			s.Set(xdstest.Cluster("cluster-"+n), xdstest.Endpoints("cluster-"+n, "10.0.0.1:1"))
			hosts = append(hosts, xdstest.VirtualHost(n, "cluster-"+n))
		}
		for _, n := range []string{"shop", "stock", "a.wild", "unknown"} {
			s.Set(xdstest.APIListener(n+":20882", "all"))
		}
		s.Set(xdstest.Routes("all", hosts...))
		s.Set(xdstest.APIListener("tcp:20882", "outbound|20882||tcp"), xdstest.Routes("outbound|20882||tcp", hosts...),
			xdstest.Cluster("cluster-tcp"), xdstest.Endpoints("cluster-tcp", "10.0.0.1:1"))
		o := fast(s)
		o.Delta, o.Wildcard = delta, false
		o.Implied = func(route string) *routev3.VirtualHost {
			if route != "outbound|20882||tcp" {
				return nil
			}
			return xdstest.VirtualHost("tcp", "cluster-tcp")
		}
		c := start(t, o)
		c.SetListeners([]string{"tcp:20882"}) // whose route has virtual hosts of everybody, and none for it
		c.until("tcp", func() bool { return slices.Equal(slices.Sorted(maps.Keys(c.cluster)), []string{"cluster-tcp"}) })
		for _, step := range []struct{ listeners, clusters []string }{
			{[]string{"shop:20882"}, []string{"cluster-shop"}},
			{[]string{"shop:20882", "stock:20882"}, []string{"cluster-shop", "cluster-stock"}},
			{[]string{"stock:20882", "a.wild:20882"}, []string{"cluster-*.wild", "cluster-stock"}},
			{[]string{"unknown:20882"}, []string{"cluster-*.wild", "cluster-other", "cluster-shop", "cluster-stock"}}, // its name says nothing
			{[]string{"a.wild:20882"}, []string{"cluster-*.wild"}},
		} {
			c.SetListeners(step.listeners)
			c.until(fmt.Sprint(step.listeners), func() bool {
				return len(c.listen) == len(step.listeners) && slices.Equal(slices.Sorted(maps.Keys(c.cluster)), step.clusters) && len(c.route["all"].Hosts) == len(step.clusters)
			})
			c.coherent()
		}
		hosts[2] = xdstest.VirtualHost("*.wild", "cluster-shop")
		s.Set(xdstest.Routes("all", hosts...))
		c.until("another cluster", func() bool { return slices.Equal(slices.Sorted(maps.Keys(c.cluster)), []string{"cluster-shop"}) })
		c.coherent()
	})
}

// Checklist 9: whatever order the server sends in, a route is delivered with its
// clusters, and a cluster goes after the routes.
func TestMakeBeforeBreak(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	o := fast(s)
	o.MissingHold, o.ResourceTimeout = time.Hour, time.Hour // waits are for events
	c := start(t, o)
	s.asked(cds)
	s.respond(cds, "1", "c1", xdstest.Cluster("blue"))
	s.asked(lds)
	s.respond(lds, "1", "l1", xdstest.Listener("out", "r"))
	s.asked(rds, "r")
	s.respond(rds, "1", "r1", xdstest.Routes("r", xdstest.VirtualHost("shop", "blue")))
	s.asked(eds, "blue")
	s.respond(eds, "1", "e1", xdstest.Endpoints("blue", "10.0.0.1:1"))
	c.until("blue", c.has("r", "shop=blue"))
	c.until("listener", func() bool { return c.listen["out"] != nil })
	c.coherent()

	// The route comes first, then the cluster, then its endpoints. Another virtual
	// host in the same route does not wait.
	s.respond(rds, "2", "r2", xdstest.Routes("r", xdstest.VirtualHost("shop", "green"), xdstest.VirtualHost("stock", "blue")))
	c.until("stock beside the old shop", c.has("r", "shop=blue", "stock=blue"))
	d := c.Dump()
	if len(d.Held) != 1 || d.Held[0].VirtualHost != "shop" || !slices.Equal(d.Held[0].Needs, []string{"Cluster green"}) {
		t.Errorf("held: %+v", d.Held)
	}
	s.respond(cds, "2", "c2", xdstest.Cluster("blue"), xdstest.Cluster("green"))
	s.answered("c2")
	s.asked(eds, "blue", "green")
	c.coherent()
	s.respond(eds, "2", "e2", xdstest.Endpoints("green", "10.0.0.2:1"))
	c.until("switched", c.has("r", "shop=green", "stock=blue"))
	c.coherent()
	if u := c.steps[len(c.steps)-1]; u.Clusters["green"] == nil || u.Routes["r"] == nil {
		t.Errorf("not in one step: %+v", u)
	}

	// The server deletes a cluster that a route still names: it stays, with its
	// endpoints kept up to date, until no route names it.
	s.respond(cds, "3", "c3", xdstest.Cluster("green"))
	c.until("orphan", func() bool { return c.cluster["blue"] != nil && c.cluster["blue"].Orphan })
	s.respond(eds, "3", "e3", xdstest.Endpoints("blue", "10.0.0.3:1"))
	c.until("its endpoints", c.serves("blue", "10.0.0.3"))
	s.respond(rds, "3", "r3", xdstest.Routes("r", xdstest.VirtualHost("shop", "green")))
	c.until("blue gone", func() bool { return c.cluster["blue"] == nil && len(c.route["r"].Hosts) == 1 })
	c.coherent()
	s.await("blue's endpoints", 0, func(r xdstest.Request) bool { return r.TypeURL == eds && slices.Equal(r.Names, []string{"green"}) })

	// A listener moves to another route.
	s.respond(lds, "2", "l2", xdstest.Listener("out", "r2"))
	s.asked(rds, "r", "r2")
	s.respond(rds, "4", "r4", xdstest.Routes("r2", xdstest.VirtualHost("shop2", "red")))
	s.answered("r4")
	if c.listen["out"].Routes[0] != "r" || c.route["r"] == nil {
		t.Error("the listener moved before its route was complete")
	}
	s.respond(cds, "4", "c4", xdstest.Cluster("green"), xdstest.Cluster("red"))
	s.asked(eds, "green", "red")
	s.respond(eds, "4", "e4", xdstest.Endpoints("red"))
	c.until("moved", func() bool {
		return c.listen["out"].Routes[0] == "r2" && c.route["r"] == nil && c.has("r2", "shop2=red")()
	})
	c.coherent()

	// A virtual host gets another name for the same domain: the old one serves until
	// the new one can.
	renamed := xdstest.VirtualHost("shop2", "pink")
	renamed.Name = "shop2-renamed"
	s.respond(rds, "5", "r5", xdstest.Routes("r2", renamed))
	s.answered("r5")
	c.eventually("held", func(d xdsclient.Dump) bool { return len(d.Held) == 1 })
	if !c.has("r2", "shop2=red")() {
		t.Errorf("hosts %v", c.hosts("r2"))
	}
	s.respond(cds, "5", "c5", xdstest.Cluster("pink"), xdstest.Cluster("red"), xdstest.Cluster("green"))
	s.asked(eds, "green", "pink", "red")
	s.respond(eds, "5", "e5", xdstest.Endpoints("pink", "10.0.0.5:1"))
	c.until("renamed", c.has("r2", "shop2-renamed=pink"))
}

// A cluster that never comes does not hold a route for ever, and comes later.
func TestMissingClusterIsWaitedForABoundedTime(t *testing.T) {
	s := newServer(t, xdstest.Options{})
	shop(s)
	o := fast(s)
	o.MissingHold = 30 * time.Millisecond
	c := start(t, o)
	c.until("shop", c.has("http_proxy", "shop=blue+green"))
	s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("shop", "blue", "never")))
	c.until("let through", c.has("http_proxy", "shop=blue+never"))
	if c.cluster["never"] != nil {
		t.Error("a cluster from nowhere")
	}
	s.Set(xdstest.Cluster("never"), xdstest.Endpoints("never", "10.0.0.8:1"))
	c.until("there after all", c.serves("never", "10.0.0.8"))
}

// Checklist 11: while no server is there nothing changes, and nothing that waits is
// let through.
func TestOutageChangesNothing(t *testing.T) {
	s := newServer(t, xdstest.Options{})
	shop(s)
	o := fast(s)
	o.ResourceTimeout, o.MissingHold = 150*time.Millisecond, 50*time.Millisecond
	c := start(t, o)
	c.until("shop", c.has("http_proxy", "shop=blue+green"))
	// Its endpoints are never answered, and the server goes away.
	s.Set(xdstest.Cluster("red"))
	s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("shop", "red")))
	c.eventually("held", func(d xdsclient.Dump) bool { return len(d.Held) == 1 })
	s.Stop()
	c.eventually("down", func(d xdsclient.Dump) bool { return !d.Servers[0].Connected && d.Servers[0].Err != "" })
	select {
	case u := <-c.ch:
		t.Fatalf("an outage delivered %+v", u)
	case <-time.After(500 * time.Millisecond): // that nothing comes has no event
	}
	if len(c.Dump().Held) != 1 || !c.has("http_proxy", "shop=blue+green")() {
		t.Errorf("held %+v", c.Dump().Held)
	}
	s.Set(xdstest.Endpoints("red", "10.0.0.7:1"))
	s.restart()
	c.until("switched", c.has("http_proxy", "shop=red"))
	c.coherent()
}

// Checklist 14: wrapped resources; unknown extensions are no reason for a NACK.
func TestWrapperAndUnknownExtensions(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	c := start(t, fast(s))
	s.asked(cds)
	unknown := &anypb.Any{TypeUrl: "type.googleapis.com/example.Unknown", Value: []byte{0xff}}
	cl := xdstest.Cluster("blue")
	cl.TypedExtensionProtocolOptions = map[string]*anypb.Any{"x": unknown}
	s.Send(&discoveryv3.DiscoveryResponse{TypeUrl: cds, VersionInfo: "1", Nonce: "a", Resources: []*anypb.Any{
		xdstest.Any(&discoveryv3.Resource{Name: "blue", Version: "17", Resource: xdstest.Any(cl)}),
	}})
	if r := s.answered("a"); r.NACK != "" {
		t.Errorf("%+v", r)
	}
	s.asked(eds, "blue")
	s.respond(eds, "1", "e", xdstest.Endpoints("blue", "10.0.0.1:1"))
	c.until("blue", c.serves("blue", "10.0.0.1"))
	l := xdstest.Listener("out", "r")
	l.FilterChains[0].Filters = append([]*listenerv3.Filter{{Name: "x", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: unknown}}}, l.FilterChains[0].Filters...)
	l.ListenerFilters = []*listenerv3.ListenerFilter{{Name: "x", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: unknown}}}
	s.respond(lds, "1", "b", l)
	if r := s.answered("b"); r.NACK != "" {
		t.Errorf("%+v", r)
	}
	s.asked(rds, "r")
	v := xdstest.VirtualHost("shop", "blue")
	v.TypedPerFilterConfig = map[string]*anypb.Any{"x": unknown}
	s.respond(rds, "1", "c", xdstest.Routes("r", v))
	c.until("all", func() bool { return c.has("r", "shop=blue")() && c.listen["out"] != nil })
	if r := s.answered("c"); r.NACK != "" {
		t.Errorf("%+v", r)
	}
}

// What makes a route unusable is refused, and named.
func TestBadRoutes(t *testing.T) {
	bad := map[string]func(*routev3.VirtualHost){
		"domains": func(v *routev3.VirtualHost) { v.Domains = nil },
		"no name": func(v *routev3.VirtualHost) { v.Name = "" },
		"match":   func(v *routev3.VirtualHost) { v.Routes[0].Match = nil },
		"weights": func(v *routev3.VirtualHost) {
			for _, w := range v.Routes[0].GetRoute().GetWeightedClusters().GetClusters() {
				w.Weight = nil
			}
		},
		"error parsing regexp": func(v *routev3.VirtualHost) {
			v.Routes[0].Match.Headers = []*routev3.HeaderMatcher{{Name: "x", HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}},
				{Name: "y", HeaderMatchSpecifier: xdstest.Regex("(")}}
		},
	}
	s := newServer(t, xdstest.Options{})
	shop(s)
	o := fast(s)
	c := start(t, o)
	c.until("shop", c.has("http_proxy", "shop=blue+green"))
	for reason, spoil := range bad {
		v := xdstest.VirtualHost("shop", "blue", "green")
		spoil(v)
		from := len(s.Requests())
		s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("other", "blue"), v))
		s.await(reason, from, func(r xdstest.Request) bool { return r.TypeURL == rds && strings.Contains(r.NACK, reason) })
	}
	from := len(s.Requests())
	s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("twice", "blue"), xdstest.VirtualHost("twice", "blue")))
	s.await("twice", from, func(r xdstest.Request) bool { return strings.Contains(r.NACK, "there twice") })
	if !c.has("http_proxy", "shop=blue+green")() {
		t.Errorf("hosts %v", c.hosts("http_proxy"))
	}
}

// Checklist 15: a response above gRPC's 4 MiB.
func TestLargeResponse(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		const n = 70_000
		addresses := make([]string, n)
		for i := range addresses {
			addresses[i] = fmt.Sprintf("10.%d.%d.%d:20882", i>>16, i>>8&255, i&255)
		}
		m := xdstest.Endpoints("blue", addresses...)
		for _, e := range m.Endpoints[0].LbEndpoints {
			e.GetEndpoint().Hostname = strings.Repeat("h", 1000)
		}
		if size := proto.Size(m); size < 64<<20 {
			t.Fatalf("%d bytes", size)
		}
		s.Set(xdstest.Cluster("blue"), m)
		o := fast(s)
		o.Delta = delta
		c := start(t, o)
		c.until("large", func() bool { return c.cluster["blue"] != nil })
		if got := c.cluster["blue"].Endpoints.Len(); got != n {
			t.Errorf("%d endpoints", got)
		}
	})
}

// Only followed listeners count.
func TestFollow(t *testing.T) {
	s := newServer(t, xdstest.Options{})
	shop(s)
	s.Set(xdstest.Listener("0.0.0.0_15001", "other"), xdstest.Routes("other"))
	o := fast(s)
	o.Follow = func(name string) bool { return strings.HasPrefix(name, "127.0.0.1_") }
	c := start(t, o)
	c.until("ready", func() bool { return c.ready && len(c.listen) == 1 })
	s.Delete(lds, "0.0.0.0_15001")
	s.Delete(lds, "127.0.0.1_20881")
	c.until("gone", func() bool { return len(c.listen) == 0 })
	for _, u := range c.steps {
		if _, ok := u.Listeners["0.0.0.0_15001"]; ok {
			t.Error("a listener that is not followed was delivered")
		}
	}
	for _, r := range s.Requests() {
		if r.TypeURL == rds && slices.Contains(r.Names, "other") {
			t.Errorf("%+v", r)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]xdsclient.Options{
		"no server":  {Node: node},
		"no address": {Node: node, Servers: []xdsclient.Server{{}}},
		"no node":    {Servers: []xdsclient.Server{{Address: "127.0.0.1:1"}}},
	} {
		if _, err := xdsclient.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
