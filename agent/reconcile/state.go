package reconcile

import (
	"reflect"
	"slices"
	"time"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// States of a publication.
const (
	Published = "published" // the registry holds all that it needs, at every level that is on; or its mode is off
	Pending   = "pending"   // not yet; Reason says why
)

// Reasons of Pending. Those of package workload stand for themselves; "invalid:
// …" tells why a URL cannot be advertised.
const (
	ReasonAway     = "registry-away" // the registry cannot be reached, or refuses
	ReasonConflict = "conflict"      // somebody else who is alive holds the entry
	ReasonSettling = "settling"      // on its way
	ReasonStopping = "stopping"      // the agent withdraws everything
)

// ReasonNotCarried says of a Published one why it stands at the provider's own
// address: the agent does not speak its protocol.
const ReasonNotCarried = "protocol-not-carried"

// State is how far one registry is. It is immutable.
type State struct {
	// Generation of the newest workload view that the registry reflects
	// completely: what it ends is gone, what it begins is there at every level,
	// save what is in conflict or not live.
	Generation uint64
	// Seen is the generation that Publications speaks of.
	Seen uint64
	// InSync: the registry held everything that is wanted when it was asked last.
	InSync       bool
	Publications map[workload.Identity]PublicationState // of this registry
	LastCompare  time.Time                              // last complete Apply
	Err          string                                 // why the last Apply failed; empty when it did not
}

// PublicationState is how far the registry is with one publication.
type PublicationState struct {
	State      string   // Published or Pending
	Reason     string   // why it is Pending; of a Published one "off" when its mode is, or ReasonNotCarried
	Detail     string   // what the registry says to that: the other owner, an error
	Advertised []string // where consumers find it now: URLs
}

// result is what the last Apply that was tried to its end left.
type result struct {
	applied registry.Desired // what it was given
	report  registry.Report
	err     error
	away    bool
	at      time.Time // when the last complete one ended
}

// complete tells whether the registry holds all of d, conflicts aside.
func (r result) complete(d registry.Desired) bool {
	if r.at.IsZero() || r.err != nil || !equalDesired(r.applied, d) {
		return false
	}
	return !slices.ContainsFunc(items(d), func(item string) bool { return r.report[item].State == registry.Pending })
}

// held counts what the registry holds of what was applied last.
func (r result) held() int {
	n := 0
	for _, item := range r.report {
		if item.State == registry.Held {
			n++
		}
	}
	return n
}

// observe says how far the registry is with a plan. before is the state so far.
func observe(p plan, r result, before State) State {
	s := State{
		Generation: before.Generation, Seen: p.generation, LastCompare: r.at,
		Publications: make(map[workload.Identity]PublicationState, len(p.publications)),
	}
	if r.err != nil {
		s.Err = r.err.Error()
	}
	if r.complete(p.desired) {
		s.Generation = p.generation
		s.InSync = !slices.ContainsFunc(items(p.desired), func(item string) bool { return r.report[item].State != registry.Held })
	}
	for id, i := range p.publications {
		s.Publications[id] = r.publication(i, p.desired.Applications)
	}
	return s
}

func (r result) publication(i intent, wanted []registry.Application) PublicationState {
	switch {
	case i.off:
		return PublicationState{State: Published, Reason: string(Off)}
	case i.reason != "":
		return PublicationState{State: Pending, Reason: i.reason}
	}
	s := PublicationState{State: Published, Reason: i.note}
	pending := func(reason, detail string) { // the first reason stays, but a conflict is worth more
		if s.State == Published || reason == ReasonConflict {
			s.State, s.Reason, s.Detail = Pending, reason, detail
		}
	}
	if r.away {
		pending(ReasonAway, "")
	}
	var held []string
	for _, name := range slices.Concat(i.interfaces, i.applications) {
		switch item := r.report[name]; {
		case item.State == registry.Conflict:
			pending(ReasonConflict, item.Owner)
		case item.State == registry.Held && (slices.Contains(i.interfaces, name) || r.serves(name, i.service, wanted)):
			held = append(held, name)
		case r.err != nil:
			pending(ReasonAway, item.Err)
		default:
			pending(ReasonSettling, item.Err)
		}
	}
	for _, u := range i.advertised {
		if s.State == Published || slices.Contains(held, u) {
			s.Advertised = append(s.Advertised, u)
		}
	}
	return s
}

// serves tells whether the instance as it was applied has the service as it is
// wanted. Other services of the instance may still settle.
func (r result) serves(application, service string, wanted []registry.Application) bool {
	now, ok := find(r.applied.Applications, application)
	then, also := find(wanted, application)
	return ok && also && reflect.DeepEqual(now.Metadata.Services[service], then.Metadata.Services[service])
}

// items are the names of everything in d, as a Report has them.
func items(d registry.Desired) []string {
	names := make([]string, 0, len(d.Providers)+len(d.Applications)+len(d.Consumers))
	for _, u := range d.Providers {
		names = append(names, u.String())
	}
	for _, a := range d.Applications {
		names = append(names, a.ID())
	}
	for _, u := range d.Consumers {
		names = append(names, u.String())
	}
	return names
}
