package main

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen serves connections until the test ends.
func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { handle(c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func TestGenerate(t *testing.T) {
	server := listen(t, echo)
	for name, to := range map[string]string{"direct": server, "relay": listen(t, relay(server))} {
		for _, c := range []cell{{1, 1}, {32, 4}} {
			r, err := generate(context.Background(), options{To: to, Service: "g1/com.a.Foo:1.0", Connections: c.connections, Depth: c.depth, Bytes: 100, For: 100 * time.Millisecond})
			if err != nil || r.Calls == 0 || r.Failed != 0 || r.P50 <= 0 || r.P99 < r.P50 {
				t.Errorf("%s %v: %v, %v", name, c, r, err)
			}
		}
	}
}

// A server that answers with errors is no fast server.
func TestGenerateCountsFailures(t *testing.T) {
	to := listen(t, func(c net.Conn) {
		defer c.Close()
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			buf[2], buf[3] = 2, 80
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	r, err := generate(context.Background(), options{To: to, Service: "com.a.Foo", Connections: 1, Depth: 1, Bytes: 1, For: 100 * time.Millisecond})
	if err != nil || r.Calls == 0 || r.Failed < r.Calls-1 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestQuantile(t *testing.T) {
	var m meter
	for i := range 1000 {
		m.histogram[bucket(time.Duration(i+1)*time.Microsecond)].Add(1)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond} {
		if got := m.quantile(q); got < want*97/100 || got > want*103/100 {
			t.Errorf("quantile %v = %v, want %v within 3 %%", q, got, want)
		}
	}
	for _, d := range []time.Duration{0, 1, sub, sub + 1, time.Second, time.Hour} {
		if b := bucket(d); b < 0 || b >= len(m.histogram) {
			t.Errorf("bucket(%v) = %d", d, b)
		}
	}
}

func TestWanted(t *testing.T) {
	got, err := (&bench{only: "32x8,1x64"}).wanted()
	if err != nil || !slices.Equal(got, []cell{{32, 8}, {1, 64}}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"32", "x", "0x1", "1x0"} {
		if _, err := (&bench{only: bad}).wanted(); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestUsage(t *testing.T) {
	for want, args := range map[string][]string{
		"usage":           nil,
		"unknown command": {"bnch"},
		"--to is needed":  {"run"},
		"unexpected":      {"echo", "x"},
	} {
		if err := run(context.Background(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}
