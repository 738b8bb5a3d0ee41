package reconcile

import (
	"maps"
	"slices"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// How long changes at the application level are gathered (CONTRACT §5). Each
// write makes a new revision, which every consumer of the application reads.
const (
	quiet       = 500 * time.Millisecond // after the newest change
	latest      = 3 * time.Second        // after the first change
	latestGoing = quiet                  // after a service ended within an instance that stays
)

// pace decides which state of the application level is written now. It is a
// value: its methods return the next state.
type pace struct {
	wanted, shown []registry.Application
	// Times of changes that shown does not have; zero: none.
	first, newest, going time.Time
}

// want takes the newest wish.
func (p pace) want(apps []registry.Application, now time.Time) pace {
	if equal(apps, p.wanted) {
		return p
	}
	p.wanted = apps
	if equal(p.wanted, p.rest()) {
		p.first, p.newest, p.going = time.Time{}, time.Time{}, time.Time{}
		return p
	}
	p.newest = now
	if p.first.IsZero() {
		p.first = now
	}
	if p.going.IsZero() && p.shrinks() {
		p.going = now
	}
	return p
}

// at is when the gathered changes are written; zero when there are none.
func (p pace) at() time.Time {
	if p.first.IsZero() {
		return time.Time{}
	}
	at := earliest(p.newest.Add(quiet), p.first.Add(latest))
	if !p.going.IsZero() {
		at = earliest(at, p.going.Add(latestGoing))
	}
	return at
}

// due is what is to be shown now: what is wanted, or while changes are gathered
// what is shown already. Instances that nobody wants any more go in any case.
func (p pace) due(now time.Time) []registry.Application {
	if at := p.at(); !at.IsZero() && now.Before(at) {
		return p.rest()
	}
	return p.wanted
}

// overdue waits no longer.
func (p pace) overdue() pace {
	if !p.first.IsZero() {
		p.first = p.first.Add(-latest)
	}
	return p
}

// show is the state after apps were shown.
func (p pace) show(apps []registry.Application) pace {
	if p.shown = apps; equal(p.shown, p.wanted) {
		p.first, p.newest, p.going = time.Time{}, time.Time{}, time.Time{}
	}
	return p
}

// rest is what is shown without the instances that are not wanted.
func (p pace) rest() []registry.Application {
	var rest []registry.Application
	for _, app := range p.shown {
		if _, ok := find(p.wanted, app.ID()); ok {
			rest = append(rest, app)
		}
	}
	return rest
}

// shrinks tells whether an instance that stays shows a service that ended.
func (p pace) shrinks() bool {
	return slices.ContainsFunc(p.shown, func(app registry.Application) bool {
		wanted, stays := find(p.wanted, app.ID())
		if !stays {
			return false
		}
		for key := range app.Metadata.Services {
			if _, ok := wanted.Metadata.Services[key]; !ok {
				return true
			}
		}
		return false
	})
}

func find(apps []registry.Application, id string) (registry.Application, bool) {
	i := slices.IndexFunc(apps, func(a registry.Application) bool { return a.ID() == id })
	if i < 0 {
		return registry.Application{}, false
	}
	return apps[i], true
}

// equal compares sorted lists. A revision names the content of its metadata.
func equal(a, b []registry.Application) bool {
	return slices.EqualFunc(a, b, func(a, b registry.Application) bool {
		return a.ID() == b.ID() && maps.Equal(a.Instance.Metadata, b.Instance.Metadata)
	})
}

func equalDesired(a, b registry.Desired) bool {
	return slices.Equal(a.Providers, b.Providers) && slices.Equal(a.Consumers, b.Consumers) && equal(a.Applications, b.Applications)
}

// earliest is the earlier time; zero means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
