package proxy

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

// rules is a source of rules that a test feeds.
type rules struct {
	updates chan route.RuleUpdate
	wanted  atomic.Pointer[[]registry.Service]
	onWant  func([]registry.Service)
}

func (r *rules) Run(ctx context.Context, ch chan<- route.RuleUpdate) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-r.updates:
			select {
			case ch <- u:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (r *rules) SetServices(set []registry.Service) {
	r.wanted.Store(&set)
	if r.onWant != nil {
		r.onWant(set)
	}
}

// ruled is an agent whose services are all routed by rules.
func ruled(t testing.TB, o Options) (*mesh, *rules) {
	src := &rules{updates: make(chan route.RuleUpdate, 16)}
	m := startWith(t, o, route.Options{
		Rules: src, Host: func(s registry.Service) string { return strings.ToLower(s.Interface) },
		Routing: func(registry.Service) route.Routing { return route.FromXDS },
	})
	return m, src
}

// put replaces the rules of foo: clusters by name with their addresses, and routes.
func (m *mesh) put(t testing.TB, src *rules, clusters map[string][]string, change func(*route.ClusterSpec), routes ...route.RouteRule) {
	t.Helper()
	u := route.RuleUpdate{Source: "xds", Synced: true, Clusters: map[string]*route.ClusterSpec{}, Endpoints: map[string]*route.EndpointSet{}}
	for name, addresses := range clusters {
		c := &route.ClusterSpec{Name: name}
		if change != nil {
			change(c)
		}
		l := route.LocalitySpec{}
		for _, a := range addresses {
			l.Endpoints = append(l.Endpoints, route.EndpointSpec{Address: a})
		}
		u.Clusters[name], u.Endpoints[name] = c, &route.EndpointSet{Localities: []route.LocalitySpec{l}}
	}
	u.Routes = map[string]*route.RouteSpec{"foo": {Name: "foo", Hosts: []string{strings.ToLower(foo)}, Routes: routes, Origin: fmt.Sprint("test ", time.Now().UnixNano())}}
	src.updates <- u
	m.await(t, func(*route.Snapshot) bool {
		x := m.router.Explain(route.Query{Service: registry.Service{Interface: foo}, Attachments: map[string]string{"tag": "gray"}})
		return x.Rules != nil && x.Rules.VirtualHost == "foo" && strings.HasSuffix(x.Rules.Origin, u.Routes["foo"].Origin)
	})
}

// consume makes a consumer known, so that the rules of foo are compiled.
func (m *mesh) consume(t testing.TB) {
	t.Helper()
	u, err := registry.ParseURL("consumer://127.0.0.1/" + foo)
	if err != nil {
		t.Fatal(err)
	}
	m.router.SetCallers([]route.Caller{{Application: "app", Service: registry.Service{Interface: foo}, URL: u}})
	m.await(t, func(s *route.Snapshot) bool { return s.Outbound.Lookup([]byte(foo), nil) != nil })
}

func to(pairs ...any) route.RouteRule {
	r := route.RouteRule{Name: "to"}
	for i := 0; i < len(pairs); i += 2 {
		r.Clusters = append(r.Clusters, route.WeightedCluster{Cluster: pairs[i].(string), Weight: uint32(pairs[i+1].(int))})
	}
	return r
}

// failing answers with an error status, n times; then it echoes.
func failing(n int64) func(net.Conn, dubbo.Header, []byte) {
	var count atomic.Int64
	return func(c net.Conn, h dubbo.Header, b []byte) {
		if count.Add(1) <= n {
			c.Write(dubbo.AppendError(nil, h.ID, "out of threads"))
			return
		}
		echo(c, h, b)
	}
}

// Calls go where their method and attachments lead, and a first call waits for rules.
func TestRuleRouting(t *testing.T) {
	blue, green := serve(t, echo), serve(t, echo)
	m, src := ruled(t, Options{})
	canary := to("green", 1)
	canary.Name = "canary"
	canary.Match.Attachments = []route.AttachmentMatch{{Key: "tag", StringMatch: route.StringMatch{Kind: route.Exact, Text: "gray"}}}
	src.onWant = func(set []registry.Service) {
		if len(set) == 0 {
			return
		}
		src.onWant = nil
		go func() {
			src.updates <- route.RuleUpdate{Source: "xds", Synced: true,
				Clusters:  map[string]*route.ClusterSpec{"blue": {Name: "blue"}, "green": {Name: "green"}},
				Endpoints: map[string]*route.EndpointSet{"blue": oneEndpoint(blue.addr()), "green": oneEndpoint(green.addr())},
				Routes:    map[string]*route.RouteSpec{"foo": {Name: "foo", Hosts: []string{strings.ToLower(foo)}, Routes: []route.RouteRule{canary, to("blue", 1)}}}}
		}()
	}
	c := dial(t, m.outbound)
	c.wantEcho(req{id: 1, iface: foo}) // nobody has heard of it before
	c.wantEcho(req{id: 2, iface: foo, attachments: map[string]string{"tag": "gray"}})
	c.wantEcho(req{id: 3, iface: foo, attachments: map[string]string{"tag": "blue"}})
	if b, g := blue.calls.Load(), green.calls.Load(); b != 2 || g != 1 {
		t.Errorf("blue %d, green %d", b, g)
	}
	m.put(t, src, map[string][]string{"blue": {blue.addr()}}, nil, canary)
	c.wantRefusal(req{id: 4, iface: foo}, 4, "no route of foo matches")
	c.wantRefusal(req{id: 5, iface: "com.example.Unheard"}, 4, "Unheard")
}

// A route that looks at an argument is chosen for each call by its own.
func TestRuleByArgument(t *testing.T) {
	blue, green := serve(t, echo), serve(t, echo)
	m, src := ruled(t, Options{})
	m.consume(t)
	vip := to("green", 1)
	vip.Match.Arguments = []route.ArgumentMatch{{StringMatch: route.StringMatch{Kind: route.Range, From: 1, To: 100}}}
	absent := to("green", 1)
	absent.Match.Arguments = []route.ArgumentMatch{{Index: 1, StringMatch: route.StringMatch{Kind: route.Exact, Text: "99"}}}
	m.put(t, src, map[string][]string{"blue": {blue.addr()}, "green": {green.addr()}}, nil, vip, absent, to("blue", 1))
	c := dial(t, m.outbound)
	for i, arg := range []string{"99", "100", "99", "", "x", "1"} {
		c.wantEcho(req{id: uint64(i), iface: foo, arg: arg})
	}
	if b, g := blue.calls.Load(), green.calls.Load(); b != 3 || g != 3 {
		t.Errorf("blue %d, green %d", b, g)
	}
}

func oneEndpoint(address string) *route.EndpointSet {
	return &route.EndpointSet{Localities: []route.LocalitySpec{{Endpoints: []route.EndpointSpec{{Address: address}}}}}
}

// Shares of a split are those of its weights, over many calls on one connection.
func TestRuleShares(t *testing.T) {
	blue, green := serve(t, echo), serve(t, echo)
	m, src := ruled(t, Options{})
	m.consume(t)
	c := dial(t, m.outbound)
	clusters := map[string][]string{"blue": {blue.addr()}, "green": {green.addr()}}
	for i, p := range []float64{1, .5, 0} {
		m.put(t, src, clusters, nil, to("blue", int(100*p), "green", int(100-100*p)))
		before, n := blue.calls.Load(), 2000
		for k := range n {
			c.wantEcho(req{id: uint64(i*n + k), iface: foo})
		}
		got := float64(blue.calls.Load() - before)
		if math.Abs(got-p*float64(n)) > 5*math.Sqrt(float64(n)*p*(1-p)) {
			t.Errorf("share %v: %v of %d", p, got, n)
		}
	}
}

// The route's time-out ends a call, also one shorter than the first look.
func TestRouteTimeout(t *testing.T) {
	p := serve(t, never)
	m, src := ruled(t, Options{})
	m.consume(t)
	r := to("blue", 1)
	r.Timeout = 60 * time.Millisecond
	m.put(t, src, map[string][]string{"blue": {p.addr()}}, nil, r)
	began := time.Now()
	dial(t, m.outbound).wantRefusal(req{id: 1, iface: foo, attachments: map[string]string{"timeout": "20000"}}, 2, "within 60ms")
	if took := time.Since(began); took < 60*time.Millisecond || took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestRetries(t *testing.T) {
	retry := func(on route.RetryOn, attempts uint8, perTry time.Duration) route.RouteRule {
		r := to("blue", 1)
		r.Retry = route.Retry{Attempts: attempts, On: on, PerTry: perTry, Backoff: time.Millisecond}
		return r
	}
	cut := func(n int64) func(net.Conn, dubbo.Header, []byte) {
		var count atomic.Int64
		return func(c net.Conn, h dubbo.Header, b []byte) {
			if count.Add(1) <= n {
				c.Close()
				return
			}
			echo(c, h, b)
		}
	}
	slow := func(n int64) func(net.Conn, dubbo.Header, []byte) {
		var count atomic.Int64
		return func(c net.Conn, h dubbo.Header, b []byte) {
			if count.Add(1) > n {
				echo(c, h, b)
			}
		}
	}
	for _, test := range []struct {
		name    string
		handle  func(net.Conn, dubbo.Header, []byte)
		rule    route.RouteRule
		calls   int64
		retries int64
		code    int // of the refusal; -1: an answer with an error status; -2: the echo
	}{
		{"no retry for an error", failing(1), retry(0, 3, 0), 1, 0, -1},
		{"an error", failing(2), retry(route.RetryError, 3, 0), 3, 2, -2},
		{"as often as allowed", failing(9), retry(route.RetryError, 3, 0), 4, 3, -1},
		{"error is not what is allowed", failing(1), retry(route.RetryLost|route.RetryTryTimeout, 3, 0), 1, 0, -1},
		{"a lost connection", cut(2), retry(route.RetryLost, 2, 0), 3, 2, -2},
		{"lost for good", cut(9), retry(route.RetryLost, 2, 0), 3, 2, 1},
		{"lost, not allowed", cut(9), retry(route.RetryError, 2, 0), 1, 0, 1},
		{"no answer in a try", slow(2), retry(route.RetryTryTimeout, 2, 50*time.Millisecond), 3, 2, -2},
		{"no answer ever", slow(9), retry(route.RetryTryTimeout, 1, 50*time.Millisecond), 2, 1, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := serve(t, test.handle)
			m, src := ruled(t, Options{})
			m.consume(t)
			m.put(t, src, map[string][]string{"blue": {p.addr()}}, nil, test.rule)
			c := dial(t, m.outbound)
			switch test.code {
			case -2:
				c.wantEcho(req{id: 7, iface: foo})
			case -1:
				c.wantRefusal(req{id: 7, iface: foo}, 0, "out of threads")
			default:
				c.wantRefusal(req{id: 7, iface: foo}, test.code)
			}
			if got := p.calls.Load(); got != test.calls {
				t.Errorf("%d calls came, want %d", got, test.calls)
			}
			if got := m.Counters().Retries; got != test.retries {
				t.Errorf("%d retries counted, want %d", got, test.retries)
			}
		})
	}
}

// A retry goes to another endpoint, and the cluster's limit of retries holds.
func TestRetryElsewhere(t *testing.T) {
	bad, good := serve(t, failing(1<<40)), serve(t, echo)
	m, src := ruled(t, Options{})
	m.consume(t)
	r := to("blue", 1)
	r.Retry = route.Retry{Attempts: 1, On: route.RetryError, Backoff: time.Millisecond}
	m.put(t, src, map[string][]string{"blue": {bad.addr(), good.addr()}}, nil, r)
	c := dial(t, m.outbound)
	for id := range uint64(50) {
		c.wantEcho(req{id: id, iface: foo})
	}
	if good.calls.Load() != 50 || bad.calls.Load() != m.Counters().Retries || bad.calls.Load() == 0 {
		t.Errorf("good %d, bad %d, retries %d", good.calls.Load(), bad.calls.Load(), m.Counters().Retries)
	}
}

func TestFaults(t *testing.T) {
	p := serve(t, echo)
	m, src := ruled(t, Options{})
	m.consume(t)
	clusters := map[string][]string{"blue": {p.addr()}}
	c := dial(t, m.outbound)
	r := to("blue", 1)
	r.Fault = route.Fault{AbortShare: route.Million, AbortStatus: 429}
	m.put(t, src, clusters, nil, r)
	c.wantRefusal(req{id: 1, iface: foo}, 7, "fault injected by route to", "429")
	if p.calls.Load() != 0 {
		t.Error("an aborted call came through")
	}
	r.Fault = route.Fault{DelayShare: route.Million, Delay: 80 * time.Millisecond}
	m.put(t, src, clusters, nil, r)
	began := time.Now()
	c.wantEcho(req{id: 2, iface: foo})
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Errorf("came after %v", took)
	}
	// The time-out of the route begins behind the delay; that of the caller does not,
	// and what is late before it is sent is not sent.
	r.Fault, r.Timeout = route.Fault{DelayShare: route.Million, Delay: 1200 * time.Millisecond}, time.Second
	m.put(t, src, map[string][]string{"blue": {p.addr()}}, nil, r)
	c.wantEcho(req{id: 30, iface: foo})
	r.Fault.Delay = 300 * time.Millisecond
	m.put(t, src, map[string][]string{"blue": {p.addr()}}, nil, r)
	calls := p.calls.Load()
	c.wantRefusal(req{id: 31, iface: foo, attachments: map[string]string{"timeout": "100"}}, 2, "the delay that route to injects")
	if p.calls.Load() != calls {
		t.Error("a call that nobody waits for was sent")
	}
	r.Timeout = 0
	r.Fault = route.Fault{AbortShare: route.Million / 4, AbortStatus: 503}
	m.put(t, src, clusters, nil, r)
	const n = 1000
	aborted := 0
	for id := range uint64(n) {
		c.write(req{id: id, iface: foo}.frame(t))
		if _, b := c.read(); bytes.Contains(b, []byte("fault injected")) {
			aborted++
		}
	}
	if math.Abs(float64(aborted)-n/4) > 5*math.Sqrt(n*.25*.75) {
		t.Errorf("%d of %d aborted, want a quarter", aborted, n)
	}
	// A caller that goes away while its call is delayed leaves nothing behind.
	r.Fault = route.Fault{DelayShare: route.Million, Delay: 50 * time.Millisecond}
	m.put(t, src, clusters, nil, r)
	gone := dial(t, m.outbound)
	gone.write(req{id: 3, iface: foo}.frame(t))
	gone.Close()
	eventually(t, "nothing is parked", func() bool { return m.parked.Load() == 0 && m.Counters().InFlight["outbound"] == 0 })
}

func TestDirectResponse(t *testing.T) {
	m, src := ruled(t, Options{})
	m.consume(t)
	c := dial(t, m.outbound)
	m.put(t, src, nil, nil, route.RouteRule{Direct: &route.DirectResponse{Status: 403, Text: "closed for today"}})
	c.wantRefusal(req{id: 1, iface: foo}, 4, "closed for today")
	m.put(t, src, nil, nil, route.RouteRule{Direct: &route.DirectResponse{Status: 200}})
	h, b := c.call(req{id: 2, iface: foo})
	if kind, ok := dubbo.ResponseType(h.Serialization(), b[dubbo.HeaderSize:]); h.Status != dubbo.StatusOK || !ok || kind != 2 {
		t.Errorf("status %d type %d", h.Status, kind)
	}
}

// A mirror gets oneway copies; what it does has no effect on the call.
func TestMirror(t *testing.T) {
	seen := make(chan dubbo.Header, 64)
	p := serve(t, echo)
	shadow := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		seen <- h
		c.Write(dubbo.AppendError(nil, h.ID, "not wanted"))
	})
	m, src := ruled(t, Options{})
	m.consume(t)
	r := to("blue", 1)
	r.Mirrors = []route.Mirror{{Cluster: "shadow", Share: route.Million}, {Cluster: "none", Share: route.Million}}
	m.put(t, src, map[string][]string{"blue": {p.addr()}, "shadow": {shadow.addr()}}, nil, r)
	c := dial(t, m.outbound)
	const n = 20
	for id := range uint64(n) {
		c.wantEcho(req{id: id, iface: foo})
	}
	for range n {
		select {
		case h := <-seen:
			if h.TwoWay() {
				t.Error("the copy asks for an answer")
			}
		case <-time.After(patience):
			t.Fatal("copies are missing")
		}
	}
	shadow.kill()
	for id := range uint64(n) {
		c.wantEcho(req{id: id, iface: foo})
	}
	if p.calls.Load() != 2*n {
		t.Errorf("%d calls", p.calls.Load())
	}
}

// Attachments are changed on the way, by the route and by the destination.
func TestAttachmentChanges(t *testing.T) {
	bodies := make(chan []byte, 1)
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) { bodies <- bytes.Clone(b); echo(c, h, b) })
	m, src := ruled(t, Options{})
	m.consume(t)
	r := to("blue", 1)
	r.Attachments = route.Changes{Remove: []string{"secret"}, Set: []route.Attachment{
		{Key: "x", Value: "1"}, {Key: "tag", Value: "b", When: route.Append}, {Key: "there", Value: "no", When: route.IfAbsent}, {Key: "absent", Value: "no", When: route.IfPresent}}}
	r.Clusters[0].Attachments = route.Changes{Set: []route.Attachment{{Key: "x", Value: "2"}, {Key: "dest", Value: "blue"}, {Key: "secret", Value: "new"}}}
	for _, c := range []struct {
		destinationLast bool
		x, secret       string
	}{{false, "1", ""}, {true, "2", "new"}} {
		r.DestinationLast = c.destinationLast
		m.put(t, src, map[string][]string{"blue": {p.addr()}}, nil, r)
		dial(t, m.outbound).call(req{id: 1, iface: foo, attachments: map[string]string{"secret": "s", "tag": "a", "there": "yes"}})
		b := <-bodies
		var f dubbo.Front
		var a dubbo.Attachments
		if err := dubbo.ParseFront(dubbo.Hessian2, b[dubbo.HeaderSize:], &f); err != nil {
			t.Fatal(err)
		}
		if err := dubbo.FindAttachments(dubbo.Hessian2, b[dubbo.HeaderSize:], &f, &a); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{"x": c.x, "dest": "blue", "tag": "a,b", "there": "yes", "absent": "", "secret": c.secret, "interface": foo} {
			if got, _ := a.Lookup(key); string(got) != want {
				t.Errorf("destination last %v: %s = %q, want %q", c.destinationLast, key, got, want)
			}
		}
	}
}

// The circuit breaker of a cluster bounds the calls in flight, and lets go of them.
func TestCircuitBreaker(t *testing.T) {
	held := make(chan func(), 16)
	p := serve(t, func(c net.Conn, h dubbo.Header, b []byte) { held <- func() { echo(c, h, b) } })
	m, src := ruled(t, Options{})
	m.consume(t)
	m.put(t, src, map[string][]string{"blue": {p.addr()}}, func(c *route.ClusterSpec) { c.Limits.Requests = 2 }, to("blue", 1))
	c := dial(t, m.outbound)
	for round := range uint64(3) {
		for id := range uint64(2) {
			c.write(req{id: 10*round + id, iface: foo}.frame(t))
		}
		first, second := <-held, <-held
		c.wantRefusal(req{id: 10*round + 9, iface: foo}, 7, "circuit breaker")
		first()
		second()
		c.read()
		c.read()
	}
}

// An endpoint that fails is ejected, and takes calls again when its time is over.
func TestEjection(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	bad := serve(t, func(c net.Conn, h dubbo.Header, b []byte) {
		if broken.Load() {
			c.Write(dubbo.AppendError(nil, h.ID, "broken"))
			return
		}
		echo(c, h, b)
	})
	good := serve(t, echo)
	m, src := ruled(t, Options{})
	m.consume(t)
	m.put(t, src, map[string][]string{"blue": {bad.addr(), good.addr()}}, func(c *route.ClusterSpec) {
		c.Outlier = &route.Outlier{Consecutive: 3, BaseEjection: time.Second, MaxEjectionPercent: 50}
	}, to("blue", 1))
	c := dial(t, m.outbound)
	failed := 0
	for id := range uint64(200) {
		c.write(req{id: id, iface: foo}.frame(t))
		if h, _ := c.read(); h.Status != dubbo.StatusOK {
			failed++
		}
	}
	if failed != 3 {
		t.Errorf("%d calls failed before the endpoint was ejected, want 3", failed)
	}
	broken.Store(false)
	calls := bad.calls.Load()
	id := uint64(1000)
	eventually(t, "the endpoint is back", func() bool {
		id++
		c.wantEcho(req{id: id, iface: foo})
		return bad.calls.Load() > calls
	})
}

// A consistent hash keeps calls with the same attachment together.
func TestHashPolicy(t *testing.T) {
	for _, policy := range []route.Policy{route.RingHash, route.Maglev} {
		providers := []*provider{serve(t, echo), serve(t, echo), serve(t, echo)}
		m, src := ruled(t, Options{})
		m.consume(t)
		r := to("blue", 1)
		r.Hash = []route.HashPolicy{{Attachment: "user"}}
		m.put(t, src, map[string][]string{"blue": {providers[0].addr(), providers[1].addr(), providers[2].addr()}}, func(c *route.ClusterSpec) { c.Policy = policy }, r)
		c := dial(t, m.outbound)
		used := map[int]bool{}
		for user := range 30 {
			before := [3]int64{}
			for i, p := range providers {
				before[i] = p.calls.Load()
			}
			for k := range 5 {
				c.wantEcho(req{id: uint64(user*10 + k), iface: foo, attachments: map[string]string{"user": fmt.Sprint("u", user)}})
			}
			for i, p := range providers {
				switch p.calls.Load() - before[i] {
				case 5:
					used[i] = true
				case 0:
				default:
					t.Errorf("%v: calls of user %d are spread", policy, user)
				}
			}
		}
		if len(used) != 3 {
			t.Errorf("%v: 30 users use %d of 3 endpoints", policy, len(used))
		}
	}
}

// Routes change under load: every call is answered by a provider.
func TestRuleChangesUnderLoad(t *testing.T) {
	blue, green := serve(t, echo), serve(t, echo)
	m, src := ruled(t, Options{})
	m.consume(t)
	clusters := map[string][]string{"blue": {blue.addr()}, "green": {green.addr()}}
	m.put(t, src, clusters, nil, to("blue", 1))
	stop := make(chan struct{})
	done := make(chan error, 4)
	for n := range 4 {
		go func() {
			c, err := net.Dial("tcp", m.outbound)
			if err != nil {
				done <- err
				return
			}
			defer c.Close()
			for id := uint64(0); ; id++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				c.Write(req{id: id, iface: foo, attachments: map[string]string{"tag": []string{"gray", "blue"}[n%2]}}.frame(t))
				c.SetReadDeadline(time.Now().Add(patience))
				if h, b, err := readFrame(c); err != nil || h.Status != dubbo.StatusOK || bytes.Contains(b, []byte("RpcException")) {
					done <- fmt.Errorf("status %d %q %v", h.Status, b, err)
					return
				}
			}
		}()
	}
	for i := range 30 {
		r := to("blue", 30-i, "green", i)
		r.Attachments = route.Changes{Set: []route.Attachment{{Key: "round", Value: fmt.Sprint(i)}}}
		r.Retry = route.Retry{Attempts: 2, On: route.RetryLost}
		canary := to("green", 1)
		canary.Match.Attachments = []route.AttachmentMatch{{Key: "tag", StringMatch: route.StringMatch{Kind: route.Exact, Text: "gray"}}}
		m.put(t, src, clusters, nil, canary, r)
	}
	close(stop)
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Forwarding by rules allocates nothing while no attachment is changed.
func TestRuledForwardingAllocatesNothing(t *testing.T) {
	b, _, _ := ruledForwarding(t, 16)
	if n := testing.AllocsPerRun(500, func() { b.round(t) }) / 16; n > 0.05 {
		t.Errorf("%.3f allocations for each call, want 0", n)
	}
}

func ruledForwarding(t testing.TB, depth int) (*burst, *mesh, *rules) {
	size := len(method(t, 0))
	p, q := copier(t, size), copier(t, size)
	m, src := ruled(t, Options{})
	m.consume(t)
	canary := to("green", 1)
	canary.Match.Attachments = []route.AttachmentMatch{{Key: "tag", StringMatch: route.StringMatch{Kind: route.Exact, Text: "gray"}}}
	r := to("blue", 1, "green", 1)
	r.Timeout = time.Minute
	r.Retry = route.Retry{Attempts: 2, On: route.RetryLost, PerTry: time.Minute}
	m.put(t, src, map[string][]string{"blue": {p.addr()}, "green": {q.addr()}}, func(c *route.ClusterSpec) {
		c.Policy, c.Limits.Requests, c.Outlier = route.LeastRequest, 1000, &route.Outlier{Consecutive: 5, MaxEjectionPercent: 10}
	}, canary, r)
	b := newBurst(t, m.outbound, depth, 1)
	b.SetDeadline(time.Now().Add(time.Minute))
	for range 200 {
		b.round(t)
	}
	return b, m, src
}

func BenchmarkForwardRuled(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(fmt.Sprint("depth", depth), func(b *testing.B) {
			c, _, _ := ruledForwarding(b, depth)
			b.ReportAllocs()
			for i := 0; i < b.N; i += depth {
				c.round(b)
			}
		})
	}
}

// Calls beside 10 000 clusters with 100 000 endpoints: while they are loaded again
// and again, and while one endpoint after the other changes, 100 a second.
func BenchmarkForwardBesideFleet(b *testing.B) {
	const services = 10_000
	name := func(i int) string { return fmt.Sprintf("com.example.fleet.service%d", i) }
	endpoints := func(i, n int) *route.EndpointSet {
		l := route.LocalitySpec{}
		for k := range n {
			l.Endpoints = append(l.Endpoints, route.EndpointSpec{Address: fmt.Sprintf("10.%d.%d.%d:20882", i/250, i%250, k+1)})
		}
		return &route.EndpointSet{Localities: []route.LocalitySpec{l}}
	}
	callers := []route.Caller{{Application: "app", Service: registry.Service{Interface: foo}}}
	for i := range services {
		callers = append(callers, route.Caller{Application: "app", Service: registry.Service{Interface: name(i)}})
	}
	fleet := func(n int) route.RuleUpdate {
		u := route.RuleUpdate{Source: "xds", Synced: true, Clusters: map[string]*route.ClusterSpec{}, Endpoints: map[string]*route.EndpointSet{}, Routes: map[string]*route.RouteSpec{}}
		for i := range services {
			u.Clusters[name(i)] = &route.ClusterSpec{Name: name(i)}
			u.Endpoints[name(i)] = endpoints(i, n)
			u.Routes[name(i)] = &route.RouteSpec{Name: name(i), Hosts: []string{name(i)}, Routes: []route.RouteRule{to(name(i), 1)}}
		}
		return u
	}
	fleets := [2]route.RuleUpdate{fleet(9), fleet(10)}
	for _, c := range []struct {
		what string
		feed func(turn int) (route.RuleUpdate, time.Duration)
	}{
		{"alone", nil},
		{"loading", func(turn int) (route.RuleUpdate, time.Duration) { return fleets[turn%2], 0 }},
		{"changing", func(turn int) (route.RuleUpdate, time.Duration) {
			return route.RuleUpdate{Source: "xds", Endpoints: map[string]*route.EndpointSet{name(turn % services): endpoints(turn%services, 9+turn%2)}}, 10 * time.Millisecond
		}},
	} {
		b.Run(c.what, func(b *testing.B) {
			calls, m, src := ruledForwarding(b, 32)
			if c.feed != nil {
				m.router.SetCallers(callers)
				src.updates <- fleet(10)
				m.await(b, func(s *route.Snapshot) bool {
					v := s.Outbound.Lookup([]byte(name(services-1)), nil)
					return v != nil && v.Only() != nil && v.Only().Routes() != nil
				})
				ctx, cancel := context.WithCancel(b.Context())
				fed := make(chan struct{})
				go func() {
					defer close(fed)
					for turn := 0; ctx.Err() == nil; turn++ {
						u, pause := c.feed(turn)
						select {
						case src.updates <- u:
						case <-ctx.Done():
							return
						}
						select {
						case <-time.After(pause):
						case <-ctx.Done():
						}
					}
				}()
				defer func() { cancel(); <-fed }()
			}
			calls.SetDeadline(time.Now().Add(time.Minute))
			b.ResetTimer()
			for i := 0; i < b.N; i += 32 {
				calls.round(b)
			}
			b.StopTimer()
		})
	}
}
