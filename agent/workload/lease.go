package workload

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	defaultTTL = 15 * time.Second
	minTTL     = 100 * time.Millisecond
	maxTTL     = time.Hour
)

// lease of one workload. While holders > 0 or the deadline is ahead it lasts.
type lease struct {
	state    LeaseState
	ttl      time.Duration
	owner    Owner
	holders  int
	deadline time.Time // of the last renewal, or of the doubt after a start
	broken   time.Time // when it ended
	warned   bool
}

// HoldLease says that the workload lives until release is called, which is to
// happen when the stream of its application ends. ttl 0 is the default of 15 s.
// Release may be called more than once. Errors: ErrInvalid, ErrForbidden,
// ErrLimit, ErrStopped.
func (s *Store) HoldLease(workload string, ttl time.Duration, o Owner) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.lease(workload, ttl, o)
	if err != nil {
		return nil, fmt.Errorf("lease of %s: %w", workload, err)
	}
	l.holders++
	s.enter(l, LeaseHeld)
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.holders--; l.holders > 0 {
			return
		}
		if time.Now().Before(l.deadline) {
			s.enter(l, LeaseRenewed)
		} else {
			s.breakLease(workload, l, time.Now())
		}
	}), nil
}

// RenewLease says that the workload lives for one more TTL. Parameters and errors
// as of HoldLease.
func (s *Store) RenewLease(workload string, ttl time.Duration, o Owner) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.lease(workload, ttl, o)
	if err != nil {
		return fmt.Errorf("lease of %s: %w", workload, err)
	}
	l.deadline = time.Now().Add(l.ttl)
	if l.holders == 0 {
		s.enter(l, LeaseRenewed)
	}
	return nil
}

// lease finds or begins a lease. mu is held.
func (s *Store) lease(workload string, ttl time.Duration, o Owner) (*lease, error) {
	if ttl == 0 {
		ttl = defaultTTL
	}
	if ttl < minTTL || ttl > maxTTL {
		return nil, fmt.Errorf("%w: a TTL of %v, want %v to %v", ErrInvalid, ttl, minTTL, maxTTL)
	}
	if err := CheckWorkload(workload); err != nil {
		return nil, err
	}
	if s.stopped {
		return nil, ErrStopped
	}
	for _, p := range s.pubs {
		if p.Workload == workload && foreign(p.Owner, o) {
			return nil, fmt.Errorf("%w: user %d has publications in it", ErrForbidden, p.Owner.UID)
		}
	}
	l := s.leases[workload]
	switch {
	case l == nil:
		if err := s.roomFor(workload); err != nil {
			return nil, err
		}
		l = &lease{ttl: ttl, owner: o}
		s.leases[workload] = l
		s.members[workload]++
		s.changed(false)
	case foreign(l.owner, o) && l.state != LeaseBroken:
		return nil, fmt.Errorf("%w: user %d holds it", ErrForbidden, l.owner.UID)
	case l.ttl != ttl || l.owner != o:
		l.ttl, l.owner = ttl, o
		s.changed(false)
	}
	if l.state == LeaseUnknown {
		l.deadline = time.Time{} // that of the doubt, which is over
	}
	return l, nil
}

// enter moves a lease that lasts. mu is held.
func (s *Store) enter(l *lease, to LeaseState) {
	l.warned = false
	if l.state != to {
		l.state = to
		s.show(false)
	}
}

// breakLease ends a lease and has its ports probed now. mu is held.
func (s *Store) breakLease(workload string, l *lease, now time.Time) {
	l.broken = now
	if l.state != LeaseBroken {
		l.state = LeaseBroken
		s.show(false)
	}
	for _, p := range s.pubs {
		if p.Workload == workload {
			poke(p.target.wake)
		}
	}
}

// expire ends what is over. mu is held.
func (s *Store) expire(now time.Time) {
	for name, l := range s.leases {
		s.expireLease(name, l, now)
	}
	before := len(s.pubs) + len(s.subs)
	for _, p := range slices.Clone(s.pubs) {
		if why := s.over(p, now); why != "" {
			s.log.Info("publication forgotten", "publication", p.Identity.Label(), "why", why)
			s.removePublication(p)
		}
	}
	s.subs = slices.DeleteFunc(s.subs, func(sub *subscription) bool {
		l := s.leases[sub.Workload]
		ended := l == nil && now.Sub(sub.last) >= forgetAfter ||
			l != nil && l.state == LeaseBroken && now.Sub(l.broken) >= l.ttl
		if ended {
			s.log.Info("subscription ended with its workload", "service", sub.Service.Key(), "workload", sub.Workload)
			s.leave(sub.Workload)
		}
		return ended
	})
	if len(s.pubs)+len(s.subs) != before {
		s.changed(true)
	}
}

func (s *Store) expireLease(name string, l *lease, now time.Time) {
	if (l.state == LeaseRenewed || l.state == LeaseUnknown) && !now.Before(l.deadline) {
		s.breakLease(name, l, now)
	}
	if l.state != LeaseBroken || now.Sub(l.broken) < l.ttl {
		return
	}
	if s.members[name] == 1 { // nothing but the lease
		delete(s.leases, name)
		s.leave(name)
		s.changed(false)
		return
	}
	if l.warned {
		return
	}
	for _, p := range s.pubs {
		if p.Workload == name && p.target.live {
			s.log.Warn("the lease ended, but the provider answers: it stays published as long as it does", "workload", name, "address", p.Address)
			l.warned = true
			return
		}
	}
}

// over tells why a publication that does not live is forgotten now. With a lease
// that lasts it never is. A port that hangs is not dead: who wakes up does not
// know that he should publish again.
func (s *Store) over(p *publication, now time.Time) string {
	t, l := p.target, s.leases[p.Workload]
	switch {
	case t.live || l != nil && l.state != LeaseBroken:
		return ""
	case l != nil && t.gone() && now.Sub(t.since) >= l.ttl && now.Sub(l.broken) >= l.ttl:
		return "its lease ended and its port is closed"
	case now.Sub(t.since) >= forgetAfter:
		return "its port is dead for a day"
	}
	return ""
}

// restart begins every term anew, after a gap in which the machine or this
// process did not run: nobody could have renewed anything. mu is held.
func (s *Store) restart(now time.Time) {
	for _, l := range s.leases {
		if !l.deadline.IsZero() {
			l.deadline = now.Add(l.ttl)
		}
		l.broken = now
	}
	for _, t := range s.targets {
		t.since, t.fails = now, 0
	}
	for _, sub := range s.subs {
		sub.last = now
	}
}
