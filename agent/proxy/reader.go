package proxy

import (
	"net"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// reader cuts a stream into frames. Frames alias its buffer and are valid until
// the next fill. The buffer grows with what arrives, to twice the largest frame
// that is allowed at most.
type reader struct {
	nc      net.Conn
	maxBody int
	memory  *memory
	counted int // of buf, in memory
	buf     []byte
	r, w    int // buf[r:w] is unread
	skip    int // bytes of a frame that is too large, still to be thrown away
	need    int // length of the frame at r, if it is known and incomplete
}

// fill reads once.
func (r *reader) fill() error {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	switch size := len(r.buf); {
	case size == 0:
		r.grow(minRead)
	case r.w == size: // doubled as bytes come, so that a header alone claims no memory
		r.grow(max(2*size, min(r.need, maxRead)))
	case size > maxRead && r.w == 0:
		r.grow(maxRead)
	}
	n, err := r.nc.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		err = nil
	}
	return err
}

func (r *reader) grow(n int) {
	r.counted = r.memory.settle(r.counted, n)
	b := make([]byte, n)
	copy(b, r.buf[:r.w])
	r.buf = b
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

// release gives back what memory counts.
func (r *reader) release() { r.memory.settle(r.counted, 0) }

// discard skips the frame of h, whose body is above the bound.
func (r *reader) discard(h dubbo.Header) { r.skip = dubbo.HeaderSize + int(h.BodyLen) }

// bytes is what has been read and not yet cut.
func (r *reader) bytes() []byte { return r.buf[r.r:r.w] }
