package registrytest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
)

func subscribeBeforeInterface(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	l := b.Listen(greeter)
	l.IsNext(set(greeter)) // known to be empty
	d := provider(greeter, "192.0.2.1", 20882, "")
	a.Hold(d)
	l.Until(set(greeter, d))
	late := b.Listen(order)
	late.IsNext(set(order))
	app := instance("192.0.2.1", "r1", order)
	a.Hold(join(d, app))
	late.Until(set(order, app))
}

func subscribersShare(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := provider(greeter, "192.0.2.1", 20882, "")
	var all []*Listener
	for range 30 {
		all = append(all, b.Listen(greeter))
	}
	a.Hold(d)
	for _, l := range all {
		l.Until(set(greeter, d))
	}
	for _, l := range all[1:] { // one that goes takes nothing from the others
		l.Cancel()
	}
	more := provider(greeter, "192.0.2.2", 20882, "")
	a.Hold(join(d, more))
	all[0].IsNext(set(greeter, d, more))
	b.Listen(greeter).IsNext(set(greeter, d, more)) // one that comes late is told at once
}

// slowReader has a subscriber that does not read: it holds up nobody, and finds
// the latest set when it does.
func slowReader(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	slow, l := b.Listen(greeter), b.Listen(greeter)
	l.IsNext(set(greeter))
	var d registry.Desired
	for port := range 20 {
		d = provider(greeter, "192.0.2.1", 21000+port, "")
		a.Hold(d)
		l.Until(set(greeter, d))
	}
	slow.Until(set(greeter, d))
}

func cancelLeaksNothing(t *testing.T, s Store) {
	before := goleak.IgnoreCurrent()
	a := s.start(t, "host-a")
	d := provider(greeter, "192.0.2.1", 20882, "")
	a.Hold(d)
	for i := range 20 {
		l := a.Listen(greeter)
		if i%2 == 0 { // the others are cancelled while they deliver
			l.Until(set(greeter, d))
		}
		l.Cancel()
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.Subscribe(ended, greeter, make(chan registry.Endpoints)); err != nil {
		t.Errorf("Subscribe with an ended context: %v, want nil", err)
	}
	a.Hold(registry.Desired{})
	a.Stop()
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
	a.Hold(d)
	l := b.Listen(greeter)
	l.Until(set(greeter, d))
	a.Hold(registry.Desired{})
	a.Stop()
	l.Until(set(greeter))
	b.Hold(d) // nothing of the old owner is left in the way
	l.Until(set(greeter, d))
}

func kill(t *testing.T, s Store) {
	if s.Kill == nil {
		t.Skip("the store has no Kill")
	}
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := join(provider(greeter, "192.0.2.1", 20882, ""), instance("192.0.2.1", "r1", greeter))
	own := provider(greeter, "192.0.2.2", 20882, "")
	a.Hold(d)
	b.Hold(own)
	l := b.Listen(greeter)
	l.Until(set(greeter, d, own))
	s.Kill(t, "host-a")
	l.Until(set(greeter, own))
}

func republishAfterLoss(t *testing.T, s Store) {
	if s.Lose == nil {
		t.Skip("the store has no Lose")
	}
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := join(hard(), instance("192.0.2.1", "r1", greeter))
	l := b.Listen(greeter)
	a.Hold(d)
	l.Until(set(greeter, d))
	told := a.AwaitLost()
	s.Lose(t, "host-a")
	l.Until(set(greeter))
	told()
	// A server may list for a moment what it has just lost: the loop compares again.
	for range 10 {
		a.HoldSoon(d)
		if l.Within(2*time.Second, set(greeter, d)) {
			return
		}
	}
	t.Errorf("the last set was\n%s", strings.Join(lines(l.last), "\n"))
}

func restart(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	d := join(provider(greeter, "192.0.2.1", 20882, ""), instance("192.0.2.1", "r1", greeter))
	l := b.Listen(greeter)
	a.Hold(d)
	l.Until(set(greeter, d))
	a.Stop()
	again := s.start(t, "host-a")
	again.Hold(d)
	marker := provider(greeter, "192.0.2.9", 20882, "")
	again.Hold(join(d, marker))
	if s.Resumes {
		l.IsNext(set(greeter, d, marker))
	} else {
		l.Until(set(greeter, d, marker))
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
	l := b.Listen(greeter)
	a.Hold(d)
	l.Until(set(greeter, d))
	told := a.AwaitLost()
	s.Down(t)
	told()
	a.Eventually("away", func() bool { return a.Status().State != registry.Connected })
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
	a.Eventually("connected", func() bool { return a.Status().State == registry.Connected })
	b.Eventually("connected", func() bool { return b.Status().State == registry.Connected })
	a.Hold(d)
	marker := provider(greeter, "192.0.2.9", 20882, "")
	a.Hold(join(d, marker))
	l.Until(set(greeter, d, marker))
}
