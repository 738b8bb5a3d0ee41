package reconcile

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

const (
	fooLeaf = "a.Foo@10.0.0.9:20882"
	fooApp  = "shop@10.0.0.9:20882[a.Foo:dubbo]"
	barLeaf = "a.Bar@10.0.0.9:20882"
	bothApp = "shop@10.0.0.9:20882[a.Bar:dubbo a.Foo:dubbo]"
)

var foo, bar = pub("a.Foo", 20880), pub("a.Bar", 20880)

func view(pubs ...workload.Publication) *workload.View {
	return &workload.View{Generation: 1, Publications: pubs}
}

func TestPublishInterfaceAtOnceApplicationWhenQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), view())
		b.publish(foo)
		b.holds(fooLeaf)
		b.state(foo, "pending settling")
		if s := b.State().Load(); s.Generation != 1 || s.Seen != 2 || s.InSync {
			t.Errorf("half written, but %+v", s)
		}
		b.pass(quiet - time.Millisecond)
		b.holds(fooLeaf)
		b.pass(time.Millisecond)
		b.holds(fooLeaf + " " + fooApp)
		b.state(foo, "published")
		s := b.State().Load()
		if s.Generation != 2 || !s.InSync || s.Err != "" || !s.LastCompare.Equal(time.Now()) {
			t.Errorf("in sync, but %+v", s)
		}
		want := foo.URL.String()
		want = strings.Replace(want, "10.0.0.1:20880", "10.0.0.9:20882", 1) + "&meshferry.origin=10.0.0.1:20880&meshferry.caps=1"
		if got := s.Publications[foo.Identity].Advertised; len(got) != 1 || got[0] != want {
			t.Errorf("advertised %q, want %q", got, want)
		}
		if n := len(b.shelf.calls()); n != 3 {
			t.Errorf("%d Applies, want 3: empty, interface level, both", n)
		}
	})
}

// While others come and go, what is published stays published, and no change
// waits longer than the limit.
func TestApplicationLevelNotPutOffForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), view(foo))
		b.state(foo, "published")
		pubs := []workload.Publication{foo}
		start := time.Now()
		for i := range 20 {
			pubs = append(pubs, pub("a.More"+strings.Repeat("x", i), 20880))
			b.publish(pubs...)
			b.state(foo, "published")
			b.pass(200 * time.Millisecond)
		}
		first := time.Duration(0)
		for _, c := range b.shelf.calls() {
			if len(c.d.Applications) == 1 && len(c.d.Applications[0].Metadata.Services) > 1 && first == 0 {
				first = c.at.Sub(start)
			}
		}
		if first != latest {
			t.Errorf("application level written %s after the first change, want %s", first, latest)
		}
	})
}

func TestWithdrawAtOnceAtBothLevels(t *testing.T) {
	for name, then := range map[string][]workload.Publication{
		"unpublished": nil,
		"dead":        {dead(foo, workload.ReasonPortClosed)},
		"another service in another application comes with it": {dead(foo, workload.ReasonPortClosed), pub("a.Bar", 20880, "&application=")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := run(t, newShelf(), view(foo))
				b.holds(fooLeaf + " " + fooApp)
				b.publish(then...)
				if got := b.shelf.lists(); strings.Contains(got, "a.Foo") {
					t.Errorf("still there: %s", got)
				}
				if len(then) == 1 {
					b.state(foo, "pending port-closed")
				}
				if len(then) < 2 && b.State().Load().Generation != 2 {
					t.Errorf("withdrawn, but %+v", b.State().Load())
				}
			})
		})
	}
}

// A service that ends within an instance goes soon, however busy the others are.
func TestServiceEndsWithinInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), view(foo, bar))
		b.holds(barLeaf + " " + fooLeaf + " " + bothApp)
		b.publish(foo)
		b.holds(fooLeaf + " " + bothApp)
		b.pass(quiet / 2)
		b.publish(foo, pub("a.New", 20880))
		b.pass(quiet / 2)
		b.holds(fooLeaf + " a.New@10.0.0.9:20882 shop@10.0.0.9:20882[a.Foo:dubbo a.New:dubbo]")
	})
}

// A provider whose protocol the agent does not speak would be lost to everybody at
// the agent's address. It is shown at its own, and that is said.
func TestProtocolThatIsNotCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		triple := pub("a.Foo", 50051)
		triple.Identity.Protocol, triple.URL.Protocol = "tri", "tri"
		b := run(t, newShelf(), view())
		b.publish(foo, triple)
		b.pass(quiet)
		b.holds(fooLeaf + " a.Foo@10.0.0.1:50051 shop@10.0.0.1:50051[a.Foo:tri] " + fooApp)
		b.state(foo, "published")
		b.state(triple, "published "+ReasonNotCarried)
		s := b.State().Load()
		if got := s.Publications[triple.Identity].Advertised; !s.InSync || len(got) != 1 || got[0] != triple.URL.String() {
			t.Errorf("advertised %q, want the URL as it was published; in sync: %t", got, s.InSync)
		}
	})
}

func TestRestartWithdrawsNothingUnprobed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unprobed := dead(foo, workload.ReasonSettling)
		b := run(t, newShelf(), view(unprobed))
		b.pass(200 * time.Millisecond)
		if n := len(b.shelf.calls()); n != 0 {
			t.Fatalf("%d Applies before the first probe", n)
		}
		b.state(foo, "pending settling")
		b.publish(foo)
		b.holds(fooLeaf + " " + fooApp)
		if n := len(b.shelf.calls()); n != 1 {
			t.Errorf("%d Applies, want one for both levels", n)
		}
	})
}

func TestStartWaitsForProbesOnlySoLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), view(foo, dead(bar, workload.ReasonSettling)))
		b.pass(probesMax - time.Millisecond)
		b.holds("")
		b.pass(time.Millisecond)
		b.holds(fooLeaf + " " + fooApp)
	})
}

func TestNoViewNoApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), nil)
		b.pass(10 * time.Minute)
		if n := len(b.shelf.calls()); n != 0 {
			t.Errorf("%d Applies without knowing what is wanted", n)
		}
		b.publish(foo)
		b.holds(fooLeaf + " " + fooApp)
	})
}

func TestRegistryAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.err = registry.ErrAway
		b := run(t, s, view())
		b.publish(foo)
		b.state(foo, "pending registry-away")
		b.publish(foo, bar)
		b.pass(10 * time.Minute)
		b.publish(bar)
		b.pass(time.Minute)
		b.state(bar, "pending registry-away")
		if st := b.State().Load(); st.Err == "" || st.InSync || st.Generation != 0 || !st.LastCompare.IsZero() {
			t.Errorf("away, but %+v", st)
		}
		s.set(func() { s.err = nil })
		b.pass(awayMax)
		b.holds(barLeaf + " shop@10.0.0.9:20882[a.Bar:dubbo]")
		b.state(bar, "published")
		if away, back := b.logged("level=WARN"), b.logged("up to date again"); away != 0 || back != 1 {
			t.Errorf("%d warnings, which the backend gives, and %d times the end; want none and one:\n%s", away, back, b.log)
		}
	})
}

// What is published and then cannot be confirmed is pending until it can.
func TestRegistryGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		b := run(t, s, view(foo))
		s.set(func() { s.err = registry.ErrAway })
		s.lost <- struct{}{}
		b.pass(lostJitter)
		b.state(foo, "pending registry-away")
		if b.State().Load().InSync {
			t.Error("in sync with a registry that is away")
		}
		if n := len(b.State().Load().Publications[foo.Identity].Advertised); n != 1 {
			t.Errorf("%d URLs; while a registry is away it most likely keeps what it has", n)
		}
		b.holds(fooLeaf + " " + fooApp)
		s.set(func() { s.err = nil })
		b.pass(awayMax)
		b.state(foo, "published")
		if b.logged("change=-") != 0 || b.logged("change=+") != 2 {
			t.Errorf("nothing was withdrawn:\n%s", b.log)
		}
	})
}

func TestRetryBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.err = errBroken
		b := run(t, s, view(foo))
		b.pass(10 * time.Minute)
		b.state(foo, "pending registry-away")
		calls := s.calls()
		if n := len(calls); n < 20 || n > 200 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
		for i := 1; i < len(calls); i++ {
			if gap := calls[i].at.Sub(calls[i-1].at); gap < 50*time.Millisecond || gap > retryMax || i < 5 && gap > retryMin<<i {
				t.Errorf("attempt %d after %s", i, gap)
			}
		}
		if n := b.logged("level=WARN", "no permission"); n != 1 {
			t.Errorf("failure logged %d times:\n%s", n, b.log)
		}
	})
}

func TestPendingItemIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.pending = map[string]bool{"shop@10.0.0.9:20882": true}
		b := run(t, s, view(foo, pub("a.Bar", 20880, "&application=")))
		b.state(foo, "pending settling")
		if got := b.State().Load(); len(got.Publications[foo.Identity].Advertised) != 1 || got.InSync || got.Generation != 0 {
			t.Errorf("one level is held, but %+v", got)
		}
		s.set(func() { s.pending = nil })
		b.pass(retryMax)
		b.state(foo, "published")
	})
}

func TestConflictIsReportedNotFought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.conflict = map[string]string{"shop@10.0.0.9:20882": "meshferry:ffff"}
		b := run(t, s, view(foo))
		b.state(foo, "pending conflict")
		st := b.State().Load()
		if st.InSync || st.Generation != 1 || st.Err != "" || st.Publications[foo.Identity].Detail != "meshferry:ffff" {
			t.Errorf("in conflict, but %+v", st)
		}
		b.pass(10 * time.Minute)
		if n := len(s.calls()); n > 1+20 {
			t.Errorf("%d Applies in 10 minutes", n)
		}
		if n := b.logged("level=ERROR", "owner=meshferry:ffff"); n != 1 {
			t.Errorf("conflict logged %d times:\n%s", n, b.log)
		}
		s.set(func() { s.conflict = nil })
		b.pass(compareMax)
		b.state(foo, "published")
	})
}

func TestComparesAlways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), view(foo))
		b.pass(time.Hour)
		calls := b.shelf.calls()
		for i := 1; i < len(calls); i++ {
			if gap := calls[i].at.Sub(calls[i-1].at); gap < compareMin || gap > compareMax {
				t.Errorf("compared after %s", gap)
			}
		}
		if len(calls) < 60 {
			t.Errorf("%d compares in an hour", len(calls))
		}
		if b.log.Len() != 0 && b.logged("advertised") != 2 {
			t.Errorf("comparing is not worth a line:\n%s", b.log)
		}
	})
}

func TestLostIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), view(foo))
		b.shelf.set(func() { b.shelf.content = registry.Desired{} })
		b.shelf.lost <- struct{}{}
		b.pass(lostJitter)
		b.holds(fooLeaf + " " + fooApp)
	})
}

func TestLeaseChangesWriteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), view(foo))
		for range 10 {
			b.workloads.Store(&workload.View{Generation: 1, Publications: []workload.Publication{foo}, Leases: []workload.Lease{{Workload: "x"}}})
			b.pass(time.Second)
		}
		if n := len(b.shelf.calls()); n != 1 {
			t.Errorf("%d Applies, want 1", n)
		}
	})
}

// One slow Apply ends; what it did not reach goes on.
func TestApplyHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.slow = time.Hour
		b := run(t, s, view(foo))
		b.pass(applyTimeout)
		b.state(foo, "pending registry-away")
		s.set(func() { s.slow = 0 })
		b.pass(retryMin)
		b.state(foo, "published")
	})
}

// A dead provider does not wait behind a long list of others.
func TestNewViewCutsSlowApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		b := run(t, s, view(foo))
		s.set(func() { s.slow = 8 * time.Second })
		b.publish(foo, bar)
		b.pass(time.Millisecond)
		s.set(func() { s.slow = 0 })
		b.publish(bar)
		b.pass(hurry)
		if got := s.lists(); strings.Contains(got, fooLeaf) {
			t.Errorf("still there: %s", got)
		}
		if b.logged("level=WARN") != 0 {
			t.Errorf("nothing failed:\n%s", b.log)
		}
	})
}

func TestRefreshChangesModeAtBothLevelsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mode := Mesh
		b := run(t, newShelf(), view(foo), func(o *Options) { o.Mode = func(registry.Service) Mode { return mode } })
		mode = Direct
		b.Refresh()
		synctest.Wait()
		b.holds("a.Foo@10.0.0.1:20880 shop@10.0.0.1:20880[a.Foo:dubbo]")
		if n := len(b.shelf.calls()); n != 2 {
			t.Errorf("%d Applies, want 2: nobody may see the service without provider", n)
		}
		mode = Off
		b.Refresh()
		synctest.Wait()
		b.holds("")
		b.state(foo, "published off")
	})
}

func TestLogsTheDifference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, newShelf(), view(foo))
		b.publish(foo, bar)
		b.pass(time.Second)
		b.publish(bar)
		b.pass(time.Second)
		for _, want := range []struct {
			change, entry string
			n             int
		}{
			{"change=+", "a.Foo", 1}, {"change=-", "a.Foo", 1}, {"change=+", "a.Bar", 1}, {"change=-", "a.Bar", 0},
			{"change=+", "application shop@10.0.0.9:20882 revision", 3}, {"change=-", "application shop@10.0.0.9:20882 revision", 2},
		} {
			if got := b.logged(want.change, want.entry); got != want.n {
				t.Errorf("%s %s logged %d times, want %d:\n%s", want.change, want.entry, got, want.n, b.log)
			}
		}
	})
}

func TestInvalidPublicationHurtsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		marked := pub("a.Bar", 20881, "&meshferry.caps=1")
		b := run(t, newShelf(), view(foo, marked))
		b.holds(fooLeaf + " " + fooApp)
		if got := b.State().Load().Publications[marked.Identity]; got.State != Pending || !strings.HasPrefix(got.Reason, "invalid: ") {
			t.Errorf("got %+v", got)
		}
		b.publish(foo, marked)
		if n := b.logged("level=WARN", "a.Bar"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, b.log)
		}
	})
}

func TestWithdraw(t *testing.T) {
	t.Run("while it runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, newShelf(), view(foo))
			if err := b.Withdraw(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.holds("")
			b.publish(foo, bar)
			b.Refresh()
			b.pass(10 * time.Minute)
			b.holds("")
			b.state(foo, "pending stopping")
		})
	})
	t.Run("after it ran", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := run(t, newShelf(), view(foo))
			b.end()
			b.holds(fooLeaf + " " + fooApp)
			if err := b.Withdraw(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.holds("")
		})
	})
	t.Run("cuts a slow Apply", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newShelf()
			b := run(t, s, view(foo))
			s.set(func() { s.slow = time.Minute })
			b.publish(foo, bar)
			start := time.Now()
			if err := b.Withdraw(t.Context()); err != nil || time.Since(start) > time.Second {
				t.Errorf("withdrew after %s: %v", time.Since(start), err)
			}
			b.pass(time.Hour)
			b.holds("")
		})
	})
	t.Run("registry comes back in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newShelf()
			b := run(t, s, view(foo))
			s.set(func() { s.err = registry.ErrAway })
			time.AfterFunc(3*time.Second, func() { s.set(func() { s.err = nil }) })
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second+awayMax)
			defer cancel()
			if err := b.Withdraw(ctx); err != nil {
				t.Error(err)
			}
			b.holds("")
		})
	})
	t.Run("registry stays away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newShelf()
			b := run(t, s, view(foo))
			s.set(func() { s.err = registry.ErrAway })
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if err := b.Withdraw(ctx); !errors.Is(err, registry.ErrAway) || !strings.Contains(err.Error(), "main") {
				t.Errorf("got %v", err)
			}
		})
	})
}
