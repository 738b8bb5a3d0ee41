package proxy

import (
	"io"
	"net"
	"os"
	"syscall"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// reader cuts a stream into frames. Frames alias its buffer and are valid until
// the next fill.
//
// It reads into blocks that all readers share: what is read together is written
// together, so a read has to take all that waits, and a block that the last reader
// has just left is in the processor's cache. A reader that waits gives its block
// back and keeps at most minRead bytes of its own, so that idle connections cost
// next to nothing and half a frame little. A frame that fits into no block gets a
// buffer that grows with what arrives, to twice the largest frame that is allowed
// at most.
type reader struct {
	nc      net.Conn
	raw     syscall.RawConn // nil: nc has none, buf is always our own
	tryFn   func(fd uintptr) bool
	tryErr  error
	maxBody int
	memory  *memory
	counted int    // of buf, in memory
	block   *block // buf, when that is shared
	rest    []byte // what was unread when the block was given back
	buf     []byte // nil while no block is held
	r, w    int    // buf[r:w] is unread
	full    bool   // the last read filled buf
	skip    int    // bytes of a frame that is too large, still to be thrown away
	need    int    // length of the frame at r, if it is known and incomplete
}

// block is a buffer that readers share.
type block [maxRead]byte

func newReader(nc net.Conn, maxBody int, m *memory) *reader {
	r := &reader{nc: nc, maxBody: maxBody, memory: m}
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw, r.tryFn = raw, r.try
		}
	}
	return r
}

// fill reads once, and waits for it.
func (r *reader) fill() error {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	switch size := len(r.buf); {
	case size > 0 && r.w == size: // doubled as bytes come, so that a header alone claims no memory
		r.grow(max(2*size, min(r.need, maxRead)))
	case size > maxRead && r.w == 0:
		r.drop()
	case r.raw == nil && r.full && size < maxRead:
		r.grow(2 * size)
	}
	if r.raw == nil {
		if r.buf == nil {
			r.grow(minRead)
		}
		n, err := r.nc.Read(r.buf[r.w:])
		return r.got(n, err)
	}
	if err := r.raw.Read(r.tryFn); err != nil {
		return err
	}
	return r.tryErr
}

// try reads what is there. False: nothing is, wait for it without a block.
func (r *reader) try(fd uintptr) bool {
	if r.buf == nil {
		r.take()
	}
	for {
		n, err := syscall.Read(int(fd), r.buf[r.w:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			r.leave()
			return false
		case err != nil:
			err = os.NewSyscallError("read", err)
		case n == 0:
			err = io.EOF
		}
		r.tryErr = r.got(max(n, 0), err)
		return true
	}
}

func (r *reader) got(n int, err error) error {
	r.w += n
	r.full = r.w == len(r.buf)
	if n > 0 {
		return nil
	}
	return err
}

// take gets a block and puts what is unread into it.
func (r *reader) take() {
	if r.block, _ = r.memory.blocks.Get().(*block); r.block == nil {
		r.block = new(block)
	}
	r.buf = r.block[:]
	copy(r.buf, r.rest[:r.w])
}

// leave gives the block back, if little is unread.
func (r *reader) leave() {
	if r.block == nil || r.w > minRead {
		return
	}
	if r.w > 0 {
		if r.rest == nil {
			r.rest = make([]byte, minRead)
		}
		copy(r.rest, r.buf[:r.w])
	}
	r.drop()
}

// grow moves to a larger buffer of our own.
func (r *reader) grow(n int) {
	b := make([]byte, n)
	copy(b, r.buf[:r.w])
	r.drop()
	r.buf = b
	r.counted = r.memory.settle(r.counted, n)
}

// drop gives up the buffer.
func (r *reader) drop() {
	if r.block != nil {
		r.memory.blocks.Put(r.block)
	}
	r.block, r.buf = nil, nil
	r.counted = r.memory.settle(r.counted, 0)
}

// next is the next whole frame, nil when more bytes are needed.
func (r *reader) next() (dubbo.Header, []byte, error) {
	if r.skip > 0 {
		n := min(r.skip, r.w-r.r)
		r.r += n
		r.skip -= n
	}
	h, n, complete, err := dubbo.Frame(r.buf[r.r:r.w], r.maxBody)
	if err != nil {
		return h, nil, err
	}
	if !complete {
		if n > len(r.buf) && n > freeBytes && r.memory.short(n) {
			return h, nil, dubbo.ErrTooLarge
		}
		r.need = n
		return h, nil, nil
	}
	frame := r.buf[r.r : r.r+n : r.r+n]
	r.r += n
	r.need = 0
	return h, frame, nil
}

// release gives back what the reader holds; it is not used any more.
func (r *reader) release() { r.drop() }

// discard skips the frame of h, whose body is above the bound.
func (r *reader) discard(h dubbo.Header) { r.skip = dubbo.HeaderSize + int(h.BodyLen) }

// bytes is what has been read and not yet cut.
func (r *reader) bytes() []byte { return r.buf[r.r:r.w] }
