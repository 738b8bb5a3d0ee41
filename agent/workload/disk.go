package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// document is the state on disk.
type document struct {
	Publications  []savedPublication
	Subscriptions []savedSubscription
	Leases        []savedLease
	Static        []savedStatic `json:",omitempty"`
}

type savedPublication struct {
	Workload   string
	URL        string
	Registries []string `json:",omitempty"`
	Client     string   `json:",omitempty"`
	Owner      Owner
	Live       bool
	Beats      bool // its address answers heartbeats
}

type savedSubscription struct {
	Workload   string
	Protocol   string `json:",omitempty"`
	Service    registry.Service
	URL        string   `json:",omitempty"`
	Client     string   `json:",omitempty"`
	Categories []string `json:",omitempty"`
	Owner      Owner
}

type savedLease struct {
	Workload string
	TTL      time.Duration
	Owner    Owner
}

// saved says how far the disk is.
type saved struct {
	upTo uint64 // changes that were tried: they are on disk, or View.DiskError says why not
}

const (
	slowDisk     = 2 * time.Second // a call does not wait longer for the disk
	retryAtFirst = time.Second
	retryAtLast  = 30 * time.Second
)

// document copies what is kept. mu is held.
func (s *Store) document() document {
	var d document
	for _, p := range s.pubs {
		live, _ := p.target.status()
		d.Publications = append(d.Publications, savedPublication{Workload: p.Workload, URL: p.URL.String(), Registries: p.Registries,
			Client: p.Client, Owner: p.Owner, Live: live, Beats: p.target.beats})
	}
	for _, sub := range s.subs {
		one := savedSubscription{Workload: sub.Workload, Protocol: sub.Protocol, Service: sub.Service, Client: sub.Client, Categories: sub.Categories, Owner: sub.Owner}
		if sub.URL != (registry.URL{}) {
			one.URL = sub.URL.String()
		}
		d.Subscriptions = append(d.Subscriptions, one)
	}
	for name, l := range s.leases {
		d.Leases = append(d.Leases, savedLease{Workload: name, TTL: l.ttl, Owner: l.owner})
	}
	d.Static = s.savedStatics()
	return d
}

// restore takes a document in. What was Live stays so until its first probe; what
// this agent would not accept today is left out, with a warning.
func (s *Store) restore(d document, now time.Time) {
	for _, one := range d.Publications {
		u, err := registry.ParseURL(one.URL)
		p := Publication{Identity: Identity{Workload: one.Workload}, URL: u, Registries: one.Registries, Client: one.Client, Owner: one.Owner}
		if err == nil {
			p, err = s.complete(p)
		}
		if err == nil && len(s.pubs) >= s.limits.Publications {
			err = ErrLimit
		}
		if err == nil {
			err = s.roomFor(p.Workload)
		}
		if err != nil {
			s.log.Warn("a publication of the last run is left out", "url", one.URL, "err", err)
			continue
		}
		if _, found := s.findPublication(p.Identity); found {
			continue
		}
		t := s.addPublication(p)
		t.beats = t.beats || one.Beats
		if one.Live {
			t.live, t.reason, t.fresh = true, "", false
		} else if !t.live {
			t.published(now)
		}
		t.since = now
	}
	for _, one := range d.Subscriptions {
		var u registry.URL
		var err error
		if one.URL != "" {
			u, err = registry.ParseURL(one.URL)
		}
		sub := Subscription{Workload: one.Workload, Protocol: one.Protocol, Service: one.Service, URL: u, Client: one.Client, Categories: one.Categories, Owner: Owner{UID: one.Owner.UID, PID: -1}} // a process of the last run may have ended, and its pid be another's
		if err == nil {
			sub, err = completeSubscription(sub)
		}
		if err == nil && len(s.subs) >= s.limits.Subscriptions {
			err = ErrLimit
		}
		if err == nil {
			err = s.roomFor(sub.Workload)
		}
		if err != nil {
			s.log.Warn("a subscription of the last run is left out", "service", one.Service.Key(), "err", err)
			continue
		}
		if _, found := s.findSubscription(sub.ID); !found {
			s.addSubscription(sub, now)
		}
	}
	for _, one := range d.Leases {
		if s.members[one.Workload] == 0 || s.leases[one.Workload] != nil {
			continue // nothing hangs on it any more
		}
		ttl := min(max(one.TTL, minTTL), maxTTL)
		s.leases[one.Workload] = &lease{state: LeaseUnknown, ttl: ttl, owner: one.Owner, deadline: now.Add(ttl)}
		s.members[one.Workload]++
	}
	s.restoreStatics(d.Static, now)
}

// onDisk waits until a change was saved, or could not be.
func (s *Store) onDisk(ctx context.Context, change uint64) error {
	slow := time.NewTimer(slowDisk)
	defer slow.Stop()
	for {
		done, next := s.saved.Watch()
		if done.upTo >= change {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the disk: %w", ctx.Err())
		case <-s.ended:
			if s.saved.Load().upTo < change {
				return ErrStopped
			}
			return nil
		case <-slow.C:
			s.noteDisk(fmt.Errorf("saving takes longer than %v", slowDisk))
			return nil
		}
	}
}

// noteDisk shows how the disk does, and logs it when that changes.
func (s *Store) noteDisk(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == s.diskErr {
		return
	}
	switch {
	case text == "":
		s.log.Info("workloads are on disk again")
	case s.diskErr == "":
		s.log.Warn("workloads cannot be kept on disk: a restart would forget the last changes", "err", err)
	}
	s.diskErr = text
	s.show(false)
}

// save writes the state after each change until ctx ends, and once more then.
// Whatever changed while one write was under way shares the next.
func (s *Store) save(ctx context.Context) {
	retry := time.NewTimer(0)
	retry.Stop()
	defer retry.Stop()
	pause := retryAtFirst
	for {
		select {
		case <-ctx.Done():
		case <-s.dirty:
		case <-retry.C:
		}
		s.mu.Lock()
		doc, upTo := s.document(), s.changes
		s.mu.Unlock()
		var err error
		if last := s.saved.Load().upTo; last < upTo || s.failing() {
			err = s.file.Save(doc)
			s.noteDisk(err)
			s.saved.Store(&saved{upTo: upTo})
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = retryAtFirst
			continue
		}
		retry.Reset(pause/2 + rand.N(pause/2))
		pause = min(2*pause, retryAtLast)
	}
}

func (s *Store) failing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.diskErr != ""
}
