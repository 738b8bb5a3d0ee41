// Package watch holds one immutable value that has one writer and many readers.
//
// Invariant: a value that was stored is never changed afterwards.
package watch

import (
	"sync"
	"sync/atomic"
)

// Value is a snapshot that readers load without a lock, and whose replacement
// they can wait for. The zero Value holds nil.
type Value[T any] struct {
	cur     atomic.Pointer[T]
	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed by the next Store, nil while nobody waits
}

// Load is the value stored last, or nil.
func (v *Value[T]) Load() *T { return v.cur.Load() }

// Store replaces the value and wakes everybody who waits.
func (v *Value[T]) Store(t *T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cur.Store(t)
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// Watch is the value stored last, and a channel that is closed when it is
// replaced. No change between the two is missed.
func (v *Value[T]) Watch() (*T, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.cur.Load(), v.changed
}
