package route

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// parts is a cluster by description: "p0:3h1u p1:2h" is priority 0 with three
// healthy endpoints and an unhealthy one, … 'd' is degraded, 'e' ejected; "/w5"
// behind a priority is the locality's weight, and the same priority may come again.
func parts(t *testing.T, spec *ClusterSpec, text string) *Cluster {
	t.Helper()
	cl := &Cluster{Name: "c", spec: spec, set: &EndpointSet{}, Policy: spec.Policy, state: &clusterState{hosts: map[string]*host{}, wake: func() {}, spec: spec.Outlier}}
	cl.turn = &cl.state.turn
	for i, part := range strings.Fields(text) {
		part, weight, _ := strings.Cut(part, "/w")
		l := LocalitySpec{Zone: fmt.Sprint("z", i)}
		fmt.Sscan(weight, &l.Weight)
		number, list, _ := strings.Cut(part[1:], ":")
		fmt.Sscan(number, &l.Priority)
		for len(list) > 0 {
			n := 0
			for ; list[0] >= '0' && list[0] <= '9'; list = list[1:] {
				n = 10*n + int(list[0]-'0')
			}
			for k := range n {
				e := EndpointSpec{Address: fmt.Sprintf("%s-%d%c:1", l.Zone, k, list[0]), Health: map[byte]Health{'u': Unhealthy, 'd': Degraded}[list[0]]}
				l.Endpoints = append(l.Endpoints, e)
			}
			list = list[1:]
		}
		cl.set.Localities = append(cl.set.Localities, l)
	}
	for i := range cl.set.Localities {
		l := &cl.set.Localities[i]
		for k := range l.Endpoints {
			one := &l.Endpoints[k]
			h := cl.state.host(one.Address)
			h.ejected.Store(strings.Contains(one.Address, "e:"))
			cl.Endpoints = append(cl.Endpoints, &Endpoint{Peer: newPeer(one.Address), Weight: 1, facts: noFacts, spec: one, locality: l, host: h})
		}
	}
	cl.state.size = len(cl.Endpoints)
	cl.balance = newBalancePointer(spread(spec, cl.set, cl.Endpoints))
	return cl
}

// loads are the shares of the localities of a cluster, in percent.
func loads(cl *Cluster) []float64 {
	b := cl.balance.Load()
	list := make([]float64, len(cl.set.Localities))
	for i, e := range cl.Endpoints {
		for k := range cl.set.Localities {
			if e.locality == &cl.set.Localities[k] && b.total > 0 {
				list[k] += 100 * float64(b.weights[i]) / float64(b.total)
			}
		}
	}
	return list
}

// The loads are those of the tables in Envoy's documentation (load balancing:
// priority levels, degraded endpoints, panic threshold, locality weights).
func TestSpread(t *testing.T) {
	plain, panics, weighted := ClusterSpec{}, ClusterSpec{PanicPercent: 50}, ClusterSpec{LocalityWeighted: true}
	for _, c := range []struct {
		name  string
		spec  ClusterSpec
		parts string
		want  []float64
	}{
		{"all healthy", plain, "p0:4h p1:4h", []float64{100, 0}},
		{"72% healthy is enough", plain, "p0:72h28u p1:100h", []float64{100, 0}},
		{"71% leave 1%", plain, "p0:71h29u p1:100h", []float64{99.4, .6}},
		{"50% healthy", plain, "p0:50h50u p1:100h", []float64{70, 30}},
		{"25% healthy", plain, "p0:25h75u p1:100h", []float64{35, 65}},
		{"none in the first", plain, "p0:4u p1:4h", []float64{0, 100}},
		{"ejected count as unhealthy", plain, "p0:2h2e p1:4h", []float64{70, 30}},
		{"three levels", plain, "p0:25h75u p1:25h75u p2:100h", []float64{35, 35, 30}},
		{"normalized", plain, "p0:25h75u p1:25h75u", []float64{50, 50}},
		{"degraded take what the healthy leave", plain, "p0:25h25d50u p1:20h80u", []float64{35/.98 + 35/.98, 28 / .98}},
		{"no panic, nobody", plain, "p0:3u", []float64{0}},
		{"no panic with few", plain, "p0:1h9u", []float64{100}},
		{"panic: nobody is healthy", panics, "p0:2u p1:6u", []float64{25, 75}},
		{"panic: too few", panics, "p0:10h90u p1:10h90u", []float64{50, 50}},
		{"panic everywhere: by the number of endpoints", panics, "p0:1h9u p1:2h28u", []float64{25, 75}},
		{"no panic: degraded ones count", panics, "p0:1h4d5u", []float64{100}},
		{"panic: too few, with the degraded", panics, "p0:1h3d6u", []float64{100}},
		{"panic in one level", panics, "p0:6h4u p1:1h9u", []float64{84 / .98, 14 / .98}},
		{"panic: weights of localities do not count", ClusterSpec{PanicPercent: 50, LocalityWeighted: true}, "p0:1h9u/w1 p0:1h9u/w3", []float64{50, 50}},
		{"no panic while another level takes over", panics, "p0:1h9u p1:10h", []float64{14, 86}},
		{"localities by weight", weighted, "p0:2h/w1 p0:2h/w2", []float64{100. / 3, 200. / 3}},
		{"localities with unhealthy ones", weighted, "p0:100h/w1 p0:50h50u/w2", []float64{100 / 2.4, 140 / 2.4}},
		{"a locality without weight", weighted, "p0:2h/w0 p0:2h/w2", []float64{0, 100}},
		{"weights of localities do not count", plain, "p0:1h/w9 p0:3h/w1", []float64{25, 75}},
	} {
		got := loads(parts(t, &c.spec, c.parts))
		for i := range c.want {
			if math.Abs(got[i]-c.want[i]) > .05 {
				t.Errorf("%s: %s: loads %.2f, want %.2f", c.name, c.parts, got, c.want)
				break
			}
		}
	}
}

// In panic all endpoints of the priority count, also ejected ones; without it nobody
// is chosen who is not healthy.
func TestPanicPicks(t *testing.T) {
	cl := parts(t, &ClusterSpec{PanicPercent: 50}, "p0:1h2u1e")
	seen := map[string]bool{}
	for range 400 {
		seen[cl.Pick(nil).Peer.Addr] = true
	}
	if len(seen) != 4 {
		t.Errorf("in panic: %v", seen)
	}
	cl = parts(t, &ClusterSpec{}, "p0:1h2u1e")
	for range 400 {
		if a := cl.Pick(nil).Peer.Addr; a != "z0-0h:1" {
			t.Fatalf("picked %s", a)
		}
	}
	if e := parts(t, &ClusterSpec{}, "p0:2u").Pick(nil); e != nil {
		t.Errorf("picked %s", e.Peer.Addr)
	}
	for _, policy := range []Policy{Random, RoundRobin, LeastRequest, RingHash, Maglev} {
		cl := parts(t, &ClusterSpec{Policy: policy}, "p0:1h p1:1h")
		first := cl.Pick(nil)
		if first.Peer.Addr != "z0-0h:1" || cl.PickBy(7, nil) != first {
			t.Errorf("%v: picked %s", policy, first.Peer.Addr)
		}
		if next := cl.Pick([]*Endpoint{first}); next == nil || next.Peer.Addr != "z1-0h:1" {
			t.Errorf("%v: nobody takes over: %v", policy, next)
		}
		first.Peer.Failed(time.Now())
		if next := cl.Pick(nil); next.Peer.Addr != "z1-0h:1" {
			t.Errorf("%v: an avoided endpoint is preferred", policy)
		}
	}
}

func TestOutliers(t *testing.T) {
	report := func(cl *Cluster, i int, outcomes ...Outcome) {
		for _, o := range outcomes {
			cl.Report(cl.Endpoints[i], o)
		}
	}
	out := func(cl *Cluster) string {
		text := ""
		for i, e := range cl.Endpoints {
			if e.host.ejected.Load() {
				text += fmt.Sprint(i)
			}
		}
		return text
	}
	const R, G, L, A = RemoteError, GatewayError, LocalError, Answered
	for _, c := range []struct {
		name     string
		spec     Outlier
		outcomes []Outcome
		want     string
	}{
		{"three in a row", Outlier{Consecutive: 3}, []Outcome{R, R, R}, "0"},
		{"an answer between", Outlier{Consecutive: 3}, []Outcome{R, R, A, R, R}, ""},
		{"local ones count too", Outlier{Consecutive: 3}, []Outcome{R, L, G}, "0"},
		{"local ones apart", Outlier{Consecutive: 3, Split: true}, []Outcome{R, L, R, L}, ""},
		{"local ones", Outlier{ConsecutiveLocal: 2, Split: true}, []Outcome{L, L}, "0"},
		{"gateway ones", Outlier{ConsecutiveGateway: 2}, []Outcome{G, L}, "0"},
		{"remote ones are no gateway errors", Outlier{ConsecutiveGateway: 2}, []Outcome{G, R, G, R, R}, ""},
		{"not looked at", Outlier{}, []Outcome{R, R, R, R, L, L, L}, ""},
	} {
		c.spec.MaxEjectionPercent = 100
		cl := parts(t, &ClusterSpec{Outlier: &c.spec}, "p0:2h")
		report(cl, 0, c.outcomes...)
		if got := out(cl); got != c.want {
			t.Errorf("%s: ejected %q, want %q", c.name, got, c.want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		spec := &Outlier{Consecutive: 1, BaseEjection: 10 * time.Second, MaxEjection: 25 * time.Second, MaxEjectionPercent: 50}
		cl := parts(t, &ClusterSpec{Outlier: spec}, "p0:4h")
		report(cl, 0, R)
		report(cl, 1, R)
		report(cl, 2, R)
		if got := out(cl); got != "01" {
			t.Fatalf("ejected %q, want half of them", got)
		}
		for i, length := range []time.Duration{10 * time.Second, 20 * time.Second, 25 * time.Second} { // longer each time
			for now := time.Second; now < length; now += time.Second {
				time.Sleep(time.Second)
				cl.state.sweep(time.Now())
				if !cl.Endpoints[0].host.ejected.Load() {
					t.Fatalf("ejection %d: back after %v of %v", i+1, now, length)
				}
			}
			time.Sleep(time.Second)
			if changed := cl.state.sweep(time.Now()); !changed || cl.Endpoints[0].host.ejected.Load() {
				t.Fatalf("ejection %d: not back after %v", i+1, length)
			}
			report(cl, 0, R)
		}
		for _, c := range []struct {
			spec  Outlier
			parts string
			want  string // of as many as there are, each with an error
		}{ // the percentage holds after the ejection, too
			{Outlier{MaxEjectionPercent: 10}, "p0:2h", ""}, {Outlier{MaxEjectionPercent: 10}, "p0:9h", ""}, {Outlier{MaxEjectionPercent: 10}, "p0:10h", "0"},
			{Outlier{MaxEjectionPercent: 10, AlwaysOne: true}, "p0:2h", "0"}, {Outlier{AlwaysOne: true}, "p0:3h", "0"}, {Outlier{}, "p0:3h", ""},
			{Outlier{MaxEjectionPercent: 34}, "p0:3h", "0"}, {Outlier{MaxEjectionPercent: 33}, "p0:3h", ""}, {Outlier{MaxEjectionPercent: 67}, "p0:3h", "01"},
			{Outlier{MaxEjectionPercent: 100}, "p0:3h", "012"}, {Outlier{MaxEjectionPercent: 50}, "p0:1h p1:1h", "0"},
		} {
			c.spec.Consecutive = 1
			cl := parts(t, &ClusterSpec{Outlier: &c.spec}, c.parts)
			for i := range cl.Endpoints {
				report(cl, i, R)
			}
			if got := out(cl); got != c.want {
				t.Errorf("%+v of %s: ejected %q, want %q", c.spec, c.parts, got, c.want)
			}
		}
		// The jitter is added to the time, also to the longest.
		cl = parts(t, &ClusterSpec{Outlier: &Outlier{Consecutive: 1, MaxEjectionPercent: 100, BaseEjection: 10 * time.Second, MaxEjection: 10 * time.Second, Jitter: 5 * time.Second}}, "p0:64h")
		least, most := time.Hour, time.Duration(0)
		for i, e := range cl.Endpoints {
			report(cl, i, R)
			length := time.Until(e.host.until)
			least, most = min(least, length), max(most, length)
		}
		if least < 10*time.Second || most > 15*time.Second || most-least < time.Second {
			t.Errorf("ejections from %v to %v, want from 10s to 15s", least, most)
		}
		// An interval without an ejection forgives one: the next is shorter again.
		cl = parts(t, &ClusterSpec{Outlier: &Outlier{Consecutive: 1, MaxEjectionPercent: 100, BaseEjection: 10 * time.Second}}, "p0:2h")
		h := cl.Endpoints[0].host
		for i, want := range []time.Duration{10 * time.Second, 20 * time.Second, 10 * time.Second} {
			report(cl, 0, R)
			if length := time.Until(h.until); length != want {
				t.Errorf("ejection %d lasts %v, want %v", i+1, length, want)
			}
			for h.ejected.Load() {
				time.Sleep(time.Second)
				cl.state.sweep(time.Now())
			}
			for range i * 60 {
				time.Sleep(time.Second)
				cl.state.sweep(time.Now())
			}
		}
	})
}

func TestSuccessRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := &Outlier{SuccessRate: true, MaxEjectionPercent: 50, Interval: 10 * time.Second}
		cl := parts(t, &ClusterSpec{Outlier: spec}, "p0:6h")
		cl.state.sweep(time.Now())
		calls := func(n, failing int) {
			for i, e := range cl.Endpoints {
				for k := range n {
					o := Answered
					if i == 0 && k < failing {
						o = RemoteError
					}
					cl.Report(e, o)
				}
			}
			time.Sleep(10 * time.Second)
		}
		calls(50, 50)
		if cl.state.sweep(time.Now()) {
			t.Error("ejected with too few calls")
		}
		calls(200, 0)
		if cl.state.sweep(time.Now()) {
			t.Error("ejected without an error")
		}
		calls(200, 60)
		if !cl.state.sweep(time.Now()) || !cl.Endpoints[0].host.ejected.Load() || cl.Endpoints[1].host.ejected.Load() {
			t.Error("the endpoint with 70 % success was not ejected, or others were")
		}
		calls(200, 200)
		if cl.state.sweep(time.Now()); !cl.Endpoints[0].host.ejected.Load() {
			t.Error("back before its time")
		}
		// With split errors each kind counts for its own rate.
		for _, c := range []struct {
			spec    Outlier
			outcome Outcome
			ejected bool
		}{
			{Outlier{SuccessRate: true}, LocalError, true}, {Outlier{SuccessRate: true, Split: true}, LocalError, false},
			{Outlier{SuccessRate: true, Split: true, LocalSuccessRate: true}, LocalError, true}, {Outlier{Split: true, LocalSuccessRate: true}, RemoteError, false},
			{Outlier{Split: true, LocalSuccessRate: true}, LocalError, true}, {Outlier{SuccessRate: true, Split: true}, RemoteError, true},
		} {
			c.spec.MaxEjectionPercent = 50
			cl := parts(t, &ClusterSpec{Outlier: &c.spec}, "p0:6h")
			cl.state.sweep(time.Now())
			for range 400 {
				for i, e := range cl.Endpoints {
					o := Answered
					if i == 0 {
						o = c.outcome
					}
					cl.Report(e, o)
				}
			}
			time.Sleep(outlierInterval)
			cl.state.sweep(time.Now())
			if got := cl.Endpoints[0].host.ejected.Load(); got != c.ejected {
				t.Errorf("%+v after %d: ejected %v", c.spec, c.outcome, got)
			}
		}
	})
}

// The router shares calls anew when somebody is ejected, and again when it is back.
func TestEjectionReachesSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := rulesFor(FromXDS)
		src := &feed{updates: make(chan RuleUpdate, 1)}
		o.Rules = src
		r := New(o)
		done := make(chan struct{})
		ctx, cancel := cancelled(t)
		go func() { r.Run(ctx); close(done) }()
		r.SetCallers([]Caller{{Application: "a", Service: registry.Service{Interface: "com.a.Foo"}, URL: mustURL(t, "consumer://h/com.a.Foo")}})
		src.updates <- RuleUpdate{Source: "xds", Synced: true, Routes: vhost("com.a.foo", split("blue", 1)),
			Clusters:  map[string]*ClusterSpec{"blue": {Name: "blue", Outlier: &Outlier{Consecutive: 1, MaxEjectionPercent: 50}}},
			Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:1", "10.0.0.2:1")}}
		synctest.Wait()
		cl, _ := r.Snapshot().Outbound.find("com.a.Foo", "", "").Routes().Find(nil, nil).Choose()
		e := cl.Endpoints[0]
		cl.Report(e, RemoteError)
		synctest.Wait()
		if b := cl.balance.Load(); b.weights[0] != 0 || b.weights[1] != 1 {
			t.Errorf("weights %v after the ejection", b.weights)
		}
		time.Sleep(baseEjection + 2*tickEvery)
		synctest.Wait()
		if b := cl.balance.Load(); b.weights[0] != 1 || cl.Pick([]*Endpoint{cl.Endpoints[1]}) != e {
			t.Errorf("weights %v after its time", b.weights)
		}
		if len(*src.wanted.Load()) != 1 {
			t.Error("the source was not told which services are needed")
		}
		cancel()
		<-done
	})
}

// Equal endpoints give equal tables; a change of one moves few keys, and shares are
// those of the weights.
func TestConsistentHash(t *testing.T) {
	for _, policy := range []Policy{RingHash, Maglev} {
		spec := &ClusterSpec{Policy: policy, Ring: RingSize{Min: 4096}}
		ten, nine := parts(t, spec, "p0:10h"), parts(t, spec, "p0:9h")
		const n = 20_000
		moved, count := 0, map[string]int{}
		for key := range uint64(n) {
			k := hashBytes(fmt.Appendf(nil, "user-%d", key))
			a, b := ten.PickBy(k, nil).Peer.Addr, nine.PickBy(k, nil).Peer.Addr
			count[a]++
			if a != b {
				moved++
			}
		}
		if moved > n/5 { // a tenth, and what the ring gains by points for each
			t.Errorf("%v: %d of %d keys moved when one of ten endpoints went", policy, moved, n)
		}
		for a, c := range count {
			if c < n/10/2 || c > n/10*2 {
				t.Errorf("%v: %s has %d of %d", policy, a, c, n)
			}
		}
		ten.Endpoints[3].Peer.Failed(time.Now())
		for key := range uint64(2000) {
			if ten.PickBy(hashBytes(fmt.Appendf(nil, "user-%d", key)), nil) == ten.Endpoints[3] {
				t.Fatalf("%v: an avoided endpoint was picked", policy)
			}
		}
	}
	for _, size := range []int{65536, 1 << 30, 9, 2} { // no prime, too large, too small: some would never end
		if r := newMaglev(parts(t, &ClusterSpec{Policy: Maglev}, "p0:5h").Endpoints, []uint32{1, 1, 1, 1, 1}, size); len(r.table) != maglevLen {
			t.Errorf("table size %d gives %d", size, len(r.table))
		}
	}
	weighted := parts(t, &ClusterSpec{Policy: Maglev}, "p0:2h")
	weighted.Endpoints[0].Weight = 3
	r := newMaglev(weighted.Endpoints, []uint32{3, 1}, 0)
	first := 0
	for _, i := range r.table {
		if i == 0 {
			first++
		}
	}
	if share := float64(first) / float64(len(r.table)); math.Abs(share-.75) > .01 {
		t.Errorf("weight 3 of 4 has %.3f of the table", share)
	}
}
