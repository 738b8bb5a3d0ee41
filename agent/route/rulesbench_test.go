package route

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// feed is a source of rules that a test feeds.
type feed struct {
	updates chan RuleUpdate
	wanted  atomic.Pointer[[]registry.Service]
}

func (f *feed) Run(ctx context.Context, ch chan<- RuleUpdate) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-f.updates:
			ch <- u
		}
	}
}

func (f *feed) SetServices(set []registry.Service) { f.wanted.Store(&set) }

func cancelled(t *testing.T) (context.Context, func()) { return context.WithCancel(t.Context()) }

func newBalancePointer(b *balance) *atomic.Pointer[balance] {
	p := new(atomic.Pointer[balance])
	p.Store(b)
	return p
}

// ruledFleet is n services with a route and a cluster of ten endpoints each.
func ruledFleet(n int) (RuleUpdate, []Caller) {
	u := RuleUpdate{Source: "xds", Synced: true, Routes: map[string]*RouteSpec{}, Clusters: map[string]*ClusterSpec{}, Endpoints: map[string]*EndpointSet{}}
	var callers []Caller
	for i := range n {
		iface := fmt.Sprintf("com.example.shop.inventory.api.service%dfacade", i)
		name := "outbound|20882||" + iface
		u.Clusters[name] = &ClusterSpec{Name: name, Policy: LeastRequest, Outlier: &Outlier{Consecutive: 5, MaxEjectionPercent: 10}}
		u.Endpoints[name] = fleetEndpoints(i, 10)
		u.Routes[iface] = &RouteSpec{Name: iface, Hosts: []string{iface}, Routes: []RouteRule{split(name, 100)}}
		callers = append(callers, Caller{Application: "app", Service: registry.Service{Interface: iface}})
	}
	return u, callers
}

func fleetEndpoints(i, n int) *EndpointSet {
	l := LocalitySpec{Zone: "a"}
	for k := range n {
		l.Endpoints = append(l.Endpoints, EndpointSpec{Address: fmt.Sprintf("10.%d.%d.%d:20882", i/250, i%250, k+1), Weight: 1})
	}
	return &EndpointSet{Localities: []LocalitySpec{l}}
}

// 10 000 clusters with 100 000 endpoints, from nothing to the first snapshot.
func BenchmarkRulesCompile(b *testing.B) {
	u, callers := ruledFleet(10_000)
	var before, after runtime.MemStats
	var c *compiler
	for b.Loop() {
		c = nil
		runtime.GC()
		runtime.ReadMemStats(&before)
		c = newCompiler(rulesFor(FromXDS))
		c.setCallers(callers)
		c.rules.update(u, time.Now())
		c.compile(time.Now())
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
	cl := c.snapshot.Outbound.find("com.example.shop.inventory.api.service77facade", "", "")
	if to, _ := cl.Routes().Find(nil, nil).Choose(); len(to.Endpoints) != 10 {
		b.Fatal("not compiled")
	}
}

// One endpoint of one of 10 000 clusters changes.
func BenchmarkRulesChange(b *testing.B) {
	u, callers := ruledFleet(10_000)
	c := newCompiler(rulesFor(FromXDS))
	c.setCallers(callers)
	c.rules.update(u, time.Now())
	c.compile(time.Now())
	const name = "outbound|20882||com.example.shop.inventory.api.service77facade"
	sets := [2]*EndpointSet{fleetEndpoints(77, 9), fleetEndpoints(77, 10)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.rules.update(RuleUpdate{Source: "xds", Endpoints: map[string]*EndpointSet{name: sets[i%2]}}, time.Now())
		c.compile(time.Now())
	}
}

// The second's look at what time changes, with 10 000 clusters.
func BenchmarkRulesTick(b *testing.B) {
	u, callers := ruledFleet(10_000)
	c := newCompiler(rulesFor(FromXDS))
	c.setCallers(callers)
	c.rules.update(u, time.Now())
	now := time.Now()
	c.compile(now)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Second)
		c.tick(now)
		c.compile(now)
	}
}

func BenchmarkRulesRoute(b *testing.B) {
	u, callers := ruledFleet(10_000)
	c := newCompiler(rulesFor(FromXDS))
	c.setCallers(callers)
	c.rules.update(u, time.Now())
	c.compile(time.Now())
	path, method := []byte("com.example.shop.inventory.api.service77facade"), []byte("find")
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			route, _ := c.snapshot.Outbound.Lookup(path, nil).Only().Routes().ByMethod(method)
			cl, _ := route.Choose()
			if cl.Pick(nil) == nil {
				b.Fail()
			}
		}
	})
}
