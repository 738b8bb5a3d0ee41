package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/registry"
)

func TestPublishRefusesWhatCannotBeMeant(t *testing.T) {
	lan := func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(10, 0, 0, 5), Mask: net.CIDRMask(24, 32)}}, nil
	}
	s, _ := start(t, Options{OwnPorts: []int{20881, 20882}, Addresses: lan, Dial: newFakeHost().dial})
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{ // address, or "!" and what the error says
		"dubbo://127.0.0.1:20880/com.a.Foo":                          "127.0.0.1:20880",
		"dubbo://:20880/com.a.Foo":                                   "127.0.0.1:20880",
		"dubbo://0.0.0.0:20880/com.a.Foo":                            "127.0.0.1:20880",
		"dubbo://localhost:20880/com.a.Foo":                          "127.0.0.1:20880",
		"dubbo://" + host + ":20880/com.a.Foo":                       "127.0.0.1:20880",
		"dubbo://127.0.0.7:20880/com.a.Foo":                          "127.0.0.7:20880",
		"dubbo://10.0.0.5:20880/com.a.Foo":                           "10.0.0.5:20880",
		"dubbo://[::ffff:10.0.0.5]:20880/com.a.Foo":                  "10.0.0.5:20880",
		"tri://[::1]:50051/com.a.Foo":                                "[::1]:50051",
		"dubbo://10.0.0.6:20880/com.a.Foo":                           "127.0.0.1:20880",
		"dubbo://db.example.com:20880/com.a.Foo":                     "127.0.0.1:20880",
		"rest://10.0.0.5:8080/com.a.Foo":                             "10.0.0.5:8080",
		"consumer://127.0.0.1:20880/com.a.Foo":                       "!nobody calls",
		"injvm://127.0.0.1:20880/com.a.Foo":                          "!nobody calls",
		"dubbo://127.0.0.1:20880":                                    "!no interface",
		"dubbo://127.0.0.1/com.a.Foo":                                "!port 0",
		"dubbo://127.0.0.1:20881/com.a.Foo":                          "!agent's own listeners",
		"dubbo://127.0.0.1:20880/com.a.Foo?meshferry.caps=1":         "!carries meshferry.caps",
		"dubbo://127.0.0.1:20880/com.a.Foo?a=b&meshferry.x=10.0.0.1": "!carries meshferry.x",
	} {
		_, err := s.Publish(t.Context(), Publication{URL: parse(t, url), Owner: Nobody})
		if text, refused := strings.CutPrefix(want, "!"); refused {
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %q", url, err, text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if v := s.View().Load(); len(v.Publications) != 1 || v.Publications[0].Address != want {
			t.Errorf("%s: %+v, want address %s", url, v.Publications, want)
		}
		if _, removed, _, err := s.Unpublish(t.Context(), Match{Interface: "com.a.Foo"}, Nobody); err != nil || len(removed) != 1 {
			t.Errorf("%s: unpublish: %v, %v", url, removed, err)
		}
	}
	for _, p := range []Publication{
		{URL: providerURL(t, 1, ""), Identity: Identity{Workload: "two words"}},
		{URL: providerURL(t, 1, ""), Identity: Identity{Port: 2}},
		{URL: providerURL(t, 1, ""), Identity: Identity{Protocol: "tri"}},
		{URL: registry.URL{Protocol: "dubbo", Port: 1, Path: "a b"}},
		{URL: registry.URL{Protocol: "dubbo", Port: 70000, Path: "a"}},
		{},
	} {
		if _, err := s.Publish(t.Context(), p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestGenerations(t *testing.T) {
	s, _ := start(t, Options{Dial: newFakeHost().dial})
	p := Publication{URL: providerURL(t, 20880, ""), Registries: []string{"main"}, Owner: Owner{UID: 7, PID: 1}}
	first := publish(t, s, p)
	v := await(t, s, "first probe", because(ReasonPortClosed))
	if v.Generation <= first-1 || v.Publications[0].Workload != "anon/demo/20880" {
		t.Fatalf("%+v after generation %d", v, first)
	}
	before := v.Generation
	if gen := publish(t, s, p); gen != before {
		t.Errorf("the same again: generation %d, want %d", gen, before)
	}
	p.Owner.PID = 2
	if gen := publish(t, s, p); gen != before || s.View().Load().Publications[0].Owner.PID != 2 {
		t.Errorf("owner alone: generation %d, want %d; %+v", gen, before, s.View().Load())
	}
	p.URL = providerURL(t, 20880, "&weight=50")
	gen := publish(t, s, p)
	if v := s.View().Load(); gen <= before || len(v.Publications) != 1 || v.Publications[0].URL != p.URL || v.Generation < gen {
		t.Errorf("new content: generation %d after %d, %+v", gen, before, v)
	}
	p.Registries = nil
	if next := publish(t, s, p); next <= gen {
		t.Errorf("new registries: generation %d after %d", next, gen)
	}

	old := providerURL(t, 20880, "")
	_, removed, superseded, err := s.Unpublish(t.Context(), Match{URL: &old}, Nobody)
	if err != nil || len(removed) != 0 || !superseded {
		t.Errorf("late unpublish: %v, %v, %v", removed, superseded, err)
	}
	gen, removed, superseded, err = s.Unpublish(t.Context(), Match{URL: &p.URL}, Nobody)
	if err != nil || len(removed) != 1 || superseded || s.View().Load().Generation < gen || !empty(s.View().Load()) {
		t.Errorf("unpublish: %v, %v, %v", removed, superseded, err)
	}
	again, removed, superseded, err := s.Unpublish(t.Context(), Match{URL: &p.URL}, Nobody)
	if err != nil || again != gen || len(removed) != 0 || superseded {
		t.Errorf("nothing there: generation %d, %v, %v, %v", again, removed, superseded, err)
	}
}

func TestMovesToAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost()
		h.set(at, beats)
		s, _ := start(t, Options{Dial: h.dial})
		u := providerURL(t, 20880, "")
		publish(t, s, Publication{URL: u})
		await(t, s, "live", live)
		u.Host = "127.0.0.2"
		publish(t, s, Publication{URL: u})
		v := await(t, s, "not at the new address", because(ReasonPortClosed))
		if got := v.Publications[0].Address; got != "127.0.0.2:20880" {
			t.Errorf("address %s", got)
		}
		h.set("127.0.0.2:20880", beats)
		await(t, s, "live there", live)
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, a := range h.conns {
			if a == at {
				t.Error("still connected to the old address")
			}
		}
	})
}

func TestMatch(t *testing.T) {
	g1, none := "g1", ""
	zero := "0.0.0"
	for _, c := range []struct {
		m    Match
		want []int // ports
	}{
		{Match{Interface: "com.a.Foo"}, []int{1, 2, 3}},
		{Match{Interface: "com.a.Foo", Group: &g1}, []int{2}},
		{Match{Interface: "com.a.Foo", Group: &none}, []int{1, 3}},
		{Match{Version: &zero}, []int{1, 2, 4}},
		{Match{Port: 4}, []int{4}},
		{Match{Workload: "w3"}, []int{3}},
		{Match{Application: "other"}, []int{4}},
		{Match{Path: "com.a.Bar"}, []int{4}},
		{Match{Protocol: "tri"}, []int{4}},
		{Match{Protocol: "tri", Port: 1}, nil},
	} {
		t.Run(fmt.Sprintf("%+v", c.m), func(t *testing.T) {
			s, _ := start(t, Options{Dial: newFakeHost().dial})
			publish(t, s, Publication{URL: providerURL(t, 1, "")})
			publish(t, s, Publication{URL: providerURL(t, 2, "&group=g1")})
			publish(t, s, Publication{URL: providerURL(t, 3, "&version=2.0"), Identity: Identity{Workload: "w3"}})
			publish(t, s, Publication{URL: parse(t, "tri://:4/com.a.Bar?application=other")})
			_, removed, _, err := s.Unpublish(t.Context(), c.m, Nobody)
			if err != nil {
				t.Fatal(err)
			}
			var ports []int
			for _, p := range removed {
				ports = append(ports, p.Port)
			}
			slices.Sort(ports)
			if !slices.Equal(ports, c.want) {
				t.Errorf("removed %v, want %v", ports, c.want)
			}
		})
	}
	s, _ := start(t, Options{})
	if _, _, _, err := s.Unpublish(t.Context(), Match{}, Nobody); !errors.Is(err, ErrInvalid) {
		t.Errorf("a match of everything: %v", err)
	}
	if _, err := s.Unsubscribe(t.Context(), Match{}, Nobody); !errors.Is(err, ErrInvalid) {
		t.Errorf("a match of everything: %v", err)
	}
}

func TestOwners(t *testing.T) {
	alice, bob, root := Owner{UID: 1001, PID: 1}, Owner{UID: 1002, PID: 2}, Owner{UID: 0, PID: 3}
	const address = "127.0.0.1:20880"
	as := func(o Owner, workload, extra string) Publication {
		return Publication{URL: providerURL(t, 20880, extra), Identity: Identity{Workload: workload}, Owner: o}
	}
	for _, c := range []struct {
		name   string
		state  behaviour // of alice's port
		lease  LeaseState
		second Publication
		want   error
		left   string // workload that has it in the end
	}{
		{"another user, living", beats, "", as(bob, "w2", ""), ErrOwned, "w1"},
		{"unknown user, living", beats, "", as(Nobody, "w2", ""), ErrOwned, "w1"},
		{"same user", beats, LeaseHeld, as(alice, "w2", ""), nil, "w2"},
		{"another user, port dead", shut, "", as(bob, "w2", ""), nil, "w2"},
		{"another user, lease broken", beats, LeaseBroken, as(bob, "w2", ""), nil, "w2"},
		{"another user, lease held", beats, LeaseHeld, as(bob, "w2", ""), ErrOwned, "w1"},
		{"same workload, another user", beats, "", as(bob, "w1", "&a=b"), ErrForbidden, "w1"},
		{"same workload, root", beats, "", as(root, "w1", "&a=b"), nil, "w1"},
		{"same workload, unknown user", beats, "", as(Nobody, "w1", "&a=b"), nil, "w1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHost()
				h.set(address, c.state)
				s, _ := start(t, Options{Dial: h.dial})
				publish(t, s, as(alice, "w1", ""))
				if c.lease != "" {
					release, err := s.HoldLease("w1", 0, alice)
					if err != nil {
						t.Fatal(err)
					}
					if c.lease == LeaseBroken {
						release()
					}
				}
				synctest.Wait()
				_, err := s.Publish(t.Context(), c.second)
				if !errors.Is(err, c.want) {
					t.Fatalf("%v, want %v", err, c.want)
				}
				v := s.View().Load()
				if len(v.Publications) != 1 || v.Publications[0].Workload != c.left {
					t.Fatalf("%+v, want it in %s", v.Publications, c.left)
				}
				if c.state == beats && !v.Publications[0].Live {
					t.Errorf("withdrawn by the change: %+v", v.Publications[0])
				}
			})
		})
	}

	s, _ := start(t, Options{Dial: newFakeHost().dial})
	publish(t, s, as(alice, "w1", ""))
	m := Match{Interface: "com.a.Foo"}
	if _, removed, _, err := s.Unpublish(t.Context(), m, bob); !errors.Is(err, ErrForbidden) || len(removed) != 0 {
		t.Errorf("another user removes: %v, %v", removed, err)
	}
	if err := s.RenewLease("w1", 0, bob); !errors.Is(err, ErrForbidden) {
		t.Errorf("another user renews: %v", err)
	}
	if _, removed, _, err := s.Unpublish(t.Context(), m, root); err != nil || len(removed) != 1 {
		t.Errorf("root removes: %v, %v", removed, err)
	}
	sub := Subscription{Workload: "w1", Service: registry.Service{Interface: "com.a.Bar"}, Owner: alice}
	if _, err := s.Subscribe(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
	if removed, err := s.Unsubscribe(t.Context(), Match{Workload: "w1"}, bob); !errors.Is(err, ErrForbidden) || len(removed) != 0 {
		t.Errorf("another user unsubscribes: %v, %v", removed, err)
	}
	shared := Subscription{Service: registry.Service{Interface: "com.a.Bar"}, Owner: alice}
	for _, o := range []Owner{alice, bob} { // the same application without a name, run by two users
		shared.Owner = o
		if _, err := s.Subscribe(t.Context(), shared); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Subscription(subscriptionID(Subscription{Workload: "anon/-", Service: shared.Service})); err != nil || got.Owner != alice {
		t.Errorf("%+v, %v", got, err)
	}
	sub.Owner = bob
	if _, err := s.Subscribe(t.Context(), sub); !errors.Is(err, ErrForbidden) {
		t.Errorf("another user subscribes in a named workload: %v", err)
	}
}

func TestLimits(t *testing.T) {
	s, _ := start(t, Options{Dial: newFakeHost().dial, Limits: Limits{Workloads: 2, Publications: 2, Subscriptions: 1}})
	sub := func(iface string) Subscription {
		return Subscription{Workload: "w", Service: registry.Service{Interface: iface}}
	}
	publish(t, s, Publication{URL: providerURL(t, 1, ""), Identity: Identity{Workload: "w"}})
	if _, err := s.Subscribe(t.Context(), sub("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Subscribe(t.Context(), sub("b")); !errors.Is(err, ErrLimit) {
		t.Errorf("second subscription: %v", err)
	}
	if err := s.RenewLease("v", 0, Nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(t.Context(), Publication{URL: providerURL(t, 2, "")}); !errors.Is(err, ErrLimit) {
		t.Errorf("third workload: %v", err)
	}
	publish(t, s, Publication{URL: providerURL(t, 2, ""), Identity: Identity{Workload: "v"}})
	if _, err := s.Publish(t.Context(), Publication{URL: providerURL(t, 3, ""), Identity: Identity{Workload: "v"}}); !errors.Is(err, ErrLimit) {
		t.Errorf("third publication: %v", err)
	}
	publish(t, s, Publication{URL: providerURL(t, 2, "&weight=1"), Identity: Identity{Workload: "v"}}) // in place
}

func TestSubscriptions(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, Options{Dir: dir})
	asked := Subscription{URL: parse(t, "consumer://10.0.0.9/com.a.Foo?application=shop&interface=com.a.Foo&group=*&version=1.0,2.0&protocol=dubbo"), Categories: []string{"providers"}}
	sub, err := s.Subscribe(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	want := registry.Service{Group: "*", Interface: "com.a.Foo", Version: "1.0,2.0"}
	if !strings.HasPrefix(sub.ID, "s-") || sub.Workload != "anon/shop" || sub.Protocol != "dubbo" || sub.Service != want {
		t.Fatalf("%+v", sub)
	}
	gen := s.View().Load().Generation
	if again, err := s.Subscribe(t.Context(), asked); err != nil || again.ID != sub.ID || s.View().Load().Generation != gen {
		t.Errorf("the same again: %+v, %v, generation %d after %d", again, err, s.View().Load().Generation, gen)
	}
	asked.Categories = []string{"providers", "routers"}
	if again, err := s.Subscribe(t.Context(), asked); err != nil || again.ID != sub.ID || s.View().Load().Generation == gen {
		t.Errorf("new content: %+v, %v", again, err)
	}
	for protocol, want := range map[string]bool{"rest": true, "dubbo,tri": true, "dubbo, rest": true, "dubbo,": false, "injvm": false, "du bbo": false} {
		ask := asked
		ask.URL = asked.URL.With("protocol", protocol)
		if _, err := s.Subscribe(t.Context(), ask); (err == nil) != want {
			t.Errorf("protocol %q: %v", protocol, err)
		}
	}
	for _, bad := range []Subscription{
		{},
		{Service: registry.Service{Interface: "*"}},
		{Service: registry.Service{Interface: "a"}, Protocol: "injvm"},
		{Service: registry.Service{Interface: "a"}, Workload: "no way"},
	} {
		if _, err := s.Subscribe(t.Context(), bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	stop()
	if _, err := s.Subscribe(t.Context(), asked); !errors.Is(err, ErrStopped) {
		t.Errorf("after the end: %v", err)
	}

	s, _ = start(t, Options{Dir: dir})
	got, err := s.Subscription(sub.ID)
	if err != nil || got.URL != asked.URL || !slices.Equal(got.Categories, asked.Categories) || got.Service != want {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	if removed, err := s.Unsubscribe(t.Context(), Match{URL: &asked.URL}, Nobody); err != nil || len(removed) != 1 {
		t.Errorf("unsubscribe: %v, %v", removed, err)
	}
	if _, err := s.Subscription(sub.ID); !errors.Is(err, ErrUnknown) {
		t.Errorf("after unsubscribe: %v", err)
	}
}

// TestManyAtOnce is for the race detector.
func TestManyAtOnce(t *testing.T) {
	const callers, each = 16, 8
	h := newFakeHost()
	s, _ := start(t, Options{Dial: h.dial})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			name := fmt.Sprintf("w%d", c)
			release, err := s.HoldLease(name, 0, Nobody)
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			for i := range each {
				address := fmt.Sprintf("127.0.0.1:%d", 1000+c)
				h.set(address, beats)
				p := Publication{URL: providerURL(t, 1000+c, fmt.Sprintf("&group=g%d", i)), Identity: Identity{Workload: name}}
				gen, err := s.Publish(ctx, p)
				if err != nil || s.View().Load().Generation < gen {
					t.Errorf("publish: %v", err)
				}
				sub, err := s.Subscribe(ctx, Subscription{Workload: name, Service: p.URL.Service()})
				if err != nil {
					t.Error(err)
				}
				s.Touch(sub.ID)
				s.Suspect(address)
				if i%2 == 0 {
					s.Readonly(address)
					if _, removed, _, err := s.Unpublish(ctx, Match{URL: &p.URL}, Nobody); err != nil || len(removed) != 1 {
						t.Errorf("unpublish: %v, %v", removed, err)
					}
				}
			}
		})
	}
	wg.Wait()
	v := s.View().Load()
	if len(v.Publications) != callers*each/2 || len(v.Subscriptions) != callers*each {
		t.Fatalf("%d publications, %d subscriptions", len(v.Publications), len(v.Subscriptions))
	}
	if !slices.IsSortedFunc(v.Publications, func(a, b Publication) int { return a.compare(b.Identity) }) {
		t.Error("not sorted")
	}
}

// A provider that asks for the rules about itself and a consumer of the same
// service in the same application do not replace each other.
func TestProviderRulesAreApart(t *testing.T) {
	s, _ := start(t, Options{})
	consumer := parse(t, "consumer://127.0.0.1/com.a.Foo?application=demo&interface=com.a.Foo")
	provider := parse(t, "provider://127.0.0.1:20880/com.a.Foo?application=demo&interface=com.a.Foo&category=configurators")
	ids := map[string]bool{}
	for _, sub := range []Subscription{
		{Workload: "w1", Service: consumer.Service(), URL: consumer, Categories: []string{"providers"}},
		{Workload: "w1", Protocol: ProviderRules, Service: provider.Service(), URL: provider, Categories: []string{"configurators"}},
	} {
		sub, err := s.Subscribe(t.Context(), sub)
		if err != nil {
			t.Fatal(err)
		}
		ids[sub.ID] = true
	}
	if len(ids) != 2 {
		t.Fatalf("subscriptions %v, want two", ids)
	}
	for _, u := range []registry.URL{provider, consumer} {
		if removed, err := s.Unsubscribe(t.Context(), Match{URL: &u}, Nobody); err != nil || len(removed) != 1 || removed[0].URL != u {
			t.Fatalf("unsubscribe %s removed %v, %v", u, removed, err)
		}
	}
}
