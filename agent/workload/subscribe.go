package workload

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// forgetAfter is how long what has no lease is remembered: a subscription after
// its last call, a publication after its port died.
const forgetAfter = 24 * time.Hour

// subscriptionID is the same for the same identity, also after a restart.
func subscriptionID(sub Subscription) string {
	sum := sha256.Sum256([]byte(sub.Workload + "\n" + sub.Protocol + "\n" + sub.Service.Key()))
	return "s-" + hex.EncodeToString(sum[:6])
}

// Subscribe asks for sub, and returns when that is on disk. The URL or the
// Service is needed; the answer has the ID. Errors: ErrInvalid, ErrLimit,
// ErrStopped, that of ctx.
func (s *Store) Subscribe(ctx context.Context, sub Subscription) (Subscription, error) {
	sub, err := completeSubscription(sub)
	if err != nil {
		return Subscription{}, fmt.Errorf("subscribe %s: %w", sub.Service, err)
	}
	change, err := s.subscribe(sub)
	if err == nil {
		err = s.onDisk(ctx, change)
	}
	if err != nil {
		return sub, fmt.Errorf("subscribe %s: %w", sub.Service, err)
	}
	return sub, nil
}

func (s *Store) subscribe(sub Subscription) (change uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return 0, ErrStopped
	}
	now := time.Now()
	at, found := s.findSubscription(sub.ID)
	if found {
		old := s.subs[at]
		if foreign(old.Owner, sub.Owner) {
			if !strings.HasPrefix(sub.Workload, anonymousPrefix) {
				return 0, fmt.Errorf("%w: user %d has subscriptions in %s", ErrForbidden, old.Owner.UID, sub.Workload)
			}
			sub.Owner = old.Owner // two users run an application without a name of its own: they share
		}
		old.last = now
		before := old.Subscription
		old.Subscription = sub
		if before.URL != sub.URL || before.Client != sub.Client || !slices.Equal(before.Categories, sub.Categories) {
			s.changed(true)
		} else if before.Owner != sub.Owner {
			s.changed(false)
		}
		return s.changes, nil
	}
	if len(s.subs) >= s.limits.Subscriptions {
		return 0, fmt.Errorf("%w: %d subscriptions", ErrLimit, s.limits.Subscriptions)
	}
	if err := s.roomFor(sub.Workload); err != nil {
		return 0, err
	}
	s.addSubscription(sub, now)
	s.changed(true)
	return s.changes, nil
}

func (s *Store) addSubscription(sub Subscription, now time.Time) {
	at, _ := s.findSubscription(sub.ID)
	s.subs = slices.Insert(s.subs, at, &subscription{Subscription: sub, last: now})
	s.members[sub.Workload]++
}

// Unsubscribe takes away what m means, and returns when that is on disk. Errors
// as of Unpublish.
func (s *Store) Unsubscribe(ctx context.Context, m Match, o Owner) (removed []Subscription, err error) {
	removed, change, err := s.unsubscribe(m, o)
	if err == nil {
		err = s.onDisk(ctx, change)
	}
	if err != nil {
		err = fmt.Errorf("unsubscribe: %w", err)
	}
	return removed, err
}

func (s *Store) unsubscribe(m Match, o Owner) (removed []Subscription, change uint64, err error) {
	if err := m.check(); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, 0, ErrStopped
	}
	var denied *subscription
	s.subs = slices.DeleteFunc(s.subs, func(sub *subscription) bool {
		if !m.subscription(&sub.Subscription) {
			return false
		}
		if foreign(sub.Owner, o) {
			denied = sub
			return false
		}
		removed = append(removed, sub.Subscription)
		s.leave(sub.Workload)
		return true
	})
	if len(removed) > 0 {
		s.changed(true)
		return removed, s.changes, nil
	}
	if denied != nil {
		return nil, 0, fmt.Errorf("%w: the subscription of %s belongs to user %d", ErrForbidden, denied.Service, denied.Owner.UID)
	}
	return nil, s.changes, nil
}

// Touch says that a watch or another call of the subscription happened: without
// a lease it is forgotten 24 h after the last one.
func (s *Store) Touch(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, found := s.findSubscription(id); found {
		s.subs[at].last = time.Now()
	}
}

// Subscription is the one with that ID. ErrUnknown: it ended, or never was.
func (s *Store) Subscription(id string) (Subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, found := s.findSubscription(id); found {
		return s.subs[at].Subscription, nil
	}
	return Subscription{}, fmt.Errorf("subscription %q: %w", id, ErrUnknown)
}

func (s *Store) findSubscription(id string) (int, bool) {
	return slices.BinarySearchFunc(s.subs, id, func(sub *subscription, id string) int { return cmp.Compare(sub.ID, id) })
}
