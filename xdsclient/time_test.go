package xdsclient_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meshferry/meshferry/xdsclient"
)

// pipe is an ADS server that is reached without a network, so that the clock of
// synctest counts: it answers the first request for clusters of each stream, and ends
// the stream when it is told to.
type pipe struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	up atomic.Bool
	l  *bufconn.Listener

	mu    sync.Mutex
	at    []time.Time // of dials
	end   chan struct{}
	conns []net.Conn // dialled
}

func (p *pipe) dials() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.at)
}

func (p *pipe) StreamAggregatedResources(g discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	go func() {
		for {
			m, err := g.Recv()
			if err != nil {
				return
			}
			if m.GetTypeUrl() == cds && m.GetResponseNonce() == "" {
				_ = g.Send(&discoveryv3.DiscoveryResponse{TypeUrl: cds, VersionInfo: "1", Nonce: "n"})
			}
		}
	}()
	p.mu.Lock()
	end := p.end
	p.mu.Unlock()
	select {
	case <-g.Context().Done():
	case <-end:
	}
	return nil
}

func (p *pipe) dial(ctx context.Context, _ string) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = append(p.at, time.Now())
	if !p.up.Load() {
		return nil, errors.New("refused")
	}
	conn, err := p.l.DialContext(ctx)
	if err == nil {
		p.conns = append(p.conns, conn)
	}
	return conn, err
}

// endStreams ends every stream; cut ends the connections, too, and refuses new ones.
func (p *pipe) endStreams() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.end)
	p.end = make(chan struct{})
}

func (p *pipe) cut() {
	p.up.Store(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
}

func (p *pipe) options() xdsclient.Server {
	return xdsclient.Server{Address: "passthrough:///" + "pipe", DialOptions: []grpc.DialOption{grpc.WithContextDialer(p.dial)}}
}

// serve runs a test with servers that are reached by pipes, and a client of them.
func serve(t *testing.T, n int, minPing time.Duration, f func(c *xdsclient.Client, list []*pipe)) {
	synctest.Test(t, func(t *testing.T) {
		o := xdsclient.Options{Node: node, Wildcard: true, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		var list []*pipe
		for range n {
			p := &pipe{end: make(chan struct{}), l: bufconn.Listen(1 << 16)}
			g := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing}))
			discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, p)
			go func() { _ = g.Serve(p.l) }()
			defer g.Stop()
			list = append(list, p)
			o.Servers = append(o.Servers, p.options())
		}
		c, err := xdsclient.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ch, ended := make(chan xdsclient.Update), make(chan error)
		go func() { ended <- c.Run(ctx, ch) }()
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-ch:
				}
			}
		}()
		f(c, list)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Streams are tried again after pauses that grow by 1.6 from one second to thirty,
// with a jitter of a fifth; after a stream that was well they begin anew.
func TestBackoff(t *testing.T) {
	serve(t, 1, 30*time.Second, func(c *xdsclient.Client, list []*pipe) {
		p := list[0]
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		want := time.Second
		at := p.dials()
		for i := 1; i < len(at); i++ {
			if d := at[i].Sub(at[i-1]); d < want*8/10 || d > want*12/10+time.Millisecond {
				t.Errorf("pause %d is %v, want %v give or take a fifth", i, d, want)
			}
			want = min(want*8/5, 30*time.Second)
		}
		if n := len(at); n < 20 || n > 40 {
			t.Errorf("%d dials in ten minutes", n)
		}
		p.up.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !c.Dump().Servers[0].Connected {
			t.Fatalf("%+v", c.Dump().Servers)
		}
		for range 3 { // each stream lives, ends, and is soon followed by another
			p.endStreams()
			time.Sleep(300 * time.Millisecond)
			synctest.Wait()
			if !c.Dump().Servers[0].Connected {
				t.Error("no new stream 300 ms after one that was well")
			}
			time.Sleep(time.Minute)
		}
		p.up.Store(false)
		n := len(p.dials())
		p.endStreams()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !c.Dump().Servers[0].Connected || len(p.dials()) != n {
			t.Error("the connection was given up with its stream")
		}
	})
}

// Checklist 8: a type for which nothing comes counts as told after 15 seconds. The
// clock of an answer starts with the request, and anew with each stream.
func TestResourceTimeout(t *testing.T) {
	serve(t, 1, 30*time.Second, func(c *xdsclient.Client, list []*pipe) {
		list[0].up.Store(true)
		ready := func(want bool) {
			t.Helper()
			synctest.Wait()
			if c.Dump().Ready != want {
				t.Errorf("ready is %v", !want)
			}
		}
		time.Sleep(10 * time.Second)
		ready(false) // listeners were not answered
		list[0].endStreams()
		time.Sleep(10 * time.Second)
		ready(false) // 20 s after the first request, 10 s after that of this stream
		time.Sleep(10 * time.Second)
		ready(true)
	})
}

// A server that is quiet because nothing changes confirms everything. Only five
// minutes without it are a reason to ask another one.
func TestQuietServerIsNotLost(t *testing.T) {
	serve(t, 2, 30*time.Second, func(c *xdsclient.Client, list []*pipe) {
		first, second := list[0], list[1]
		first.up.Store(true)
		second.up.Store(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		if !c.Dump().Ready || len(second.dials()) != 0 {
			t.Fatal("not settled with the first")
		}
		first.cut()
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if n := len(second.dials()); n != 0 {
			t.Errorf("the second server was asked %d times within four minutes: %+v", n, c.Dump().Servers)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if d := c.Dump(); !d.Servers[1].Connected || !d.Servers[1].Serving || d.Servers[0].Connected {
			t.Errorf("after six minutes: %+v", d.Servers)
		}
		first.up.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if d := c.Dump(); !d.Servers[0].Serving || d.Servers[1].Asked {
			t.Errorf("back: %+v", d.Servers)
		}
	})
}

// A server that takes pings for an attack ends the connection. The client learns, and
// after few of these it stays.
func TestServerThatAllowsFewPings(t *testing.T) {
	serve(t, 1, 5*time.Minute, func(c *xdsclient.Client, list []*pipe) {
		list[0].up.Store(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		n := c.Dump().Servers[0].Streams
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if d := c.Dump().Servers[0]; n > 6 || d.Streams != n || !d.Connected {
			t.Errorf("%d streams in the first hour, then %+v", n, d)
		}
	})
}
