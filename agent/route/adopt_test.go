package route

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/registry"
)

const here = "10.0.0.5:20882" // the inbound listener in registries

func adopting(application, address string) Local {
	return Local{Address: address, Application: application, Workload: "static/" + application, Protocol: "dubbo"}
}

func registered(t *testing.T, address, service, application, params string) registry.Provider {
	t.Helper()
	s, err := registry.ParseService(service)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("dubbo://%s/%s?application=%s&interface=%s%s", address, s.Interface, application, s.Interface, params)
	if s.Group != "" {
		text += "&group=" + s.Group
	}
	if s.Version != "" {
		text += "&version=" + s.Version
	}
	return ifaceLevel(t, text)
}

// Of what the registries list at the address of the inbound listener, each
// application gets its own calls.
func TestAdopt(t *testing.T) {
	const p1, p2 = "127.0.0.1:20880", "127.0.0.1:20890"
	inbound := []string{here}
	c := newCompiler(Options{Inbound: func() []string { return inbound }})
	c.setLocal([]Local{adopting("shop", p1), adopting("stock", p2)})
	find := func(s *Snapshot, path, version, group string) []string {
		return addresses(s.Inbound.find(path, version, group))
	}
	s, _ := c.compile(time.Now())
	const meta = "org.apache.dubbo.metadata.MetadataService"
	if got := find(s, meta, "1.0.0", "shop"); !slices.Equal(got, []string{p1}) {
		t.Errorf("MetadataService of an application of which nothing else is known: %v", got)
	}
	if !s.Adopts() || s.Inbound.find("a.Foo", "", "") != nil {
		t.Error("before anything is registered")
	}

	both := appLevel(t, registered(t, here, "g1/a.Foo:1.0.0", "shop", "").URL.String())
	c.update(ready("a.Foo",
		registered(t, here, "g1/a.Foo:1.0.0", "shop", "&timestamp=7"), both, // at both levels
		registered(t, here, "g2/a.Foo:1.0.0", "stock", "&weight=0"),
		registered(t, "10.0.0.6:20882", "g3/a.Foo:1.0.0", "shop", ""),                  // another host's
		registered(t, here, "g4/a.Foo:1.0.0", "nobody", ""),                            // not one of ours
		registered(t, here, "g5/a.Foo:1.0.0", "shop", "&meshferry.caps=1"),             // an agent's own entry
		registered(t, here, "g6/a.Foo:1.0.0", "shop", "&disabled=true"),                // not for us to judge
		appLevel(t, "tri://"+here+"/a.Foo?application=shop&interface=a.Foo&version=9"), // another protocol
	))
	s, _ = c.compile(time.Now())
	for group, want := range map[string][]string{"g1": {p1}, "g2": {p2}, "g3": nil, "g4": nil, "g5": nil, "g6": {p1}} {
		if got := find(s, "a.Foo", "1.0.0", group); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", group, got, want)
		}
	}
	if s.Inbound.find("a.Foo", "9", "") != nil {
		t.Error("a service of another protocol")
	}
	if cl := s.Inbound.find("a.Foo", "1.0.0", "g2"); cl == nil || cl.Pick(nil) == nil {
		t.Error("a weight of 0 is for callers, not for the only process")
	}
	var local []string
	for _, l := range s.Local() {
		if !l.Adopts() {
			local = append(local, l.Application+" "+l.Service.Key())
		}
	}
	if want := []string{"shop g1/a.Foo:1.0.0", "shop g6/a.Foo:1.0.0", "stock g2/a.Foo:1.0.0"}; !slices.Equal(local, want) {
		t.Errorf("adopted %q, want %q", local, want)
	}

	// What is withdrawn goes; what changes elsewhere compiles nothing here.
	before := s.inbound
	c.update(ready("a.Other", registered(t, "10.0.0.6:20882", "a.Other", "shop", "")))
	if s, _ = c.compile(time.Now()); s.inbound != before {
		t.Error("compiled again for another host's service")
	}
	c.update(Update{Source: "main", Interface: "a.Foo", State: Empty})
	if s, _ = c.compile(time.Now()); s.Inbound.find("a.Foo", "1.0.0", "g1") != nil || len(c.here) != 0 {
		t.Error("what was withdrawn stayed")
	}
	c.refresh()
	if s, _ = c.compile(time.Now()); !s.Adopts() {
		t.Error("a refresh lost the applications")
	}

	// A registry that comes later may list the listener at another address.
	const there = "192.0.2.7:20882"
	c.update(ready("a.Bar", registered(t, there, "a.Bar", "shop", "")))
	if s, _ = c.compile(time.Now()); find(s, "a.Bar", "", "") != nil {
		t.Error("adopted from another host's address")
	}
	inbound = append(inbound, there)
	c.refresh()
	if s, _ = c.compile(time.Now()); !slices.Equal(find(s, "a.Bar", "", ""), []string{p1}) {
		t.Error("not adopted from an address that was added")
	}
	c.setLocal(nil)
	if s, _ = c.compile(time.Now()); s.Adopts() || find(s, meta, "1.0.0", "shop") != nil {
		t.Error("what was removed stayed")
	}
}

func TestAwaitLocal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource(
			ready("a.Foo", registered(t, here, "a.Foo:1.0.0", "shop", "")),
			ready("a.Elsewhere", registered(t, "10.0.0.6:20880", "a.Elsewhere", "shop", "")))
		r, stop := running(t, Options{Sources: []Source{f}, Inbound: func() []string { return []string{here} }})
		defer stop()
		r.SetLocal([]Local{adopting("shop", "127.0.0.1:20880")})
		until(t, r, (*Snapshot).Adopts)
		ask := func(iface, version string) (bool, time.Duration) {
			began := time.Now()
			return r.AwaitLocal(t.Context(), iface, []byte(iface), []byte(version), ""), time.Since(began)
		}
		if ok, d := ask("a.Foo", "1.0.0"); !ok || d != 0 {
			t.Errorf("a registered service: %v after %v", ok, d)
		}
		if len(r.arrive.asked) != 0 {
			t.Error("what is offered here counts as a stranger")
		}
		for _, c := range [][2]string{{"a.Foo", "2.0.0"}, {"a.Elsewhere", ""}, {"a.Unheard", ""}} {
			if ok, d := ask(c[0], c[1]); ok || d != awaitMost {
				t.Errorf("%v: %v after %v", c, ok, d)
			}
			if ok, d := ask(c[0], c[1]); ok || d != 0 {
				t.Errorf("%v again: %v after %v", c, ok, d)
			}
		}

		// Others choose the names: only so many are followed for them.
		before := f.count()
		for i := range strangersMost {
			go ask(fmt.Sprint("s.", i), "")
			if i%100 == 99 {
				time.Sleep(2 * awaitMost)
			}
		}
		time.Sleep(2 * awaitMost)
		if got := f.count() - before; got != strangersMost-3 {
			t.Errorf("asked for %d interfaces, want %d beside the three from before", got, strangersMost-3)
		}
		if !r.Await(t.Context(), "a.Elsewhere") {
			t.Error("local consumers are held up by strangers")
		}
		time.Sleep(strangersFor)
		before = f.count()
		if ask("s.more", ""); f.count() != before+1 {
			t.Error("strangers count for ever")
		}
	})
}

// What was adopted stays wanted, although nobody here calls it.
func TestAdoptedIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeSource(ready("a.Foo", registered(t, here, "a.Foo", "shop", "")))
		r, stop := running(t, Options{Sources: []Source{f}, Inbound: func() []string { return []string{here} }})
		defer stop()
		r.SetLocal([]Local{adopting("shop", "127.0.0.1:20880")})
		f.Want("a.Foo")
		until(t, r, func(s *Snapshot) bool { return s.Inbound.find("a.Foo", "", "") != nil })
		before := f.count()
		time.Sleep(renewEvery + time.Second)
		if f.count() == before {
			t.Error("not wanted again")
		}
	})
}
