package route

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustURL(t testing.TB, text string) registry.URL {
	t.Helper()
	u, err := registry.ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// ifaceLevel and appLevel are providers at the two levels.
func ifaceLevel(t testing.TB, text string) registry.Provider {
	return registry.Provider{URL: mustURL(t, text), Model: registry.ModelInterface}
}

func appLevel(t testing.TB, text string) registry.Provider {
	return registry.Provider{URL: mustURL(t, text), Model: registry.ModelApplication}
}

func ready(iface string, providers ...registry.Provider) Update {
	return Update{Source: "main", Interface: iface, Providers: providers, State: Ready}
}

// compiled is the snapshot of some updates.
func compiled(t testing.TB, o Options, callers []Caller, updates ...Update) (*compiler, *Snapshot) {
	t.Helper()
	c := newCompiler(o)
	c.setCallers(callers)
	for _, u := range updates {
		c.update(u)
	}
	s, _ := c.compile(time.Now())
	if s == nil {
		t.Fatal("nothing compiled")
	}
	return c, s
}

// cluster looks one up as the data plane does.
func (t *Table) find(path, version, group string) *Cluster {
	v := t.Lookup([]byte(path), []byte(version))
	if v == nil {
		return nil
	}
	return v.Group([]byte(group))
}

func addresses(c *Cluster) []string {
	if c == nil {
		return nil
	}
	var list []string
	for _, e := range c.Endpoints {
		a := e.Peer.Addr
		if e.Origin != "" {
			a += "<" + e.Origin
		}
		list = append(list, a)
	}
	return list
}

// weighted is a cluster of endpoints 10.0.0.1:20880, … with these weights.
func weighted(p Policy, weights ...int) *Cluster {
	cl := &Cluster{Policy: p, Stats: &Stats{}, balance: new(atomic.Pointer[balance])}
	cl.turn = &cl.Stats.turn
	for i, w := range weights {
		peer := newPeer(fmt.Sprintf("10.0.0.%d:20880", i+1))
		cl.Endpoints = append(cl.Endpoints, &Endpoint{Peer: peer, Weight: w, facts: &facts{}})
	}
	c := &compiler{now: time.Now()}
	c.weigh(cl)
	return cl
}
