package dubbo

import (
	"encoding/binary"
	"errors"
)

const (
	// HeaderSize is the length of the fixed header, in bytes (ExchangeCodec.HEADER_LENGTH).
	HeaderSize = 16
	// DefaultMaxBody is Dubbo's default limit of a body, in bytes (Constants.DEFAULT_PAYLOAD).
	DefaultMaxBody = 8 << 20
)

const (
	magic0, magic1 = 0xda, 0xbb

	flagRequest       = 0x80
	flagTwoWay        = 0x40
	flagEvent         = 0x20
	maskSerialization = 0x1f
)

// Serialization ids that this package reads and writes (org.apache.dubbo.common.serialize.Constants).
const (
	Hessian2  = 2
	Fastjson2 = 23
)

// Statuses of a response that this package writes (org.apache.dubbo.remoting.exchange.Response).
const (
	StatusOK          = 20
	StatusServerError = 80
)

var (
	// ErrMagic says that the bytes are not a dubbo2 frame. The stream cannot be read on.
	ErrMagic = errors.New("dubbo: not a dubbo2 frame")
	// ErrTooLarge says that a header announces a body above the limit. The stream cannot be read on.
	ErrTooLarge = errors.New("dubbo: body above the limit")
	// ErrTruncated says that fewer bytes are there than a header or a body promises.
	ErrTruncated = errors.New("dubbo: truncated")
	// ErrMalformed says that a body is not what its serialization id says.
	ErrMalformed = errors.New("dubbo: malformed body")
	// ErrSerialization says that bodies of this serialization are not read or written here.
	ErrSerialization = errors.New("dubbo: serialization cannot be read")
)

// Header is the fixed part in front of each body.
type Header struct {
	Flags   byte
	Status  byte   // of a response
	ID      uint64 // opaque: Java 3 starts at random values above 1<<63
	BodyLen uint32 // in bytes, without the header
}

// IsRequest is false for a response.
func (h Header) IsRequest() bool { return h.Flags&flagRequest != 0 }

// TwoWay says that the sender of a request waits for a response.
func (h Header) TwoWay() bool { return h.Flags&flagTwoWay != 0 }

// IsEvent is true for heartbeats, READONLY and WRITEABLE, which belong to one connection and are not calls.
func (h Header) IsEvent() bool { return h.Flags&flagEvent != 0 }

// Serialization is the id of the body's serialization, 0..31.
func (h Header) Serialization() byte { return h.Flags & maskSerialization }

// ParseHeader reads the first [HeaderSize] bytes of b: ErrTruncated when there are fewer, ErrMagic when they are no header.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, ErrTruncated
	}
	if b[0] != magic0 || b[1] != magic1 {
		return Header{}, ErrMagic
	}
	return Header{
		Flags:   b[2],
		Status:  b[3],
		ID:      binary.BigEndian.Uint64(b[4:12]),
		BodyLen: binary.BigEndian.Uint32(b[12:16]),
	}, nil
}

// PutID writes id into the header of frame, in place.
func PutID(frame []byte, id uint64) { binary.BigEndian.PutUint64(frame[4:12], id) }

// Frame looks at the front of a read buffer. When complete, b[:n] is a whole frame. Otherwise n is how many bytes the
// buffer needs before it is worth asking again: HeaderSize, or the whole frame when the header is there already.
// ErrMagic comes as early as the first byte. With ErrTooLarge the header is valid, so that the sender can be answered.
func Frame(b []byte, maxBody int) (h Header, n int, complete bool, err error) {
	if len(b) < HeaderSize {
		if len(b) > 0 && b[0] != magic0 || len(b) > 1 && b[1] != magic1 {
			return Header{}, 0, false, ErrMagic
		}
		return Header{}, HeaderSize, false, nil
	}
	if h, err = ParseHeader(b); err != nil {
		return Header{}, 0, false, err
	}
	if int64(h.BodyLen) > int64(maxBody) {
		return h, 0, false, ErrTooLarge
	}
	n = HeaderSize + int(h.BodyLen)
	return h, n, len(b) >= n, nil
}

// beginFrame appends a header whose length endFrame fills in.
func beginFrame(dst []byte, flags, status byte, id uint64) []byte {
	dst = append(dst, magic0, magic1, flags, status)
	dst = binary.BigEndian.AppendUint64(dst, id)
	return append(dst, 0, 0, 0, 0)
}

// endFrame fills in the body length of the frame that starts at dst[start].
func endFrame(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start+12:], uint32(len(dst)-start-HeaderSize))
	return dst
}
