package api

import (
	"crypto/sha256"
	"sync"
)

// revisions numbers the visible changes of documents. One counter serves the
// whole agent: a document's revision is the number of its own last change, so
// it never goes back, also when a subscription ends and begins again.
type revisions struct {
	mu   sync.Mutex
	last uint64             // guarded by mu
	seen map[string]version // guarded by mu; by subscription id
}

type version struct {
	content  [sha256.Size]byte
	revision uint64
}

func newRevisions() revisions { return revisions{seen: map[string]version{}} }

// of is the revision of a document: a new one if it differs from the last.
func (r *revisions) of(d Document) uint64 {
	content := d.visible()
	r.mu.Lock()
	defer r.mu.Unlock()
	v, known := r.seen[d.Subscription]
	if !known || v.content != content {
		r.last++
		v = version{content, r.last}
		r.seen[d.Subscription] = v
	}
	return v.revision
}

// keep forgets every subscription but those for which alive is true.
func (r *revisions) keep(alive func(id string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.seen {
		if !alive(id) {
			delete(r.seen, id)
		}
	}
}
