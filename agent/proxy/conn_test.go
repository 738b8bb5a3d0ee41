package proxy

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// pair is a conn over loopback and its peer.
func pair(t testing.TB, stall time.Duration) (*conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); peer.Close() })
	c := &conn{limit: 64 << 20, memory: &memory{limit: 1 << 30}}
	c.attach(nc)
	c.stall = stall
	return c, peer
}

// A connection that had to wait for its peer once is as good as before when the
// deadline of that write has long passed.
func TestWritesAfterSlowWrite(t *testing.T) {
	const stall = 100 * time.Millisecond
	c, peer := pair(t, stall)
	big := bytes.Repeat([]byte("x"), 32<<20)
	if !c.send(big) {
		t.Fatal("not sent")
	}
	peer.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(peer, make([]byte, len(big))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody writes", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.writing })
	time.Sleep(2 * stall)
	c.send([]byte("again"))
	if _, err := io.ReadFull(peer, make([]byte, 5)); err != nil {
		t.Fatalf("write after a slow write: %v", err)
	}
}

// A peer is given up when it takes nothing for a while, not because all of a large
// queue takes longer.
func TestSlowIsNotStuck(t *testing.T) {
	const stall = 200 * time.Millisecond
	c, peer := pair(t, stall)
	big := bytes.Repeat([]byte("x"), 40<<20)
	began := time.Now()
	c.send(big)
	peer.SetReadDeadline(time.Now().Add(patience))
	for left := len(big); left > 0; {
		n, err := peer.Read(make([]byte, min(left, 1<<20)))
		if err != nil {
			t.Fatalf("%d bytes missing after %v: %v", left, time.Since(began), err)
		}
		left -= n
		time.Sleep(stall / 20)
	}
	c.send(big)
	eventually(t, "given up", func() bool {
		_, err := c.nc.Write(nil)
		if err == nil {
			err = c.nc.SetDeadline(time.Time{})
		}
		return err != nil
	})
}
