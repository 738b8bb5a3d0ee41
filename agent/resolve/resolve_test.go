package resolve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone answers as it is told.
type zone struct {
	mu      sync.Mutex
	hosts   map[string]string // addresses between blanks; "!" and a text: that error; "": no such host; "…": no answer
	asked   map[string]int
	now, at int // look-ups that run, and the most at a time
	slow    time.Duration
}

func (z *zone) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	value := z.hosts[host]
	z.asked[network+" "+host]++
	z.now++
	z.at = max(z.at, z.now)
	z.mu.Unlock()
	defer func() {
		z.mu.Lock()
		z.now--
		z.mu.Unlock()
	}()
	if value == "…" {
		<-ctx.Done()
		return nil, &net.DNSError{Err: ctx.Err().Error(), Name: host, IsTimeout: true}
	}
	time.Sleep(z.slow)
	if text, fails := strings.CutPrefix(value, "!"); fails {
		return nil, errors.New(text)
	}
	if value == "" {
		return nil, &net.DNSError{Err: "no such host", Name: host, Server: "192.0.2.53:53", IsNotFound: true}
	}
	var list []netip.Addr
	for text := range strings.FieldsSeq(value) {
		a := netip.MustParseAddr(text)
		if network == "ip4" && !a.Unmap().Is4() || network == "ip6" && a.Unmap().Is4() {
			continue
		}
		list = append(list, a)
	}
	return list, nil
}

func (z *zone) set(host, addresses string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.hosts[host] = addresses
}

func (z *zone) count(question string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[question]
}

// scripted is a source of rules that says what the test sends.
type scripted struct {
	in       chan route.RuleUpdate
	services []registry.Service
}

func (s *scripted) Run(ctx context.Context, ch chan<- route.RuleUpdate) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-s.in:
			select {
			case <-ctx.Done():
			case ch <- u:
			}
		}
	}
}

func (s *scripted) SetServices(set []registry.Service) { s.services = set }

// bench is a running source and what it has told.
type bench struct {
	*testing.T
	zone
	rules     scripted
	out       chan route.RuleUpdate
	endpoints map[string]*route.EndpointSet
	updates   []route.RuleUpdate
}

func run(t *testing.T, f func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{
			T: t, zone: zone{hosts: map[string]string{}, asked: map[string]int{}}, rules: scripted{in: make(chan route.RuleUpdate)},
			out: make(chan route.RuleUpdate, 100), endpoints: map[string]*route.EndpointSet{},
		}
		s := New(Options{Rules: &b.rules, Resolver: &b.zone})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, b.out) }()
		f(b)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.SetServices([]registry.Service{{Interface: "a.B"}})
		if len(b.rules.services) != 1 {
			t.Error("the source was not told which services are wanted")
		}
	})
}

// settle takes what was told when nothing happens any more, and how many updates.
func (b *bench) settle() int {
	synctest.Wait()
	n := 0
	for {
		select {
		case u := <-b.out:
			n++
			b.updates = append(b.updates, u)
			for name, set := range u.Endpoints {
				b.endpoints[name] = set
			}
			continue
		default:
		}
		return n
	}
}

// is checks the endpoints of a cluster: "address*weight=host" between blanks, "?"
// for not known, and what is wrong with them behind a "!".
func (b *bench) is(cluster, want string) {
	b.Helper()
	if got := text(b.endpoints[cluster]); got != want {
		b.Errorf("%s is %s\nwant %s", cluster, got, want)
	}
}

func text(set *route.EndpointSet) string {
	if set == nil {
		return "?"
	}
	var parts []string
	for _, l := range set.Localities {
		for _, e := range l.Endpoints {
			one := fmt.Sprintf("%s*%d", e.Address, e.Weight)
			if e.Host != "" {
				one += "=" + e.Host
			}
			parts = append(parts, one)
		}
	}
	for _, line := range set.Unsupported {
		parts = append(parts, "! "+line)
	}
	return strings.Join(parts, " ")
}

func set(endpoints ...string) *route.EndpointSet {
	l := route.LocalitySpec{Zone: "z", Priority: 1, Weight: 3}
	for _, e := range endpoints {
		l.Endpoints = append(l.Endpoints, route.EndpointSpec{Address: e, Weight: 7})
	}
	return &route.EndpointSet{Localities: []route.LocalitySpec{l}, Overprovisioning: 120}
}

func change(name string, spec *route.ClusterSpec, endpoints *route.EndpointSet) route.RuleUpdate {
	return route.RuleUpdate{
		Source: "xds", Synced: true, Clusters: map[string]*route.ClusterSpec{name: spec}, Endpoints: map[string]*route.EndpointSet{name: endpoints},
	}
}

func every(d time.Duration) *route.ClusterSpec { return &route.ClusterSpec{Resolve: d} }

func TestNamesBecomeAddresses(t *testing.T) {
	run(t, func(b *bench) {
		b.set("one", "10.0.0.2 10.0.0.1 10.0.0.2")
		b.set("two", "10.0.1.1")
		b.slow = time.Second
		given := change("c", every(10*time.Second), set("one:80", "10.0.9.9:81", "[::1]:82", "two:83"))
		given.Routes = map[string]*route.RouteSpec{"r": {Name: "r"}}
		b.rules.in <- given
		b.settle()
		b.is("c", "?")
		if first := b.updates[0]; first.Clusters["c"] == nil || first.Routes["r"] == nil || !first.Synced || len(first.Endpoints) != 1 {
			t.Errorf("the rest was not handed on: %+v", first)
		}
		if given.Endpoints["c"] == nil {
			t.Error("the source's own map was changed")
		}
		time.Sleep(2 * time.Second)
		b.settle()
		b.is("c", "10.0.0.1:80*7=one 10.0.0.2:80*7=one 10.0.9.9:81*7 [::1]:82*7 10.0.1.1:83*7=two")
		if s := b.endpoints["c"]; s.Overprovisioning != 120 || s.Localities[0].Zone != "z" || s.Localities[0].Priority != 1 || s.Localities[0].Weight != 3 {
			t.Errorf("the locality is %+v", s)
		}
		if last := b.updates[len(b.updates)-1]; !last.Synced || last.Source != "xds" || last.Clusters != nil || last.Routes != nil {
			t.Errorf("a look-up told more than endpoints: %+v", last)
		}

		// The next look-up comes after the interval and at most a tenth more; the same
		// answer is nothing to tell.
		b.slow = 0
		time.Sleep(9 * time.Second)
		if b.settle(); b.count("ip one") != 1 {
			t.Error("looked up too early")
		}
		time.Sleep(2 * time.Second)
		if n := b.settle(); n != 0 || b.count("ip one") != 2 {
			t.Errorf("%d updates, %d look-ups", n, b.count("ip one"))
		}
		b.set("one", "10.0.0.3 ::ffff:10.0.0.4")
		time.Sleep(11 * time.Second)
		if n := b.settle(); n != 1 {
			t.Errorf("%d updates", n)
		}
		b.is("c", "10.0.0.3:80*7=one 10.0.0.4:80*7=one 10.0.9.9:81*7 [::1]:82*7 10.0.1.1:83*7=two")
	})
}

func TestLastAddressesStayWhileDNSFails(t *testing.T) {
	run(t, func(b *bench) {
		b.set("one", "10.0.0.1")
		b.set("gone", "")
		b.rules.in <- change("c", every(time.Second), set("one:80", "gone:80"))
		b.settle()
		b.is("c", "10.0.0.1:80*7=one ! host gone cannot be looked up (no such host), it has no endpoints")

		told := 0
		for _, failure := range []string{"!refused", "!other", "", "…"} {
			b.set("one", failure)
			time.Sleep(10 * time.Second)
			told += b.settle()
		}
		b.is("c", "10.0.0.1:80*7=one ! host one cannot be looked up (refused), its last addresses are used ! host gone cannot be looked up (no such host), it has no endpoints")
		if told != 1 {
			t.Errorf("said %d times", told)
		}
		b.set("one", "10.0.0.1")
		b.set("gone", "10.0.0.7")
		time.Sleep(10 * time.Second)
		b.settle()
		b.is("c", "10.0.0.1:80*7=one 10.0.0.7:80*7=gone")
	})
}

func TestNothingIsToldBeforeEachNameWasTried(t *testing.T) {
	run(t, func(b *bench) {
		b.set("one", "10.0.0.1")
		b.set("slow", "…")
		b.set("more", "…")
		b.rules.in <- change("c", every(time.Minute), set("one:80", "slow:80"))
		time.Sleep(patience - time.Millisecond)
		b.settle()
		b.is("c", "?")
		time.Sleep(2 * time.Millisecond)
		b.settle()
		b.is("c", "10.0.0.1:80*7=one ! host slow cannot be looked up (no answer in time), it has no endpoints")

		// What was told serves until a name that came was tried.
		b.rules.in <- change("c", every(time.Minute), set("more:80"))
		b.settle()
		b.is("c", "10.0.0.1:80*7=one ! host slow cannot be looked up (no answer in time), it has no endpoints")
		time.Sleep(patience)
		b.settle()
		b.is("c", "! host more cannot be looked up (no answer in time), it has no endpoints")
	})
}

func TestNamesEndWithTheirClusters(t *testing.T) {
	run(t, func(b *bench) {
		b.set("one", "10.0.0.1")
		// The cluster and its endpoints come in any order.
		b.rules.in <- route.RuleUpdate{Endpoints: map[string]*route.EndpointSet{"c": set("one:80")}}
		b.settle()
		b.is("c", "one:80*7") // its cluster is not there
		b.rules.in <- route.RuleUpdate{Clusters: map[string]*route.ClusterSpec{"c": every(time.Second)}}
		b.settle()
		b.is("c", "10.0.0.1:80*7=one")
		b.rules.in <- change("d", every(time.Millisecond), set("one:81"))
		b.settle()
		b.is("d", "10.0.0.1:81*7=one")

		// One look-up serves both clusters, and not more often than once a second.
		before := b.count("ip one")
		time.Sleep(10 * time.Second)
		if n := b.count("ip one") - before; n < 8 || n > 11 {
			t.Errorf("%d look-ups in 10 s", n)
		}
		b.set("one", "10.0.0.2")
		time.Sleep(2 * time.Second)
		if n := b.settle(); n != 1 {
			t.Errorf("%d updates for one change", n)
		}
		b.is("c", "10.0.0.2:80*7=one")
		b.is("d", "10.0.0.2:81*7=one")

		b.rules.in <- change("c", &route.ClusterSpec{}, set("10.0.0.5:80"))
		b.settle()
		b.is("c", "10.0.0.5:80*7")
		b.rules.in <- change("d", nil, nil)
		b.settle()
		b.is("d", "?")
		before = b.count("ip one")
		time.Sleep(time.Minute)
		if n := b.settle(); n != 0 || b.count("ip one") != before {
			t.Errorf("%d updates, %d look-ups for nobody", n, b.count("ip one")-before)
		}
	})
}

func TestFamilies(t *testing.T) {
	for family, want := range map[route.Family]string{
		route.AutoFamily:    "[2001:db8::1]:80*7=both 10.0.0.2:80*7=four",
		route.IPv4Only:      "10.0.0.1:80*7=both 10.0.0.2:80*7=four",
		route.IPv6Only:      "[2001:db8::1]:80*7=both ! host four cannot be looked up (no address), it has no endpoints",
		route.IPv4Preferred: "10.0.0.1:80*7=both 10.0.0.2:80*7=four",
		route.BothFamilies:  "10.0.0.1:80*7=both [2001:db8::1]:80*7=both 10.0.0.2:80*7=four",
	} {
		run(t, func(b *bench) {
			b.set("both", "2001:db8::1 10.0.0.1")
			b.set("four", "10.0.0.2")
			b.rules.in <- change("c", &route.ClusterSpec{Resolve: time.Second, Family: family}, set("both:80", "four:80"))
			b.settle()
			b.is("c", want)
		})
	}
}

func TestLookupsAreBounded(t *testing.T) {
	run(t, func(b *bench) {
		b.slow = time.Second
		u := route.RuleUpdate{Clusters: map[string]*route.ClusterSpec{}, Endpoints: map[string]*route.EndpointSet{}}
		for i := range mostNames + 1 {
			host := fmt.Sprintf("h%d", i)
			b.set(host, "10.0.0.1")
			u.Clusters[host], u.Endpoints[host] = every(time.Hour), set(host+":80")
		}
		b.rules.in <- u
		for range mostNames/mostAtOnce + 1 {
			time.Sleep(time.Second)
			b.settle()
		}
		if b.at != mostAtOnce {
			t.Errorf("%d look-ups at a time", b.at)
		}
		const over = "is not looked up: there are more than 4096 names"
		var left []string
		for name, s := range b.endpoints {
			switch got := text(s); {
			case strings.HasSuffix(got, over):
				left = append(left, name)
			case got != "10.0.0.1:80*7="+name:
				t.Fatalf("%s is %s", name, got)
			}
		}
		if len(left) != 1 || len(b.endpoints) != mostNames+1 {
			t.Errorf("%d clusters, left out %v", len(b.endpoints), left)
		}
		b.rules.in <- route.RuleUpdate{Clusters: map[string]*route.ClusterSpec{"x": nil}, Endpoints: maps.Collect(func(yield func(string, *route.EndpointSet) bool) {
			for _, name := range slices.Sorted(maps.Keys(u.Clusters)) {
				if !yield(name, nil) {
					return
				}
			}
		})}
		b.settle()
	})
}
