package xdsclient_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// removed in a list for tell means that the server has a resource no more.
type removed struct {
	proto.Message
	name string
}

// tell sends a response, of state of the world or incremental; of the first kind it
// has everything that is not removed.
func (s server) tell(delta bool, url, version, nonce string, list ...proto.Message) {
	if !delta {
		s.respond(url, version, nonce, slices.DeleteFunc(list, func(m proto.Message) bool { _, gone := m.(removed); return gone })...)
		return
	}
	m := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, SystemVersionInfo: version, Nonce: nonce}
	for _, r := range list {
		if gone, ok := r.(removed); ok {
			m.RemovedResources = append(m.RemovedResources, gone.name)
			continue
		}
		m.Resources = append(m.Resources, &discoveryv3.Resource{Name: xdstest.Name(r), Version: version, Resource: xdstest.Any(r)})
	}
	s.SendDelta(m)
}

// log is what was logged.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Checklist 3, 4, 6, 7, 13, incrementally: each response is answered once, by its
// nonce alone; the good ones of a bad response are used; what was not asked for is
// ignored; what is removed goes when nothing refers to it.
func TestIncrementalAnswers(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	o := fast(s)
	o.Delta = true
	c := start(t, o)
	s.asked(cds)
	s.tell(true, cds, "1", "a", xdstest.Cluster("blue"), xdstest.Cluster("green"))
	s.asked(eds, "blue", "green")
	s.tell(true, rds, "1", "strange", xdstest.Routes("r"))
	s.tell(true, "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "1", "stranger")
	s.tell(true, eds, "1", "b", xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Endpoints("green", "10.0.0.2:1"), xdstest.Endpoints("other", "10.0.0.3:1"))
	c.until("two clusters", func() bool { return c.serves("blue", "10.0.0.1")() && c.serves("green", "10.0.0.2")() })
	if resource(c.Dump(), eds, "other").Name != "" {
		t.Error("an unrequested resource was kept")
	}

	bad := xdstest.Endpoints("green", "10.0.0.7:1")
	bad.Endpoints[0].Priority = 200
	s.tell(true, eds, "2", "c", bad, xdstest.Endpoints("blue", "10.0.0.4:1"))
	c.until("the good one", c.serves("blue", "10.0.0.4"))
	if r := s.answered("c"); !strings.Contains(r.NACK, "green: priority 200") || strings.Contains(r.NACK, "blue") {
		t.Errorf("NACK: %+v", r)
	}
	if g := resource(c.Dump(), eds, "green"); g.State != xdsclient.Nacked || g.Version != "1" || !c.serves("green", "10.0.0.2")() {
		t.Errorf("%+v; green has %v", g, c.endpoints("green"))
	}
	// An empty resource, which is no heartbeat, and one with two names.
	s.SendDelta(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: eds, Nonce: "d", Resources: []*discoveryv3.Resource{
		{Name: "blue"}, {Name: "green", Resource: xdstest.Any(xdstest.Endpoints("blue"))},
	}})
	if r := s.answered("d"); !strings.Contains(r.NACK, "blue: it is empty") || !strings.Contains(r.NACK, `"green" in its wrapper and "blue" inside`) {
		t.Errorf("NACK: %+v", r)
	}

	// Endpoints that the server removes stay while their cluster is there.
	s.tell(true, eds, "3", "e", removed{name: "blue"}, removed{name: "nobody"})
	if r := s.answered("e"); r.NACK != "" {
		t.Errorf("%+v", r)
	}
	if b := resource(c.Dump(), eds, "blue"); b.Kept == "" || !c.serves("blue", "10.0.0.4")() {
		t.Errorf("%+v", b)
	}
	s.tell(true, cds, "2", "f", removed{name: "blue"})
	c.until("blue gone", func() bool { return c.cluster["blue"] == nil })
	s.await("blue unsubscribed", 0, func(r xdstest.Request) bool {
		return r.TypeURL == eds && r.Nonce == "" && slices.Equal(r.Unsubscribe, []string{"blue"})
	})
	// The same version with other content is applied: versions decide nothing.
	s.tell(true, eds, "3", "g", xdstest.Endpoints("green", "10.0.0.5:1"))
	c.until("green changed", c.serves("green", "10.0.0.5"))
	s.tell(true, eds, "3", "h", xdstest.Endpoints("green"))
	c.until("green empty", c.serves("green"))

	s.answered("h")
	answers := map[string]int{}
	for _, r := range s.Requests() {
		if r.Nonce == "" {
			continue
		}
		answers[r.Nonce]++
		if len(r.Names)+len(r.Unsubscribe)+len(r.Initial) > 0 {
			t.Errorf("an answer changes what is asked for: %+v", r)
		}
	}
	if len(answers) != 8 { // a to h, and neither strange nor stranger
		t.Errorf("answers %v", answers)
	}
	for nonce, n := range answers {
		if n != 1 || strings.HasPrefix(nonce, "strange") {
			t.Errorf("%d answers to %s", n, nonce)
		}
	}
}

// Checklist 1, 2, 13: a new incremental stream begins with the node, all names and
// the versions of what is there; of what was refused that of the last good one.
func TestIncrementalReconnect(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	o := fast(s)
	o.Delta = true
	c := start(t, o)
	s.asked(cds)
	s.tell(true, cds, "1", "a", xdstest.Cluster("blue"), xdstest.Cluster("green"))
	s.asked(eds, "blue", "green")
	s.tell(true, eds, "5", "b", xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Endpoints("green", "10.0.0.2:1"))
	c.until("two clusters", func() bool { return c.serves("blue", "10.0.0.1")() && c.serves("green", "10.0.0.2")() })
	bad := xdstest.Endpoints("green", "10.0.0.7:1")
	bad.Endpoints[0].Priority = 200
	s.tell(true, eds, "6", "c", bad, xdstest.Endpoints("blue", "10.0.0.3:1"))
	s.answered("c")
	s.EndStreams()
	second := func(url string) xdstest.Request {
		r, _ := s.await("first of the second stream", 0, func(r xdstest.Request) bool { return r.Stream == 2 && r.TypeURL == url })
		return r
	}
	if r := second(cds); r.Nonce != "" || len(r.Names) != 0 || r.Node == nil || len(r.Initial) != 2 || r.Initial["blue"] != "1" {
		t.Errorf("clusters: %+v", r)
	}
	if r := second(eds); r.Nonce != "" || !slices.Equal(r.Names, []string{"blue", "green"}) || r.Node != nil || r.Initial["blue"] != "6" || r.Initial["green"] != "5" {
		t.Errorf("endpoints: %+v", r)
	}
	// What went while the stream was away is removed, though nothing of it was sent on
	// this stream.
	s.tell(true, cds, "2", "d", removed{name: "blue"})
	c.until("blue gone", func() bool { return c.cluster["blue"] == nil && c.cluster["green"] != nil })
}

// Checklist 4: of two resources with one name neither is better.
func TestDuplicatesKeepTheOldOne(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{Manual: true})
		o := fast(s)
		o.Delta = delta
		c := start(t, o)
		s.asked(cds)
		s.tell(delta, cds, "1", "a", xdstest.Cluster("blue"), xdstest.Cluster("green"))
		s.asked(eds, "blue", "green")
		s.tell(delta, eds, "1", "b", xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Endpoints("green", "10.0.0.2:1"))
		c.until("two clusters", func() bool { return len(c.cluster) == 2 })
		s.tell(delta, eds, "2", "c", xdstest.Endpoints("blue", "10.0.0.3:1"), xdstest.Endpoints("green", "10.0.0.4:1"), xdstest.Endpoints("blue", "10.0.0.3:1"))
		if r := s.answered("c"); r.NACK != "blue: it is there twice" || !delta && r.Version != "1" {
			t.Errorf("answer %+v", r)
		}
		c.until("green", c.serves("green", "10.0.0.4"))
		if !c.serves("blue", "10.0.0.1")() {
			t.Errorf("blue has %v", c.endpoints("blue"))
		}
		// A cluster that is there twice is not gone.
		s.tell(delta, cds, "2", "d", xdstest.Cluster("blue"), xdstest.Cluster("blue"), xdstest.Cluster("green"))
		if r := s.answered("d"); !strings.Contains(r.NACK, "twice") {
			t.Errorf("answer %+v", r)
		}
		s.tell(delta, eds, "3", "e", xdstest.Endpoints("blue", "10.0.0.5:1"))
		c.until("blue", c.serves("blue", "10.0.0.5"))
	})
}

// Checklist 5: names that change while a response is on its way. The server ignores
// the request, because its nonce is stale; what answers the response has all names.
func TestNamesChangeWhileAResponseIsUnanswered(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{Manual: true})
		o := fast(s)
		o.Delta = delta
		c := start(t, o)
		s.asked(cds)
		s.tell(delta, cds, "1", "a", xdstest.Cluster("blue"))
		s.asked(eds, "blue")
		s.tell(delta, eds, "1", "b", xdstest.Endpoints("blue", "10.0.0.1:1"))
		c.until("blue", c.serves("blue", "10.0.0.1"))
		s.tell(delta, cds, "2", "c", xdstest.Cluster("blue"), xdstest.Cluster("green"))
		if delta {
			s.await("green, apart", 0, func(r xdstest.Request) bool {
				return r.TypeURL == eds && r.Nonce == "" && slices.Equal(r.Names, []string{"green"})
			})
		} else {
			s.await("both, with the old nonce", 0, func(r xdstest.Request) bool { return r.TypeURL == eds && r.Nonce == "b" && len(r.Names) == 2 })
		}
		s.tell(delta, eds, "2", "d", xdstest.Endpoints("blue", "10.0.0.2:1")) // sent before that came
		if r := s.answered("d"); !delta && (r.Version != "2" || !slices.Equal(r.Names, []string{"blue", "green"})) || delta && len(r.Names) > 0 {
			t.Errorf("%+v", r)
		}
		s.tell(delta, eds, "3", "e", xdstest.Endpoints("green", "10.0.0.3:1"))
		c.until("green", c.serves("green", "10.0.0.3"))
		if !c.serves("blue", "10.0.0.2")() {
			t.Errorf("blue has %v", c.endpoints("blue"))
		}
	})
}

// Checklist 6, 8: what is refused and never was good is as good as missing, at once;
// when the server drops it, it is not refused any more.
func TestRefusedWithoutAnOldOne(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{Manual: true})
		o := fast(s)
		o.Delta, o.Wildcard, o.ResourceTimeout, o.MissingHold = delta, false, time.Hour, time.Hour
		c := start(t, o)
		c.SetListeners([]string{"shop:20882"})
		s.asked(lds, "shop:20882")
		s.tell(delta, lds, "1", "a", xdstest.APIListener("shop:20882", "r"))
		s.asked(rds, "r")
		s.tell(delta, rds, "1", "b", xdstest.Routes("r", xdstest.VirtualHost("shop", "blue", "green")))
		s.asked(cds, "blue", "green")
		bad := xdstest.Cluster("green")
		bad.LoadAssignment = xdstest.Endpoints("green", "10.0.0.1:1")
		bad.ClusterDiscoveryType, bad.EdsClusterConfig = nil, nil // STATIC
		bad.LoadAssignment.Endpoints[0].Priority = 200
		s.tell(delta, cds, "1", "c", xdstest.Cluster("blue"), bad)
		if r := s.answered("c"); !strings.Contains(r.NACK, "green: ") {
			t.Errorf("%+v", r)
		}
		s.asked(eds, "blue")
		e := xdstest.Endpoints("blue", "10.0.0.1:1")
		e.Endpoints[0].Priority = 200
		s.tell(delta, eds, "1", "d", e)
		c.until("the route, without both", func() bool { return c.ready && c.has("r", "shop=blue+green")() })
		if c.cluster["green"] != nil || c.cluster["blue"] == nil || !c.cluster["blue"].Endpoints.Missing {
			t.Errorf("clusters %+v", c.cluster)
		}
		ref := xdsclient.Ref{URL: cds, Name: "green"}
		c.until("told", func() bool {
			return slices.ContainsFunc(c.steps, func(u xdsclient.Update) bool { return u.Refused[ref] != "" })
		})
		s.tell(delta, cds, "2", "e", xdstest.Cluster("blue"), removed{name: "green"})
		c.until("not refused any more", func() bool { why, ok := c.steps[len(c.steps)-1].Refused[ref]; return ok && why == "" })
		if g := resource(c.Dump(), cds, "green"); g.State != xdsclient.DoesNotExist || g.NACK != nil {
			t.Errorf("%+v", g)
		}
		s.tell(delta, eds, "2", "f", xdstest.Endpoints("blue", "10.0.0.1:1"))
		c.until("blue", c.serves("blue", "10.0.0.1"))
	})
}

// Checklist 8: a route configuration without virtual hosts exists, and is empty.
func TestEmptyRoutes(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		s.Set(xdstest.Listener("out", "r"), xdstest.Routes("r"))
		o := fast(s)
		o.Delta = delta
		c := start(t, o)
		c.until("an empty route", func() bool { return c.ready && c.route["r"] != nil && c.listen["out"] != nil })
		s.Set(xdstest.Cluster("blue"), xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Routes("r", xdstest.VirtualHost("shop", "blue")))
		c.until("a virtual host", c.has("r", "shop=blue"))
		s.Set(xdstest.Routes("r"))
		c.until("empty again", c.has("r"))
		if r := resource(c.Dump(), rds, "r"); r.State != xdsclient.Acked {
			t.Errorf("%+v", r)
		}
	})
}

// Checklist 9: a route to a cluster whose endpoints never come is delivered without
// them after a bounded time; that it waits till then is in TestMakeBeforeBreak.
func TestEndpointsThatNeverCome(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		shop(s)
		o := fast(s)
		o.Delta, o.ResourceTimeout, o.MissingHold = delta, 200*time.Millisecond, 20*time.Millisecond
		c := start(t, o)
		c.until("shop", c.has("http_proxy", "shop=blue+green"))
		s.Set(xdstest.Cluster("cold"))
		s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("shop", "cold")))
		c.until("let through", c.has("http_proxy", "shop=cold"))
		if cl := c.cluster["cold"]; cl == nil || !cl.Endpoints.Missing {
			t.Errorf("%+v", cl)
		}
		s.Set(xdstest.Endpoints("cold", "10.0.0.9:1"))
		c.until("warm after all", c.serves("cold", "10.0.0.9"))
	})
}

// Checklist 12: a server that bounds the age of connections loses nobody.
func TestGreatestAgeOfConnections(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{ServerOptions: []grpc.ServerOption{grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: 100 * time.Millisecond, MaxConnectionAgeGrace: 50 * time.Millisecond,
		})}})
		shop(s)
		o := fast(s)
		o.Delta = delta
		c := start(t, o)
		for i := range 3 {
			_, all := s.Streams()
			host := fmt.Sprintf("10.0.1.%d", i)
			s.Set(xdstest.Endpoints("blue", host+":1"))
			c.until("the change", c.serves("blue", host))
			c.eventually("another stream", func(xdsclient.Dump) bool { _, n := s.Streams(); return n > all })
		}
		c.until("all is there", c.has("http_proxy", "shop=blue+green"))
		c.coherent()
	})
}

// What istiod says instead of an answer is logged once for each thing that it says,
// shown, and tried again.
func TestServerThatRefuses(t *testing.T) {
	for code, test := range map[codes.Code]struct{ text, says string }{
		codes.Unavailable:       {"server is not ready to serve discovery information", "does not answer"},
		codes.ResourceExhausted: {"request rate limit exceeded", "takes no more clients"},
		codes.PermissionDenied:  {"authorization failed: no identities matched other/agent", "does not serve this node"},
		codes.Unauthenticated:   {"authentication failure", "does not accept who asks"},
		codes.Unimplemented:     {"unknown method DeltaAggregatedResources", "this kind of ADS"},
		codes.InvalidArgument:   {"missing node information", "refuses the request"},
	} {
		t.Run(code.String(), func(t *testing.T) {
			both(t, func(t *testing.T, delta bool) {
				s := newServer(t, xdstest.Options{})
				shop(s)
				var l log
				o := fast(s)
				o.Delta, o.Log = delta, l.logger()
				s.Refuse(status.Error(code, test.text))
				c := start(t, o)
				tries := func(n int) {
					t.Helper()
					from := c.Dump().Servers[0].Streams
					c.eventually("more tries", func(d xdsclient.Dump) bool { return d.Servers[0].Streams >= from+n })
				}
				tries(3)
				c.eventually("shown", func(d xdsclient.Dump) bool { return strings.Contains(d.Servers[0].Err, test.text) })
				if n := l.count(test.says); n != 1 {
					t.Errorf("said %d times:\n%s", n, l.b.String())
				}
				s.Refuse(nil)
				c.until("served", func() bool { return c.ready && c.has("http_proxy", "shop=blue+green")() })
				if d := c.Dump().Servers[0]; d.Err != "" || !strings.Contains(d.Ended, test.text) {
					t.Errorf("%+v", d)
				}

				// Again, while everything is known: nothing changes.
				steps := len(c.steps)
				s.Refuse(status.Error(code, test.text))
				tries(3)
				if len(c.steps) != steps || !c.has("http_proxy", "shop=blue+green")() {
					t.Errorf("%+v", c.steps[steps:])
				}
				s.Refuse(status.Error(codes.Unavailable, "another reason"))
				tries(2)
				if n := l.count("another reason"); n != 1 {
					t.Errorf("another reason was said %d times", n)
				}
				s.Set(xdstest.Endpoints("blue", "10.0.0.9:1"))
				s.Refuse(nil)
				c.until("served again", c.serves("blue", "10.0.0.9"))
			})
		})
	}
}

// A response above the bound is said once, and what came before it serves.
func TestResponseAboveTheBound(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		shop(s)
		var l log
		o := fast(s)
		o.Delta, o.Log, o.MaxMessage = delta, l.logger(), 10_000
		c := start(t, o)
		c.until("shop", c.has("http_proxy", "shop=blue+green"))
		var many []string
		for i := range 2000 {
			many = append(many, fmt.Sprintf("10.0.%d.%d:1", i>>8, i&255))
		}
		s.Set(xdstest.Endpoints("blue", many...))
		c.eventually("shown", func(d xdsclient.Dump) bool {
			return strings.Contains(d.Servers[0].Ended, "larger than max") && d.Servers[0].Streams > 3
		})
		if n := l.count("too large"); n != 1 {
			t.Errorf("said %d times", n)
		}
		if !c.serves("blue", "10.0.0.1")() {
			t.Errorf("%d endpoints", len(c.endpoints("blue")))
		}
		s.Set(xdstest.Endpoints("blue", "10.0.0.9:1"))
		c.until("small again", c.serves("blue", "10.0.0.9"))
	})
}

// A resource that cannot be used is logged once, however often the server sends it
// with changes of others.
func TestRefusalIsLoggedOnce(t *testing.T) {
	s := newServer(t, xdstest.Options{Manual: true})
	var l log
	o := fast(s)
	o.Log = l.logger()
	start(t, o)
	s.asked(cds)
	bad := xdstest.Cluster("bad")
	bad.ClusterDiscoveryType, bad.LoadAssignment = nil, xdstest.Endpoints("bad", "10.0.0.1:1")
	bad.LoadAssignment.Endpoints[0].Priority = 200
	for i := range 3 {
		nonce := fmt.Sprint("n", i)
		s.respond(cds, nonce, nonce, bad, xdstest.Cluster(nonce))
		if r := s.answered(nonce); r.NACK == "" {
			t.Errorf("%+v", r)
		}
	}
	if n := l.count("cannot be used"); n != 1 {
		t.Errorf("said %d times:\n%s", n, l.b.String())
	}
	s.respond(cds, "good", "good", xdstest.Cluster("bad"))
	s.answered("good")
	s.respond(cds, "again", "again", bad)
	s.answered("again")
	if n := l.count("cannot be used"); n != 2 {
		t.Errorf("after it was good said %d times", n)
	}
}

// Flow control: a reader that does not read holds up nobody, and gets the newest of
// everything in one step.
func TestReaderThatDoesNotRead(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		shop(s)
		o := fast(s)
		o.Delta = delta
		c := start(t, o)
		c.until("shop", c.has("http_proxy", "shop=blue+green"))
		c.until("ready", func() bool { return c.ready })
		from, steps := len(s.Requests()), len(c.steps)
		const n = 200
		for i := 1; i <= n; i++ {
			s.Set(xdstest.Endpoints("blue", fmt.Sprintf("10.0.2.%d:1", i)))
		}
		for answers := 0; answers < n; answers++ {
			_, from = s.await("answers without a reader", from, func(r xdstest.Request) bool { return r.TypeURL == eds && r.Nonce != "" })
		}
		c.until("the newest", c.serves("blue", fmt.Sprintf("10.0.2.%d", n)))
		if len(c.steps) > steps+2 { // one may have waited for the reader when the next came
			t.Errorf("%d steps", len(c.steps)-steps)
		}
	})
}

// Resources with a bounded life: heartbeats confirm them and have nothing in them.
func TestHeartbeats(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{Manual: true})
		o := fast(s)
		o.Delta = delta
		c := start(t, o)
		s.asked(cds)
		s.tell(delta, cds, "1", "a", xdstest.Cluster("blue"))
		s.asked(eds, "blue")
		s.tell(delta, eds, "1", "b", xdstest.Endpoints("blue", "10.0.0.1:1"))
		c.until("blue", c.serves("blue", "10.0.0.1"))
		beat := &discoveryv3.Resource{Name: "blue", Ttl: durationpb.New(time.Second)}
		if delta {
			s.SendDelta(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: cds, Nonce: "c", Resources: []*discoveryv3.Resource{beat}})
		} else {
			s.Send(&discoveryv3.DiscoveryResponse{TypeUrl: cds, VersionInfo: "1", Nonce: "c", Resources: []*anypb.Any{xdstest.Any(beat)}})
		}
		if r := s.answered("c"); r.NACK != "" {
			t.Errorf("%+v", r)
		}
		s.tell(delta, eds, "2", "d", xdstest.Endpoints("blue", "10.0.0.2:1"))
		c.until("blue is still there", c.serves("blue", "10.0.0.2"))
	})
}

// A machine that stopped while the file was written leaves a record that is cut off.
// What is saved afterwards is read again, too.
func TestCutOffFileGoesOn(t *testing.T) {
	s := newServer(t, xdstest.Options{})
	shop(s)
	o := fast(s)
	o.Path = filepath.Join(t.TempDir(), "xds.state")
	run := func(host string) {
		t.Helper()
		c := start(t, o)
		c.until("shop", func() bool { return c.has("http_proxy", "shop=blue+green")() && c.ready && len(c.listen) == 1 })
		s.Set(xdstest.Endpoints("blue", host+":1"))
		c.until("changed", c.serves("blue", host))
		c.stop()
	}
	run("10.0.0.7")
	raw, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	// Half of a record follows: a header that announces more than there is.
	if err := os.WriteFile(o.Path, append(raw, 200, 0, 0, 0, 1, 2, 3, 4, 'x', 'y'), 0o600); err != nil {
		t.Fatal(err)
	}
	run("10.0.0.8")
	s.Stop()
	var l log
	o.Log = l.logger()
	c := start(t, o)
	c.until("from disk", func() bool { return c.has("http_proxy", "shop=blue+green")() && c.ready })
	if !c.serves("blue", "10.0.0.8")() {
		t.Errorf("blue has %v", c.endpoints("blue"))
	}
	if n := l.count("are lost"); n > 0 {
		t.Errorf("%s", l.b.String())
	}
	if _, err := os.Stat(o.Path + ".damaged"); err == nil {
		t.Error("the file was taken for damaged")
	}
}

// Options.Implied: a route configuration without virtual hosts gets one, whose
// clusters are asked for, warmed and withdrawn like those of others.
func TestImpliedVirtualHost(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		s.Set(xdstest.APIListener("shop:20882", "r"), xdstest.Routes("r"), xdstest.Cluster("blue"), xdstest.Endpoints("blue", "10.0.0.1:1"))
		o := fast(s)
		o.Delta, o.Wildcard, o.Path = delta, false, filepath.Join(t.TempDir(), "xds.state")
		o.Implied = func(name string) *routev3.VirtualHost {
			v := xdstest.VirtualHost("shop", "blue")
			v.Name = "implied by " + name
			return v
		}
		c := start(t, o)
		c.SetListeners([]string{"shop:20882"})
		c.until("implied", func() bool { return c.ready && c.has("r", "implied by r=blue")() && c.serves("blue", "10.0.0.1")() })
		first := c.route["r"].Hosts[0]
		if !first.Implied {
			t.Error("not marked")
		}
		s.Set(xdstest.Routes("r")) // again: nothing changes
		s.Set(xdstest.Endpoints("blue", "10.0.0.2:1"))
		c.until("changed", c.serves("blue", "10.0.0.2"))
		if c.route["r"].Hosts[0] != first {
			t.Error("an implied virtual host that did not change is another pointer")
		}
		c.stop()
		s.Stop()
		c = start(t, o) // from disk
		c.SetListeners([]string{"shop:20882"})
		c.until("implied", func() bool { return c.has("r", "implied by r=blue")() && c.serves("blue", "10.0.0.2")() })
		s.Set(xdstest.Routes("r", xdstest.VirtualHost("shop", "green")), xdstest.Cluster("green"), xdstest.Endpoints("green", "10.0.0.3:1"))
		s.restart()
		c.until("a real one", func() bool { return c.has("r", "shop=green")() && c.cluster["blue"] == nil })
		if c.route["r"].Hosts[0].Implied {
			t.Error("marked")
		}
		c.coherent()
	})
}

// A server that may forget: what it leaves out or removes stays, and says why.
func TestIgnoredDeletions(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		s := newServer(t, xdstest.Options{})
		shop(s)
		var l log
		o := fast(s)
		o.Delta, o.Log, o.Servers[0].IgnoreDeletion = delta, l.logger(), true
		c := start(t, o)
		c.until("shop", func() bool { return c.has("http_proxy", "shop=blue+green")() && len(c.listen) == 1 })
		s.Delete(cds, "blue")
		s.Delete(lds, "127.0.0.1_20881")
		s.Set(xdstest.Cluster("red"), xdstest.Endpoints("red", "10.0.0.5:1"))
		c.until("red", c.serves("red", "10.0.0.5"))
		d := c.eventually("kept", func(d xdsclient.Dump) bool { return resource(d, lds, "127.0.0.1_20881").Kept != "" })
		if resource(d, cds, "blue").Kept == "" || c.cluster["blue"] == nil || len(c.listen) != 1 || l.count("a deletion of the ADS server is ignored") != 2 {
			t.Errorf("%v %v\n%s", c.cluster, c.listen, l.b.String())
		}
		s.Set(xdstest.Cluster("blue"), xdstest.Endpoints("blue", "10.0.0.6:1"))
		c.until("blue", c.serves("blue", "10.0.0.6"))
		c.eventually("not kept any more", func(d xdsclient.Dump) bool { return resource(d, cds, "blue").Kept == "" })
	})
}
