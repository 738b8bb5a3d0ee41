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

func (s Store) start(t *testing.T, hostID string) Agent {
	t.Helper()
	return Start(t, s.Open(t, hostID), s.Patience)
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
	return lines(registry.Endpoints{Providers: providers})
}
