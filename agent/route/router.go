package route

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/registry"
)

const (
	growEvery  = 3 * time.Second // weights of endpoints that warm up
	tickEvery  = time.Second     // rules that wait, ejections
	renewEvery = time.Minute     // Want for interfaces that are called; housekeeping
	mostLogged = 10              // endpoints named in one log line
)

// Router compiles what sources, local providers and local consumers say into
// snapshots.
type Router struct {
	// immutable after New
	o       Options
	log     *slog.Logger
	updates chan Update
	local   chan []Local  // capacity 1, the newest set
	callers chan []Caller // capacity 1, the newest set
	refresh chan struct{} // capacity 1: compile everything anew
	rules   chan RuleUpdate
	asked   chan registry.Service // by calls, for rules
	ejected chan struct{}         // capacity 1: somebody was
	stats   *statistics

	current watch.Value[Snapshot]
	await   waiters
	arrive  waiters   // of calls from other hosts
	c       *compiler // owned by Run
}

// New is a router with an empty snapshot.
func New(o Options) *Router {
	c := newCompiler(o)
	r := &Router{
		o:       o,
		log:     o.Log,
		updates: make(chan Update, 64),
		local:   make(chan []Local, 1),
		callers: make(chan []Caller, 1),
		refresh: make(chan struct{}, 1),
		rules:   make(chan RuleUpdate, 64),
		asked:   make(chan registry.Service, 64),
		ejected: make(chan struct{}, 1),
		stats:   c.stats,
		c:       c,
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	c.rules.wake = func() {
		select {
		case r.ejected <- struct{}{}:
		default:
		}
	}
	r.await.init(cmp.Or(o.MaxAwait, 1024), 0)
	r.arrive.init(arriveMost, strangersMost)
	r.current.Store(c.snapshot)
	return r
}

// Run runs the sources and compiles until ctx ends; then it returns nil. It errs
// when a source does.
func (r *Router) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range r.o.Sources {
		g.Go(func() error { return s.Run(ctx, r.updates) })
	}
	if r.o.Rules != nil {
		g.Go(func() error { return r.o.Rules.Run(ctx, r.rules) })
	}
	g.Go(func() error { r.loop(ctx); return nil })
	return g.Wait()
}

func (r *Router) loop(ctx context.Context) {
	grow := time.NewTicker(growEvery)
	defer grow.Stop()
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	var tick <-chan time.Time // only with rules
	if r.o.Rules != nil {
		ticker := time.NewTicker(tickEvery)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case u := <-r.updates:
			r.c.update(u)
		case set := <-r.local:
			r.c.setLocal(set)
		case set := <-r.callers:
			r.c.setCallers(set)
		case <-r.refresh:
			r.c.refresh()
		case u := <-r.rules:
			r.c.rules.update(u, time.Now())
		case s := <-r.asked:
			r.c.ask(s, time.Now())
		case <-r.ejected:
			r.c.outliers(time.Now())
		case <-tick:
			r.c.tick(time.Now())
		case <-grow.C:
			r.c.grow(time.Now())
		case <-renew.C:
			r.c.sweep(time.Now())
			r.c.forget(time.Now())
			r.renew()
		}
		r.drain()
		next, all := r.c.compile(time.Now())
		if next == nil {
			continue
		}
		for _, f := range next.unsupported {
			if f.of != moreFlaws && !slices.ContainsFunc(r.Snapshot().unsupported, func(said flaw) bool { return said.text == f.text }) {
				r.log.Warn("a rule cannot be honoured", "rule", f)
			}
		}
		r.current.Store(next)
		if set, changed := r.c.rules.wants(); changed && r.o.Rules != nil {
			r.o.Rules.SetServices(set)
		}
		for _, c := range all {
			r.logChange(c)
		}
	}
}

// drain takes what else waits, so that a burst of updates makes one snapshot.
func (r *Router) drain() {
	for range cap(r.updates) {
		select {
		case u := <-r.updates:
			r.c.update(u)
		case set := <-r.local:
			r.c.setLocal(set)
		case set := <-r.callers:
			r.c.setCallers(set)
		case u := <-r.rules:
			r.c.rules.update(u, time.Now())
		case s := <-r.asked:
			r.c.ask(s, time.Now())
		default:
			return
		}
	}
}

// renew tells the sources which interfaces are called or adopted, so that they go
// on following those that were wanted on demand.
func (r *Router) renew() {
	r.stats.each(func(direction string, s registry.Service, st *Stats) {
		if n := st.Requests(); direction == Outbound && n != st.seen {
			st.seen = n
			r.c.used(s, time.Now())
			if _, known := r.c.snapshot.interfaces.value(s.Interface); known {
				r.want(s.Interface)
			}
		}
	})
	for _, iface := range r.c.snapshot.inbound.interfaces {
		r.want(iface)
	}
}

func (r *Router) want(iface string) {
	for _, s := range r.o.Sources {
		s.Want(iface)
	}
}

func (r *Router) logChange(c changes) {
	var diff []string
	for _, label := range c.new {
		if _, ok := slices.BinarySearch(c.old, label); !ok {
			diff = append(diff, "+"+label)
		}
	}
	for _, label := range c.old {
		if _, ok := slices.BinarySearch(c.new, label); !ok {
			diff = append(diff, "-"+label)
		}
	}
	if len(diff) == 0 {
		return
	}
	more := max(0, len(diff)-mostLogged)
	r.log.Info("endpoints changed", "interface", c.iface, "change", strings.Join(diff[:len(diff)-more], " "), "more", more, "endpoints", len(c.new))
}

// SetLocal replaces the local providers behind the inbound listener. It may be
// called from any goroutine, before Run too; the set must not be changed later.
func (r *Router) SetLocal(set []Local) { replace(r.local, set) }

// SetCallers replaces the local subscriptions, under the rules of SetLocal.
func (r *Router) SetCallers(set []Caller) { replace(r.callers, set) }

// Refresh makes the router ask Options.Policy again for every service. It never
// blocks.
func (r *Router) Refresh() {
	select {
	case r.refresh <- struct{}{}:
	default:
	}
}

// replace puts v into a channel of capacity 1, in the place of what waits there.
func replace[T any](ch chan T, v T) {
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

// Snapshot is the current snapshot, never nil: one atomic load.
func (r *Router) Snapshot() *Snapshot { return r.current.Load() }

// Unsupported lists what rules say and the agent cannot do, sorted.
func (r *Router) Unsupported() (lines []string) {
	for _, f := range r.Snapshot().unsupported {
		lines = append(lines, f.String())
	}
	return lines
}

// Changes is the current snapshot, to wait for the next one.
func (r *Router) Changes() *watch.Value[Snapshot] { return &r.current }

// EachStats calls f for the statistics of each (direction, service key), sorted.
// Two names are no services: "_unrouted" counts calls for which no cluster was
// found, "_other" those of services beyond Options.MaxStats.
func (r *Router) EachStats(f func(direction string, s registry.Service, st *Stats)) { r.stats.each(f) }
