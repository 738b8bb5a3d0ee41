package proxy

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// pairs are two ends of a connection: one whose descriptor can be read, one
// without.
func pairs(t *testing.T) map[string]func() (client, server net.Conn) {
	return map[string]func() (net.Conn, net.Conn){
		"pipe": net.Pipe,
		"tcp": func() (net.Conn, net.Conn) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			client, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return client, server
		},
	}
}

// However the bytes come, the frames are the same, and nothing is held at the end.
func TestReaderFrames(t *testing.T) {
	for name, pair := range pairs(t) {
		for seed := range uint64(10) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			var want [][]byte
			var stream []byte
			for n := range 300 {
				size := rnd.IntN(600)
				switch rnd.IntN(40) {
				case 0:
					size = rnd.IntN(300 << 10)
				case 1: // about a block, and about what a reader keeps
					size = maxRead - dubbo.HeaderSize + rnd.IntN(3) - 1
				case 2:
					size = minRead - dubbo.HeaderSize + rnd.IntN(3) - 1
				}
				body := make([]byte, size)
				for i := range body {
					body[i] = byte(rnd.Uint32())
				}
				want = append(want, frame(2, dubbo.StatusOK, uint64(n), body))
				stream = append(stream, want[n]...)
			}
			m := &memory{limit: 1 << 30}
			client, server := pair()
			go func() {
				defer client.Close()
				for len(stream) > 0 {
					n := min(len(stream), 1+rnd.IntN(1<<rnd.IntN(18)))
					if _, err := client.Write(stream[:n]); err != nil {
						return
					}
					stream = stream[n:]
				}
			}()
			r := newReader(server, 1<<20, m)
			var err error
			for err == nil {
				if err = r.fill(); err != nil {
					break
				}
				for {
					_, f, broken := r.next()
					if broken != nil {
						t.Fatalf("%s, seed %d: %v", name, seed, broken)
					}
					if f == nil {
						break
					}
					if len(want) == 0 || !bytes.Equal(f, want[0]) {
						t.Fatalf("%s, seed %d: frame %d of %d bytes is another", name, seed, 300-len(want), len(f))
					}
					want = want[1:]
				}
			}
			if err != io.EOF || len(want) > 0 {
				t.Errorf("%s, seed %d: %v with %d frames to come", name, seed, err, len(want))
			}
			r.release()
			server.Close()
			if n := m.used.Load(); n != 0 {
				t.Errorf("%s, seed %d: %d bytes counted at the end", name, seed, n)
			}
		}
	}
}

// A read takes a whole burst, and a reader that waits holds no block.
func TestReaderTakesAllAndHoldsNothing(t *testing.T) {
	client, server := pairs(t)["tcp"]()
	defer client.Close()
	defer server.Close()
	one := frame(2, dubbo.StatusOK, 1, make([]byte, 84))
	burst := bytes.Repeat(one, 320)
	half := one[:50]
	if _, err := client.Write(append(bytes.Clone(burst), half...)); err != nil {
		t.Fatal(err)
	}
	r := newReader(server, 1<<20, &memory{limit: 1 << 30})
	eventually(t, "all bytes arrive", func() bool {
		n, peek := 0, make([]byte, maxRead)
		_ = r.raw.Read(func(fd uintptr) bool {
			n, _, _ = syscall.Recvfrom(int(fd), peek, syscall.MSG_PEEK)
			return true
		})
		return n == len(burst)+len(half)
	})
	if err := r.fill(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		_, f, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			break
		}
		n++
	}
	if n != 320 {
		t.Errorf("one read brought %d frames, want 320", n)
	}
	r.w, r.r = copy(r.buf, r.buf[r.r:r.w]), 0
	// Nothing more is there: what is left moves out of the block.
	if err := r.raw.Read(func(fd uintptr) bool { return !r.try(fd) }); err != nil || r.block != nil || r.buf != nil || r.w != len(half) {
		t.Errorf("%v; waiting with block %v, %d bytes of buffer and %d unread, want %d unread alone", err, r.block != nil, len(r.buf), r.w, len(half))
	}
	if _, err := client.Write(one[50:]); err != nil {
		t.Fatal(err)
	}
	if err := r.fill(); err != nil {
		t.Fatal(err)
	}
	if _, f, err := r.next(); err != nil || !bytes.Equal(f, one) {
		t.Errorf("%q, %v: want the frame whose halves came apart", f, err)
	}
	r.release()
}
