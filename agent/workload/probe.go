package workload

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// minGap is the least time between the beginnings of two probes of one address,
// however often somebody asks for one.
const minGap = 20 * time.Millisecond

// prober probes one address until its context ends. It keeps its newest
// connection open, because its end tells at once that a provider was killed.
type prober struct {
	address string
	dial    func(ctx context.Context, address string) (net.Conn, error)
	wake    <-chan struct{} // capacity 1: probe now
	// plan tells whether to ask for a heartbeat, whether a refusal needs a second
	// one (not where it changes nothing), and how long a probe may take.
	plan func() (heartbeat, confirm bool, timeout time.Duration)
	// report takes each outcome in and gives the pause until the next probe.
	report func(outcome) time.Duration

	// owned by run
	timeout time.Duration // of this probe
	kept    *keptConn     // newest connection, nil: none
	silent  bool          // kept did not answer the last heartbeat: ask on another one
	lastID  uint64
}

func (p *prober) run(ctx context.Context) {
	defer p.drop()
	due := true // the pause before this probe passed, it was not cut short by a close
	for {
		begun := time.Now()
		select {
		case <-p.wake: // is what begins here
		default:
		}
		if p.ended() {
			p.drop()
		}
		o := p.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := p.report(o)
		var ok bool
		if due, ok = p.wait(ctx, begun, pause, due); !ok {
			return
		}
	}
}

// wait until the next probe is due, until somebody asks for it, or until the
// provider closes the kept connection. The latter cuts one pause short, not the
// next as well: a server that closes every connection is not probed in a circle.
func (p *prober) wait(ctx context.Context, begun time.Time, pause time.Duration, hasty bool) (due, ok bool) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	var end <-chan struct{}
	var events <-chan outcome
	if p.kept != nil {
		events = p.kept.events
		if hasty {
			end = p.kept.end
		}
	}
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-timer.C:
			return true, true
		case o := <-events:
			p.report(o)
		case <-end:
			return false, true
		case <-p.wake:
			timer.Reset(max(0, minGap-time.Since(begun)))
			end = nil
		}
	}
}

// probe looks once. A refusal on the way closes the kept connection: nobody
// listens any more.
func (p *prober) probe(ctx context.Context) outcome {
	var heartbeat, confirm bool
	heartbeat, confirm, p.timeout = p.plan()
	if p.kept != nil && heartbeat && p.kept.frames && !p.silent {
		if o := p.beat(ctx); o != closed {
			return o
		}
		p.drop()
	}
	c, o := p.connect(ctx, confirm)
	if c == nil {
		if o == refused {
			p.drop()
		}
		return o
	}
	p.drop()
	p.kept = keep(c, heartbeat)
	if !heartbeat {
		return accepted
	}
	if o := p.beat(ctx); o != closed {
		return o
	}
	return accepted // it takes connections, and closes those that ask for a heartbeat
}

// connect dials; refused means refused twice within the time-out, if it is to be
// confirmed: a listener that is replaced is away for a moment.
func (p *prober) connect(ctx context.Context, confirm bool) (net.Conn, outcome) {
	c, err := p.dialOnce(ctx)
	if confirm && errors.Is(err, syscall.ECONNREFUSED) {
		select {
		case <-ctx.Done():
			return nil, noVerdict
		case <-time.After(p.timeout / 3):
		}
		c, err = p.dialOnce(ctx)
	}
	return c, judge(err)
}

func (p *prober) dialOnce(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return p.dial(ctx, p.address)
}

// judge maps the error of a dial. Being short of something ourselves says
// nothing about the provider.
func judge(err error) outcome {
	if err == nil {
		return accepted
	}
	for _, own := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, own) {
			return noVerdict
		}
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return refused
	}
	return missed
}

// beat asks for a heartbeat on the kept connection: answered, accepted (silent),
// or closed.
func (p *prober) beat(ctx context.Context) outcome {
	p.lastID++
	p.kept.SetWriteDeadline(time.Now().Add(p.timeout))
	if _, err := p.kept.Write(heartbeatFrame(p.lastID)); err != nil && p.ended() {
		return closed
	}
	timer := time.NewTimer(p.timeout)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return noVerdict
		case id := <-p.kept.answers:
			if id == p.lastID {
				p.silent = false
				return answered
			}
		case o := <-p.kept.events:
			p.report(o)
		case <-p.kept.end:
			return closed
		case <-timer.C:
			p.silent = true
			return accepted
		}
	}
}

func (p *prober) ended() bool {
	if p.kept == nil {
		return false
	}
	select {
	case <-p.kept.end:
		return true
	default:
		return false
	}
}

// drop ends the kept connection, and reports it if the provider did that before.
func (p *prober) drop() {
	if p.kept == nil {
		return
	}
	if p.ended() {
		p.report(closed)
	}
	p.kept.Close()
	<-p.kept.end
	p.kept, p.silent = nil, false
}

// keptConn is a connection with its reader.
type keptConn struct {
	net.Conn
	frames  bool          // read as dubbo2 frames
	answers chan uint64   // capacity 1: ids of responses
	events  chan outcome  // capacity 1: saidReadonly, saidWriteable
	end     chan struct{} // closed when the connection ended and the reader is gone
}

func keep(c net.Conn, frames bool) *keptConn {
	k := &keptConn{Conn: c, frames: frames, answers: make(chan uint64, 1), events: make(chan outcome, 1), end: make(chan struct{})}
	go func() {
		defer close(k.end)
		defer c.Close()
		if frames {
			k.read()
		}
		// It speaks something else, which is none of a prober's business; only its
		// end is.
		io.CopyN(io.Discard, c, maxNoise)
	}()
	return k
}

const (
	maxNoise = 1 << 20  // bytes from a server that nobody asked
	maxBody  = 64 << 10 // of a frame on a connection that carries heartbeats only
)

// read takes dubbo2 frames until something else comes.
func (k *keptConn) read() {
	var header [16]byte
	body := make([]byte, 0, 64)
	for {
		if _, err := io.ReadFull(k, header[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(header[12:])
		if header[0] != 0xda || header[1] != 0xbb || n > maxBody {
			return
		}
		if int(n) > cap(body) {
			body = make([]byte, n)
		}
		body = body[:n]
		if _, err := io.ReadFull(k, body); err != nil {
			return
		}
		if header[2]&flagRequest == 0 {
			// Any response shows that the provider handles frames, whatever its status.
			offer(k.answers, binary.BigEndian.Uint64(header[4:]))
		} else if o := event(header[2], body); o != noVerdict {
			offer(k.events, o)
		}
	}
}

// offer replaces what nobody took yet: only the newest counts.
func offer[T any](ch chan T, v T) {
	for {
		select {
		case ch <- v:
			return
		default:
		}
		select {
		case <-ch:
		default:
		}
	}
}

const (
	flagRequest = 0x80
	flagTwoway  = 0x40
	flagEvent   = 0x20
	hessian2    = 0x02
)

// heartbeatFrame is a dubbo2 event request with the body null in hessian2.
// Source: org.apache.dubbo.remoting.exchange.codec.ExchangeCodec.
func heartbeatFrame(id uint64) []byte {
	f := []byte{0xda, 0xbb, flagRequest | flagTwoway | flagEvent | hessian2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'N'}
	binary.BigEndian.PutUint64(f[4:], id)
	return f
}

// event reads the event of a request: "R" is READONLY and "W" WRITEABLE, as a
// string in hessian2 (01 52) or fastjson2 (00 00 00 02 4a 52). Source:
// org.apache.dubbo.remoting.exchange.Request.
func event(flags byte, body []byte) outcome {
	if flags&flagEvent == 0 {
		return noVerdict
	}
	switch string(body) {
	case "\x01R", "\x00\x00\x00\x02JR":
		return saidReadonly
	case "\x01W", "\x00\x00\x00\x02JW":
		return saidWriteable
	}
	return noVerdict
}
