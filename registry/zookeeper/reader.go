package zookeeper

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// reader keeps what subscribed interfaces need of the tree. It is a cache of
// nodes that are read and watched on demand: an interface is assembled from the
// cache (assemble.go), what was missing is read, and so on until nothing is
// missing. An event makes its node stale and the interfaces that used it dirty.
type reader struct {
	// Immutable after New.
	client   *client
	paths    paths
	metadata registry.MetadataFunc
	log      *slog.Logger
	rounds   *backend.Rounds
	subs     *backend.Subscriptions

	mu       sync.Mutex
	stale    map[string]struct{} // guarded by mu; paths whose watch has fired
	all      bool                // guarded by mu; everything is stale
	online   bool                // guarded by mu
	answered map[nodeKey]answer  // guarded by mu; of MetadataService

	// Owned by run.
	cache  map[nodeKey]*cached
	ifaces map[string]*assembly
	asking int // calls of MetadataService in flight
}

func newReader(c *client, p paths, metadata registry.MetadataFunc, log *slog.Logger) *reader {
	rounds := backend.NewRounds()
	return &reader{client: c, paths: p, metadata: metadata, log: log, rounds: rounds, subs: backend.NewSubscriptions(rounds.Poke),
		stale: map[string]struct{}{}, answered: map[nodeKey]answer{},
		cache: map[nodeKey]*cached{}, ifaces: map[string]*assembly{}}
}

// changed is told of an event at path.
func (r *reader) changed(path string) {
	r.mu.Lock()
	r.stale[path] = struct{}{}
	r.mu.Unlock()
	r.rounds.Poke()
}

// connected is told of each session that can be used, and of its loss. After a
// new session, or one resumed by a new process, there are no watches; after a
// reconnect the library sets them again, and reading all costs little then.
func (r *reader) connected(yes bool) {
	r.mu.Lock()
	r.online = yes
	r.all = r.all || yes
	r.mu.Unlock()
	if yes {
		r.rounds.Poke()
	}
}

// run reads and delivers until ctx ends.
func (r *reader) run(ctx context.Context) {
	var asks sync.WaitGroup
	defer asks.Wait()
	r.rounds.Run(ctx, func() { r.pass(ctx, &asks) })
}

// pass brings every dirty interface up to date and delivers it.
func (r *reader) pass(ctx context.Context, asks *sync.WaitGroup) {
	subs, online := r.collectInput()
	for iface := range r.ifaces {
		if !subs[iface] {
			r.forget(iface)
		}
	}
	for iface := range subs {
		if r.ifaces[iface] == nil {
			r.ifaces[iface] = &assembly{dirty: true}
		}
	}
	if !online {
		return
	}
	r.expire()
	for {
		missing := map[nodeKey]*cached{}
		for iface, a := range r.ifaces {
			if a.dirty {
				r.assemble(iface, a, missing)
			}
		}
		if len(missing) == 0 {
			break
		}
		if !r.read(ctx, missing) {
			r.rounds.By(time.Now().Add(backend.Jittered(time.Second)))
			break // what is still dirty is not delivered
		}
	}
	r.ask(ctx, asks)
	for iface := range subs {
		if a := r.ifaces[iface]; !a.dirty {
			r.subs.Offer(a.endpoints)
		}
	}
}

// collectInput takes over what others have told since the last pass.
func (r *reader) collectInput() (subs map[string]bool, online bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for path := range r.stale {
		for kind := range stored {
			if n := r.cache[nodeKey{kind, path}]; n != nil {
				r.outdate(n)
			}
		}
	}
	clear(r.stale)
	if r.all {
		for key, n := range r.cache {
			if key.kind < stored {
				r.outdate(n)
			}
		}
		r.all = false
	}
	for key, a := range r.answered {
		r.asking--
		if n := r.cache[key]; n != nil {
			n.answer(a)
			r.outdate(n)
		}
	}
	clear(r.answered)
	return r.subs.Interfaces(), r.online
}

// outdate has a node read again, and every interface that used it assembled.
func (r *reader) outdate(n *cached) {
	n.fresh = false
	for iface := range n.users {
		r.ifaces[iface].dirty = true
	}
}

// expire outdates what could not be read and is due again.
func (r *reader) expire() {
	now := time.Now()
	for _, n := range r.cache {
		if n.retry.IsZero() {
			continue
		}
		if n.retry.After(now) {
			r.rounds.By(n.retry)
			continue
		}
		n.retry = time.Time{}
		r.outdate(n)
	}
}

// forget drops an interface that nobody subscribes to. Its watches stay in the
// library until they fire; then nobody is interested.
func (r *reader) forget(iface string) {
	r.release(iface, r.ifaces[iface].uses)
	delete(r.ifaces, iface)
}

func (r *reader) release(iface string, keys map[nodeKey]struct{}) {
	for key := range keys {
		if n := r.cache[key]; n != nil {
			delete(n.users, iface)
			if len(n.users) == 0 {
				delete(r.cache, key)
			}
		}
	}
}
