package meshferry

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// start makes a client of an agent and runs it until the test ends.
func start(t *testing.T, a *agent, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{Address: a.control, Application: "shop", Timeout: 2 * time.Second}
	if a.network == "unix" {
		o.Address = "unix:" + a.control
	}
	for _, f := range change {
		f(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { c.Run(ctx) })
	t.Cleanup(func() { cancel(); run.Wait() })
	return c
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// next waits for a set that satisfies ok.
func next(t *testing.T, s *Subscription, what string, ok func(Set) bool) Set {
	t.Helper()
	ctx := within(t)
	set := s.Set()
	for !ok(set) {
		var err error
		if set, err = s.Next(ctx, set.Version); err != nil {
			t.Fatalf("never: %s; last %+v", what, s.Set())
		}
	}
	return set
}

func mesh(a *agent) func(Set) bool {
	return func(s Set) bool {
		return !s.Direct && len(s.Providers()) == 1 && strings.HasPrefix(s.Providers()[0], "dubbo://"+a.outbound+"/")
	}
}

func direct(s Set) bool {
	return s.Direct && slices.Equal(s.Providers(), []string{"dubbo://10.0.0.5:20882/com.a.Foo?interface=com.a.Foo"})
}

const provider = "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo&z=1&a=%2F"

func TestPublishAndUnpublish(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			a := newAgent(t)
			if a.network = network; network == "unix" {
				a.control = filepath.Join(t.TempDir(), "s")
			}
			a.start("b1")
			c := start(t, a)
			r, err := c.Publish(within(t), Publication{URL: provider})
			if err != nil || r.State != StatePublished || r.Agent != "b1" || len(r.Publications) != 1 {
				t.Fatalf("%+v, %v", r, err)
			}
			a.until("the URL arrives byte for byte", func() bool { return a.published[provider] != nil })
			if w := a.published[provider]["workload"]; w != c.Workload() || !strings.HasPrefix(c.Workload(), "shop/") {
				t.Errorf("workload %v, want %s", w, c.Workload())
			}
			a.until("the lease is held", func() bool { return a.leases == 1 })
			if r, err = c.Unpublish(within(t), Publication{URL: provider}); err != nil || r.State != StateUnpublished {
				t.Fatalf("%+v, %v", r, err)
			}
			a.until("it is gone", func() bool { return len(a.published) == 0 })
		})
	}
}

// An agent that asks for a token gets it with every request: publish, subscribe,
// watch and lease. One that is wrong is a refusal that says so, not an agent that is
// away.
func TestToken(t *testing.T) {
	a := newAgent(t)
	a.token = "s3cret/+="
	a.start("b1")
	c := start(t, a, func(o *Options) { o.Token = a.token })
	if _, err := c.Publish(within(t), Publication{URL: provider}); err != nil {
		t.Fatal(err)
	}
	s, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo", Protocol: "dubbo"})
	if err != nil {
		t.Fatal(err)
	}
	next(t, s, "through the agent", mesh(a))
	a.until("the lease is held", func() bool { return a.leases == 1 })
	a.say(StateProtected)
	next(t, s, "what the watch has told of", func(s Set) bool { return s.State == StateProtected })

	wrong := start(t, a, func(o *Options) { o.Token = "wrong" })
	var refusal *Refusal
	if _, err := wrong.Publish(within(t), Publication{URL: provider}); !errors.As(err, &refusal) || refusal.Status != http.StatusUnauthorized || refusal.Code != "unauthorised" {
		t.Errorf("with a wrong token: %v", err)
	}
}

func TestEverythingIsToldToANewAgent(t *testing.T) {
	a := newAgent(t)
	a.start("b1")
	c := start(t, a)
	for _, iface := range []string{"com.a.Foo", "com.a.Bar"} {
		if _, err := c.Publish(within(t), Publication{Interface: iface, Protocol: "dubbo", Port: 20880}); err != nil {
			t.Fatal(err)
		}
	}
	sub, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo", Protocol: "dubbo"})
	if err != nil {
		t.Fatal(err)
	}
	a.until("the lease is held", func() bool { return a.leases == 1 })
	a.kill()
	if r, err := c.Unpublish(within(t), Publication{Interface: "com.a.Bar", Protocol: "dubbo", Port: 20880}); err != nil || r.State != StatePending || r.Reason != ReasonAgentAway {
		t.Fatalf("unpublish without agent: %+v, %v", r, err)
	}
	a.start("b2")
	a.mu.Lock()
	a.published["com.a.Bar"] = map[string]any{} // what the agent kept on disk
	a.mu.Unlock()
	a.until("published again, and only what is still wanted", func() bool {
		return a.published["com.a.Foo"] != nil && a.published["com.a.Bar"] == nil
	})
	a.until("subscribed again", func() bool { return a.subscribed["com.a.Foo"] != nil })
	next(t, sub, "the agent's URL", mesh(a))
}

func TestAgentAwayAtStart(t *testing.T) {
	a := newAgent(t)
	a.start("b1")
	a.kill()
	c := start(t, a)
	r, err := c.Publish(within(t), Publication{URL: provider})
	if err != nil || r.State != StatePending || r.Reason != ReasonAgentAway {
		t.Fatalf("%+v, %v", r, err)
	}
	sub, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo"})
	if err != nil {
		t.Fatal(err)
	}
	if s := sub.Set(); len(s.Providers()) != 0 || s.Reason != ReasonAgentAway {
		t.Errorf("%+v", s)
	}
	next(t, sub, "the agent is away", func(s Set) bool { return s.Away && !s.Direct })
	a.start("b2")
	a.until("published", func() bool { return a.published[provider] != nil })
	next(t, sub, "the agent's URL", mesh(a))
}

func TestRefusals(t *testing.T) {
	a := newAgent(t)
	a.start("b1")
	c := start(t, a)
	a.refuse["/v1/publish"] = Refusal{Status: http.StatusUnprocessableEntity, Code: "own-port", Message: "20882 is the agent's own"}
	_, err := c.Publish(within(t), Publication{URL: provider})
	var no *Refusal
	if !errors.As(err, &no) || no.Code != "own-port" || no.Status != 422 {
		t.Fatalf("%v", err)
	}
	if len(c.exports) != 0 {
		t.Error("a refused wish was kept")
	}
	a.refuse["/v1/subscribe"] = Refusal{Status: http.StatusForbidden, Code: "forbidden"}
	if _, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo"}); !errors.As(err, &no) || no.Code != "forbidden" {
		t.Fatalf("%v", err)
	}
	// What asks to come later is no refusal.
	a.refuse["/v1/publish"] = Refusal{Status: http.StatusServiceUnavailable, Code: "draining"}
	if r, err := c.Publish(within(t), Publication{URL: provider}); err != nil || r.State != StatePending {
		t.Fatalf("%+v, %v", r, err)
	}
	a.mu.Lock()
	delete(a.refuse, "/v1/publish")
	a.mu.Unlock()
	a.until("published later", func() bool { return a.published[provider] != nil })
}

func TestBadArguments(t *testing.T) {
	for _, o := range []Options{{Address: "127.0.0.1:20883"}, {Address: "nowhere", Application: "a"}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	c, err := New(Options{Address: "127.0.0.1:1", Application: "a"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []Publication{{}, {URL: "no url"}, {URL: "dubbo://h:x/i"}} {
		if _, err := c.Publish(within(t), p); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
	if _, err := c.Subscribe(within(t), Consumer{}); err == nil {
		t.Error("a consumer without interface was taken")
	}
}

func TestWatch(t *testing.T) {
	a := newAgent(t)
	a.state = StateWaiting
	a.start("b1")
	c := start(t, a)
	sub, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo"})
	if err != nil {
		t.Fatal(err)
	}
	if s := sub.Set(); s.State != StateWaiting || len(s.Providers()) != 0 {
		t.Fatalf("%+v", s)
	}
	a.say(StateReady)
	set := next(t, sub, "ready", mesh(a))
	if set.State != StateReady || set.Mode != "mesh" {
		t.Errorf("%+v", set)
	}
	a.say(StateWaiting)
	set = next(t, sub, "waiting", func(s Set) bool { return s.State == StateWaiting })
	if !mesh(a)(set) {
		t.Errorf("waiting must keep what is there: %+v", set)
	}
	a.mu.Lock()
	clear(a.subscribed) // as if the lease had been broken for more than its TTL
	a.announce()
	a.mu.Unlock()
	a.until("subscribed again", func() bool { return len(a.subscribed) == 1 })
}

// An agent that answers a watch at once without a change is not asked in a loop.
func TestHastyWatch(t *testing.T) {
	a := newAgent(t)
	a.hasty = true
	a.start("b1")
	c := start(t, a)
	if _, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo"}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	a.until("six watches", func() bool { return a.watches >= 6 })
	if d := time.Since(begin); d < 500*time.Millisecond { // 100 ms and twice as much each time, less jitter
		t.Errorf("six watches in %v", d)
	}
}

func TestFallBackAndBack(t *testing.T) {
	a := newAgent(t)
	a.start("b1")
	c := start(t, a)
	sub, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo"})
	if err != nil {
		t.Fatal(err)
	}
	a.until("the lease is held", func() bool { return a.leases == 1 })
	next(t, sub, "mesh", mesh(a))
	for _, boot := range []string{"b2", "b3"} {
		killed := time.Now()
		a.kill()
		set := next(t, sub, "direct providers", direct)
		if d := time.Since(killed); d < awayAfter {
			t.Errorf("fell back after %v, before %v had passed", d, awayAfter)
		}
		if set.Reason != ReasonAgentAway {
			t.Errorf("%+v", set)
		}
		a.start(boot)
		next(t, sub, "mesh again", mesh(a))
	}
}

// A control API alone that is away changes nothing while calls go through.
func TestNoFallBackWhileOutboundAnswers(t *testing.T) {
	a := newAgent(t)
	a.start("b1")
	c := start(t, a)
	sub, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo"})
	if err != nil {
		t.Fatal(err)
	}
	a.until("the lease is held", func() bool { return a.leases == 1 })
	probes := make(chan struct{}, 100)
	a.mu.Lock()
	a.server.Close()
	a.outboundListener.Close()
	l := a.listen("tcp", a.outbound)
	a.outboundListener = counting{l, probes}
	out := a.outboundListener
	a.mu.Unlock()
	a.stopped.Go(func() { a.heartbeats(out) })
	for range int(2*awayAfter/probeDoubt) + 1 {
		<-probes
	}
	if s := sub.Set(); !mesh(a)(s) {
		t.Errorf("%+v", s)
	}
}

func TestDirectProvidersFromDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	keep := func(o *Options) { o.Dir = dir }
	a := newAgent(t)
	a.start("b1")
	first := start(t, a, keep)
	if _, err := first.Subscribe(within(t), Consumer{Interface: "com.a.Foo"}); err != nil {
		t.Fatal(err)
	}
	a.kill()

	second := start(t, a, keep)
	sub, err := second.Subscribe(within(t), Consumer{Interface: "com.a.Foo"})
	if err != nil {
		t.Fatal(err)
	}
	next(t, sub, "direct providers from disk", direct)
	// An agent that knows nothing yet does not take them away.
	a.state = StateWaiting
	a.start("b2")
	set := next(t, sub, "waiting", func(s Set) bool { return s.State == StateWaiting })
	if !set.Direct {
		t.Errorf("%+v", set)
	}
	a.say(StateReady)
	next(t, sub, "mesh", mesh(a))

	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if info, _ := os.Stat(files[0]); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.kill()
	third := start(t, a, keep)
	if sub, err = third.Subscribe(within(t), Consumer{Interface: "com.a.Foo"}); err != nil {
		t.Fatal(err)
	}
	if s := sub.Set(); len(s.Providers()) != 0 {
		t.Errorf("a damaged file gave %+v", s)
	}
}

func TestSubscribeTwiceAndWithdraw(t *testing.T) {
	a := newAgent(t)
	a.start("b1")
	c := start(t, a)
	one, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo"})
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.Subscribe(within(t), Consumer{Interface: "com.a.Foo"})
	if err != nil || one != two {
		t.Fatalf("%p %p %v", one, two, err)
	}
	if err := one.Unsubscribe(within(t)); err != nil {
		t.Fatal(err)
	}
	a.until("still there", func() bool { return len(a.subscribed) == 1 })
	if _, err := c.Publish(within(t), Publication{URL: provider}); err != nil {
		t.Fatal(err)
	}
	if err := c.Withdraw(within(t)); err != nil {
		t.Fatal(err)
	}
	a.until("nothing is left", func() bool { return len(a.subscribed) == 0 && len(a.published) == 0 })
}

func TestCallsEnd(t *testing.T) {
	a := newAgent(t)
	silent := a.listen("tcp", "127.0.0.1:0") // accepts, never answers
	defer silent.Close()
	a.control = silent.Addr().String()
	c := start(t, a, func(o *Options) { o.Timeout = 50 * time.Millisecond })
	if r, err := c.Publish(within(t), Publication{URL: provider}); err != nil || r.Reason != ReasonAgentAway {
		t.Fatalf("%+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Publish(ctx, Publication{URL: provider}); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}
