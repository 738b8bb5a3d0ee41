package workload

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/meshferry/meshferry/agent/state"
	"github.com/meshferry/meshferry/agent/watch"
)

// Store holds what the local applications asked for.
type Store struct {
	// immutable after Open
	file      state.File
	limits    Limits
	ownPorts  []int
	own       []netip.AddrPort
	log       *slog.Logger
	dial      func(ctx context.Context, address string) (net.Conn, error)
	addresses func() ([]net.Addr, error)

	view  watch.Value[View]
	saved watch.Value[saved]
	wake  chan struct{} // capacity 1: Run looks at the state again
	dirty chan struct{} // capacity 1: something is to be saved
	ended chan struct{} // closed when Run has returned

	mu sync.Mutex
	// guarded by mu
	probe   ProbeSettings
	stopped bool
	content uint64          // View.Generation
	changes uint64          // of what is kept on disk
	pubs    []*publication  // sorted by identity
	subs    []*subscription // sorted by ID
	statics []*static       // sorted by application
	leases  map[string]*lease
	members map[string]int // by workload: publications, subscriptions and leases
	targets map[string]*target
	diskErr string
	stepped time.Time // when Run looked last
}

type publication struct {
	Publication
	target *target
}

type subscription struct {
	Subscription
	last time.Time // last call or Touch
}

// target is a local address that is probed, for one or several publications or
// static applications.
type target struct {
	address string
	health
	users int           // publications and static applications there
	dubbo int           // those that speak dubbo
	wake  chan struct{} // capacity 1: probe now
	stop  func()        // ends the prober; nil: none yet
}

// Open loads <Dir>/workloads.state. A damaged file is moved aside and warned
// about; the store starts empty then, and applications publish again. Every other
// error is for a human.
func Open(o Options) (*Store, error) {
	s := &Store{
		file:  state.File{Path: filepath.Join(o.Dir, "workloads.state")},
		probe: o.Probe.withDefaults(),
		limits: Limits{
			Workloads:     cmp.Or(o.Limits.Workloads, 256),
			Publications:  cmp.Or(o.Limits.Publications, 2000),
			Subscriptions: cmp.Or(o.Limits.Subscriptions, 4000),
		},
		ownPorts:  slices.Clone(o.OwnPorts),
		own:       slices.Clone(o.Own),
		log:       o.Log,
		dial:      o.Dial,
		addresses: o.Addresses,
		wake:      make(chan struct{}, 1),
		dirty:     make(chan struct{}, 1),
		ended:     make(chan struct{}),
		leases:    map[string]*lease{},
		members:   map[string]int{},
		targets:   map[string]*target{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.dial == nil {
		s.dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	if s.addresses == nil {
		s.addresses = net.InterfaceAddrs
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("state of workloads: %w", err)
	}
	var doc document
	if err := s.file.Load(&doc); errors.Is(err, state.ErrDamaged) {
		s.log.Warn("starting without the workloads of the last run; applications publish again", "err", err)
	} else if err != nil {
		return nil, fmt.Errorf("state of workloads: %w", err)
	}
	s.restore(doc, time.Now())
	s.saved.Store(&saved{})
	s.view.Store(&View{})
	s.show(true)
	return s, nil
}

// View is the current View and tells when it is replaced.
func (s *Store) View() *watch.Value[View] { return &s.view }

// Publish asks for p, and returns when that is on disk. Only the URL is needed;
// Live, Address and Reason are ignored. The View of generation gen and all later
// ones include it. Errors: ErrInvalid, ErrOwned, ErrForbidden, ErrLimit,
// ErrStopped, that of ctx (the publication may stand then).
func (s *Store) Publish(ctx context.Context, p Publication) (gen uint64, err error) {
	whole, err := s.complete(p)
	var change uint64
	if err == nil {
		gen, change, err = s.publish(whole)
	}
	if err == nil {
		err = s.onDisk(ctx, change)
	}
	if err != nil {
		return gen, fmt.Errorf("publish %s: %w", p.URL.Service(), err)
	}
	return gen, nil
}

func (s *Store) publish(p Publication) (gen, change uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return s.content, 0, ErrStopped
	}
	at, found := s.findPublication(p.Identity)
	if found {
		old := s.pubs[at]
		if foreign(old.Owner, p.Owner) && !s.abandoned(old) {
			return s.content, 0, fmt.Errorf("%w: user %d published it", ErrForbidden, old.Owner.UID)
		}
		if sameContent(old.Publication, p) {
			if old.Owner != p.Owner {
				old.Owner = p.Owner
				s.changed(false)
			}
			poke(old.target.wake)
			return s.content, s.changes, nil
		}
	}
	older, err := s.inTheWay(p)
	if err != nil {
		return s.content, 0, err
	}
	if !found {
		if len(s.pubs)-len(older) >= s.limits.Publications {
			return s.content, 0, fmt.Errorf("%w: %d publications", ErrLimit, s.limits.Publications)
		}
		if err := s.roomFor(p.Workload); err != nil {
			return s.content, 0, err
		}
	}
	if found {
		s.replacePublication(s.pubs[at], p)
	} else {
		s.addPublication(p).published(time.Now())
	}
	for _, old := range older { // last, so that a target which both share stays
		s.log.Info("publication taken over by another workload", "publication", old.Identity.Label(), "workload", p.Workload)
		s.removePublication(old)
	}
	s.changed(true)
	poke(s.wake)
	return s.content, s.changes, nil
}

// inTheWay lists the publications of other workloads that p replaces. It errs if
// one of them is neither abandoned nor of the same, known user.
func (s *Store) inTheWay(p Publication) (older []*publication, err error) {
	for _, old := range s.pubs {
		if !old.sameSlot(p.Identity) || old.Workload == p.Workload {
			continue
		}
		if sameUser := old.Owner.UID >= 0 && old.Owner.UID == p.Owner.UID; !sameUser && !s.abandoned(old) {
			return nil, fmt.Errorf("%w: the living workload %s has it", ErrOwned, old.Workload)
		}
		older = append(older, old)
	}
	return older, nil
}

// abandoned tells whether nobody stands behind a publication any more: its
// workload's lease is broken, or its port is dead.
func (s *Store) abandoned(p *publication) bool {
	if l := s.leases[p.Workload]; l != nil && l.state == LeaseBroken {
		return true
	}
	return !p.target.live && p.target.reason != ReasonSettling
}

// Unpublish takes away what m means, and returns when that is on disk. With a URL
// only what still has that content goes; superseded says that something newer
// stands in its place. Nothing there is no error. Of what belongs to other users
// nothing goes; ErrForbidden if nothing else was meant. Further errors:
// ErrInvalid for an empty Match, ErrStopped, that of ctx.
func (s *Store) Unpublish(ctx context.Context, m Match, o Owner) (gen uint64, removed []Publication, superseded bool, err error) {
	gen, change, removed, superseded, err := s.unpublish(m, o)
	if err == nil {
		err = s.onDisk(ctx, change)
	}
	if err != nil {
		err = fmt.Errorf("unpublish: %w", err)
	}
	return gen, removed, superseded, err
}

func (s *Store) unpublish(m Match, o Owner) (gen, change uint64, removed []Publication, superseded bool, err error) {
	if err := m.check(); err != nil {
		return 0, 0, nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return s.content, 0, nil, false, ErrStopped
	}
	var denied *publication
	for _, p := range slices.Clone(s.pubs) {
		meant, same := m.publication(&p.Publication)
		switch {
		case !meant:
		case !same:
			superseded = true
		case foreign(p.Owner, o):
			denied = p
		default:
			removed = append(removed, p.shown())
			s.removePublication(p)
		}
	}
	if len(removed) > 0 {
		s.changed(true)
		return s.content, s.changes, removed, false, nil
	}
	if denied != nil {
		return s.content, 0, nil, false, fmt.Errorf("%w: %s belongs to user %d", ErrForbidden, denied.Label(), denied.Owner.UID)
	}
	return s.content, s.changes, nil, superseded, nil
}

// foreign tells that o is known to be another user than the owner. Root is
// nobody's foreigner.
func foreign(owner, o Owner) bool {
	return owner.UID >= 0 && o.UID > 0 && owner.UID != o.UID
}

func sameContent(a, b Publication) bool {
	return a.URL == b.URL && a.Client == b.Client && a.Address == b.Address && slices.Equal(a.Registries, b.Registries)
}

// roomFor errs when one more workload would be too many. mu is held.
func (s *Store) roomFor(workload string) error {
	if s.members[workload] == 0 && len(s.members) >= s.limits.Workloads {
		return fmt.Errorf("%w: %d workloads", ErrLimit, s.limits.Workloads)
	}
	return nil
}

func (s *Store) leave(workload string) {
	if s.members[workload]--; s.members[workload] == 0 {
		delete(s.members, workload)
	}
}

func (s *Store) findPublication(id Identity) (int, bool) {
	return slices.BinarySearchFunc(s.pubs, id, func(p *publication, id Identity) int { return p.compare(id) })
}

// addPublication puts p in, which is not there, and gives its target.
func (s *Store) addPublication(p Publication) *target {
	t := s.attach(p.Address, p.Protocol == "dubbo")
	at, _ := s.findPublication(p.Identity)
	s.pubs = slices.Insert(s.pubs, at, &publication{Publication: p, target: t})
	s.members[p.Workload]++
	return t
}

// attach gives the target of an address one more user, and has it probed now.
func (s *Store) attach(address string, dubbo bool) *target {
	t := s.targets[address]
	if t == nil {
		t = &target{address: address, wake: make(chan struct{}, 1)}
		s.targets[address] = t
	}
	t.users++
	if dubbo {
		t.dubbo++
	}
	poke(t.wake)
	return t
}

// detach takes one away. The last one ends the probing.
func (s *Store) detach(t *target, dubbo bool) {
	t.users--
	if dubbo {
		t.dubbo--
	}
	if t.users == 0 {
		delete(s.targets, t.address)
		if t.stop != nil {
			t.stop()
		}
	}
}

// replacePublication gives old, of the same identity, new content. At the same
// address it stays as live as it is.
func (s *Store) replacePublication(old *publication, p Publication) {
	if old.Address != p.Address {
		s.removePublication(old)
		s.addPublication(p).published(time.Now())
		return
	}
	old.Publication = p
	old.target.published(time.Now())
	poke(old.target.wake)
}

func (s *Store) removePublication(p *publication) {
	at, _ := s.findPublication(p.Identity)
	s.pubs = slices.Delete(s.pubs, at, at+1)
	s.leave(p.Workload)
	s.detach(p.target, p.Protocol == "dubbo")
}

// shown is the publication as a View has it.
func (p *publication) shown() Publication {
	out := p.Publication
	out.Live, out.Reason = p.target.status()
	return out
}

// changed notes that something is to be saved, and that the content of the View
// changed if content is set; it shows the new View. mu is held.
func (s *Store) changed(content bool) {
	s.changes++
	poke(s.dirty)
	s.show(content)
}

// show replaces the View; content tells that its publications, subscriptions or
// static applications changed. mu is held.
func (s *Store) show(content bool) {
	v := View{Publications: make([]Publication, len(s.pubs)), Subscriptions: make([]Subscription, len(s.subs)), DiskError: s.diskErr}
	for i, p := range s.pubs {
		v.Publications[i] = p.shown()
	}
	for i, sub := range s.subs {
		v.Subscriptions[i] = sub.Subscription
	}
	for _, one := range s.statics {
		v.Static = append(v.Static, one.shown())
	}
	for name, l := range s.leases {
		v.Leases = append(v.Leases, Lease{Workload: name, State: l.state, TTL: l.ttl, Owner: l.owner})
	}
	slices.SortFunc(v.Leases, func(a, b Lease) int { return cmp.Compare(a.Workload, b.Workload) })
	if content {
		s.content++
	}
	v.Generation = s.content
	s.view.Store(&v)
}

func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
