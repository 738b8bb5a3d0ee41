package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/registry"
)

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(2)...)
		f.set("a.C")
		w := start(t, main(f))
		defer w.stop()
		w.s.SetWanted([]string{"a.B", "a.C", "a.Unheard"})
		w.expect("a.B@main", "ready 1,2")
		w.expect("a.C@main", "empty")
		w.expect("a.Unheard@main", "waiting")

		n := w.count()
		f.set("a.B", urls(2)...) // the same again
		w.s.SetWanted([]string{"a.B", "a.C", "a.Unheard"})
		w.s.Want("a.B")
		if w.count() != n {
			t.Errorf("%d updates although nothing changed", w.count()-n)
		}
		f.set("a.B", urls(3)...)
		w.expect("a.B@main", "ready 1,2,3")
		if got := f.subscriptions(); strings.Count(got, "a.B") != 1 {
			t.Errorf("subscriptions: %s", got)
		}
	})
}

func TestTwoRegistries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newFakeRegistry(), newFakeRegistry()
		one.set("a.B", urls(1)...)
		two.set("a.B", urls(4)...)
		w := start(t, Options{Registries: []Named{{"one", one}, {"two", two}}})
		defer w.stop()
		w.s.Want("a.B")
		w.expect("a.B@one", "ready 1")
		w.expect("a.B@two", "ready 1,2,3,4")
		two.set("a.B") // one registry loses its data: only its own set is suspect
		w.expect("a.B@one", "ready 1")
		w.expect("a.B@two", "protected 1,2,3,4")
		if st := w.s.Statuses(); st[0].Protected != 0 || st[1].Protected != 1 || st[1].Name != "two" || st[1].State != registry.Connected {
			t.Errorf("statuses: %+v", st)
		}
	})
}

func TestOnDemandEndsAfterKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(1)...)
		f.set("a.C", urls(1)...)
		o := main(f)
		o.MaxWanted = 2
		w := start(t, o)
		defer w.stop()
		w.s.Want("a.B")
		w.s.SetWanted([]string{"a.C"})
		time.Sleep(9 * time.Minute)
		w.s.Want("a.B")
		time.Sleep(9 * time.Minute)
		w.expect("a.B@main", "ready 1")
		w.s.SetWanted(nil) // ends like one on demand
		time.Sleep(2 * time.Minute)
		w.expect("a.B@main", "dropped")
		w.expect("a.C@main", "ready 1")
		time.Sleep(9 * time.Minute)
		w.expect("a.C@main", "dropped")
		if st := w.s.Statuses()[0]; st.Interfaces != 0 {
			t.Errorf("%d interfaces followed", st.Interfaces)
		}

		for _, iface := range []string{"a.D", "a.E", "a.F"} { // one too many
			w.s.Want(iface)
			synctest.Wait()
		}
		w.expect("a.E@main", "waiting")
		w.expect("a.F@main", "")
		w.s.SetWanted([]string{"a.F"}) // local subscriptions are not limited
		w.expect("a.F@main", "waiting")
	})
}

// What a registry loses is held: times are seconds since the loss.
func TestProtection(t *testing.T) {
	type step struct {
		at   int      // seconds
		set  int      // providers listed then; -1: no change
		dead []string // hosts that refuse from then on
		want string
	}
	for name, c := range map[string]struct {
		first int
		off   bool
		steps []step
	}{
		"a removal of less than half is honoured at once": {first: 3, steps: []step{{0, 2, nil, "ready 1,2"}}},
		"of exactly half too":                             {first: 4, steps: []step{{0, 2, nil, "ready 1,2"}}},
		"empty is held for 30 s": {first: 2, steps: []step{
			{0, 0, nil, "protected 1,2"}, {29, -1, nil, "protected 1,2"}, {31, -1, nil, "empty"}}},
		"more than half is held for 10 s": {first: 5, steps: []step{
			{0, 2, nil, "protected 1,2,3,4,5"}, {9, -1, nil, "protected 1,2,3,4,5"}, {11, -1, nil, "ready 1,2"}}},
		"it ends when they come back": {first: 3, steps: []step{
			{0, 0, nil, "protected 1,2,3"}, {5, 2, nil, "ready 1,2"}}},
		"a second loss does not make it longer": {first: 5, steps: []step{
			{0, 0, nil, "protected 1,2,3,4,5"}, {20, 1, nil, "protected 1,2,3,4,5"}, {21, -1, nil, "ready 1"}}},
		"those that refuse are dropped": {first: 3, steps: []step{
			{0, 0, []string{"10.0.0.2:20880"}, "protected 1,3"}, {3, -1, []string{"10.0.0.1:20880", "10.0.0.3:20880"}, "protected 1,3"}, {5, -1, nil, "empty"}}},
		"the last one that stops is gone when its port is": {first: 1, steps: []step{
			{0, 0, nil, "protected 1"}, {3, -1, []string{"10.0.0.1:20880"}, "protected 1"}, {5, -1, nil, "empty"}}},
		"after a hold the smaller set is the measure": {first: 5, steps: []step{
			{0, 2, nil, "protected 1,2,3,4,5"}, {12, -1, nil, "ready 1,2"}, {13, 1, nil, "ready 1"}}},
		"off": {first: 5, off: true, steps: []step{{0, 0, nil, "empty"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeRegistry()
				f.set("a.B", urls(c.first)...)
				o := main(f)
				o.Protection.Disabled = c.off
				w := start(t, o)
				defer w.stop()
				w.s.Want("a.B")
				time.Sleep(tick / 2) // steps come between ticks
				synctest.Wait()
				lost := time.Now()
				for _, s := range c.steps {
					time.Sleep(time.Until(lost.Add(time.Duration(s.at) * time.Second)))
					if s.at == 0 || s.set < 0 {
						w.net.kill(s.dead...)
					}
					if s.set >= 0 {
						f.set("a.B", urls(s.set)...)
					}
					w.expect("a.B@main", s.want)
				}
			})
		})
	}
}

// Other settings count for what is held already too.
func TestProtectionChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(5)...)
		w := start(t, main(f))
		defer w.stop()
		w.s.Want("a.B")
		time.Sleep(tick / 2)
		synctest.Wait()
		f.set("a.B")
		w.expect("a.B@main", "protected 1,2,3,4,5")
		w.s.SetProtection(Protection{EmptyHold: 2 * time.Minute})
		time.Sleep(time.Minute)
		w.expect("a.B@main", "protected 1,2,3,4,5")
		w.s.SetProtection(Protection{EmptyHold: time.Second})
		time.Sleep(2 * time.Second)
		w.expect("a.B@main", "empty")

		f.set("a.B", urls(5)...)
		w.expect("a.B@main", "ready 1,2,3,4,5")
		w.s.SetProtection(Protection{ShrinkHold: -1})
		f.set("a.B", urls(1)...)
		w.expect("a.B@main", "ready 1")
		f.set("a.B")
		w.expect("a.B@main", "protected 1")
		w.s.SetProtection(Protection{Disabled: true})
		w.expect("a.B@main", "empty")
	})
}

func TestProtectionKnowsMovesFromLosses(t *testing.T) {
	const direct, mesh = "dubbo://10.0.0.%d:20880/a.B?interface=a.B", "dubbo://10.0.0.%d:20882/a.B?interface=a.B&meshferry.origin=10.0.0.%[1]d:20880&meshferry.caps=1"
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", fmt.Sprintf(direct, 1), fmt.Sprintf(direct, 2))
		w := start(t, main(f))
		defer w.stop()
		w.s.Want("a.B")
		w.expect("a.B@main", "ready 1,2")
		f.set("a.B", fmt.Sprintf(mesh, 1), fmt.Sprintf(mesh, 2)) // direct → mesh: nobody is lost
		w.expect("a.B@main", "ready 1,2")
		f.set("a.B", fmt.Sprintf(direct, 3), fmt.Sprintf(direct, 4)) // all others, but as many
		w.expect("a.B@main", "ready 3,4")
		f.set("a.B", fmt.Sprintf(direct, 5)) // half
		w.expect("a.B@main", "ready 5")
		f.set("a.B")
		w.expect("a.B@main", "protected 5")
		f.set("a.B", fmt.Sprintf(direct, 6)) // replaced in two steps
		w.expect("a.B@main", "ready 6")
	})
}

func TestIncompleteSetRemovesNothingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(3)...)
		w := start(t, main(f))
		defer w.stop()
		w.s.Want("a.B")
		w.expect("a.B@main", "ready 1,2,3")
		f.incomplete = "metadata of app@10.0.0.3:20880"
		f.set("a.B", urls(2)...)
		w.expect("a.B@main", "protected 1,2,3")
		f.incomplete = ""
		f.set("a.B", urls(2)...) // the same providers, now surely all
		w.expect("a.B@main", "ready 1,2")
	})
}

// Providers that are there and whose metadata is still being asked for are not
// "none".
func TestIncompleteEmptySetIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.incomplete = "metadata of app: the provider is being asked"
		f.set("a.B")
		f.set("a.C")
		w := start(t, main(f))
		defer w.stop()
		w.s.SetWanted([]string{"a.B", "a.C"})
		w.expect("a.B@main", "waiting")
		f.incomplete = ""
		f.set("a.B", urls(1)...)
		w.expect("a.B@main", "ready 1")
		f.set("a.C") // as empty as before, now surely
		w.expect("a.C@main", "empty")
	})
}

// The data plane says that a mesh endpoint has no such provider any more.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(2)...)
		w := start(t, main(f))
		defer w.stop()
		w.s.Want("a.B")
		w.expect("a.B@main", "ready 1,2")
		w.s.Refused("a.B", "10.0.0.1:20880") // it is listed: what the registry says counts
		w.expect("a.B@main", "ready 1,2")
		f.set("a.B")
		w.expect("a.B@main", "protected 1,2")
		w.s.Refused("a.C", "10.0.0.2:20880")
		w.s.Refused("a.B", "10.0.0.1:20880")
		w.expect("a.B@main", "protected 2")
		w.s.Refused("a.B", "10.0.0.2:20880")
		w.expect("a.B@main", "empty")
	})
}

func TestRegistryAwayKeepsTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(2)...)
		w := start(t, main(f))
		defer w.stop()
		w.s.SetWanted([]string{"a.B"})
		w.expect("a.B@main", "ready 1,2")
		f.be("away")
		w.net.kill("10.0.0.1:20880", "10.0.0.2:20880")
		time.Sleep(72 * time.Hour)
		w.expect("a.B@main", "ready 1,2")
		if w.net.dialed != 0 {
			t.Errorf("%d probes of providers that nobody doubts", w.net.dialed)
		}
	})
}

func TestSubscriptionThatFailsIsTriedAgain(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.refuse = errors.New("bad interface name")
		o := main(f)
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		w := start(t, o)
		defer w.stop()
		w.s.Want("a.B")
		w.expect("a.B@main", "empty")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := strings.Count(f.subscriptions(), "a.B"); n < 5 || n > 20 {
			t.Errorf("%d tries in 5 minutes", n)
		}
		f.mu.Lock()
		f.refuse = nil
		f.mu.Unlock()
		f.set("a.B", urls(1)...)
		time.Sleep(retryMost)
		w.expect("a.B@main", "ready 1")
	})
	if n := strings.Count(log.String(), "bad interface name"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

// An agent that starts while the registry is away serves what it had.
func TestColdStart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(2)...)
		f.set("a.C", urls(1)...)
		o := main(f)
		o.Dir = dir
		w := start(t, o)
		w.s.SetWanted([]string{"a.B", "a.C"})
		w.expect("a.B@main", "ready 1,2")
		time.Sleep(48 * time.Hour) // nothing changes, but the registry is heard
		w.stop()

		f.be("away")
		w = start(t, o)
		w.s.SetWanted([]string{"a.B", "a.New"})
		w.expect("a.B@main", "protected 1,2")
		w.expect("a.New@main", "waiting")
		if st := w.s.Statuses()[0]; st.Stale != 1 || st.Protected != 0 {
			t.Errorf("status: %+v", st)
		}
		w.net.kill("10.0.0.1:20880")
		time.Sleep(time.Hour)
		w.expect("a.B@main", "protected 1,2") // not probed: it may come back before the registry
		f.be(registry.Connected)
		f.set("a.B", urls(1)...)
		w.expect("a.B@main", "ready 1")
		w.s.SetWanted([]string{"a.B", "a.C"}) // connected, and heard at once: disk is not needed
		w.expect("a.C@main", "ready 1")
		w.stop()

		f.be("away")
		w = start(t, o)
		w.s.SetWanted([]string{"a.B", "a.C"})
		w.expect("a.B@main", "protected 1")
		time.Sleep(23 * time.Hour)
		w.expect("a.B@main", "protected 1")
		time.Sleep(2 * time.Hour)
		w.expect("a.B@main", "waiting")
		if st := w.s.Statuses()[0]; st.Stale != 0 || st.Interfaces != 2 {
			t.Errorf("status: %+v", st)
		}
		w.stop()
	})
}

// A registry that is connected and silent is no better than one that is away.
func TestSilentRegistry(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(2)...)
		o := main(f)
		o.Dir = dir
		w := start(t, o)
		w.s.Want("a.B")
		w.expect("a.B@main", "ready 1,2")
		w.stop()
		delete(f.sets, "a.B")
		w = start(t, o)
		w.s.Want("a.B")
		w.expect("a.B@main", "waiting")
		time.Sleep(tick)
		w.expect("a.B@main", "protected 1,2")
		f.set("a.B") // suspect beside what is on disk
		w.expect("a.B@main", "protected 1,2")
		time.Sleep(31 * time.Second)
		w.expect("a.B@main", "empty")
		w.stop()
	})
}

func TestDiskIsWrittenSeldom(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, stateFile)
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		o := main(f)
		o.Dir = dir
		w := start(t, o)
		defer w.stop()
		w.s.SetWanted([]string{"a.B"})
		saves := 0
		var last os.FileInfo
		for i := range 60 { // one change a second
			f.set("a.B", urls(1+i%2)...)
			time.Sleep(tick)
			synctest.Wait()
			if info, err := os.Stat(path); err == nil && (last == nil || !os.SameFile(info, last)) {
				saves, last = saves+1, info
			}
		}
		if saves < 10 || saves > 21 {
			t.Errorf("%d saves in 60 s of changes", saves)
		}
		time.Sleep(time.Minute)
		quiet, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if info, _ := os.Stat(path); !os.SameFile(info, quiet) {
			t.Error("saved although nothing changed")
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if info, _ := os.Stat(path); os.SameFile(info, quiet) {
			t.Error("the time on disk grows old")
		}
	})
}

func TestBadStateFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(1)...)
		o := main(f)
		o.Dir, o.Log = dir, slog.New(slog.NewTextHandler(&log, nil))
		w := start(t, o)
		defer w.stop()
		w.s.Want("a.B")
		w.expect("a.B@main", "ready 1")
	})
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, log.String())
	}
	if _, err := os.Stat(filepath.Join(dir, stateFile+".damaged")); err != nil {
		t.Error(err)
	}
}

func TestDiskThatFailsIsSaidOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		o := main(f)
		o.Dir, o.Log = dir, slog.New(slog.NewTextHandler(&log, nil))
		w := start(t, o)
		defer w.stop()
		w.s.Want("a.B")
		for i := range 10 {
			f.set("a.B", urls(1+i)...)
			time.Sleep(2 * saveEvery)
		}
		w.expect("a.B@main", "ready 1,10,2,3,4,5,6,7,8,9")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f.set("a.B", urls(1)...)
		time.Sleep(2 * saveEvery)
	})
	if got := log.String(); strings.Count(got, "not on disk") != 1 || strings.Count(got, "on disk again") != 1 {
		t.Errorf("log:\n%s", got)
	}
}

// What this agent takes out itself, at its stop, is nothing to warn about; it is
// held all the same, for the calls that are still to be served.
func TestHoldAtAStop(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(1)...)
		o := main(f)
		o.Leaving = func() bool { return true }
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		w := start(t, o)
		defer w.stop()
		w.s.Want("a.B")
		w.expect("a.B@main", "ready 1")
		f.set("a.B")
		w.expect("a.B@main", "protected 1")
	})
	if log.Len() > 0 {
		t.Errorf("log:\n%s", &log)
	}
}

func TestHoldIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(3)...)
		o := main(f)
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		w := start(t, o)
		defer w.stop()
		w.s.Want("a.B")
		synctest.Wait()
		f.set("a.B")
		time.Sleep(time.Minute)
	})
	if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, `msg="providers are held" registry=main interface=a.B why="all 3 providers disappeared" held=3 for=30s`) || !strings.Contains(got, `level=INFO msg="hold ended"`) {
		t.Errorf("log:\n%s", got)
	}
}

func TestProbeOfRealPorts(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	if err := dial(t.Context(), address); err != nil {
		t.Error(err)
	}
	ln.Close()
	if err := dial(t.Context(), address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: %v", err)
	}
	got := refusing(t.Context(), func(_ context.Context, a string) error {
		if a == "dead" {
			return syscall.ECONNREFUSED
		}
		return context.DeadlineExceeded
	}, []string{"dead", "slow"})
	if len(got) != 1 || !got["dead"] {
		t.Errorf("refusing: %v", got)
	}
}
