package route

import (
	"fmt"
	"testing"
	"time"
)

// fleet is a compiler with n services of 10 providers each.
func fleet(t testing.TB, n int, params string) (*compiler, *Snapshot) {
	t.Helper()
	c := newCompiler(Options{})
	for i := range n {
		c.update(fleetUpdate(t, i, 10, params))
	}
	s, _ := c.compile(time.Now())
	return c, s
}

func fleetUpdate(t testing.TB, i, providers int, params string) Update {
	iface := fmt.Sprintf("com.example.shop.inventory.api.Service%dFacade", i)
	u := ready(iface)
	for p := range providers {
		u.Providers = append(u.Providers, ifaceLevel(t, fmt.Sprintf("dubbo://10.0.%d.%d:20880/%s?application=stock&deprecated=false&dubbo=2.0.2&dynamic=true&generic=false&group=g1&interface=%[3]s&methods=sayHello,find,list&prefer.serialization=fastjson2,hessian2&release=3.2.16&revision=1.0.0&service-name-mapping=true&side=provider&timestamp=1700000000000&version=1.0.0%s", p/250, p%250, iface, params)))
	}
	return u
}

var (
	benchPath    = []byte("com.example.shop.inventory.api.Service77Facade")
	benchVersion = []byte("1.0.0")
	benchGroup   = []byte("g1")
	benchMethod  = []byte("find")
)

// A request takes no lock and allocates nothing, whatever the policy and
// whatever is tried or unusable.
func TestRoutingAllocatesNothing(t *testing.T) {
	for _, policy := range []string{"random", "roundrobin", "leastactive"} {
		_, s := fleet(t, 100, "&timeout=1000&loadbalance="+policy)
		cl := s.Outbound.Lookup(benchPath, benchVersion).Group(benchGroup)
		cl.Endpoints[1].Peer.Readonly(true)
		cl.Endpoints[2].Peer.Failed(time.Now().Add(time.Hour))
		tried := make([]*Endpoint, 0, 3)
		var sum time.Duration
		if n := testing.AllocsPerRun(1000, func() {
			v := s.Outbound.Lookup(benchPath, benchVersion)
			cl := v.Only()
			if v.Group(benchGroup) != cl {
				panic("another cluster")
			}
			tried = tried[:0]
			for range 3 {
				e := cl.Pick(tried)
				e.Peer.InFlight.Add(1)
				e.Peer.Succeeded()
				tried = append(tried, e)
				e.Peer.InFlight.Add(-1)
			}
			sum += cl.Timeout("app", benchMethod)
			cl.Stats.Request(1)
			cl.Stats.Observe(time.Millisecond)
			cl.Stats.Fail(Lost)
			if s.Outbound.Lookup(benchMethod, nil) != nil {
				panic("found")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per request", policy, n)
		}
	}
}

func BenchmarkRoute(b *testing.B) {
	for _, policy := range []string{"random", "roundrobin", "leastactive"} {
		_, s := fleet(b, 10_000, "&loadbalance="+policy)
		b.Run(policy, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if s.Outbound.Lookup(benchPath, benchVersion).Only().Pick(nil) == nil {
						b.Fail()
					}
				}
			})
		})
	}
}

// One of 10 000 services changes.
func BenchmarkChange(b *testing.B) {
	c, _ := fleet(b, 10_000, "")
	updates := [2]Update{fleetUpdate(b, 77, 10, ""), fleetUpdate(b, 77, 9, "")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.update(updates[i%2])
		c.compile(time.Now())
	}
}

// One service with 1 000 providers changes.
func BenchmarkChangeOfLargeService(b *testing.B) {
	for _, policy := range []string{"random", "roundrobin"} {
		b.Run(policy, func(b *testing.B) {
			c := newCompiler(Options{})
			updates := [2]Update{fleetUpdate(b, 77, 1000, "&loadbalance="+policy), fleetUpdate(b, 77, 999, "&loadbalance="+policy)}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.update(updates[i%2])
				c.compile(time.Now())
			}
		})
	}
}

// 1 000 clusters of 10 endpoints get new weights, as during a deployment.
func BenchmarkGrow(b *testing.B) {
	c := newCompiler(Options{})
	for i := range 1000 {
		c.update(fleetUpdate(b, i, 10, ""))
	}
	began := time.UnixMilli(1_700_000_000_000)
	c.compile(began)
	b.ReportAllocs()
	for b.Loop() {
		c.grow(began.Add(time.Minute))
	}
	if len(c.warming) != 1000 {
		b.Fatalf("%d clusters warm up", len(c.warming))
	}
}
