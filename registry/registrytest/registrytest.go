// Package registrytest is the one suite that every registry backend passes.
//
// Invariants of the suite:
//   - Each case starts on an empty store and opens as many agents on it as it
//     needs, each with its own host id.
//   - It waits for events, with a deadline; that nothing happened is shown by a
//     later change that must be the next thing seen.
//   - It knows a backend only through package registry and the hooks of Store.
package registrytest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Store is one empty store for registrations that several agents share: a
// chroot of a server, a directory. A hook that is nil skips the cases that need
// it. What a hook starts it ends with t.Cleanup.
type Store struct {
	// Open returns the registry of the agent with that host id. The suite calls
	// Run and ends it. It is called a second time with the same host id for the
	// restart of an agent, after the first Run has returned.
	Open func(t *testing.T, hostID string) registry.Registry
	// Lose removes behind the back of a running agent everything that it wrote.
	Lose func(t *testing.T, hostID string)
	// Kill makes a running agent disappear without a word, and lets the store
	// notice (ends its session). The suite does not use the agent afterwards.
	Kill func(t *testing.T, hostID string)
	// Down makes the store unreachable, Up makes it reachable again with what it
	// held before. Both or none.
	Down, Up func(t *testing.T)
	// Resumes says that entries outlive Run, and that an agent opened again with
	// the same host id takes them over without a visible change.
	Resumes bool
	// SettlesInTurns says that of agents that begin with one entry at the same
	// moment more than one can get it, until they apply again: the store has no
	// write that fails when another was first.
	SettlesInTurns bool
	// Consumers lists the consumer URLs that the store holds for an interface.
	Consumers func(t *testing.T, iface string) []string
	// Fingerprint is a text that differs after every write to the store.
	Fingerprint func(t *testing.T) string
	// Patience bounds each wait; 0 means 10 s.
	Patience time.Duration
}

// Conformance runs every case, each on an empty store that open returns. Beside
// the contract of package registry it demands:
//   - the first set for an interface that the store does not know is empty;
//   - a set that equals the one before is not delivered;
//   - a change of one interface-level provider is delivered in one step, and a
//     provider whose text changes is written before the old text is removed;
//   - what Apply cannot write because the item itself is wrong is Pending with
//     the reason, and the other items are held.
func Conformance(t *testing.T, open func(t *testing.T) Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s Store)
	}{
		{"PublishInterfaceLevel", publishInterfaceLevel},
		{"PublishApplicationLevel", publishApplicationLevel},
		{"PublishBothModels", publishBothModels},
		{"UpdateInPlace", updateInPlace},
		{"UpdateApplication", updateApplication},
		{"Withdraw", withdraw},
		{"Idempotent", idempotent},
		{"WholeSets", wholeSets},
		{"InterfacesApart", interfacesApart},
		{"PublishersAtOnce", publishersAtOnce},
		{"SharedRevision", sharedRevision},
		{"ConflictProvider", conflictProvider},
		{"ConflictApplication", conflictApplication},
		{"ConflictAtOnce", conflictAtOnce},
		{"EndForGood", endForGood},
		{"Kill", kill},
		{"RepublishAfterLoss", republishAfterLoss},
		{"Restart", restart},
		{"Away", away},
		{"SubscribeBeforeInterface", subscribeBeforeInterface},
		{"SubscribersShare", subscribersShare},
		{"SlowReader", slowReader},
		{"CancelLeaksNothing", cancelLeaksNothing},
		{"List", list},
		{"BadInterface", badInterface},
		{"BadItem", badItem},
		{"ConsumersApart", consumersApart},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			if s.Patience == 0 {
				s.Patience = 10 * time.Second
			}
			c.run(t, s)
		})
	}
}

// agent is a registry that runs.
type agent struct {
	registry.Registry
	t        *testing.T
	patience time.Duration
	stop     func() // ends Run and waits for it; may be called twice
}

func (s Store) start(t *testing.T, hostID string) agent {
	t.Helper()
	r := s.Open(t, hostID)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	running := true
	a := agent{Registry: r, t: t, patience: s.Patience, stop: func() {
		if !running {
			return
		}
		running = false
		cancel()
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Run of %s: %v", hostID, err)
			}
		case <-time.After(s.Patience):
			t.Errorf("Run of %s did not end", hostID)
		}
	}}
	t.Cleanup(a.stop)
	a.eventually("connected", func() bool { return r.Status().State == registry.Connected })
	return a
}

// eventually asks again and again: for states that have no event.
func (a agent) eventually(what string, done func() bool) {
	a.t.Helper()
	deadline := time.After(a.patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			a.t.Fatalf("never %s; status %+v", what, a.Status())
		}
	}
}

// apply applies d, which must reach the registry, and checks that the report
// names every item.
func (a agent) apply(d registry.Desired) registry.Report {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), a.patience)
	defer cancel()
	report, err := a.Apply(ctx, d)
	if err != nil {
		a.t.Fatalf("Apply: %v", err)
	}
	for _, key := range keys(d) {
		if _, ok := report[key]; !ok {
			a.t.Fatalf("the report does not name %s: %v", key, report)
		}
	}
	return report
}

// hold applies d and demands that every item is held.
func (a agent) hold(d registry.Desired) {
	a.t.Helper()
	for key, item := range a.apply(d) {
		if item.State != registry.Held {
			a.t.Fatalf("%s is %+v, want held", key, item)
		}
	}
}

// lost forgets what Lost has told, and gives what waits for the next.
func (a agent) lost() (told func()) {
	select {
	case <-a.Lost():
	default:
	}
	return func() {
		a.t.Helper()
		select {
		case <-a.Lost():
		case <-time.After(a.patience):
			a.t.Fatal("Lost told nothing")
		}
	}
}

func keys(d registry.Desired) []string {
	var all []string
	for _, u := range slices.Concat(d.Providers, d.Consumers) {
		all = append(all, u.String())
	}
	for _, app := range d.Applications {
		all = append(all, app.ID())
	}
	return all
}

// listener is one subscription and the sets that it delivered.
type listener struct {
	t        *testing.T
	patience time.Duration
	sets     chan registry.Endpoints
	last     []string
	cancel   func() // ends Subscribe and checks what it returned; may be called twice
}

func (a agent) subscribe(iface string) *listener {
	a.t.Helper()
	l := &listener{t: a.t, patience: a.patience, sets: make(chan registry.Endpoints)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Subscribe(ctx, iface, l.sets) }()
	running := true
	l.cancel = func() {
		if !running {
			return
		}
		running = false
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				l.t.Errorf("Subscribe(%s) returned %v after its context ended, want nil", iface, err)
			}
		case <-time.After(l.patience):
			l.t.Errorf("Subscribe(%s) did not return after its context ended", iface)
		}
	}
	a.t.Cleanup(l.cancel)
	return l
}

// next is the next set that is delivered, as sorted "model url" lines.
func (l *listener) next() []string {
	l.t.Helper()
	select {
	case e := <-l.sets:
		l.last = lines(e.Providers)
		if e.Incomplete != "" {
			l.last = append(l.last, "incomplete "+e.Incomplete)
		}
		return l.last
	case <-time.After(l.patience):
		l.t.Fatalf("no set was delivered; the last one:\n%s", strings.Join(l.last, "\n"))
		return nil
	}
}

// until reads sets until one is exactly want; check, if any, sees each set.
func (l *listener) until(want []string, check ...func(set []string)) {
	l.t.Helper()
	deadline := time.Now().Add(l.patience)
	for {
		got := l.next()
		for _, c := range check {
			c(got)
		}
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("never got\n%s\nlast\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
		}
	}
}

// isNext demands that the next set is want: nothing was delivered before it.
func (l *listener) isNext(want []string) {
	l.t.Helper()
	if got := l.next(); !slices.Equal(got, want) {
		l.t.Fatalf("next set is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func lines(providers []registry.Provider) []string {
	all := []string{}
	for _, p := range providers {
		all = append(all, string(p.Model)+" "+p.URL.String())
	}
	slices.Sort(all)
	return all
}

// set is what a subscriber of iface sees of all these together.
func set(iface string, all ...registry.Desired) []string {
	var providers []registry.Provider
	for _, d := range all {
		for _, u := range d.Providers {
			if u.Service().Interface == iface {
				providers = append(providers, registry.Provider{URL: u, Model: registry.ModelInterface})
			}
		}
		for _, app := range d.Applications {
			for _, u := range registry.ProviderURLs(app.Instance, app.Metadata, iface) {
				providers = append(providers, registry.Provider{URL: u, Model: registry.ModelApplication})
			}
		}
	}
	return lines(providers)
}
