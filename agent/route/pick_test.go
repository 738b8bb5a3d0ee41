package route

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// draws picks n times and counts by endpoint.
func draws(cl *Cluster, n int, tried ...*Endpoint) []float64 {
	r := rand.New(rand.NewPCG(1, 2))
	counts := make([]float64, len(cl.Endpoints))
	for range n {
		picked := cl.pick(tried, r.Uint64N)
		for i, e := range cl.Endpoints {
			if e == picked {
				counts[i]++
			}
		}
	}
	return counts
}

// checkShares is a chi-square test: sum((seen-want)²/want) below the 0.999
// quantile, which for k degrees of freedom is under k + 4·sqrt(2k) + 5.
func checkShares(t *testing.T, name string, counts, weights []float64) {
	t.Helper()
	var n, total, chi float64
	for i := range counts {
		n, total = n+counts[i], total+weights[i]
	}
	k := -1.0
	for i := range counts {
		want := n * weights[i] / total
		if want == 0 {
			if counts[i] != 0 {
				t.Errorf("%s: endpoint %d has weight 0 and got %v calls", name, i, counts[i])
			}
			continue
		}
		k++
		chi += (counts[i] - want) * (counts[i] - want) / want
	}
	if chi > k+4*math.Sqrt(2*k)+5 {
		t.Errorf("%s: %v does not fit weights %v: chi-square %.1f for %v degrees of freedom", name, counts, weights, chi, k)
	}
}

func floats(weights []int) []float64 {
	list := make([]float64, len(weights))
	for i, w := range weights {
		list[i] = float64(w)
	}
	return list
}

func TestDistribution(t *testing.T) {
	sets := [][]int{{100, 100}, {5, 1, 1}, {50, 50, 0}, {1, 10, 100, 1000}, {0, 0, 7, 3}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}}
	for _, p := range []Policy{Random, RoundRobin} {
		for _, weights := range sets {
			cl := weighted(p, weights...)
			checkShares(t, p.String(), draws(cl, 20_000), floats(weights))
			// without the tried and the unusable, the others keep their proportions
			cl.Endpoints[len(weights)-1].Peer.Readonly(true)
			left := floats(weights)
			left[len(weights)-1] = 0
			if len(weights) > 2 && p == Random {
				left[0] = 0
				checkShares(t, p.String()+" with one tried and one readonly", draws(cl, 20_000, cl.Endpoints[0]), left)
			}
		}
	}
}

func TestRandomIsDubbos(t *testing.T) {
	now := time.Now()
	for _, v := range vectors(t, "random") {
		var weights []int
		for _, text := range v.Providers {
			u := mustURL(t, at(t, text, now))
			w, _ := newEndpoint(nil, u, factsOf(u)).effective(now)
			weights = append(weights, int(w))
		}
		counts := draws(weighted(Random, weights...), v.Draws)
		for i, want := range v.ExpectShare {
			if got := counts[i] / float64(v.Draws); math.Abs(got-want) > 0.03 {
				t.Errorf("%s: share %d is %.3f, want %.3f", v.Name, i, got, want)
			}
		}
	}
}

// Dubbo keeps counters by provider from one set to the next; here each set has
// its own precomputed sequence. So the first step of each case must be equal.
func TestRoundRobinIsDubbos(t *testing.T) {
	for _, v := range vectors(t, "roundRobin") {
		if strings.Contains(v.Name, "method-weight") || strings.Contains(string(v.Expect), "null") {
			continue
		}
		var expect [][]int
		if err := json.Unmarshal(v.Expect, &expect); err != nil {
			t.Fatal(err)
		}
		var weights []int
		for _, text := range v.Steps[0].Providers {
			weights = append(weights, factsOf(mustURL(t, text)).weight)
		}
		cl := weighted(RoundRobin, weights...)
		for turn, want := range expect[0] {
			if got := cl.Pick(nil); got != cl.Endpoints[want] {
				t.Errorf("%s: turn %d went to %s, want endpoint %d of weights %v", v.Name, turn, got.Peer.Addr, want, weights)
				break
			}
		}
	}
}

func TestSmoothSharesAreExact(t *testing.T) {
	for _, weights := range [][]uint32{{4, 3, 2, 1}, {100, 50, 25}, {7, 0, 3}, {1}, {200, 200, 100}} {
		var sum, divisor uint32
		for _, w := range weights {
			sum += w
			for a := w; a != 0; {
				divisor, a = a, divisor%a
			}
		}
		counts := make([]uint32, len(weights))
		for _, i := range smooth(weights) {
			counts[i]++
		}
		for i, w := range weights {
			if counts[i]*divisor != w {
				t.Errorf("weights %v: endpoint %d has %d turns of %d", weights, i, counts[i], sum/divisor)
			}
		}
	}
}

func TestScheduleIsBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		weights := make([]uint32, 1+r.IntN(300))
		for i := range weights {
			weights[i] = r.Uint32N(mostWeight)
		}
		weights[0]++
		schedule := smooth(weights)
		if most := max(maxSchedule, len(weights)) + len(weights); len(schedule) == 0 || len(schedule) > most {
			t.Fatalf("%d endpoints: %d turns, at most %d wanted", len(weights), len(schedule), most)
		}
		served := map[uint16]bool{}
		for _, i := range schedule {
			served[i] = true
		}
		for i, w := range weights {
			if served[uint16(i)] != (w > 0) {
				t.Errorf("endpoint %d of weight %d: served %v", i, w, served[uint16(i)])
			}
		}
	}
}

func TestAllZero(t *testing.T) {
	checkShares(t, "random", draws(weighted(Random, 0, 0, 0), 9_000), []float64{1, 1, 1})
	cl := weighted(RoundRobin, 0, 0, 0)
	checkShares(t, "round robin", draws(cl, 100), []float64{1, 0, 0})
	if e := cl.Pick(cl.Endpoints[:1]); e == nil || e == cl.Endpoints[0] {
		t.Errorf("with the first one tried: %v", e)
	}
}

func TestLeastRequest(t *testing.T) {
	cl := weighted(LeastRequest, 100, 100, 100)
	checkShares(t, "idle", draws(cl, 10_000), []float64{1, 1, 1})
	cl.Endpoints[0].Peer.InFlight.Store(10)
	counts := draws(cl, 10_000)
	if counts[0] != 0 {
		t.Errorf("the busiest of three got %v of 10000", counts[0])
	}
	// calls that never end spread in proportion to the weights
	cl = weighted(LeastRequest, 300, 100)
	r := rand.New(rand.NewPCG(5, 6))
	for range 400 {
		cl.pick(nil, r.Uint64N).Peer.InFlight.Add(1)
	}
	if a, b := cl.Endpoints[0].Peer.InFlight.Load(), cl.Endpoints[1].Peer.InFlight.Load(); a < 290 || a > 310 || a+b != 400 {
		t.Errorf("300:100 shared 400 calls %d:%d", a, b)
	}
}

// With more choices the least busy of more endpoints is found.
func TestLeastRequestChoices(t *testing.T) {
	busiest := func(choices int) (calls float64) {
		cl := weighted(LeastRequest, 100, 100, 100, 100)
		cl.spec = &ClusterSpec{Choices: choices}
		for i, e := range cl.Endpoints {
			e.Peer.InFlight.Store(int64(i))
		}
		counts := draws(cl, 10_000)
		if counts[3] > 0 {
			t.Errorf("%d choices: the busiest got %v of 10000", choices, counts[3])
		}
		return float64(counts[0])
	}
	two := busiest(0)
	checkShares(t, "two choices", []float64{two, 10_000 - two}, []float64{1, 1}) // the pairs with the first one: 3 of 6
	if same := busiest(2); math.Abs(same-two) > 300 {
		t.Errorf("2 choices are not the default: %v, %v", same, two)
	}
	if five, most := busiest(5), busiest(1<<30); five < two+1000 || most < 9900 {
		t.Errorf("the least busy got %v of 10000 with 2 choices, %v with 5, %v with the most", two, five, most)
	}
}

func TestPickPrefersUsablePeers(t *testing.T) {
	for _, p := range []Policy{Random, RoundRobin, LeastRequest} {
		t.Run(p.String(), func(t *testing.T) {
			cl := weighted(p, 100, 100, 100, 0)
			a, b, c := cl.Endpoints[0], cl.Endpoints[1], cl.Endpoints[2]
			a.Peer.Readonly(true)
			b.Peer.Failed(time.Now())
			for range 50 {
				if e := cl.Pick(nil); e != c {
					t.Fatalf("picked %s beside a usable one", e.Peer.Addr)
				}
				if e := cl.Pick([]*Endpoint{c}); e != b {
					t.Fatalf("picked %s, the avoided one comes before the readonly one", e.Peer.Addr)
				}
				if e := cl.Pick([]*Endpoint{c, b}); e != a {
					t.Fatalf("picked %v, the readonly one is all that is left", e)
				}
				if e := cl.Pick([]*Endpoint{c, b, a}); e != nil {
					t.Fatalf("picked %s, which has weight 0", e.Peer.Addr)
				}
			}
			// the same providers in a newer snapshot were tried too
			newer := &Endpoint{Peer: c.Peer}
			if e := cl.Pick([]*Endpoint{newer}); e != b {
				t.Errorf("picked %s, which was tried in an older snapshot", e.Peer.Addr)
			}
		})
	}
	one := weighted(Random, 0)
	one.Endpoints[0].Peer.Readonly(true)
	if one.Pick(nil) == nil {
		t.Error("a readonly peer emptied a cluster of one")
	}
	if one.Pick(one.Endpoints) != nil {
		t.Error("a tried endpoint was picked")
	}
	if weighted(Random).Pick(nil) != nil {
		t.Error("an empty cluster gave an endpoint")
	}
}

func TestPeerIsAvoidedLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer("10.0.0.1:20880")
		for n, most := range []time.Duration{500, 1000, 2000, 4000, 8000, 10000, 10000} {
			most *= time.Millisecond
			p.Failed(time.Now())
			p.Failed(time.Now()) // of many calls at once only one counts
			if got := p.rank(); got != avoided {
				t.Fatalf("failure %d: %v", n+1, got)
			}
			time.Sleep(most * 3 / 4)
			if got := p.rank(); got != avoided {
				t.Errorf("failure %d: %v after %v", n+1, got, most*3/4)
			}
			time.Sleep(most / 4)
			if got := p.rank(); got != usable {
				t.Errorf("failure %d: %v after %v", n+1, got, most)
			}
		}
		p.Failed(time.Now())
		p.Succeeded()
		if got := p.rank(); got != usable {
			t.Errorf("after success: %v", got)
		}
		p.Failed(time.Now())
		time.Sleep(avoidFirst)
		if got := p.rank(); got != usable {
			t.Errorf("success did not reset the time: %v", got)
		}
	})
}

func TestParsePolicy(t *testing.T) {
	for _, name := range []string{"random", "roundrobin", "leastactive"} {
		if p, ok := ParsePolicy(name); !ok || p.String() != name {
			t.Errorf("%s: %v, %v", name, p, ok)
		}
	}
	if p, ok := ParsePolicy("consistenthash"); ok || p != Random {
		t.Errorf("unknown name: %v, %v", p, ok)
	}
}
