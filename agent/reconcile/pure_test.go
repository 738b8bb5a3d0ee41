package reconcile

import (
	"slices"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

func always(m Mode) func(registry.Service) Mode { return func(registry.Service) Mode { return m } }

func with(change ...func(*settings)) settings {
	s := settings{registry: "main", address: agent, hostID: "abc", mode: always(Mesh), models: []registry.Model{registry.ModelInterface, registry.ModelApplication}, carried: []string{"dubbo"}}
	for _, c := range change {
		c(&s)
	}
	return s
}

func TestDesired(t *testing.T) {
	mode := func(m Mode) settings { return with(func(s *settings) { s.mode = always(m) }) }
	models := func(m ...registry.Model) settings { return with(func(s *settings) { s.models = m }) }
	elsewhere, here := foo, foo
	elsewhere.Registries, here.Registries = []string{"other"}, []string{"other", "main"}
	second := pub("a.Foo", 20881)
	ported := func(p workload.Publication, port int) workload.Publication {
		p.Identity.Port, p.URL.Port = port, port
		return p
	}
	triple := pub("a.Foo", 50051)
	triple.Identity.Protocol, triple.URL.Protocol = "tri", "tri"
	for _, tt := range []struct {
		name     string
		settings settings
		pubs     []workload.Publication
		want     string
	}{
		{"mesh", with(), []workload.Publication{foo}, fooLeaf + " " + fooApp},
		{"direct", mode(Direct), []workload.Publication{foo}, "a.Foo@10.0.0.1:20880 shop@10.0.0.1:20880[a.Foo:dubbo]"},
		{"both", mode(Both), []workload.Publication{foo}, "a.Foo@10.0.0.1:20880 " + fooLeaf + " shop@10.0.0.1:20880[a.Foo:dubbo] " + fooApp},
		{"off", mode(Off), []workload.Publication{foo}, ""},
		{"by service", with(func(s *settings) {
			s.mode = func(svc registry.Service) Mode {
				if svc.Interface == "a.Foo" {
					return Direct
				}
				return Mesh
			}
		}), []workload.Publication{foo, bar}, "a.Foo@10.0.0.1:20880 " + barLeaf + " shop@10.0.0.1:20880[a.Foo:dubbo] shop@10.0.0.9:20882[a.Bar:dubbo]"},
		{"interface level only", models(registry.ModelInterface), []workload.Publication{foo}, fooLeaf},
		{"application level only", models(registry.ModelApplication), []workload.Publication{foo}, fooApp},
		{"no level", models(), []workload.Publication{foo}, ""},
		{"another registry", with(), []workload.Publication{elsewhere}, ""},
		{"this registry", with(), []workload.Publication{here}, fooLeaf + " " + fooApp},
		{"dead", with(), []workload.Publication{dead(foo, workload.ReasonPortClosed), bar}, barLeaf + " shop@10.0.0.9:20882[a.Bar:dubbo]"},
		{"two processes", with(), []workload.Publication{foo, second}, fooLeaf + " " + fooLeaf + " " + fooApp},
		{"two processes, direct", mode(Direct), []workload.Publication{foo, second}, "a.Foo@10.0.0.1:20880 a.Foo@10.0.0.1:20881 shop@10.0.0.1:20880[a.Foo:dubbo] shop@10.0.0.1:20881[a.Foo:dubbo]"},
		{"an inbound port of its own", with(func(s *settings) { s.ports = map[string]int{"shop": 20892, "till": 20893} }), []workload.Publication{foo}, "a.Foo@10.0.0.9:20892 shop@10.0.0.9:20892[a.Foo:dubbo]"},
		{"another has one", with(func(s *settings) { s.ports = map[string]int{"till": 20893} }), []workload.Publication{foo}, fooLeaf + " " + fooApp},
		{"an inbound port of its own, both", with(func(s *settings) { s.mode, s.ports = always(Both), map[string]int{"shop": 20892} }), []workload.Publication{foo}, "a.Foo@10.0.0.1:20880 a.Foo@10.0.0.9:20892 shop@10.0.0.1:20880[a.Foo:dubbo] shop@10.0.0.9:20892[a.Foo:dubbo]"},
		{"a protocol that the agent does not speak", with(), []workload.Publication{foo, triple}, fooLeaf + " a.Foo@10.0.0.1:50051 shop@10.0.0.1:50051[a.Foo:tri] " + fooApp},
		{"both protocols at one port", with(), []workload.Publication{foo, ported(triple, 20880)}, fooLeaf + " a.Foo@10.0.0.1:20880 shop@10.0.0.1:20880[a.Foo:tri] " + fooApp},
		{"that protocol, both", mode(Both), []workload.Publication{triple}, "a.Foo@10.0.0.1:50051 shop@10.0.0.1:50051[a.Foo:tri]"},
		{"that protocol, off", mode(Off), []workload.Publication{triple}, ""},
		{"that protocol, spoken", with(func(s *settings) { s.carried = append(s.carried, "tri") }), []workload.Publication{triple}, fooLeaf + " shop@10.0.0.9:20882[a.Foo:tri]"},
		{"no application named", with(), []workload.Publication{{Identity: foo.Identity, URL: foo.URL.With("application", ""), Live: true}}, fooLeaf},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := desired(view(tt.pubs...), plan{}, tt.settings)
			if got := describe(p.desired); got != tt.want {
				t.Errorf("\n got %q\nwant %q", got, tt.want)
			}
			for id, i := range p.publications {
				for _, app := range i.applications {
					if a, ok := find(p.desired.Applications, app); !ok || a.Metadata.Services[i.service].Name == "" {
						t.Errorf("%v waits for %s in %s, which nobody writes", id, i.service, app)
					}
				}
				for _, u := range i.interfaces {
					if !slices.Contains(items(p.desired), u) {
						t.Errorf("%v waits for %s, which nobody writes", id, u)
					}
				}
			}
		})
	}
}

func TestSummedWeightAndOwner(t *testing.T) {
	p := desired(view(foo, pub("a.Foo", 20881, "&weight=30"), dead(pub("a.Foo", 20882+1), workload.ReasonNoAnswer)), plan{}, with())
	app := p.desired.Applications[0]
	if w := app.Metadata.Services["a.Foo:dubbo"].Params["weight"]; w != "130" {
		t.Errorf("weight %s, want the sum of the live ones", w)
	}
	if app.Instance.Metadata[registry.MarkHost] != "abc" {
		t.Errorf("no owner: %v", app.Instance.Metadata)
	}
}

func TestProbedAnewStays(t *testing.T) {
	before := desired(view(foo), plan{}, with())
	again := dead(foo, workload.ReasonSettling)
	if got := describe(desired(view(again), before, with()).desired); got != fooLeaf+" "+fooApp {
		t.Errorf("withdrawn by a probe that is not back: %q", got)
	}
	gone := desired(view(dead(foo, workload.ReasonPortClosed)), before, with())
	if got := describe(desired(view(again), gone, with()).desired); got != "" {
		t.Errorf("advertised before its port answered: %q", got)
	}
}

func TestConsumers(t *testing.T) {
	sub := func(text string) workload.Subscription {
		u, err := registry.ParseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		return workload.Subscription{URL: u, Service: u.Service()}
	}
	v := &workload.View{Subscriptions: []workload.Subscription{
		sub("consumer://:/a.Foo?application=x&interface=a.Foo&group="),
		sub("consumer://10.0.0.3/a.Foo?category=providers&interface=a.Foo"),
		sub("consumer://10.0.0.3/a.Foo?category=configurators&interface=a.Foo"),
		sub("provider://10.0.0.3/a.Foo?category=configurators&interface=a.Foo"),
		sub("dubbo://10.0.0.3/a.Foo?side=provider&interface=a.Foo"),
		sub("consumer://10.0.0.3/*?interface=*"),
	}}
	var got []string
	for _, u := range desired(v, plan{}, with()).desired.Consumers {
		got = append(got, u.String())
	}
	want := []string{
		"consumer://10.0.0.3/a.Foo?category=consumers&interface=a.Foo&check=false",
		"consumer://10.0.0.9/a.Foo?application=x&interface=a.Foo&category=consumers&check=false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	if off := desired(v, plan{}, with(func(s *settings) { s.models = []registry.Model{registry.ModelApplication} })).desired.Consumers; off != nil {
		t.Errorf("the interface level is off, but %v", off)
	}
}

func TestParseMode(t *testing.T) {
	for _, m := range []Mode{Mesh, Direct, Both, Off} {
		if got, err := ParseMode(string(m)); err != nil || got != m {
			t.Errorf("%s: %s, %v", m, got, err)
		}
	}
	if _, err := ParseMode("Mesh"); err == nil {
		t.Error("want an error")
	}
}

func TestPace(t *testing.T) {
	t0 := time.Unix(1_700_000_000, 0)
	at := func(d time.Duration) time.Time { return t0.Add(d) }
	apps := func(pubs ...workload.Publication) []registry.Application {
		return desired(view(pubs...), plan{}, with()).desired.Applications
	}
	one, two := apps(foo), apps(foo, bar)
	settled := pace{}.show(nil)
	shown := func(a []registry.Application) pace { return pace{wanted: a}.show(a) }

	t.Run("nothing to do", func(t *testing.T) {
		if got := shown(one).want(apps(foo), t0); !got.at().IsZero() {
			t.Errorf("waits until %s", got.at())
		}
	})
	t.Run("first instance waits", func(t *testing.T) {
		p := settled.want(one, t0)
		if got := p.due(at(quiet - 1)); len(got) != 0 {
			t.Errorf("shown early: %v", got)
		}
		if got := p.due(at(quiet)); !equal(got, one) {
			t.Errorf("not shown: %v", got)
		}
	})
	t.Run("a change keeps what is shown", func(t *testing.T) {
		if p := shown(one).want(two, t0); !equal(p.due(t0), one) || p.at() != at(quiet) {
			t.Errorf("%+v", p)
		}
	})
	t.Run("a change that is taken back", func(t *testing.T) {
		if p := shown(one).want(two, t0).want(one, at(time.Second)); !p.at().IsZero() {
			t.Errorf("waits until %s", p.at())
		}
	})
	t.Run("a service that ends", func(t *testing.T) {
		p := shown(two).want(one, t0)
		for i := range 10 {
			p = p.want(apps(foo, pub("a.Next", 20880+i)), at(time.Duration(i)*quiet/10))
		}
		if p.at() != at(latestGoing) {
			t.Errorf("waits %s", p.at().Sub(t0))
		}
	})
	t.Run("an instance that ends", func(t *testing.T) {
		if p := shown(one).want(nil, t0); len(p.due(t0)) != 0 || !p.at().IsZero() {
			t.Errorf("%+v", p)
		}
	})
	t.Run("one ends and one begins", func(t *testing.T) {
		direct := desired(view(foo), plan{}, with(func(s *settings) { s.mode = always(Direct) })).desired.Applications
		p := shown(one).want(direct, t0)
		if len(p.due(t0)) != 0 || p.at() != at(quiet) || !equal(p.overdue().due(t0), direct) {
			t.Errorf("%+v", p)
		}
	})
}
