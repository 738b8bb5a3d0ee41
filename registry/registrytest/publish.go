package registrytest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

func publishInterfaceLevel(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := hard()
	a.Hold(d)
	for _, reader := range []Agent{a, b} {
		reader.Listen(greeter).Until(set(greeter, d))
	}
}

func publishApplicationLevel(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := instance("192.0.2.1", "r1", greeter, order)
	a.Hold(d)
	for _, reader := range []Agent{a, b} {
		reader.Listen(greeter).Until(set(greeter, d))
		reader.Listen(order).Until(set(order, d))
	}
}

func publishBothModels(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	l := b.Listen(greeter)
	d := join(provider(greeter, "192.0.2.1", 20882, ""), instance("192.0.2.1", "r1", greeter))
	a.Hold(d)
	l.Until(set(greeter, d))
}

func updateInPlace(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	before := provider(greeter, "192.0.2.1", 20882, "&weight=100")
	a.Hold(before)
	l := b.Listen(greeter)
	l.Until(set(greeter, before))
	after := provider(greeter, "192.0.2.1", 20882, "&weight=50")
	a.Hold(after)
	l.Until(set(greeter, after), NotEmpty(t))
}

func updateApplication(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	before := instance("192.0.2.1", "r1", greeter)
	a.Hold(before)
	l, added := b.Listen(greeter), b.Listen(order)
	l.Until(set(greeter, before))
	added.Until(set(order))
	after := instance("192.0.2.1", "r2", greeter, order)
	a.Hold(after)
	l.Until(set(greeter, after), NotEmpty(t))
	added.Until(set(order, after))
}

func withdraw(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	one, two := provider(greeter, "192.0.2.1", 20882, ""), provider(greeter, "192.0.2.2", 20882, "")
	app := instance("192.0.2.1", "r1", greeter)
	l := b.Listen(greeter)
	a.Hold(join(one, two, app))
	l.Until(set(greeter, one, two, app))
	a.Hold(join(two, app))
	l.Until(set(greeter, two, app))
	a.Hold(two)
	l.Until(set(greeter, two))
	a.Hold(registry.Desired{})
	l.Until(set(greeter))
}

func idempotent(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := join(hard(), instance("192.0.2.1", "r1", greeter))
	d.Consumers = parse("consumer://192.0.2.1/" + greeter + "?category=consumers&interface=" + greeter).Providers
	l := b.Listen(greeter)
	a.Hold(d)
	l.Until(set(greeter, d))
	var before string
	if s.Fingerprint != nil {
		before = s.Fingerprint(t)
	}
	for range 3 {
		a.Hold(d)
	}
	if s.Fingerprint != nil {
		if after := s.Fingerprint(t); after != before {
			t.Errorf("an Apply that changes nothing wrote to the store:\n%s\n---\n%s", before, after)
		}
	}
	marker := provider(greeter, "192.0.2.9", 20882, "")
	a.Hold(join(d, marker))
	l.IsNext(set(greeter, d, marker))
}

// wholeSets changes one provider of many: each set is whole, never a delta.
func wholeSets(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	var kept registry.Desired
	for i := range 30 {
		kept = join(kept, provider(greeter, fmt.Sprintf("192.0.2.%d", i+1), 20882, ""))
	}
	a.Hold(kept)
	l := b.Listen(greeter)
	l.Until(set(greeter, kept))
	extra := provider(greeter, "192.0.2.200", 20882, "")
	a.Hold(join(kept, extra))
	l.IsNext(set(greeter, kept, extra))
	a.Hold(kept)
	l.IsNext(set(greeter, kept))
}

func interfacesApart(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	g, o := provider(greeter, "192.0.2.1", 20882, ""), provider(order, "192.0.2.1", 20882, "")
	greeters, orders := b.Listen(greeter), b.Listen(order)
	greeters.IsNext(set(greeter))
	orders.IsNext(set(order))
	a.Hold(g)
	greeters.IsNext(set(greeter, g))
	a.Hold(join(g, o))
	orders.IsNext(set(order, o)) // saw nothing of the other interface
	a.Hold(o)
	greeters.IsNext(set(greeter)) // nor here
	more := provider(order, "192.0.2.2", 20882, "")
	a.Hold(join(o, more))
	orders.IsNext(set(order, o, more))
}

func publishersAtOnce(t *testing.T, s Store) {
	reader := s.start(t, "host-reader")
	l := reader.Listen(greeter)
	var all registry.Desired
	var wg sync.WaitGroup
	for i := range 5 {
		host := fmt.Sprintf("192.0.2.%d", i+1)
		d := instance(host, "r1", greeter)
		for port := range 10 {
			d = join(d, provider(greeter, host, 21000+port, ""))
		}
		all = join(all, d)
		a := s.start(t, "host-"+host)
		wg.Go(func() {
			report, err := a.Apply(t.Context(), d)
			if err != nil {
				t.Errorf("Apply: %v", err)
			}
			for key, item := range report {
				if item.State != registry.Held {
					t.Errorf("%s is %+v, want held", key, item)
				}
			}
		})
	}
	wg.Wait()
	l.Until(set(greeter, all))
}

// sharedRevision has two hosts whose instances name one revision: when one goes,
// the other's metadata stays readable.
func sharedRevision(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	one, two := instance("192.0.2.1", "r1", greeter), instance("192.0.2.2", "r1", greeter)
	a.Hold(one)
	b.Hold(two)
	l := a.Listen(greeter)
	l.Until(set(greeter, one, two))
	a.Hold(registry.Desired{})
	l.Until(set(greeter, two))
	s.start(t, "host-c").Listen(greeter).Until(set(greeter, two))
}

func conflictProvider(t *testing.T, s Store) {
	conflict(t, s, provider(greeter, "192.0.2.1", 20882, ""))
}

func conflictApplication(t *testing.T, s Store) {
	conflict(t, s, instance("192.0.2.1", "r1", greeter))
}

// conflict has host-a and host-b advertise the same entry, b also one of its own.
func conflict(t *testing.T, s Store, d registry.Desired) {
	a, b, reader := s.start(t, "host-a"), s.start(t, "host-b"), s.start(t, "host-c")
	a.Hold(d)
	own := provider(greeter, "192.0.2.2", 20882, "")
	key := keys(d)[0]
	conflicts := func() {
		t.Helper()
		report := b.Try(join(d, own))
		if got := report[key]; got.State != registry.Conflict || got.Owner == "" {
			t.Fatalf("%s is %+v for the second agent, want a conflict that names the owner", key, got)
		}
		if got := report[keys(own)[0]]; got.State != registry.Held {
			t.Fatalf("the second agent's own entry is %+v, want held", got)
		}
	}
	conflicts()
	l := reader.Listen(greeter)
	l.Until(set(greeter, d, own))
	for range 3 { // nobody fights
		conflicts()
		a.Hold(d)
	}
	marker := provider(greeter, "192.0.2.9", 20882, "")
	a.Hold(join(d, marker))
	l.IsNext(set(greeter, d, own, marker))
	b.Hold(registry.Desired{}) // does not remove what it did not write
	l.IsNext(set(greeter, d, marker))
	a.Hold(registry.Desired{})
	l.Until(set(greeter))
	b.Hold(d) // free now
	l.Until(set(greeter, d))
}

func conflictAtOnce(t *testing.T, s Store) {
	d := join(provider(greeter, "192.0.2.1", 20882, ""), instance("192.0.2.1", "r1", greeter))
	reader := s.start(t, "host-reader")
	l := reader.Listen(greeter)
	var agents []Agent
	for i := range 4 {
		agents = append(agents, s.start(t, fmt.Sprintf("host-%d", i)))
	}
	atOnce := func() (states map[string][]registry.ItemState) {
		reports := make([]registry.Report, len(agents))
		var wg sync.WaitGroup
		for i, a := range agents {
			wg.Go(func() {
				var err error
				if reports[i], err = a.Apply(t.Context(), d); err != nil {
					t.Errorf("Apply: %v", err)
				}
			})
		}
		wg.Wait()
		states = map[string][]registry.ItemState{}
		for _, key := range keys(d) {
			for _, r := range reports {
				states[key] = append(states[key], r[key].State)
			}
			slices.Sort(states[key])
		}
		return states
	}
	want := []registry.ItemState{registry.Conflict, registry.Conflict, registry.Conflict, registry.Held}
	one := func(states map[string][]registry.ItemState) bool {
		for _, key := range keys(d) {
			if !slices.Equal(states[key], want) {
				return false
			}
		}
		return true
	}
	states := atOnce()
	if s.SettlesInTurns {
		agents[0].Eventually("settled", func() bool {
			states = atOnce()
			return one(states)
		})
		states = atOnce() // and it stays so
	}
	if !one(states) {
		t.Errorf("%v, want one owner and three conflicts of each", states)
	}
	l.Until(set(greeter, d))
}

func badItem(t *testing.T, s Store) {
	a := s.start(t, "host-a")
	good := provider(greeter, "192.0.2.1", 20882, "")
	for _, bad := range []string{
		"dubbo://192.0.2.1:20882?side=provider",
		"dubbo://192.0.2.1:20882/x?interface=..",
		"dubbo://192.0.2.1:20882/x?interface=a/b",
	} {
		report := a.Try(join(parse(bad), good))
		if got := report[bad]; got.State != registry.Pending || got.Err == "" {
			t.Errorf("%s is %+v, want pending with the reason", bad, got)
		}
		if got := report[keys(good)[0]]; got.State != registry.Held {
			t.Errorf("beside %s the good entry is %+v, want held", bad, got)
		}
	}
}

func consumersApart(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := provider(greeter, "192.0.2.1", 20882, "")
	text := "consumer://192.0.2.1/" + greeter + "?application=cart&category=consumers&check=false&interface=" + greeter + "&side=consumer&x=%2B"
	d.Consumers = parse(text).Providers
	l := b.Listen(greeter)
	a.Hold(d)
	l.Until(set(greeter, d))
	if s.Consumers != nil {
		if got := s.Consumers(t, greeter); !slices.Equal(got, []string{text}) {
			t.Errorf("consumers %q, want %q", got, text)
		}
	}
	d.Consumers = nil
	a.Hold(d)
	if s.Consumers != nil {
		if got := s.Consumers(t, greeter); len(got) != 0 {
			t.Errorf("consumers %q, want none", got)
		}
	}
	marker := provider(greeter, "192.0.2.9", 20882, "")
	a.Hold(join(d, marker))
	l.IsNext(set(greeter, d, marker)) // consumers were no change of the providers
}
