package xdsclient

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// dialogue is a server that does what bytes say, and what the client delivered of it.
type dialogue struct {
	t     *testing.T
	delta bool
	c     *core
	st    *stream
	now   time.Time
	nonce int
	has   map[string]map[string]proto.Message // by type and name
	sent  map[string]map[string]bool          // on this stream, incrementally

	clusters  map[string]*Cluster
	routes    map[string]*Route
	listeners map[string]*Listener
}

func newDialogue(t *testing.T, wildcard, delta bool) *dialogue {
	o, err := Options{Servers: []Server{{Address: "x"}}, Node: &corev3.Node{Id: "x"}, Wildcard: wildcard, Delta: delta}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	d := &dialogue{
		t: t, delta: delta, c: newCore(o), now: time.Unix(1_700_000_000, 0), has: map[string]map[string]proto.Message{},
		clusters: map[string]*Cluster{}, routes: map[string]*Route{}, listeners: map[string]*Listener{},
	}
	for _, url := range []string{ClusterURL, EndpointURL, ListenerURL, RouteURL} {
		d.has[url] = map[string]proto.Message{}
	}
	d.up()
	if !wildcard {
		d.c.setListeners([]string{"l0", "l1"}, d.now)
	}
	d.settle()
	return d
}

func (d *dialogue) up() {
	if d.st != nil {
		d.c.down(d.st, 0, d.now)
	}
	d.st = &stream{delta: d.delta, nodeValue: d.c.o.Node, types: map[string]*streamType{}, wake: make(chan struct{}, 1)}
	d.sent = map[string]map[string]bool{ClusterURL: {}, EndpointURL: {}, ListenerURL: {}, RouteURL: {}}
	d.c.up(d.st)
	d.settle()
}

// settle takes what the client writes and delivers, and checks what must always hold.
func (d *dialogue) settle() {
	for _, out := range d.st.next() {
		if out.adds {
			d.c.sent(d.st, out.url, d.now)
		}
		if m, ok := out.m.(*discoveryv3.DeltaDiscoveryRequest); ok {
			if m.GetResponseNonce() != "" && len(m.GetResourceNamesSubscribe())+len(m.GetResourceNamesUnsubscribe()) > 0 {
				d.t.Error("an answer changes what is asked for")
			}
			for name := range m.GetInitialResourceVersions() {
				d.sent[out.url][name] = true
			}
			for _, name := range m.GetResourceNamesUnsubscribe() {
				delete(d.sent[out.url], name)
			}
		}
	}
	d.c.expire(d.now)
	d.c.settle(d.now)
	u := d.c.pending
	d.c.pending = Update{}
	apply(d.clusters, u.Clusters)
	apply(d.routes, u.Routes)
	apply(d.listeners, u.Listeners)
	for name, c := range d.clusters {
		if c.Endpoints == nil {
			d.t.Fatalf("cluster %s without endpoints", name)
		}
	}
	held := 0
	for _, r := range d.c.stage.routes {
		held += len(r.held)
	}
	for _, l := range d.c.stage.listeners {
		if l.held != nil {
			held++
		}
	}
	if held != d.c.stage.holds {
		d.t.Fatalf("%d wait, %d are counted", held, d.c.stage.holds)
	}
	for k, n := range d.c.stage.want {
		if n <= 0 {
			d.t.Fatalf("%v is wanted %d times", k, n)
		}
	}
}

func apply[T any](into, from map[string]*T) {
	for k, v := range from {
		if into[k] = v; v == nil {
			delete(into, k)
		}
	}
}

// send tells everything of a type that was asked for, or the names of a mask, with
// something bad among it if spoil says so.
func (d *dialogue) send(url string, mask, spoil byte) {
	t := d.c.types[url]
	if d.st.types[url] == nil || !d.st.types[url].asked {
		return
	}
	d.nonce++
	nonce := fmt.Sprint("n", d.nonce)
	var list []*anypb.Any
	var names []string
	wanted := slices.Sorted(maps.Keys(d.has[url]))
	for i, name := range wanted {
		if !t.wants(name) || url != ClusterURL && url != ListenerURL && mask&(1<<i) == 0 {
			continue
		}
		list, names = append(list, xdstest.Any(d.has[url][name])), append(names, name)
	}
	switch {
	case spoil == 1 && len(list) > 0: // the same name twice
		list, names = append(list, list[0]), append(names, names[0])
	case spoil == 2 && len(list) > 0: // bytes that cannot be read, behind the name
		list[0] = &anypb.Any{TypeUrl: url, Value: append(slices.Clone(list[0].GetValue()), 0xff)}
	case spoil == 3: // what was not asked for
		list, names = append(list, xdstest.Any(map[string]proto.Message{
			ClusterURL: xdstest.Cluster("strange"), EndpointURL: xdstest.Endpoints("strange"), ListenerURL: xdstest.Listener("strange", "r0"), RouteURL: xdstest.Routes("strange"),
		}[url])), append(names, "strange")
	}
	if !d.delta {
		d.c.response(d.st, &discoveryv3.DiscoveryResponse{TypeUrl: url, VersionInfo: nonce, Nonce: nonce, Resources: list}, d.now)
		d.settle()
		return
	}
	m := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: nonce}
	for i, a := range list {
		m.Resources = append(m.Resources, &discoveryv3.Resource{Name: names[i], Version: nonce, Resource: a})
		d.sent[url][names[i]] = true
	}
	for name := range d.sent[url] {
		if d.has[url][name] == nil && name != "strange" || name == "strange" && spoil != 3 {
			m.RemovedResources = append(m.RemovedResources, name)
			delete(d.sent[url], name)
		}
	}
	for name := range t.names { // asked for, and not there
		if d.has[url][name] == nil && mask&1 != 0 {
			m.RemovedResources = append(m.RemovedResources, name)
		}
	}
	d.c.deltaResponse(d.st, m, d.now)
	d.settle()
}

func (d *dialogue) pass(t time.Duration) {
	d.now = d.now.Add(t)
	d.settle()
}

// step does one thing.
func (d *dialogue) step(op, a, b byte) {
	name := func(kind string, n byte) string { return fmt.Sprint(kind, n) }
	switch op % 12 {
	case 0:
		n := name("c", a%3)
		c := xdstest.Cluster(n)
		c.LbPolicy = clusterv3.Cluster_LbPolicy(b % 3)
		if b&4 != 0 {
			c.ClusterDiscoveryType, c.EdsClusterConfig = nil, nil
			c.LoadAssignment = xdstest.Endpoints(n, fmt.Sprintf("10.0.0.%d:1", b))
		}
		if b&8 != 0 {
			c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{ServiceName: name("s", b%2)}
		}
		d.has[ClusterURL][n] = c
	case 1:
		delete(d.has[ClusterURL], name("c", a%3))
	case 2:
		n := name("c", a%3)
		if b&16 != 0 {
			n = name("s", a%2)
		}
		var list []string
		for i := range b % 4 {
			list = append(list, fmt.Sprintf("10.%d.0.%d:1", b, i))
		}
		d.has[EndpointURL][n] = xdstest.Endpoints(n, list...)
		if b&32 != 0 {
			delete(d.has[EndpointURL], n)
		}
	case 3:
		n := name("r", a%2)
		var hosts []*routev3.VirtualHost
		for i := range b % 3 {
			to := []string{name("c", b>>2%4)} // c3 is never there
			if b&64 != 0 {
				to = append(to, name("c", b>>4%3))
			}
			v := xdstest.VirtualHost(name("h", i), to...)
			if b&128 != 0 {
				v.Name += "-renamed"
			}
			hosts = append(hosts, v)
		}
		d.has[RouteURL][n] = xdstest.Routes(n, hosts...)
	case 4:
		delete(d.has[RouteURL], name("r", a%2))
	case 5:
		n := name("l", a%2)
		d.has[ListenerURL][n] = xdstest.Listener(n, name("r", b%2))
		if b&2 != 0 {
			delete(d.has[ListenerURL], n)
		}
	case 6:
		d.send(ClusterURL, 0xff, a%8)
	case 7:
		d.send(EndpointURL, a, b%8)
	case 8:
		d.send(ListenerURL, 0xff, a%8)
	case 9:
		d.send(RouteURL, a, b%8)
	case 10:
		d.pass(time.Duration(a) * 100 * time.Millisecond)
	case 11:
		if a%4 == 0 {
			d.up()
		}
	}
}

// finish has a server that answers everything well, until nothing changes.
func (d *dialogue) finish() {
	d.up()
	for range 6 {
		for _, url := range []string{ClusterURL, EndpointURL, ListenerURL, RouteURL, EndpointURL} {
			d.send(url, 0xff, 0)
		}
		d.pass(time.Second)
	}
	for range 4 {
		d.pass(20 * time.Second)
		d.send(EndpointURL, 0xff, 0)
	}
}

// check compares what was delivered with what the server has.
func (d *dialogue) check(wildcard bool) {
	d.t.Helper()
	if !d.c.ready || d.c.stage.holds != 0 {
		d.t.Fatalf("ready %v, %d wait", d.c.ready, d.c.stage.holds)
	}
	if got, want := slices.Sorted(maps.Keys(d.listeners)), slices.Sorted(maps.Keys(d.has[ListenerURL])); !slices.Equal(got, want) {
		d.t.Fatalf("listeners %v, want %v", got, want)
	}
	named := map[string]bool{} // clusters
	routes := map[string]bool{}
	for name, l := range d.listeners {
		if !proto.Equal(l.Config, d.has[ListenerURL][name]) {
			d.t.Fatalf("listener %s is %v", name, l.Config)
		}
		for _, r := range l.Routes {
			if d.has[RouteURL][r] != nil {
				routes[r] = true
			}
		}
	}
	for name := range routes {
		want := d.has[RouteURL][name].(*routev3.RouteConfiguration)
		got := d.routes[name]
		if got == nil || len(got.Hosts) != len(want.GetVirtualHosts()) {
			d.t.Fatalf("route %s is %+v, want %v", name, got, want)
		}
		for i, v := range got.Hosts {
			if !proto.Equal(v.Config, want.GetVirtualHosts()[i]) {
				d.t.Fatalf("virtual host %v, want %v", v.Config, want.GetVirtualHosts()[i])
			}
			for _, c := range v.Clusters {
				named[c] = true
			}
		}
	}
	for name, r := range d.routes {
		if !routes[name] && d.has[RouteURL][name] != nil {
			d.t.Fatalf("route %s is delivered and nothing refers to it: %+v", name, r)
		}
		for _, v := range r.Hosts { // of a route that the server does not have any more and a listener names
			for _, c := range v.Clusters {
				named[c] = true
			}
		}
	}
	for name, c := range d.clusters {
		want, there := d.has[ClusterURL][name].(*clusterv3.Cluster)
		if !there {
			if !c.Orphan || !named[name] {
				d.t.Fatalf("cluster %s is delivered, orphan %v, named %v", name, c.Orphan, named[name])
			}
			continue
		}
		if !wildcard && !named[name] {
			d.t.Fatalf("cluster %s is delivered and nobody names it", name)
		}
		bare := proto.CloneOf(want)
		bare.LoadAssignment = nil
		if c.Orphan || !proto.Equal(c.Config, bare) {
			d.t.Fatalf("cluster %s is %+v", name, c)
		}
		wanted := want.GetLoadAssignment()
		if want.GetType() == clusterv3.Cluster_EDS {
			m, there := d.has[EndpointURL][want.GetEdsClusterConfig().GetServiceName()]
			if !there {
				continue // missing, or the last ones
			}
			a, err := assignment(m.(*endpointv3.ClusterLoadAssignment))
			if err != nil || !a.equal(c.Endpoints) {
				d.t.Fatalf("cluster %s has %+v, want %v", name, c.Endpoints, m)
			}
			continue
		}
		if a, err := assignment(wanted); err != nil || !a.equal(c.Endpoints) {
			d.t.Fatalf("cluster %s has %+v, want %v", name, c.Endpoints, wanted)
		}
	}
	for name := range d.has[ClusterURL] {
		if d.clusters[name] == nil && (wildcard || named[name]) {
			d.t.Fatalf("cluster %s is not delivered", name)
		}
	}
	// Nothing is asked for that nobody needs.
	var needed []string
	for _, c := range d.clusters {
		if c.service != "" {
			needed = append(needed, c.service)
		}
	}
	if got := slices.Sorted(maps.Keys(d.c.types[EndpointURL].names)); !slices.Equal(got, sortedSet(needed)) {
		d.t.Fatalf("endpoints are asked for of %v, needed %v", got, needed)
	}
}

// Whatever a server did, in whatever order, with losses, garbage and pauses: when it
// answers well, the client has what the server has, and asks for what it needs.
func FuzzDialogue(f *testing.F) {
	f.Add(byte(0), []byte{0, 0, 0, 2, 0, 1, 5, 0, 0, 3, 0, 1, 6, 0, 0, 7, 255, 0, 8, 0, 0, 9, 255, 0})
	f.Add(byte(1), []byte{0, 0, 0, 0, 1, 4, 5, 0, 0, 5, 1, 1, 3, 0, 66, 8, 0, 0, 9, 255, 0, 6, 0, 2, 7, 255, 1, 1, 0, 0, 6, 0, 0, 10, 200, 0})
	f.Add(byte(2), []byte{5, 0, 0, 3, 0, 1, 8, 0, 0, 9, 1, 0, 0, 0, 0, 6, 0, 0, 11, 0, 0, 3, 0, 5, 9, 1, 0, 10, 250, 0, 5, 0, 2, 8, 0, 0})
	f.Add(byte(3), []byte{5, 0, 0, 3, 0, 1, 8, 0, 0, 9, 1, 2, 0, 0, 8, 2, 0, 18, 6, 0, 0, 7, 255, 0, 4, 0, 0, 9, 255, 0, 1, 0, 0, 6, 0, 1})
	f.Fuzz(func(t *testing.T, mode byte, ops []byte) {
		wildcard, delta := mode&1 == 0, mode&2 != 0
		d := newDialogue(t, wildcard, delta)
		ops = ops[:min(len(ops), 900)] // longer ones find nothing more, and take long
		for len(ops) >= 3 {
			d.step(ops[0], ops[1], ops[2])
			ops = ops[3:]
		}
		d.finish()
		d.check(wildcard)
	})
}
