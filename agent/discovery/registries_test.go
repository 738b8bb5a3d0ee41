package discovery

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/registry"
)

func TestRegistryIsAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newFakeRegistry(), newFakeRegistry()
		one.set("a.B", urls(1)...)
		two.set("a.B", urls(2)...)
		two.set("a.C", urls(3)...)
		o := Options{Registries: []Named{{"one", one}}, Dir: t.TempDir()}
		w := start(t, o)
		w.s.SetWanted([]string{"a.B"})
		w.expect("a.B@one", "ready 1")
		n := w.count()
		w.s.SetRegistries([]Named{{"one", one}}) // the same
		if w.count() != n {
			t.Error("updates although nothing changed")
		}
		w.s.SetRegistries([]Named{{"one", one}, {"two", two}})
		w.expect("a.B@two", "ready 1,2")
		w.s.Want("a.C")
		w.expect("a.C@two", "ready 1,2,3")
		if st := w.s.Statuses(); len(st) != 2 || st[1].Name != "two" || st[1].Interfaces != 2 {
			t.Errorf("statuses: %+v", st)
		}
		w.stop()

		one.be("away")
		two.be("away")
		o.Registries = []Named{{"one", one}, {"two", two}}
		w = start(t, o) // what the added one said is on disk too
		defer w.stop()
		w.s.Want("a.C")
		w.expect("a.C@two", "protected 1,2,3")
	})
}

func TestRegistryIsTakenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newFakeRegistry(), newFakeRegistry()
		for _, iface := range []string{"a.Both", "a.Late", "a.Never"} {
			one.set(iface, urls(1)...)
		}
		one.set("a.None")
		two.set("a.Both", urls(1)...)
		w := start(t, Options{Registries: []Named{{"one", one}, {"two", two}}})
		defer w.stop()
		w.s.SetWanted([]string{"a.Both", "a.Late", "a.Never", "a.None"})
		w.expect("a.Never@one", "ready 1")

		w.s.SetRegistries([]Named{{"two", two}})
		w.expect("a.Both@one", "dropped") // the other one lists the same
		w.expect("a.None@one", "dropped") // nothing is lost
		w.expect("a.Late@one", "ready 1") // served until the other tells
		one.set("a.Late", urls(3)...)     // nobody listens any more
		w.expect("a.Late@one", "ready 1")
		two.set("a.Late") // heard, but not of what was written to it a moment ago
		time.Sleep(tick)
		w.expect("a.Late@one", "ready 1")
		two.set("a.Late", urls(2)...)
		time.Sleep(tick)
		w.expect("a.Late@one", "dropped")
		w.expect("a.Late@two", "ready 1,2")
		if st := w.s.Statuses(); len(st) != 2 {
			t.Errorf("statuses while it leaves: %+v", st)
		}
		time.Sleep(leaveMost)
		w.expect("a.Never@one", "dropped")
		if st := w.s.Statuses(); len(st) != 1 || st[0].Name != "two" || st[0].Interfaces != 4 {
			t.Errorf("statuses: %+v", st)
		}
	})
}

// TestLostKnowsOtherAddresses: a host can be called otherwise in another registry, and
// several processes can be one entry there.
func TestLostKnowsOtherAddresses(t *testing.T) {
	mesh := func(host, port, more string) string {
		return "dubbo://" + host + ":20882/a.B?interface=a.B&application=shop" + more + "&meshferry.origin=" + host + ":" + port + "&meshferry.caps=1"
	}
	const at, later = "&timestamp=1700000000000", "&timestamp=1700000000001"
	for _, c := range []struct {
		name         string
		before, then []string
		lost         int
	}{
		{"the same", []string{mesh("h", "20880", at)}, []string{mesh("h", "20880", at)}, 0},
		{"another address of the host", []string{mesh("h", "20880", at)}, []string{mesh("other", "20880", at)}, 0},
		{"its own address", []string{mesh("h", "20880", at)}, []string{"dubbo://other:20880/a.B?interface=a.B&application=shop" + at}, 0},
		{"another start", []string{mesh("h", "20880", at)}, []string{mesh("other", "20880", later)}, 1},
		{"another port", []string{mesh("h", "20880", at)}, []string{mesh("other", "20881", at)}, 1},
		{"no start", []string{mesh("h", "20880", "")}, []string{mesh("other", "20880", "")}, 1},
		{"two hosts that began together, one is there", []string{mesh("h1", "20880", at), mesh("h2", "20880", at)}, []string{mesh("other", "20880", at)}, 1},
		{"two hosts that began together, both are there", []string{mesh("h1", "20880", at), mesh("h2", "20880", at)}, []string{mesh("other1", "20880", at), mesh("other2", "20880", at)}, 0},
		{"one that is there stands for no other", []string{mesh("h1", "20880", at), mesh("h2", "20880", at)}, []string{mesh("h1", "20880", at)}, 1},
		{"two processes as one entry", []string{mesh("h", "20880", at), mesh("h", "20890", later)}, []string{mesh("h", "20880", at+"&meshferry.origins=h:20880,h:20890")}, 0},
	} {
		list := func(texts []string) (all []registry.Provider) {
			for _, text := range texts {
				u, err := registry.ParseURL(text)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, registry.Provider{URL: u, Model: registry.ModelInterface})
			}
			return all
		}
		if got := lost(list(c.before), list(c.then)); len(got) != c.lost {
			t.Errorf("%s: %d are lost, want %d: %v", c.name, len(got), c.lost, got)
		}
	}
}

func TestRegistryComesBackWhileItLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two, again := newFakeRegistry(), newFakeRegistry(), newFakeRegistry()
		one.set("a.B", urls(1)...)
		again.set("a.B", urls(4)...)
		w := start(t, Options{Registries: []Named{{"one", one}, {"two", two}}})
		defer w.stop()
		w.s.SetWanted([]string{"a.B"})
		w.expect("a.B@one", "ready 1")
		w.s.SetRegistries([]Named{{"two", two}})
		w.expect("a.B@one", "ready 1")
		w.s.SetRegistries([]Named{{"two", two}, {"one", again}})
		w.expect("a.B@one", "ready 1,2,3,4")
		time.Sleep(2 * leaveMost)
		w.expect("a.B@one", "ready 1,2,3,4")
	})
}

// TestFrozenRegistry: one of two registries says nothing at all, for an hour.
func TestFrozenRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newFakeRegistry(), newFakeRegistry()
		one.be("connecting")
		two.set("a.B", urls(1)...)
		w := start(t, Options{Registries: []Named{{"one", one}, {"two", two}}})
		defer w.stop()
		w.s.SetWanted([]string{"a.B"})
		w.expect("a.B@one", "waiting")
		for n := range 3 {
			two.set("a.B", urls(n+1)...)
			time.Sleep(20 * time.Minute)
		}
		w.expect("a.B@two", "ready 1,2,3")
		w.expect("a.B@one", "waiting")
		one.be(registry.Connected)
		one.set("a.B", urls(1)...)
		w.expect("a.B@one", "ready 1")
	})
}
