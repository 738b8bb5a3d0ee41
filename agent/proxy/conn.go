package proxy

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// writeTimeout bounds how long a peer may take nothing of what is ready for
	// it, before its connection is given up.
	writeTimeout = 30 * time.Second
	// slowPiece is how much of it a peer must take in that time.
	slowPiece = 64 << 10
	// ownBytes may wait above the limit of a queue.
	ownBytes = 1 << 20
)

// conn is the writing half that both sides share. Frames are appended to buf
// under mu; who finds nobody writing writes until buf is empty, all others only
// append. So frames that come together leave together, and in the ordinary case
// no goroutine is handed over to. A write that would block moves to a goroutine
// of the connection's own, so that a peer which does not read stops nobody else.
type conn struct {
	stall  time.Duration   // how long the peer may take nothing
	nc     net.Conn        // nil until attach
	raw    syscall.RawConn // nil: nc cannot tell, writes go to an own goroutine
	tryFn  func(fd uintptr) bool
	tryBuf []byte // owned by who is writing
	tryN   int
	tryErr error

	quiet chan struct{} // capacity 1: the queue may be empty now; nil: nobody waits for that

	mu      sync.Mutex
	buf     []byte // waits to be written
	spare   []byte // the buffer written last, for reuse
	writing bool   // somebody writes, or will once the connection is up
	closed  bool
	out     int    // bytes that are being written
	counted int    // of out and buf, in memory
	handed  uint64 // bytes given to the kernel, or about to be
	queued  uint64 // bytes ever appended
	limit   int    // of out and buf together
	memory  *memory
}

// attach gives a connection to write to. Until then everything is queued.
func (c *conn) attach(nc net.Conn) {
	c.stall = writeTimeout
	c.mu.Lock()
	c.nc = nc
	c.mu.Unlock()
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw = raw
			c.tryFn = func(fd uintptr) bool {
				c.tryN, c.tryErr = syscall.Write(int(fd), c.tryBuf)
				return true // never wait here
			}
		}
	}
}

// full tells whether n more bytes would pass a bound: the queue's, or, for what
// is above freeBytes, that of all queues together. One frame always fits into an
// empty queue while there is memory. mu is held.
func (c *conn) full(n int) bool {
	held := c.out + len(c.buf)
	if held+n <= freeBytes {
		return false
	}
	return held > 0 && held+n > c.limit || c.memory.short(n)
}

// overflows is full for a small frame of our own, as a refusal or the reply to a
// heartbeat: it may stand behind a full queue. mu is held.
func (c *conn) overflows(n int) bool {
	held := c.out + len(c.buf)
	return held > 0 && held+n > c.limit+ownBytes
}

// put appends a frame. mu is held.
func (c *conn) put(frame []byte) {
	c.buf = append(c.buf, frame...)
	c.queued += uint64(len(frame))
	c.count()
}

// count keeps memory informed. mu is held.
func (c *conn) count() { c.counted = c.memory.settle(c.counted, c.out+len(c.buf)) }

// send appends a frame of our own and writes. False: the connection is closed, or
// the queue overflows, which closes it.
func (c *conn) send(frame []byte) bool {
	c.mu.Lock()
	if c.closed || c.overflows(len(frame)) {
		full := !c.closed
		c.mu.Unlock()
		if full {
			c.abort()
		}
		return false
	}
	c.put(frame)
	c.mu.Unlock()
	c.flush()
	return true
}

// close lets nothing more in, and drops what is queued.
func (c *conn) close() {
	c.mu.Lock()
	c.closed = true
	c.drop()
	c.mu.Unlock()
}

// drop forgets what is queued. mu is held.
func (c *conn) drop() {
	c.buf, c.spare, c.out = nil, nil, 0
	c.count()
}

// flush writes what is queued, unless somebody is at it.
func (c *conn) flush() {
	c.mu.Lock()
	if c.writing || c.closed || len(c.buf) == 0 {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.write()
}

// take swaps the queue for an empty one. mu is held on entry and released. Nil:
// nothing is left, and nobody is writing any more.
func (c *conn) take(done []byte) []byte {
	if done != nil && cap(done) <= maxKept {
		c.spare = done[:0]
	}
	c.out = 0
	if len(c.buf) == 0 || c.closed {
		c.count()
		c.writing = false
		c.mu.Unlock()
		poke(c.quiet)
		return nil
	}
	out := c.buf
	c.buf, c.spare = c.spare, nil
	c.handed += uint64(len(out))
	c.out = len(out)
	c.count()
	c.mu.Unlock()
	return out
}

func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// maxKept is the largest buffer that is kept for reuse.
const maxKept = 1 << 20

// write empties the queue without waiting. mu is held on entry, writing is set.
func (c *conn) write() {
	for out := c.take(nil); out != nil; {
		n, err := c.try(out)
		if err != nil {
			c.abort()
			return
		}
		if n < len(out) {
			go c.writeSlowly(out, n)
			return
		}
		c.mu.Lock()
		out = c.take(out)
	}
}

// try writes what the kernel takes at once; n < len(p) without an error says
// that it would block.
func (c *conn) try(p []byte) (n int, err error) {
	if c.raw == nil {
		return 0, nil
	}
	for n < len(p) {
		c.tryBuf = p[n:]
		err := c.raw.Write(c.tryFn)
		c.tryBuf = nil
		if err == nil {
			err = c.tryErr
		}
		switch {
		case err == nil:
			n += c.tryN
		case errors.Is(err, syscall.EAGAIN):
			return n, nil
		case errors.Is(err, syscall.EINTR):
		default:
			return n, err
		}
	}
	return n, nil
}

// writeSlowly empties the queue, waiting for the peer, from out[n:] on.
func (c *conn) writeSlowly(out []byte, n int) {
	for out != nil {
		for n < len(out) {
			if err := c.nc.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
				c.abort()
				return
			}
			m, err := c.nc.Write(out[n:min(n+slowPiece, len(out))])
			if err != nil {
				c.abort()
				return
			}
			n += m
		}
		n = 0
		// try knows no deadline: one that is left would end the connection when it
		// next writes.
		_ = c.nc.SetWriteDeadline(time.Time{})
		c.mu.Lock()
		out = c.take(out)
	}
}

// abort breaks the connection. Its reader then ends and cleans up.
func (c *conn) abort() {
	c.mu.Lock()
	nc := c.nc
	c.mu.Unlock()
	if nc != nil {
		nc.Close()
	}
}
