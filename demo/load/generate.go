package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/registry"
)

// options of one measurement.
type options struct {
	To          string
	Service     string
	Connections int
	Depth       int // calls in flight on each connection
	Bytes       int // of the argument
	For         time.Duration
	Counted     *atomic.Int64 // also counts the calls, while they are made; nil: nothing does
}

// result of one measurement.
type result struct {
	Calls, Failed int64
	For           time.Duration
	P50, P99, Max time.Duration
}

func (r result) rate() float64 { return float64(r.Calls) / r.For.Seconds() }

func (r result) String() string {
	return fmt.Sprintf("%.0f requests/s, p50 %v, p99 %v, %d calls, %d failed", r.rate(), r.P50, r.P99, r.Calls, r.Failed)
}

// generate keeps Depth calls in flight on each connection. What it counts begins
// after a fifth of the time.
func generate(ctx context.Context, o options) (result, error) {
	template, err := request(o)
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.For+o.For/5)
	defer cancel()
	m := meter{also: o.Counted}
	conns := make([]net.Conn, o.Connections)
	for i := range conns {
		if conns[i], err = net.DialTimeout("tcp", o.To, 3*time.Second); err != nil {
			return result{}, err
		}
		defer conns[i].Close()
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(conns))
	for _, c := range conns {
		wg.Go(func() {
			if err := m.drive(c, template, o.Depth); err != nil && ctx.Err() == nil {
				errs <- err
			}
		})
	}
	select {
	case <-time.After(o.For / 5):
	case <-ctx.Done():
	}
	began := time.Now()
	m.on.Store(true)
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-errs:
	}
	m.on.Store(false)
	took := time.Since(began)
	for _, c := range conns {
		c.Close()
	}
	wg.Wait()
	return result{Calls: m.calls.Load(), Failed: m.failed.Load(), For: took, P50: m.quantile(0.50), P99: m.quantile(0.99), Max: m.quantile(1)}, failure
}

func request(o options) ([]byte, error) {
	s, err := registry.ParseService(o.Service)
	if err != nil {
		return nil, err
	}
	attachments := map[any]any{"path": s.Interface, "interface": s.Interface, "version": s.Version}
	if s.Group != "" {
		attachments["group"] = s.Group
	}
	e := hessian.NewEncoder()
	for _, v := range []any{"2.0.2", s.Interface, s.Version, "echo", "Ljava/lang/String;", strings.Repeat("x", o.Bytes), attachments} {
		if err := e.Encode(v); err != nil {
			return nil, err
		}
	}
	frame := make([]byte, dubbo.HeaderSize, dubbo.HeaderSize+len(e.Buffer()))
	copy(frame, []byte{0xda, 0xbb, 0xc0 | dubbo.Hessian2})
	binary.BigEndian.PutUint32(frame[12:], uint32(len(e.Buffer())))
	return append(frame, e.Buffer()...), nil
}

// meter counts while it is on.
type meter struct {
	on            atomic.Bool
	calls, failed atomic.Int64
	also          *atomic.Int64
	histogram     [64 * sub]atomic.Int64
}

// Each power of two of nanoseconds has sub buckets: 3 % wide.
const sub = 32

func bucket(d time.Duration) int {
	n := uint64(max(d, sub))
	shift := bits.Len64(n) - 6 // n>>shift is in 32..63
	return shift*sub + int(n>>shift) - sub
}

func (m *meter) quantile(q float64) time.Duration {
	total := int64(0)
	for i := range m.histogram {
		total += m.histogram[i].Load()
	}
	rank := min(int64(q*float64(total)), total-1)
	for i := range m.histogram {
		if rank -= m.histogram[i].Load(); rank < 0 {
			return time.Duration(uint64(i%sub+sub) << (i / sub))
		}
	}
	return 0
}

// drive sends a new call for each answer. The id of a call is its place in begun.
func (m *meter) drive(c net.Conn, template []byte, depth int) error {
	begun := make([]time.Time, depth)
	var out []byte
	add := func(id uint64) {
		at := len(out)
		out = append(out, template...)
		dubbo.PutID(out[at:], id)
	}
	now := time.Now()
	for i := range begun {
		add(uint64(i))
		begun[i] = now
	}
	if _, err := c.Write(out); err != nil {
		return err
	}
	out = out[:0]
	var done []uint64
	var failed int64
	return frames(c, func(h dubbo.Header, frame []byte) {
		if h.IsRequest() || h.IsEvent() || h.ID >= uint64(depth) {
			return
		}
		if len(frame) < 40 || h.Status != dubbo.StatusOK || frame[dubbo.HeaderSize] == 0x90 {
			failed++
		}
		done = append(done, h.ID)
		add(h.ID)
	}, func() error {
		now := time.Now()
		if m.on.Load() {
			for _, id := range done {
				m.histogram[bucket(now.Sub(begun[id]))].Add(1)
			}
			m.calls.Add(int64(len(done)))
			if m.also != nil {
				m.also.Add(int64(len(done)))
			}
			m.failed.Add(failed)
		}
		for _, id := range done {
			begun[id] = now
		}
		done, failed = done[:0], 0
		_, err := c.Write(out)
		out = out[:0]
		return err
	})
}
