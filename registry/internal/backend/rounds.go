package backend

import (
	"context"
	"time"
)

// Rounds are the turns of a loop: one follows when it is poked, and at the time that
// the one before has asked for.
type Rounds struct {
	wake chan struct{} // capacity 1
	next time.Time     // owned by the loop; zero: only when poked
}

// NewRounds makes some.
func NewRounds() *Rounds { return &Rounds{wake: make(chan struct{}, 1)} }

// Poke has a round follow. It never blocks.
func (r *Rounds) Poke() { Poke(r.wake) }

// By asks, from within a round, for the next one at t, at the latest.
func (r *Rounds) By(t time.Time) {
	if r.next.IsZero() || t.Before(r.next) {
		r.next = t
	}
}

// Run runs rounds, the first at once, until ctx ends.
func (r *Rounds) Run(ctx context.Context, round func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
		r.next = time.Time{}
		round()
		if r.next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(r.next))
		}
	}
}
