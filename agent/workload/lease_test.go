package workload

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/registry"
)

const ttl = 15 * time.Second

// bubble runs a test on a fake machine with one provider, published by workload
// "w", and one subscription of it.
func bubble(t *testing.T, b behaviour, test func(t *testing.T, h *fakeHost, s *Store, log *logged)) {
	synctest.Test(t, func(t *testing.T) {
		h, log := newFakeHost(), &logged{}
		h.set(at, b)
		s, _ := start(t, Options{Dial: h.dial, Log: log.logger()})
		publish(t, s, Publication{URL: providerURL(t, 20880, ""), Identity: Identity{Workload: "w"}, Owner: Nobody})
		if _, err := s.Subscribe(t.Context(), Subscription{Workload: "w", Service: registry.Service{Interface: "com.a.Bar"}, Owner: Nobody}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		test(t, h, s, log)
	})
}

func leaseState(s *Store) LeaseState {
	if l := s.View().Load().Leases; len(l) == 1 {
		return l[0].State
	}
	return ""
}

// within fails unless now - begun is at least low and at most low + 1 tick.
func within(t *testing.T, what string, begun time.Time, low time.Duration) {
	t.Helper()
	if took := time.Since(begun); took < low || took > low+2*tick {
		t.Errorf("%s after %v, want %v", what, took, low)
	}
}

func TestStreamEndsAndPortIsDead(t *testing.T) {
	bubble(t, beats, func(t *testing.T, h *fakeHost, s *Store, _ *logged) {
		release, err := s.HoldLease("w", ttl, Nobody)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if leaseState(s) != LeaseHeld || !live(s.View().Load()) {
			t.Fatalf("%+v", s.View().Load())
		}
		h.set(at, shut)
		release()
		release()
		begun := time.Now()
		awaitFor(t, s, 2*forgetAfter, "withdrawn", because(ReasonPortClosed))
		if took := time.Since(begun); took > 200*time.Millisecond {
			t.Errorf("withdrawn after %v", took)
		}
		awaitFor(t, s, 2*forgetAfter, "forgotten", empty)
		within(t, "forgotten", begun, ttl)
		awaitFor(t, s, 2*forgetAfter, "subscription ended", func(v *View) bool { return len(v.Subscriptions) == 0 })
		awaitFor(t, s, 2*forgetAfter, "lease ended", func(v *View) bool { return len(v.Leases) == 0 })
		within(t, "everything gone", begun, ttl)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.members)+len(s.targets) != 0 {
			t.Errorf("left behind: %v, %v", s.members, s.targets)
		}
	})
}

func TestStreamEndsButPortAnswers(t *testing.T) {
	bubble(t, beats, func(t *testing.T, h *fakeHost, s *Store, log *logged) {
		release, err := s.HoldLease("w", ttl, Nobody)
		if err != nil {
			t.Fatal(err)
		}
		release()
		before := s.View().Load().Generation
		time.Sleep(ttl - 2*tick)
		if log.count("lease ended") != 0 || leaseState(s) != LeaseBroken {
			t.Error("warned before the TTL passed")
		}
		time.Sleep(time.Hour)
		if v := s.View().Load(); !live(v) || leaseState(s) != LeaseBroken {
			t.Errorf("a lease withdrew what answers its probe: %+v", v)
		} else if len(v.Subscriptions) != 0 || v.Generation != before+1 {
			t.Errorf("the subscription outlives its lease: %+v", v)
		}
		if n := log.count("lease ended"); n != 1 {
			t.Errorf("warned %d times", n)
		}
		begun := time.Now()
		h.set(at, shut)
		awaitFor(t, s, 2*forgetAfter, "forgotten", empty)
		within(t, "forgotten", begun, ttl)
	})
}

func TestLeaseComesBack(t *testing.T) {
	bubble(t, beats, func(t *testing.T, h *fakeHost, s *Store, log *logged) {
		before := s.View().Load().Generation
		for range 3 { // upgrades of the agent: streams end and come back within their TTL
			release, err := s.HoldLease("w", ttl, Nobody)
			if err != nil {
				t.Fatal(err)
			}
			second, err := s.HoldLease("w", ttl, Nobody)
			if err != nil {
				t.Fatal(err)
			}
			release()
			if leaseState(s) != LeaseHeld {
				t.Error("one of two streams ended: the lease is gone")
			}
			second()
			if leaseState(s) != LeaseBroken {
				t.Error("both streams ended: the lease is there")
			}
			time.Sleep(ttl - 2*tick)
		}
		if _, err := s.HoldLease("w", ttl, Nobody); err != nil {
			t.Fatal(err)
		}
		h.set(at, shut) // the port is closed, but the application lives
		time.Sleep(25 * time.Hour)
		v := s.View().Load()
		if len(v.Publications) != 1 || v.Publications[0].Live || len(v.Subscriptions) != 1 || leaseState(s) != LeaseHeld {
			t.Errorf("%+v", v)
		}
		if v.Generation != before+1 || log.count("lease ended") != 0 {
			t.Errorf("generation %d after %d", v.Generation, before)
		}
	})
}

func TestRenewedLease(t *testing.T) {
	bubble(t, beats, func(t *testing.T, h *fakeHost, s *Store, _ *logged) {
		var replaced int
		for range 100 {
			v := s.View().Load()
			if err := s.RenewLease("w", ttl, Nobody); err != nil {
				t.Fatal(err)
			}
			if s.View().Load() != v {
				replaced++
			}
			time.Sleep(ttl / 3)
		}
		if replaced > 2 {
			t.Errorf("%d views for 100 renewals", replaced)
		}
		if leaseState(s) != LeaseRenewed {
			t.Fatal(leaseState(s))
		}
		release, err := s.HoldLease("w", ttl, Nobody)
		if err != nil {
			t.Fatal(err)
		}
		release()
		if leaseState(s) != LeaseRenewed {
			t.Error("a stream ended within the TTL of a renewal: the lease is gone")
		}
		h.set(at, shut)
		begun := time.Now()
		awaitFor(t, s, 2*forgetAfter, "broken", func(*View) bool { return leaseState(s) == LeaseBroken })
		within(t, "broken", begun, ttl-ttl/3)
		begun = time.Now()
		awaitFor(t, s, 2*forgetAfter, "forgotten", empty)
		within(t, "forgotten", begun, ttl)
	})
}

func TestStreamWithinTheDoubtAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, h := t.TempDir(), newFakeHost()
		s, stop := start(t, Options{Dir: dir, Dial: h.dial})
		publish(t, s, Publication{URL: providerURL(t, 20880, ""), Identity: Identity{Workload: "w"}, Owner: Nobody})
		if err := s.RenewLease("w", ttl, Nobody); err != nil {
			t.Fatal(err)
		}
		stop()
		s, _ = start(t, Options{Dir: dir, Dial: h.dial})
		release, err := s.HoldLease("w", ttl, Nobody)
		if err != nil {
			t.Fatal(err)
		}
		release()
		if leaseState(s) != LeaseBroken {
			t.Errorf("lease %q after its stream ended", leaseState(s))
		}
	})
}

func TestHungProviderIsNotForgotten(t *testing.T) {
	bubble(t, beats, func(t *testing.T, h *fakeHost, s *Store, _ *logged) {
		if err := s.RenewLease("w", ttl, Nobody); err != nil {
			t.Fatal(err)
		}
		h.set(at, mute) // SIGSTOP: neither heartbeats nor renewals
		time.Sleep(10 * time.Minute)
		if v := s.View().Load(); !because(ReasonNoAnswer)(v) {
			t.Fatalf("%+v", v)
		}
		h.set(at, beats)
		awaitFor(t, s, 2*forgetAfter, "awake", live)
	})
}

func TestWithoutLease(t *testing.T) {
	bubble(t, beats, func(t *testing.T, h *fakeHost, s *Store, _ *logged) {
		id := s.View().Load().Subscriptions[0].ID
		h.set(at, shut)
		time.Sleep(23 * time.Hour)
		if v := s.View().Load(); !because(ReasonPortClosed)(v) || len(v.Subscriptions) != 1 {
			t.Fatalf("after 23 h: %+v", v)
		}
		s.Touch(id)
		s.Touch("s-nothing")
		touched := time.Now()
		awaitFor(t, s, 2*forgetAfter, "forgotten", empty)
		within(t, "publication forgotten", touched, time.Hour)
		awaitFor(t, s, 2*forgetAfter, "subscription ended", func(v *View) bool { return len(v.Subscriptions) == 0 })
		within(t, "subscription ended", touched, forgetAfter)
	})
}

func TestDeadPortThatComesBackInTime(t *testing.T) {
	bubble(t, beats, func(t *testing.T, h *fakeHost, s *Store, _ *logged) {
		h.set(at, shut)
		time.Sleep(23 * time.Hour)
		h.set(at, beats)
		awaitFor(t, s, 2*forgetAfter, "back", live)
		h.set(at, shut)
		time.Sleep(23 * time.Hour)
		if empty(s.View().Load()) {
			t.Error("forgotten although it answered in between")
		}
	})
}

func TestBadLeases(t *testing.T) {
	s, stop := start(t, Options{})
	for _, c := range []struct {
		workload string
		ttl      time.Duration
	}{{"", 0}, {"a b", 0}, {"w", time.Nanosecond}, {"w", -1}, {"w", 24 * time.Hour}} {
		if err := s.RenewLease(c.workload, c.ttl, Nobody); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
		if _, err := s.HoldLease(c.workload, c.ttl, Nobody); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	alice, bob := Owner{UID: 1001, PID: 1}, Owner{UID: 1002, PID: 1}
	release, err := s.HoldLease("w", 0, alice)
	if err != nil {
		t.Fatal(err)
	}
	if l := s.View().Load().Leases[0]; l.TTL != defaultTTL || l.Owner != alice || l.State != LeaseHeld {
		t.Errorf("%+v", l)
	}
	if _, err := s.HoldLease("w", 0, bob); !errors.Is(err, ErrForbidden) {
		t.Errorf("another user: %v", err)
	}
	release()
	if _, err := s.HoldLease("w", 0, bob); err != nil {
		t.Errorf("another user, after it ended: %v", err)
	}
	stop()
	if err := s.RenewLease("w", 0, bob); !errors.Is(err, ErrStopped) {
		t.Errorf("after the end: %v", err)
	}
}

// TestSuspendedMachine: a silence in which nobody could renew ends no lease.
func TestSuspendedMachine(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.step(now)
	if err := s.RenewLease("renewed", ttl, Nobody); err != nil {
		t.Fatal(err)
	}
	release, err := s.HoldLease("broken", ttl, Nobody)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := s.subscribe(Subscription{ID: "s-1", Workload: "broken"}); err != nil {
		t.Fatal(err)
	}
	states := func() (text string) {
		for _, l := range s.View().Load().Leases {
			text += fmt.Sprintf("%s:%s ", l.Workload, l.State)
		}
		return fmt.Sprintf("%s%d", text, len(s.View().Load().Subscriptions))
	}
	now = now.Add(time.Hour)
	s.step(now)
	if got := states(); got != "broken:broken renewed:renewed 1" {
		t.Errorf("right after the gap: %s", got)
	}
	for range ttl/tick - 1 {
		now = now.Add(tick)
		s.step(now)
	}
	if got := states(); got != "broken:broken renewed:renewed 1" {
		t.Errorf("within the new TTL: %s", got)
	}
	now = now.Add(tick)
	s.step(now)
	if got := states(); got != "broken:broken renewed:broken 0" {
		t.Errorf("after the new TTL: %s", got)
	}
}
