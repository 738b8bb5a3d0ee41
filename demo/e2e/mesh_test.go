package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-zookeeper/zk"

	"github.com/meshferry/meshferry/registry"
)

// A provider and a consumer that each know only the agent of their host find each
// other: ZooKeeper says port 20882 wherever Dubbo looks for one, and a call goes
// through 20881 of the consumer's host and 20882 of the provider's to 20880,
// which nobody but its own agent has connected to.
func TestThinProviderAndThinConsumer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	p := w.provider(options{agent: a, application: "shop"})
	a.published(1)
	w.registered("shop", service, a.inbound())

	c := w.consumer(options{agent: b})
	if l := c.call(100); len(l.failed()) > 0 {
		t.Fatal(l)
	}
	wantCalls(t, 100, p, hop{b, "outbound", service}, hop{a, "inbound", service})
	onlyDialledBy(t, b.outbound(), c.process)
	onlyDialledBy(t, a.inbound(), b.process)
	onlyDialledBy(t, p.addr, a.process)
	if s := p.stats(); s.Connections != len(s.Peers) || s.Connections > 4 {
		t.Errorf("100 calls came over %d connections: %v", s.Connections, s.Peers)
	}
}

// hop is a place that a call passes.
type hop struct {
	agent              *agent
	direction, service string
}

// wantCalls claims that a provider and the agents on the way have counted n calls
// each, and no more. A provider counts a call before it answers, an agent may
// count one just after.
func wantCalls(t *testing.T, n int, p *app, hops ...hop) {
	t.Helper()
	eventually(t, "the counters", func() error {
		if got := p.stats(); got.total() != n {
			return fmt.Errorf("the provider counted %+v, want %d", got.Calls, n)
		}
		for _, h := range hops {
			if got := h.agent.calls(h.direction, h.service); got != n {
				return fmt.Errorf("%s counted %d calls of %s %s, want %d", h.agent.name, got, h.service, h.direction, n)
			}
		}
		return nil
	})
}

// registered claims that ZooKeeper lists one provider of an interface, of an
// application, at the address, at both levels and wherever else a port stands.
func (w *world) registered(application, iface, address string) {
	t := w.t
	t.Helper()
	c := w.zk.Conn(t)
	leaves := children(t, c, "/dubbo/"+iface+"/providers")
	if len(leaves) != 1 || leaves[0].HostPort() != address {
		t.Errorf("interface level: %v, want one at %s", leaves, address)
	}
	names, _, err := c.Children("/services/" + application)
	if err != nil || len(names) != 1 || names[0] != address {
		t.Fatalf("instances of %s: %v, %v; want %s", application, names, err, address)
	}
	host, port, _ := strings.Cut(address, ":")
	instance := read(t, c, "/services/"+application+"/"+address)
	for _, want := range []string{`"address":"` + host + `"`, `"port":` + port, `{\"port\":` + port + `,`, `"dubbo.metadata.storage-type":"remote"`} {
		if !strings.Contains(instance, want) {
			t.Errorf("the instance has no %s:\n%s", want, instance)
		}
	}
	_, rest, _ := strings.Cut(instance, `"dubbo.metadata.revision":"`)
	revision, _, _ := strings.Cut(rest, `"`)
	for _, path := range []string{"/dubbo/metadata/" + application + "/" + revision, "/dubbo/" + application + "/" + revision} {
		if m := read(t, c, path); !strings.Contains(m, `"revision":"`+revision+`"`) || !strings.Contains(m, `"port":`+port) || !strings.Contains(m, `"name":"`+iface+`"`) {
			t.Errorf("%s says\n%s", path, m)
		}
	}
	if m := read(t, c, "/dubbo/mapping/"+iface); m != application {
		t.Errorf("mapping of %s: %q, want %s", iface, m, application)
	}
}

// children are the leaves below a path, as URLs.
func children(t *testing.T, c *zk.Conn, path string) (urls []registry.URL) {
	t.Helper()
	names, _, err := c.Children(path)
	if err != nil && err != zk.ErrNoNode {
		t.Fatalf("%s: %v", path, err)
	}
	for _, name := range names {
		u, err := registry.ParseURL(unescape(t, name))
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, u)
	}
	return urls
}

func read(t *testing.T, c *zk.Conn, path string) string {
	t.Helper()
	data, _, err := c.Get(path)
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return string(data)
}

// Consumers that know nothing of agents, at either level, reach the thin provider
// through 20882, and never through 20880.
func TestUnmodifiedConsumers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.agent("a")
	p := w.provider(options{agent: a})
	a.published(1)
	calls := 0
	for _, level := range []string{"interface", "application"} {
		c := w.consumer(options{level: level, application: "stranger-" + level})
		calls += c.found()
		l := c.call(100)
		if calls += len(l); len(l.failed()) > 0 {
			t.Fatalf("%s level: %v", level, l)
		}
		wantCalls(t, calls, p, hop{a, "inbound", service})
		onlyDialledBy(t, a.inbound(), c.process)
		onlyDialledBy(t, p.addr, a.process)
		c.stop()
	}
}

// A thin consumer reaches providers that know nothing of agents, at whatever level
// they register, and counts one that registers at both levels once.
func TestUnmodifiedProviders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := w.agent("b")
	for _, level := range []string{"interface", "application", "all"} {
		o := options{level: level, application: level + "-provider", iface: "org.example." + level + ".GreetService"}
		if level == "interface" {
			o.host = "old"
		} else {
			// dubbo-go cannot bind an address of its own together with its metadata
			// service, which the default storage type "local" needs.
			o.port = freePort(t)
		}
		p := w.provider(o)
		if level != "interface" {
			w.instances(o.application, 1)
		}
		c := w.consumer(options{agent: b, iface: o.iface})
		if l := c.call(100); len(l.failed()) > 0 {
			t.Fatalf("%s level: %v", level, l)
		}
		wantCalls(t, 100, p, hop{b, "outbound", o.iface})
		var e struct {
			State     string
			Endpoints []struct {
				Address string
				Used    bool
				Reason  string
			}
		}
		b.get("/v1/endpoints?service="+o.iface, &e)
		used := 0
		for _, one := range e.Endpoints {
			if one.Used {
				used++
			}
		}
		if e.State != "ready" || used != 1 {
			t.Errorf("%s level: endpoints %+v, want one to be used", level, e)
		}
		c.stop()
		p.stop()
	}
}

// instances waits until an application has so many instances in ZooKeeper.
func (w *world) instances(application string, n int) {
	w.t.Helper()
	c := w.zk.Conn(w.t)
	defer c.Close()
	eventually(w.t, application+" to register", func() error {
		names, _, err := c.Children("/services/" + application)
		if err == nil && len(names) != n {
			err = fmt.Errorf("%d instances, want %d", len(names), n)
		}
		return err
	})
}
