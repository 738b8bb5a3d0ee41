package xdsclient

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// mostDrained events are handled before what they changed is worked out.
const mostDrained = 16

// Client asks ADS servers. New makes one.
type Client struct {
	// immutable after New
	o     Options
	log   *slog.Logger
	kick  chan struct{} // capacity 1: look at pending again
	store *store        // nil: nothing is kept

	mu       sync.Mutex
	c        *core      // guarded by mu
	channels []*channel // guarded by mu; by server, nil: not asked
}

// New is a client that has not begun yet.
func New(o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{o: o, log: o.Log, kick: make(chan struct{}, 1), c: newCore(o), channels: make([]*channel, len(o.Servers))}
	if o.Path != "" {
		c.store = newStore(o.Path, o.Log)
	}
	return c, nil
}

// SetListeners replaces the names of the listeners that are asked for. It may be
// called at any time, from any goroutine; with Options.Wildcard it does nothing.
func (c *Client) SetListeners(names []string) {
	if c.o.Wildcard {
		return
	}
	c.mu.Lock()
	c.c.setListeners(names, time.Now())
	c.mu.Unlock()
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Run asks, and sends what changed, until ctx ends; then it returns nil. While
// nobody reads ch, later steps are joined to the one that waits. It may be called
// once.
func (c *Client) Run(ctx context.Context, ch chan<- Update) error {
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan event, mostDrained)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	if c.store != nil {
		list, err := c.store.load()
		if err != nil {
			c.log.Warn("the last good xDS resources on disk are lost", "err", err)
		}
		c.mu.Lock()
		c.c.restore(list, time.Now())
		c.mu.Unlock()
		running.Go(c.store.run)
		defer c.saveLast()
	}
	start := func(i int) {
		ctx, stop := context.WithCancel(ctx)
		n := &channel{server: i, cancel: stop}
		c.channels[i] = n
		running.Go(func() { n.run(ctx, c.o, events) })
	}
	c.mu.Lock()
	start(0)
	c.mu.Unlock()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var next Update // waits for the reader; merged with what comes meanwhile
	for {
		out, wake := c.offer(&next, ch)
		timer.Reset(wake)
		select {
		case <-ctx.Done():
			return nil
		case <-c.kick:
		case <-timer.C:
		case e := <-events:
			c.take(e, events, start)
		case out <- next:
			c.delivered(&next)
		}
		c.mu.Lock()
		now := time.Now()
		if silent := c.c.expire(now); silent != fromDisk {
			c.another(silent, start)
		}
		c.c.settle(now)
		c.mu.Unlock()
		c.save()
	}
}

// take handles an event, and those that wait behind it: what they change is worked
// out once.
func (c *Client) take(e event, more <-chan event, start func(int)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handle(e, start)
	for range mostDrained {
		select {
		case e := <-more:
			c.handle(e, start)
		default:
			return
		}
	}
}

func (c *Client) delivered(u *Update) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.told = c.c.told || u.Ready
	*u = Update{}
}

// offer adds to next what is ready, and tells where it may be sent, if there is
// anything, and when something is due.
func (c *Client) offer(next *Update, ch chan<- Update) (chan<- Update, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wake := time.Hour
	if at, ok := c.c.wakeAt(); ok {
		wake = max(0, time.Until(at))
	}
	if c.store != nil {
		wake = min(wake, c.store.wait(time.Now(), len(c.c.dirty) > 0))
	}
	next.merge(c.c.pending)
	c.c.pending = Update{}
	if next.Empty() && (!c.c.ready || c.c.told) {
		return nil, wake
	}
	next.Ready = c.c.ready
	return ch, wake
}

// handle takes one event. The lock is held.
func (c *Client) handle(e event, start func(int)) {
	if c.channels[e.ch.server] != e.ch {
		return // of a server that is not asked any more
	}
	now := time.Now()
	state := &e.ch.state
	switch e.kind {
	case streamUp:
		state.streams++
		state.connected, state.since = true, now
		c.c.up(e.st)
	case requestSent:
		c.c.sent(e.st, e.url, now)
	case responded:
		first := !e.st.heard
		switch m := e.m.(type) {
		case *discoveryv3.DiscoveryResponse:
			c.c.response(e.st, m, now)
		case *discoveryv3.DeltaDiscoveryResponse:
			c.c.deltaResponse(e.st, m, now)
		}
		if first && e.st.heard {
			state.err = nil
			c.log.Info("ADS server answers", "server", c.o.Servers[e.ch.server].Address)
			c.dropLesser(e.ch.server)
		}
	case streamDown:
		c.ended(e, state)
		if state.connected || state.since.IsZero() { // not at each try
			state.since = now
		}
		state.connected, state.err, state.ended = false, e.err, e.err
		if c.c.down(e.st, e.ch.server, now) {
			c.another(e.ch.server, start)
		}
	}
}

// ended logs the end of a stream. Servers bound the age of connections, so that one
// which had answers ended is normal; what keeps a server from answering is said once,
// and again when it is something else. The lock is held.
func (c *Client) ended(e event, state *streamState) {
	address := c.o.Servers[e.ch.server].Address
	code := status.Code(e.err)
	if e.st != nil && e.st.heard && !refusing[code] {
		clear(state.said)
		c.log.Info("ADS stream ended, another is opened", "server", address, "err", e.err)
		return
	}
	kind := withoutDigits(e.err.Error())
	if _, said := state.said[kind]; said || len(state.said) >= mostSaid {
		return
	}
	if state.said == nil {
		state.said = map[string]struct{}{}
	}
	state.said[kind] = struct{}{}
	log := c.log.With("server", address, "err", e.err)
	switch {
	case code == codes.Unauthenticated:
		log.Warn("ADS server does not accept who asks; what it said last stays in effect")
	case code == codes.PermissionDenied:
		log.Warn("ADS server does not serve this node to this identity; what it said last stays in effect")
	case code == codes.InvalidArgument:
		log.Warn("ADS server refuses the request; what it said last stays in effect")
	case code == codes.Unimplemented:
		log.Warn("ADS server does not know this kind of ADS; what it said last stays in effect")
	case code == codes.ResourceExhausted && strings.Contains(e.err.Error(), "larger than max"):
		log.Warn("a response of the ADS server is too large; what it said last stays in effect")
	case code == codes.ResourceExhausted:
		log.Warn("ADS server takes no more clients for now; what it said last stays in effect")
	default:
		log.Warn("ADS server does not answer; what it said last stays in effect")
	}
}

// mostSaid bounds the log lines about one server while it does not answer.
const mostSaid = 20

// refusing are the codes with which no stream ends in the normal course of things.
var refusing = map[codes.Code]bool{
	codes.Unauthenticated: true, codes.PermissionDenied: true, codes.InvalidArgument: true, codes.Unimplemented: true, codes.ResourceExhausted: true,
}

// withoutDigits takes out of an error what differs each time: ports, durations.
func withoutDigits(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}

// another begins to ask the server after one that does not answer.
func (c *Client) another(server int, start func(int)) {
	next := server + 1
	if next >= len(c.channels) || c.channels[next] != nil {
		return
	}
	c.log.Warn("falling back to another ADS server", "from", c.o.Servers[server].Address, "to", c.o.Servers[next].Address)
	start(next)
}

// dropLesser ends what is asked of servers after one that answers (gRFC A71).
func (c *Client) dropLesser(server int) {
	for i := server + 1; i < len(c.channels); i++ {
		if n := c.channels[i]; n != nil {
			n.cancel()
			c.channels[i], c.c.streams[i] = nil, nil
			c.log.Info("back from", "server", c.o.Servers[i].Address, "to", c.o.Servers[server].Address)
		}
	}
}

// String names the client in logs.
func (c *Client) String() string { return fmt.Sprintf("xds %s", c.o.Servers[0].Address) }
