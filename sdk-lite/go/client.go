package meshferry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a [Client].
type Options struct {
	// Address of the agent's control API: "127.0.0.1:20883", "unix:/path" or "/path".
	Address string
	// Application is the Dubbo application name of this process.
	Application string
	// Workload names this process to the agent. Default: the application and a
	// random part, new with every start.
	Workload string
	// Token for agents that ask for one.
	Token string
	// Dir keeps the last answer of each subscription, so that a start without
	// agent has direct providers. It is made with mode 0700. Empty: nothing is kept.
	Dir string
	// Timeout bounds each call. Default 5 s.
	Timeout time.Duration
	// TTL of the lease. Default 15 s.
	TTL time.Duration
	// Log: Info when the agent came or a set changed, Warn when it went away.
	// Default: nothing is logged.
	Log *slog.Logger
	// Dial replaces the dialer, for the control API and for probes of the
	// agent's outbound address.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client speaks with one agent for one workload. It is safe for concurrent use.
type Client struct {
	// immutable after New
	link *link
	from requester
	ttl  time.Duration
	app  string
	dir  string
	log  *slog.Logger

	// exporting is held (a value inside) during a call that changes a
	// publication, so that calls reach the agent in the order of the wishes.
	exporting chan struct{}

	mu            sync.Mutex // guards what follows and every Subscription's mutable part
	boot          string     // boot id last heard; empty: none yet
	leased        bool       // the lease stream lives
	away          bool
	exports       map[string]*export
	subscriptions map[string]*Subscription
	changed       chan struct{} // closed and replaced when something above changed
}

// export is the wish to have a publication, or to have none.
type export struct {
	Publication
	withdrawn bool
	boot      string // the agent that took it; empty: none did
}

// New checks the options. It makes no call.
func New(o Options) (*Client, error) {
	if o.Application == "" {
		return nil, errors.New("Options.Application is empty")
	}
	if o.Workload == "" {
		o.Workload = plain(o.Application) + "/" + rand.Text()
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.TTL <= 0 {
		o.TTL = 15 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := newLink(o.Address, o.Token, o.Timeout)
	if err != nil {
		return nil, err
	}
	if o.Dial != nil {
		l.dial = o.Dial
	}
	return &Client{
		link: l, from: requester{Workload: o.Workload, Client: "go"}, ttl: o.TTL, app: o.Application, dir: o.Dir, log: o.Log,
		exporting: make(chan struct{}, 1),
		exports:   map[string]*export{}, subscriptions: map[string]*Subscription{}, changed: make(chan struct{}),
	}, nil
}

// plain keeps what a workload name may hold, and of it what leaves room for the
// random part within 128.
func plain(application string) string {
	s := strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:@/-", r)) {
			return r
		}
		return '-'
	}, application)
	return s[:min(len(s), 96)]
}

// Workload is the name under which the agent knows this process.
func (c *Client) Workload() string { return c.from.Workload }

// Run does the background work until ctx ends: it holds the lease, publishes
// and subscribes again when another agent answers, follows subscriptions, and
// watches whether the agent is there. It returns ctx's cause when all of it has
// stopped. Call it once.
func (c *Client) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { c.holdLease(ctx) })
	work.Go(func() { c.watchPresence(ctx) })
	work.Go(func() { c.maintain(ctx, &work) })
	work.Wait()
	return context.Cause(ctx)
}

// Publish makes a publication known, or changes the one of the same identity
// (protocol, service key, path, port). The wish is kept, and told again to
// every new agent, until Unpublish; without agent the result is "pending" with
// the reason "agent-away". A refusal is an error, and the new wish is dropped.
func (c *Client) Publish(ctx context.Context, p Publication) (Result, error) {
	id, err := p.identity()
	if err != nil {
		return Result{}, err
	}
	if err := c.lockExports(ctx); err != nil {
		return Result{}, err
	}
	defer c.unlockExports()
	before := c.export(id)
	if c.setExport(id, &export{Publication: p}) {
		return Result{State: StatePending, Reason: ReasonAgentAway}, nil
	}
	r, err := c.link.publish(ctx, c.from, p)
	switch {
	case err == nil:
		c.accepted(id, r.Agent)
		return r, nil
	case refused(err):
		c.setExport(id, before)
		return Result{}, fmt.Errorf("publish %s: %w", id, err)
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("publish %s: %w", id, err)
	}
	c.log.Debug("publish: agent away", "publication", id, "err", err)
	return Result{State: StatePending, Reason: ReasonAgentAway}, nil
}

// Unpublish takes a publication back. Given a URL, the agent removes only what
// still has that content. Without agent the result is "pending", and the next
// agent is told.
func (c *Client) Unpublish(ctx context.Context, p Publication) (Result, error) {
	id, err := p.identity()
	if err != nil {
		return Result{}, err
	}
	if err := c.lockExports(ctx); err != nil {
		return Result{}, err
	}
	defer c.unlockExports()
	if c.setExport(id, &export{Publication: p, withdrawn: true}) {
		return Result{State: StatePending, Reason: ReasonAgentAway}, nil
	}
	r, err := c.link.unpublish(ctx, c.from, p)
	switch {
	case err == nil:
		c.setExport(id, nil)
		return r, nil
	case refused(err):
		c.setExport(id, nil)
		return Result{}, fmt.Errorf("unpublish %s: %w", id, err)
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("unpublish %s: %w", id, err)
	}
	return Result{State: StatePending, Reason: ReasonAgentAway}, nil
}

// Withdraw unpublishes and unsubscribes everything: call it before Run's context
// ends when the application stops, so that nobody has to find out. It tries each
// once and returns the first error.
func (c *Client) Withdraw(ctx context.Context) error {
	c.mu.Lock()
	exports := slices.Collect(maps.Values(c.exports))
	subscriptions := slices.Collect(maps.Values(c.subscriptions))
	c.mu.Unlock()
	var errs []error
	for _, e := range exports {
		_, err := c.Unpublish(ctx, e.Publication)
		errs = append(errs, err)
	}
	for _, s := range subscriptions {
		errs = append(errs, s.end(ctx))
	}
	return errors.Join(errs...)
}

func (c *Client) lockExports(ctx context.Context) error {
	select {
	case c.exporting <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Client) unlockExports() { <-c.exporting }

func (c *Client) export(id string) *export {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exports[id]
}

// setExport notes a wish; nil: there is none any more. It says whether the agent
// is away: then maintain tells it later, and a call would only cost its time-out.
func (c *Client) setExport(id string, e *export) (away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e == nil {
		delete(c.exports, id)
	} else {
		c.exports[id] = e
		c.announce()
	}
	return c.away
}

func (c *Client) accepted(id, boot string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exports[id].boot = boot
	c.hear(boot)
}

// hear notes which agent answered. Needs mu.
func (c *Client) hear(boot string) {
	if boot == "" || boot == c.boot {
		return
	}
	c.log.Info("agent answers", "agent", boot, "workload", c.from.Workload)
	c.boot = boot
	c.announce()
}

// announce wakes everybody who waits for a change. Needs mu.
func (c *Client) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// maintain keeps the agent informed of the exports, and starts following
// subscriptions that nobody follows yet.
func (c *Client) maintain(ctx context.Context, work *sync.WaitGroup) {
	pause := newBackoff(100*time.Millisecond, 5*time.Second)
	for {
		c.mu.Lock()
		changed := c.changed
		for _, s := range c.subscriptions {
			if s.stop == nil && s.ready {
				follow, stop := context.WithCancel(ctx)
				s.stop, s.stopped = stop, make(chan struct{})
				work.Go(func() { defer close(s.stopped); s.follow(follow) })
			}
		}
		c.mu.Unlock()
		wait := time.Hour // nothing to do until something changes
		if err := c.catchUp(ctx); err != nil {
			wait = pause.pause()
			c.log.Debug("publications not told to the agent", "err", err, "again", wait)
		} else {
			pause.reset()
		}
		if !sleep(ctx, wait, changed) {
			return
		}
	}
}

// catchUp tells the agent every export that it has not taken yet, under its
// present boot id.
func (c *Client) catchUp(ctx context.Context) error {
	if err := c.lockExports(ctx); err != nil {
		return err
	}
	defer c.unlockExports()
	c.mu.Lock()
	boot := c.boot
	var due []string
	for id, e := range c.exports {
		if boot != "" && e.boot != boot {
			due = append(due, id)
		}
	}
	c.mu.Unlock()
	slices.Sort(due)
	var errs []error
	for _, id := range due {
		e := c.export(id)
		p := e.Publication
		p.Wait = -1 // nobody waits for the outcome
		call := c.link.publish
		if e.withdrawn {
			call = c.link.unpublish
		}
		r, err := call(ctx, c.from, p)
		switch {
		case err == nil && e.withdrawn:
			c.setExport(id, nil)
		case err == nil:
			c.accepted(id, r.Agent)
			c.log.Info("published to the agent again", "publication", id, "state", r.State)
		case refused(err):
			// Another start of this application may still hold it, so it is tried again.
			c.log.Warn("agent refuses what was published before", "publication", id, "err", err)
			errs = append(errs, err)
		default:
			return err
		}
	}
	return errors.Join(errs...)
}

// holdLease keeps one lease stream open, whatever becomes of agents.
func (c *Client) holdLease(ctx context.Context) {
	pause := newBackoff(100*time.Millisecond, 3*time.Second)
	for ctx.Err() == nil {
		err := c.link.lease(ctx, c.from.Workload, c.ttl, func(boot string) {
			pause.reset()
			c.mu.Lock()
			defer c.mu.Unlock()
			c.hear(boot)
			if !c.leased {
				c.leased = true
				c.announce()
			}
		})
		c.mu.Lock()
		if c.leased {
			c.leased = false
			c.announce()
		}
		c.mu.Unlock()
		if ctx.Err() == nil {
			c.log.Debug("lease not held", "err", err)
		}
		if !sleep(ctx, pause.pause(), nil) {
			return
		}
	}
}

// watchPresence decides whether the agent is away. While the lease lives nothing
// is probed.
func (c *Client) watchPresence(ctx context.Context) {
	const timeout = 500 * time.Millisecond
	var p presence
	pause := newBackoff(probeAway, probeLimit)
	for {
		c.mu.Lock()
		changed, leased, addresses := c.changed, c.leased, c.outbound()
		c.mu.Unlock()
		if leased && !p.away {
			p = presence{}
			if !sleep(ctx, time.Hour, changed) {
				return
			}
			continue
		}
		var outbound bool
		var probes sync.WaitGroup
		probes.Go(func() {
			outbound = len(addresses) > 0
			for _, a := range addresses {
				outbound = outbound && c.link.answers(ctx, a, timeout)
			}
		})
		control := leased || c.link.healthy(ctx, timeout)
		probes.Wait()
		if len(addresses) == 0 { // a process that only provides has nobody to fall back to
			outbound = control
		}
		if ctx.Err() != nil {
			return
		}
		if p.observe(time.Now(), control, outbound) {
			c.setAway(p.away)
			pause.reset()
		}
		wait := probeDoubt
		if p.away && p.answers == 0 {
			wait = pause.pause()
		}
		if !sleep(ctx, wait, nil) {
			return
		}
	}
}

func (c *Client) setAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
	direct := 0
	for _, s := range c.subscriptions {
		s.settle()
		if s.set.Direct {
			direct++
		}
	}
	if away {
		c.log.Warn("agent away: calling direct providers until it answers", "address", c.link.base,
			"subscriptions", len(c.subscriptions), "direct", direct)
	} else {
		c.log.Info("agent is back", "address", c.link.base)
	}
	c.announce()
}

// outbound is every address of the agent's data plane that is handed out. Needs mu.
func (c *Client) outbound() []string {
	var addrs []string
	for _, s := range c.subscriptions {
		addrs = append(addrs, s.answer.outbound()...)
	}
	return unique(addrs)
}
