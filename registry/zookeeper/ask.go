package zookeeper

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// Limits of asking providers for their metadata.
const (
	askAtOnce = 8
	askWithin = 3 * time.Second
	askFirst  = 500 * time.Millisecond // the pause after the first failure; doubled each time
	askLast   = 30 * time.Second
)

// answer is what a provider's MetadataService said.
type answer struct {
	metadata registry.Metadata
	err      error
}

// ask starts the calls that are due, each revision's at one of its instances.
// Their answers come back through answered.
func (r *reader) ask(ctx context.Context, running *sync.WaitGroup) {
	for key, n := range r.cache {
		if key.kind != asked || n.metadata != nil || n.inFlight || len(n.candidates) == 0 || r.asking >= askAtOnce {
			continue
		}
		if !n.retry.IsZero() {
			continue // expire clears it when it is due
		}
		ids := slices.Sorted(maps.Keys(n.candidates))
		i := n.candidates[ids[n.tries%len(ids)]]
		n.inFlight, n.candidates = true, nil
		n.tries++
		r.asking++
		running.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			var a answer
			a.metadata, a.err = r.metadata(ctx, i)
			r.mu.Lock()
			r.answered[key] = a
			r.mu.Unlock()
			r.rounds.Poke()
		})
	}
}

// answer keeps an answer, or when to ask again.
func (n *cached) answer(a answer) {
	n.inFlight = false
	if n.err = a.err; a.err == nil {
		n.metadata = &a.metadata
		return
	}
	pause := askLast
	if n.tries <= 6 {
		pause = min(askLast, askFirst<<(n.tries-1))
	}
	n.retry = time.Now().Add(backend.Jittered(pause))
}
