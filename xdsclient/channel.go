package xdsclient

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// keepaliveEvery makes a dead server known without traffic.
const keepaliveEvery = 30 * time.Second

// channel is the connection to one server and its stream, one after the other.
type channel struct {
	server int
	cancel context.CancelFunc
	state  streamState // guarded by Client.mu
}

// streamState is what the dump tells.
type streamState struct {
	connected bool
	since     time.Time
	streams   int
	err       error               // why the last stream ended; nil after an answer
	ended     error               // why the last stream ended
	said      map[string]struct{} // what was logged since all was well
}

// stream is one ADS stream. Its types are owned by core.
type stream struct {
	server    int
	delta     bool
	nodeValue *corev3.Node
	named     bool // the node was sent
	heard     bool // a response to something that was asked for came
	types     map[string]*streamType

	mu    sync.Mutex
	queue []outgoing    // guarded by mu
	wake  chan struct{} // capacity 1
}

// streamType is what one stream knows of a type.
type streamType struct {
	asked bool
	nonce string
	gen   int                 // of the names that were sent
	names map[string]struct{} // incremental: subscribed
}

type outgoing struct {
	m    any
	url  string
	adds bool // names that were not asked for before
}

// event is what a channel tells the loop.
type event struct {
	ch   *channel
	st   *stream
	kind eventKind
	m    any    // response
	url  string // sent
	err  error  // down
}

type eventKind int

const (
	streamUp eventKind = iota
	responded
	requestSent
	streamDown
)

// mostQueued requests may wait for a server that does not read before responses
// are not read either.
const mostQueued = 64

// send queues a request. One of state of the world that waits for the server to
// read is replaced by the next with the same nonce: that has all names too.
func (st *stream) send(m any, url string, adds bool) {
	st.mu.Lock()
	out := outgoing{m, url, adds}
	if next, ok := m.(*discoveryv3.DiscoveryRequest); ok {
		for i := len(st.queue) - 1; i >= 0; i-- {
			if st.queue[i].url != url {
				continue
			}
			old := st.queue[i].m.(*discoveryv3.DiscoveryRequest)
			if old.GetResponseNonce() == next.GetResponseNonce() && old.GetErrorDetail() == nil {
				if old.GetNode() != nil {
					next.Node = old.GetNode()
				}
				out.adds = out.adds || st.queue[i].adds
				st.queue[i] = out
				st.mu.Unlock()
				return
			}
			break
		}
	}
	st.queue = append(st.queue, out)
	st.mu.Unlock()
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

func (st *stream) next() []outgoing {
	st.mu.Lock()
	defer st.mu.Unlock()
	q := st.queue
	st.queue = nil
	return q
}

func (st *stream) queued() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.queue)
}

func dial(o Options, s Server) (*grpc.ClientConn, error) {
	creds := s.TLS
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(o.MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveEvery, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: o.Backoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: o.BackoffMost},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	return grpc.NewClient(s.Address, append(opts, s.DialOptions...)...)
}

// run holds a stream to the server until ctx ends.
func (ch *channel) run(ctx context.Context, o Options, events chan<- event) {
	tell := func(e event) bool {
		e.ch = ch
		select {
		case events <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	var conn *grpc.ClientConn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	wait := o.Backoff
	for {
		if conn == nil {
			var err error
			if conn, err = dial(o, o.Servers[ch.server]); err != nil {
				tell(event{kind: streamDown, err: err}) // an address that cannot be parsed: never
				return
			}
		}
		began := time.Now()
		st, heard, err := ch.stream(ctx, conn, o, tell)
		if !tell(event{kind: streamDown, st: st, err: err}) {
			return
		}
		pause := jittered(wait)
		if heard && time.Since(began) > time.Second {
			wait, pause = o.Backoff, jittered(o.Backoff/5) // it was well: come back soon, but not all agents at once
		} else {
			wait = min(wait*8/5, o.BackoffMost)
		}
		if s := conn.GetState(); !heard && s != connectivity.Ready && s != connectivity.Idle {
			// It would go on dialling at a pace of its own. A new one dials when the pause is
			// over, and looks the name up again. One that was heard is kept: it has learnt how
			// often the server allows pings.
			conn.Close()
			conn = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// stream opens one and reads until it ends.
func (ch *channel) stream(ctx context.Context, conn *grpc.ClientConn, o Options, tell func(event) bool) (st *stream, heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	var recv func() (any, error)
	var send func(any) error
	if o.Delta {
		s, err := client.DeltaAggregatedResources(ctx)
		if err != nil {
			return nil, false, err
		}
		recv = func() (any, error) { return s.Recv() }
		send = func(m any) error { return s.Send(m.(*discoveryv3.DeltaDiscoveryRequest)) }
	} else {
		s, err := client.StreamAggregatedResources(ctx)
		if err != nil {
			return nil, false, err
		}
		recv = func() (any, error) { return s.Recv() }
		send = func(m any) error { return s.Send(m.(*discoveryv3.DiscoveryRequest)) }
	}
	st = &stream{server: ch.server, delta: o.Delta, nodeValue: o.Node, types: map[string]*streamType{}, wake: make(chan struct{}, 1)}
	if !tell(event{kind: streamUp, st: st}) {
		return st, false, ctx.Err()
	}
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			for _, out := range st.next() {
				if send(out.m) != nil {
					return // Recv has the reason
				}
				if out.adds && !tell(event{kind: requestSent, st: st, url: out.url}) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-st.wake:
			}
		}
	})
	defer writer.Wait()
	defer cancel()
	for {
		m, err := recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the server ended the stream")
			}
			return st, heard, err
		}
		heard = true
		if !tell(event{kind: responded, st: st, m: m}) {
			return st, heard, ctx.Err()
		}
		for st.queued() > mostQueued {
			select {
			case <-ctx.Done():
				return st, heard, ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}
