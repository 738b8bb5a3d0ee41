package workload

import (
	"context"
	"sync"
	"time"
)

const (
	tick = time.Second // how often leases and subscriptions are looked at
	// gap is the silence after which the machine must have been suspended.
	gap = 2 * tick
)

// Run probes, ends leases and subscriptions, and saves, until ctx ends; what
// changed last is on disk when it returns. It is called once.
func (s *Store) Run(ctx context.Context) error {
	var probers, saver sync.WaitGroup
	last, finish := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		probers.Wait()
		s.mu.Lock()
		s.stopped = true
		s.mu.Unlock()
		finish()
		saver.Wait()
		close(s.ended)
	}()
	s.mu.Lock()
	s.stepped = time.Now()
	s.restart(s.stepped)
	s.mu.Unlock()
	saver.Go(func() { s.save(last) })
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		s.step(time.Now())
		s.startProbers(ctx, &probers)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-s.wake:
		}
	}
}

// step ends what is over, unless nobody had a chance to prevent it.
func (s *Store) step(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if silent := now.Sub(s.stepped); silent > gap {
		s.log.Info("this machine or process was suspended: leases begin anew", "for", silent.Round(time.Millisecond))
		s.restart(now)
	}
	s.stepped = now
	s.expire(now)
}

// startProbers gives each target that has none its prober.
func (s *Store) startProbers(ctx context.Context, probers *sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.targets {
		if t.stop != nil {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		t.stop = stop
		p := &prober{
			address: t.address,
			dial:    s.dial,
			wake:    t.wake,
			plan:    func() (heartbeat, confirm bool, timeout time.Duration) { return s.plan(t) },
			report:  func(o outcome) time.Duration { return s.observe(t, o) },
		}
		probers.Go(func() {
			defer stop()
			p.run(ctx)
		})
	}
}

func (s *Store) plan(t *target) (heartbeat, confirm bool, timeout time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.dubbo > 0, t.live, s.probe.Timeout
}

// SetProbe replaces Options.Probe, from the next probe of each address.
func (s *Store) SetProbe(p ProbeSettings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probe = p.withDefaults()
}

// observe takes in what a probe of t saw, and gives the pause until the next.
func (s *Store) observe(t *target, o outcome) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.targets[t.address] != t {
		return s.probe.Interval
	}
	now := time.Now()
	live, reason := t.status()
	beats := t.beats
	t.health.observe(o, t.dubbo > 0, s.probe, now)
	nowLive, nowReason := t.status()
	switch {
	case nowLive != live || nowReason != reason:
		s.log.Info("local provider", "address", t.address, "live", nowLive, "reason", nowReason)
		s.changed(true)
	case t.beats != beats:
		s.changes++
		poke(s.dirty)
	}
	return t.pause(s.probe, now)
}

// Readonly says that the provider at a local address sent READONLY: it is about
// to stop. Its publications are withdrawn until its process is gone, told by the
// end of the prober's connection or by a refusal, and the address answers again,
// or until something new is published there. A connection that was merely lost
// is for Suspect.
func (s *Store) Readonly(address string) {
	s.mu.Lock()
	t := s.targets[address]
	s.mu.Unlock()
	if t != nil {
		s.observe(t, saidReadonly)
	}
}

// Suspect says that something was wrong with a local address, a refused or lost
// connection, say: it is probed now.
func (s *Store) Suspect(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.targets[address]; t != nil {
		poke(t.wake)
	}
}
