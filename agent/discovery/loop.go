package discovery

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

const (
	tick       = time.Second
	retryFirst = time.Second // after a subscription that failed
	retryMost  = time.Minute
	leaveMost  = 30 * time.Second // what a registry said that is no longer wanted
)

// loop is the state of one Run, owned by its goroutine.
type loop struct {
	*Source
	ctx    context.Context
	out    chan<- route.Update
	heard  chan observation
	probed chan map[string]bool // capacity 1: addresses that refuse
	wg     sync.WaitGroup       // goroutines of this Run

	protection Protection
	follows    map[string]*follow
	demanded   int  // of follows: on demand
	full       bool // it was said that too many are wanted
	probing    bool
	disk       *disk
}

// follow is one interface that somebody wants.
type follow struct {
	local  bool      // a local subscription wants it
	wanted time.Time // when it was wanted last
	cancel context.CancelFunc
	ctx    context.Context
	sets   map[*member]*set
}

// observation is what one registry said.
type observation struct {
	from  *member
	iface string
	set   registry.Endpoints
	err   error // it cannot say anything
}

// Run follows what is wanted until ctx ends; then it saves and returns nil.
func (s *Source) Run(ctx context.Context, ch chan<- route.Update) error {
	ctx, cancel := context.WithCancel(ctx)
	l := &loop{
		Source:     s,
		ctx:        ctx,
		out:        ch,
		heard:      make(chan observation, 64),
		probed:     make(chan map[string]bool, 1),
		protection: s.o.Protection,
		follows:    map[string]*follow{},
		disk:       openDisk(s.o.Dir, s.log),
	}
	for _, m := range l.members {
		m.ctx, m.cancel = context.WithCancel(ctx)
	}
	l.run()
	cancel()
	l.wg.Wait()
	l.disk.finish(l.document())
	return nil
}

func (l *loop) run() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
			l.serve(l.take())
		case o := <-l.heard:
			l.observe(o)
		case refused := <-l.probed:
			l.probing = false
			l.drop(func(iface, address string) bool { return refused[address] })
		case <-ticker.C:
			l.tick(time.Now())
			l.probe()
		}
	}
}

// serve does what others asked for.
func (l *loop) serve(a asks) {
	now := time.Now()
	if a.registries != nil {
		l.exchange(a.registries, now)
	}
	if a.protect != nil {
		l.protection = *a.protect
		for iface, f := range l.follows {
			for m, s := range f.sets {
				l.step(m, iface, s, func() bool { return s.protect(l.protection) })
			}
		}
	}
	if a.replace {
		local := make(map[string]bool, len(a.wanted))
		for _, iface := range a.wanted {
			local[iface] = true
			l.follow(iface, true, now)
		}
		for iface, f := range l.follows {
			if f.local && !local[iface] {
				f.local, f.wanted = false, now
				l.demanded++
			}
		}
	}
	for iface := range a.demand {
		l.follow(iface, false, now)
	}
	if len(a.refused) > 0 {
		l.drop(func(iface, address string) bool { return a.refused[refusal{iface, address}] })
	}
}

// follow begins to follow an interface, or notes that it is still wanted.
func (l *loop) follow(iface string, local bool, now time.Time) {
	f := l.follows[iface]
	switch {
	case f != nil && local && !f.local:
		f.local = true
		l.demanded--
		return
	case f != nil:
		f.wanted = now
		return
	case !local && l.demanded >= l.o.MaxWanted:
		if !l.full {
			l.full = true
			l.log.Warn("too many interfaces are called without a subscription, more are refused", "limit", l.o.MaxWanted, "interface", iface)
		}
		return
	}
	f = &follow{local: local, wanted: now, sets: map[*member]*set{}}
	f.ctx, f.cancel = context.WithCancel(l.ctx)
	if !local {
		l.demanded++
	}
	l.follows[iface] = f
	for _, m := range l.members {
		if m.leaves.IsZero() {
			l.ask(m, iface, f, now)
		}
	}
}

// ask begins to follow an interface in one registry.
func (l *loop) ask(m *member, iface string, f *follow, now time.Time) {
	s := &set{}
	f.sets[m] = s
	l.count(m, counts{interfaces: 1})
	away := m.Registry.Status().State != registry.Connected
	if !l.step(m, iface, s, func() bool { return away && l.restore(m, iface, s, now) }) {
		l.send(s.update(m.Name, iface))
	}
	l.wg.Go(func() {
		ctx, cancel := context.WithCancel(f.ctx)
		defer cancel()
		defer context.AfterFunc(m.ctx, cancel)()
		l.subscribe(ctx, m, iface)
	})
}

// exchange takes another set of registries.
func (l *loop) exchange(wanted []Named, now time.Time) {
	for _, m := range l.members {
		if m.leaves.IsZero() && !slices.Contains(wanted, m.Named) {
			m.cancel()
			m.leaves = now.Add(leaveMost)
			delete(l.disk.loaded, m.Name)
			l.disk.dirty = true
		}
	}
	for _, r := range wanted {
		i := slices.IndexFunc(l.members, func(m *member) bool { return m.Name == r.Name })
		if i >= 0 && l.members[i].leaves.IsZero() {
			continue
		}
		if i >= 0 { // it comes back under a name that still leaves
			l.members[i].leaves = now
			l.forget(now)
		}
		m := &member{Named: r}
		m.ctx, m.cancel = context.WithCancel(l.ctx)
		l.setMembers(append(slices.Clone(l.members), m))
		for iface, f := range l.follows {
			l.ask(m, iface, f, now)
		}
	}
	l.forget(now)
}

// forget drops what registries that leave have said, of each interface as soon
// as the others list the same, if need be at other addresses, and at last the registries.
func (l *loop) forget(now time.Time) {
	left := slices.DeleteFunc(slices.Clone(l.members), func(m *member) bool {
		if m.leaves.IsZero() {
			return false
		}
		holds := false
		for iface, f := range l.follows {
			s := f.sets[m]
			switch {
			case s == nil:
			case now.Before(m.leaves) && len(lost(s.providers(), f.listed())) > 0:
				holds = true
			default:
				delete(f.sets, m)
				l.send(route.Update{Source: m.Name, Interface: iface, State: route.Dropped})
			}
		}
		return !holds
	})
	if len(left) < len(l.members) {
		l.setMembers(left)
	}
}

// listed is what the registries that stay list. One that has just been written to
// may not have told of it yet.
func (f *follow) listed() (all []registry.Provider) {
	for m, s := range f.sets {
		if m.leaves.IsZero() {
			all = append(all, s.now...)
		}
	}
	return all
}

func (l *loop) setMembers(list []*member) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.members = list
}

// unfollow ends it.
func (l *loop) unfollow(iface string) {
	f := l.follows[iface]
	f.cancel()
	delete(l.follows, iface)
	if !f.local {
		l.demanded--
		l.full = false
	}
	for m, s := range f.sets {
		is := s.counts()
		l.count(m, counts{interfaces: -1, protected: -is.protected, stale: -is.stale})
		l.send(route.Update{Source: m.Name, Interface: iface, State: route.Dropped})
	}
	l.disk.dirty = true
}

// subscribe holds the subscription of one interface in one registry until ctx
// ends.
func (l *loop) subscribe(ctx context.Context, m *member, iface string) {
	sets := make(chan registry.Endpoints)
	var forward sync.WaitGroup
	forward.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-sets:
				l.tell(ctx, observation{from: m, iface: iface, set: e})
			}
		}
	})
	defer forward.Wait()
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		err := m.Registry.Subscribe(ctx, iface, sets)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.tell(ctx, observation{from: m, iface: iface, err: err})
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

func (l *loop) tell(ctx context.Context, o observation) {
	select {
	case l.heard <- o:
	case <-ctx.Done():
	}
}

// observe takes what a registry said.
func (l *loop) observe(o observation) {
	f := l.follows[o.iface]
	if f == nil {
		return
	}
	m := o.from
	s := f.sets[m]
	if s == nil || !m.leaves.IsZero() {
		return
	}
	if o.err != nil {
		l.step(m, o.iface, s, func() bool { return s.fail(o.err) })
		return
	}
	now := time.Now()
	m.last = now
	l.step(m, o.iface, s, func() bool { return s.observe(o.set, l.protection, now) })
	if len(s.held) > 0 {
		l.probe()
	}
}

// drop drops held providers whose address refuses.
func (l *loop) drop(refuses func(iface, address string) bool) {
	for iface, f := range l.follows {
		for m, s := range f.sets {
			l.step(m, iface, s, func() bool { return s.refused(func(address string) bool { return refuses(iface, address) }) })
		}
	}
}

// tick does what time brings.
func (l *loop) tick(now time.Time) {
	for _, m := range l.members {
		if m.leaves.IsZero() && m.Registry.Status().State == registry.Connected {
			m.last = now
		}
	}
	l.forget(now)
	for iface, f := range l.follows {
		if !f.local && now.Sub(f.wanted) > l.o.Keep {
			l.unfollow(iface)
			continue
		}
		for m, s := range f.sets {
			l.step(m, iface, s, func() bool {
				return s.expire(now) || !s.heard && !s.stale && l.restore(m, iface, s, now)
			})
		}
	}
	l.disk.tick(now, l.document)
}

// restore serves the last set from disk while the registry says nothing.
func (l *loop) restore(m *member, iface string, s *set, now time.Time) bool {
	saved, ok := l.disk.set(m.Name, iface, now)
	if !ok {
		return false
	}
	s.restore(saved.list, saved.Heard, saved.Heard.Add(staleMost))
	return true
}

// step runs one step of a set's state machine, and passes on what changed: the
// set to route, the beginning and end of a hold to the log. It tells whether
// anything changed.
func (l *loop) step(m *member, iface string, s *set, next func() bool) bool {
	before, why, failed := s.counts(), s.why, s.failed
	if !next() {
		return false
	}
	name, after := m.Name, s.counts()
	l.count(m, counts{protected: after.protected - before.protected, stale: after.stale - before.stale})
	l.disk.dirty = true
	switch {
	case s.failed != failed && s.failed != "":
		l.log.Warn("registry cannot follow the interface", "registry", name, "interface", iface, "err", s.failed)
	case s.why != "" && s.why != why:
		if !l.o.Leaving() {
			l.log.Warn("providers are held", "registry", name, "interface", iface, "why", s.why, "held", len(places(s.held)), "for", time.Until(s.until).Round(time.Second))
		}
	case s.why == "" && why != "":
		l.log.Info("hold ended", "registry", name, "interface", iface, "why", why, "providers", len(s.now))
	}
	l.send(s.update(name, iface))
	return true
}

func (l *loop) send(u route.Update) {
	select {
	case l.out <- u:
	case <-l.ctx.Done():
	}
}

func (l *loop) count(m *member, d counts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &m.counts
	c.interfaces += d.interfaces
	c.protected += d.protected
	c.stale += d.stale
}

// document is what is to be saved: what is followed, and what was loaded and is
// not followed yet.
func (l *loop) document() document {
	d := document{Registries: map[string]map[string]savedSet{}}
	for _, m := range l.members {
		if !m.leaves.IsZero() {
			continue
		}
		sets := map[string]savedSet{}
		maps.Copy(sets, l.disk.loaded[m.Name])
		maps.DeleteFunc(sets, func(_ string, s savedSet) bool { return time.Since(s.Heard) >= staleMost })
		for iface, f := range l.follows {
			s := f.sets[m]
			switch {
			case !s.heard: // what was loaded stays
			case len(s.now)+len(s.held) == 0:
				delete(sets, iface)
			default:
				sets[iface] = savedSet{Heard: m.last, list: s.providers()}
			}
		}
		d.Registries[m.Name] = sets
	}
	return d
}
