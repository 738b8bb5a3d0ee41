package discovery

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

const (
	probeTimeout = 300 * time.Millisecond
	probeAtOnce  = 16
	probeMost    = 256 // addresses in a round, one round a second
)

// probe begins a round, unless one runs: it dials the addresses that are held
// because a registry does not list them any more. Those that refuse are dropped
// (reference/faults.md, row 10). What is stale because the registry is away is
// not probed: its providers may come back before it does.
func (l *loop) probe() {
	if l.probing {
		return
	}
	unique := map[string]bool{}
	for _, f := range l.follows {
		for _, s := range f.sets {
			if s.stale {
				continue
			}
			for _, p := range s.held {
				unique[p.URL.HostPort()] = true
			}
		}
	}
	if len(unique) == 0 {
		return
	}
	addresses := make([]string, 0, len(unique))
	for a := range unique {
		addresses = append(addresses, a)
	}
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	addresses = addresses[:min(len(addresses), probeMost)]
	l.probing = true
	l.wg.Go(func() {
		refused := refusing(l.ctx, l.o.Probe, addresses)
		select {
		case l.probed <- refused:
		case <-l.ctx.Done():
		}
	})
}

// refusing tells which addresses refuse connections.
func refusing(ctx context.Context, probe func(context.Context, string) error, addresses []string) map[string]bool {
	var mu sync.Mutex
	refused := map[string]bool{}
	slots := make(chan struct{}, probeAtOnce)
	var wg sync.WaitGroup
	for _, a := range addresses {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			if errors.Is(probe(ctx, a), syscall.ECONNREFUSED) {
				mu.Lock()
				refused[a] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return refused
}
