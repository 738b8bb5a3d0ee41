package proxy

import (
	"sync"
	"sync/atomic"
)

// memory bounds what waits in all of a proxy's queues and buffers together. Each
// connection may hold freeBytes without asking; what is above that is counted, in
// steps of freeBytes, so that a connection whose peer reads costs nothing here.
type memory struct {
	limit  int64
	used   atomic.Int64
	blocks sync.Pool // of *block; there are about as many as readers that run
}

const freeBytes = 64 << 10

// short tells that n bytes more would pass the bound.
func (m *memory) short(n int) bool { return m.used.Load()+int64(n) > m.limit }

// settle counts a change from was to held bytes; it gives what was has to be the
// next time.
func (m *memory) settle(was, held int) int {
	held = max(0, held-freeBytes)
	held -= held % freeBytes
	if held != was {
		m.used.Add(int64(held - was))
	}
	return held
}
