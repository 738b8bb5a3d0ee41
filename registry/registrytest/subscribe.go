package registrytest

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
)

func subscribeBeforeInterface(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	l := b.subscribe(greeter)
	l.isNext(set(greeter)) // known to be empty
	d := provider(greeter, "192.0.2.1", 20882, "")
	a.hold(d)
	l.until(set(greeter, d))
	late := b.subscribe(order)
	late.isNext(set(order))
	app := instance("192.0.2.1", "r1", order)
	a.hold(join(d, app))
	late.until(set(order, app))
}

func subscribersShare(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := provider(greeter, "192.0.2.1", 20882, "")
	var all []*listener
	for range 30 {
		all = append(all, b.subscribe(greeter))
	}
	a.hold(d)
	for _, l := range all {
		l.until(set(greeter, d))
	}
	for _, l := range all[1:] { // one that goes takes nothing from the others
		l.cancel()
	}
	more := provider(greeter, "192.0.2.2", 20882, "")
	a.hold(join(d, more))
	all[0].isNext(set(greeter, d, more))
	b.subscribe(greeter).isNext(set(greeter, d, more)) // one that comes late is told at once
}

// slowReader has a subscriber that does not read: it holds up nobody, and finds
// the latest set when it does.
func slowReader(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	slow, l := b.subscribe(greeter), b.subscribe(greeter)
	l.isNext(set(greeter))
	var d registry.Desired
	for port := range 20 {
		d = provider(greeter, "192.0.2.1", 21000+port, "")
		a.hold(d)
		l.until(set(greeter, d))
	}
	slow.until(set(greeter, d))
}

func cancelLeaksNothing(t *testing.T, s Store) {
	before := goleak.IgnoreCurrent()
	a := s.start(t, "host-a")
	d := provider(greeter, "192.0.2.1", 20882, "")
	a.hold(d)
	for i := range 20 {
		l := a.subscribe(greeter)
		if i%2 == 0 { // the others are cancelled while they deliver
			l.until(set(greeter, d))
		}
		l.cancel()
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.Subscribe(ended, greeter, make(chan registry.Endpoints)); err != nil {
		t.Errorf("Subscribe with an ended context: %v, want nil", err)
	}
	a.hold(registry.Desired{})
	a.stop()
	goleak.VerifyNone(t, before)
}

func badInterface(t *testing.T, s Store) {
	a := s.start(t, "host-a")
	for _, iface := range []string{"", ".", "..", "a/b", "/", "a b", "a\nb", "a\x00b", "a?b", "*"} {
		ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
		err := a.Subscribe(ctx, iface, make(chan registry.Endpoints))
		if err == nil || ctx.Err() != nil {
			t.Errorf("Subscribe(%q) = %v, want an error at once", iface, err)
		}
		cancel()
	}
}

// endForGood does what an agent does that stops for good: an empty Desired, then
// the end of Run.
func endForGood(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := join(provider(greeter, "192.0.2.1", 20882, ""), instance("192.0.2.1", "r1", greeter))
	a.hold(d)
	l := b.subscribe(greeter)
	l.until(set(greeter, d))
	a.hold(registry.Desired{})
	a.stop()
	l.until(set(greeter))
	b.hold(d) // nothing of the old owner is left in the way
	l.until(set(greeter, d))
}

func kill(t *testing.T, s Store) {
	if s.Kill == nil {
		t.Skip("the store has no Kill")
	}
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := join(provider(greeter, "192.0.2.1", 20882, ""), instance("192.0.2.1", "r1", greeter))
	own := provider(greeter, "192.0.2.2", 20882, "")
	a.hold(d)
	b.hold(own)
	l := b.subscribe(greeter)
	l.until(set(greeter, d, own))
	s.Kill(t, "host-a")
	l.until(set(greeter, own))
}

func republishAfterLoss(t *testing.T, s Store) {
	if s.Lose == nil {
		t.Skip("the store has no Lose")
	}
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := join(hard(), instance("192.0.2.1", "r1", greeter))
	l := b.subscribe(greeter)
	a.hold(d)
	l.until(set(greeter, d))
	told := a.lost()
	s.Lose(t, "host-a")
	l.until(set(greeter))
	told()
	a.hold(d)
	l.until(set(greeter, d))
}

func restart(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := join(provider(greeter, "192.0.2.1", 20882, ""), instance("192.0.2.1", "r1", greeter))
	l := b.subscribe(greeter)
	a.hold(d)
	l.until(set(greeter, d))
	a.stop()
	again := s.start(t, "host-a")
	again.hold(d)
	marker := provider(greeter, "192.0.2.9", 20882, "")
	again.hold(join(d, marker))
	if s.Resumes {
		l.isNext(set(greeter, d, marker))
	} else {
		l.until(set(greeter, d, marker))
	}
}

// away takes the store down: Apply says so, and everything works when the store
// is back. Entries may be gone for a moment then: a session can have expired.
func away(t *testing.T, s Store) {
	if s.Down == nil {
		t.Skip("the store has no Down")
	}
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := provider(greeter, "192.0.2.1", 20882, "")
	l := b.subscribe(greeter)
	a.hold(d)
	l.until(set(greeter, d))
	told := a.lost()
	s.Down(t)
	told()
	a.eventually("away", func() bool { return a.Status().State != registry.Connected })
	ctx, cancel := context.WithTimeout(context.Background(), s.Patience)
	defer cancel()
	report, err := a.Apply(ctx, d)
	if !errors.Is(err, registry.ErrAway) {
		t.Errorf("Apply while the store is down: %v, want ErrAway", err)
	}
	if got := report[keys(d)[0]]; got.State != registry.Pending {
		t.Errorf("while the store is down the entry is %+v, want pending", got)
	}
	s.Up(t)
	a.eventually("connected", func() bool { return a.Status().State == registry.Connected })
	b.eventually("connected", func() bool { return b.Status().State == registry.Connected })
	a.hold(d)
	marker := provider(greeter, "192.0.2.9", 20882, "")
	a.hold(join(d, marker))
	l.until(set(greeter, d, marker))
}
