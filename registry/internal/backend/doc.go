// Package backend has what the backends of registry servers do alike: read an
// address, tell subscribers, gather a report, know which metadata is still in use,
// and the texts that Dubbo keeps in every registry.
//
// Invariant: nothing here knows a protocol, a path or a name of one registry.
package backend

import (
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
)

// Poke wakes who waits on a channel of capacity 1. It never blocks.
func Poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Jittered is d less up to a half, so that many readers do not come in step.
func Jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// Each works on items concurrently, at most atOnce, and returns when all are done.
func Each[T any](atOnce int, items []T, f func(T)) {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, item := range items {
		g.Go(func() error {
			f(item)
			return nil
		})
	}
	_ = g.Wait() // they return no error
}
