package zookeeper

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func request(id int64, password byte) []byte {
	b := make([]byte, requestBytes)
	binary.BigEndian.PutUint32(b, requestBytes-4)
	binary.BigEndian.PutUint64(b[requestZxid:], 77)
	binary.BigEndian.PutUint64(b[requestSession:], uint64(id))
	binary.BigEndian.PutUint32(b[requestSession+8:], passwordBytes)
	copy(b[requestSession+12:], slices.Repeat([]byte{password}, passwordBytes))
	return b
}

func response(id int64, password byte) []byte {
	b := make([]byte, responseBytes+1) // real ones end with a flag
	binary.BigEndian.PutUint32(b, responseBytes-3)
	binary.BigEndian.PutUint64(b[responseSession:], uint64(id))
	binary.BigEndian.PutUint32(b[responseSession+8:], passwordBytes)
	copy(b[responsePassword:], slices.Repeat([]byte{password}, passwordBytes))
	return b
}

// exchange dials through l, writes req and reads the answer byte by byte; the
// server's side is played by serve.
func exchange(t *testing.T, l *link, req []byte, serve func(net.Conn, []byte)) error {
	t.Helper()
	ours, theirs := net.Pipe()
	l.dialer = func(string, string, time.Duration) (net.Conn, error) { return ours, nil }
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer theirs.Close()
		got := make([]byte, len(req))
		if _, err := io.ReadFull(theirs, got); err == nil {
			serve(theirs, got)
		}
	}()
	c, err := l.dial("tcp", "h:1", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { c.Close(); <-served }()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write(req); err != nil {
		return err
	}
	for range responseBytes {
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
	}
	return nil
}

func TestLinkResumes(t *testing.T) {
	var begun []session
	l := newLink(nil, patience, 1, discard, func(s session) { begun = append(begun, s) })
	l.resume(session{ID: 42, Password: slices.Repeat([]byte{7}, passwordBytes)})
	expect := func(want []byte, answer []byte) func(net.Conn, []byte) {
		return func(c net.Conn, got []byte) {
			if !slices.Equal(got, want) {
				t.Errorf("request\n%x, want\n%x", got, want)
			}
			_, _ = c.Write(answer) // the reader may have enough
		}
	}
	// Resumed; the library asks by itself then; then it expires, and a new one
	// begins with nothing put in.
	for _, step := range []struct{ sent, want, answer []byte }{
		{request(0, 0), request(42, 7), response(42, 7)},
		{request(42, 7), request(42, 7), response(42, 7)},
		{request(42, 7), request(42, 7), response(0, 0)},
		{request(0, 0), request(0, 0), response(43, 8)},
	} {
		if err := exchange(t, l, step.sent, expect(step.want, step.answer)); err != nil {
			t.Fatal(err)
		}
	}
	if len(begun) != 3 || begun[0].ID != 42 || begun[2].ID != 43 || begun[2].Password[0] != 8 {
		t.Errorf("begun: %+v", begun)
	}
	if !l.expired.Load() {
		t.Error("the expiry was not noted")
	}
}

func TestLinkForgetsWhatNoServerKnows(t *testing.T) {
	l := newLink(nil, patience, 1, discard, func(session) {})
	closes := func(net.Conn, []byte) {}
	for range 2 {
		if err := exchange(t, l, request(5, 5), closes); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	zxid := func() (got uint64) {
		_ = exchange(t, l, request(5, 5), func(_ net.Conn, b []byte) { got = binary.BigEndian.Uint64(b[requestZxid:]) })
		return got
	}
	if got := zxid(); got != 77 {
		t.Errorf("forgotten at once: %d", got)
	}
	l.since = time.Now().Add(-refusedFor)
	if got := zxid(); got != 0 {
		t.Errorf("zxid %d, want none", got)
	}
	l.settle(session{ID: 5})
	if got := zxid(); got != 77 {
		t.Errorf("zxid %d after a session", got)
	}
}

func TestLinkLeavesSilentServer(t *testing.T) {
	l := newLink(nil, 20*time.Millisecond, 1, discard, func(session) {})
	stuck := make(chan struct{})
	defer close(stuck)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	l.dialer = func(string, string, time.Duration) (net.Conn, error) { return ours, nil }
	c, err := l.dial("tcp", "h:1", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(time.Hour)); err != nil { // as the library does
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
	if l.refused != 0 {
		t.Error("silence was taken for a refusal")
	}
}

func TestLinkDetached(t *testing.T) {
	l := newLink(nil, patience, 1, discard, func(session) {})
	ours, theirs := net.Pipe()
	l.dialer = func(string, string, time.Duration) (net.Conn, error) { return ours, nil }
	c, err := l.dial("tcp", "h:1", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l.detach()
	l.detach()
	if _, err := c.Write([]byte("close the session")); !errors.Is(err, errDetached) {
		t.Errorf("Write: %v", err)
	}
	if b, err := io.ReadAll(theirs); len(b) != 0 || err != nil {
		t.Errorf("the server got %q, %v", b, err)
	}
	if _, err := l.dial("tcp", "h:1", time.Second); !errors.Is(err, errDetached) {
		t.Errorf("dial: %v", err)
	}
}

func TestHostsPause(t *testing.T) {
	var expired atomic.Bool
	h := &hosts{expired: &expired}
	if err := h.Init([]string{"a", "b"}); err != nil || h.Len() != 2 {
		t.Fatal(err)
	}
	next := func(server string, pause bool) {
		t.Helper()
		if s, p := h.Next(); s != server || p != pause {
			t.Errorf("Next() = %s, %v, want %s, %v", s, p, server, pause)
		}
	}
	next("a", false)
	next("b", false)
	next("a", true) // a round without success
	next("b", false)
	h.Connected()
	next("a", true) // cut at once
	h.Connected()
	h.since = time.Now().Add(-time.Minute)
	next("b", false) // cut after a while
	next("a", false)
	expired.Store(true)
	next("b", false)
}

func FuzzLink(f *testing.F) {
	f.Add(request(0, 0), response(1, 2))
	f.Add([]byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, req, resp []byte) {
		resumeIn(req, session{ID: 1, Password: []byte("short")})
		forgetIn(req)
		if s, ok := answeredSession(resp); ok && len(s.Password) != passwordBytes {
			t.Errorf("%x: %+v", resp, s)
		}
	})
}
