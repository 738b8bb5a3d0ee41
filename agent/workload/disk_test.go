package workload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/agent/state"
	"github.com/meshferry/meshferry/registry"
)

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, h := t.TempDir(), newFakeHost()
		h.set(at, beats)
		s, stop := start(t, Options{Dir: dir, Dial: h.dial})
		p := Publication{URL: providerURL(t, 20880, "&token=a%20b"), Identity: Identity{Workload: "w"}, Registries: []string{"main", "second"}, Client: "java", Owner: Owner{UID: 7, PID: 8}}
		dead := Publication{URL: providerURL(t, 20879, ""), Identity: Identity{Workload: "v"}, Owner: Nobody}
		publish(t, s, p)
		publish(t, s, dead)
		if err := s.RenewLease("w", ttl, p.Owner); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		before := s.View().Load()

		h.set(at, lost) // nothing is known before its first probe
		s, stop = start(t, Options{Dir: dir, Dial: h.dial})
		after := s.View().Load()
		if len(after.Publications) != 2 || len(before.Publications) != 2 {
			t.Fatalf("%+v, before: %+v", after, before)
		}
		for i, got := range after.Publications {
			want := before.Publications[i]
			if got.Identity != want.Identity || got.URL != want.URL || got.Client != want.Client || got.Owner != want.Owner ||
				got.Live != want.Live || got.Address != want.Address || !slices.Equal(got.Registries, want.Registries) {
				t.Errorf("%+v\nbefore: %+v", got, want)
			}
		}
		if leaseState(s) != LeaseUnknown {
			t.Errorf("lease %q", leaseState(s))
		}
		begun := time.Now()
		isLive := func(v *View) bool { return v.Publications[1].Live }
		if !isLive(after) {
			t.Error("withdrawn before its first probe")
		}
		await(t, s, "withdrawn after three time-outs", func(v *View) bool { return !isLive(v) })
		h.set(at, beats)
		await(t, s, "back", isLive)
		if leaseState(s) != LeaseUnknown {
			t.Errorf("lease %q", leaseState(s))
		}
		awaitFor(t, s, time.Minute, "broken", func(*View) bool { return leaseState(s) == LeaseBroken })
		within(t, "broken", begun, ttl)
		stop()

		h.set(at, mute) // it hangs while the agent is away
		s, stop = start(t, Options{Dir: dir, Dial: h.dial})
		if !isLive(s.View().Load()) {
			t.Error("withdrawn before its first probe")
		}
		await(t, s, "known to answer heartbeats", func(v *View) bool { return v.Publications[1].Reason == ReasonNoAnswer })
		stop()

		s, _ = start(t, Options{Dir: dir, Dial: h.dial, OwnPorts: []int{20880}})
		if v := s.View().Load(); len(v.Publications) != 1 || v.Publications[0].Port != 20879 {
			t.Errorf("a port that became the agent's own: %+v", v)
		}
	})
}

func TestOnDiskWhenPublishReturns(t *testing.T) {
	dir := t.TempDir()
	s, _ := start(t, Options{Dir: dir, Dial: newFakeHost().dial})
	for i := range 5 {
		publish(t, s, Publication{URL: providerURL(t, 1000+i, "")})
		var doc document
		if err := s.file.Load(&doc); err != nil || len(doc.Publications) != i+1 {
			t.Fatalf("%d on disk, %v; want %d", len(doc.Publications), err, i+1)
		}
	}
	if _, removed, _, err := s.Unpublish(t.Context(), Match{Interface: "com.a.Foo"}, Nobody); err != nil || len(removed) != 5 {
		t.Fatal(removed, err)
	}
	doc := document{}
	if err := s.file.Load(&doc); err != nil || len(doc.Publications) != 0 {
		t.Fatalf("%+v, %v", doc, err)
	}
	if info, err := os.Stat(s.file.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, Options{Dir: dir, Dial: newFakeHost().dial})
	publish(t, s, Publication{URL: providerURL(t, 20880, "")})
	stop()
	whole, err := os.ReadFile(s.file.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
		if err := os.WriteFile(s.file.Path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		log := &logged{}
		s, stop := start(t, Options{Dir: dir, Log: log.logger(), Dial: newFakeHost().dial})
		if !empty(s.View().Load()) || log.count("level=WARN") != 1 {
			t.Errorf("cut at %d: %+v, %d warnings", cut, s.View().Load(), log.count("level=WARN"))
		}
		if _, err := os.Stat(s.file.Path + ".damaged"); err != nil {
			t.Errorf("cut at %d: not moved aside: %v", cut, err)
		}
		publish(t, s, Publication{URL: providerURL(t, 20880, "")})
		stop()
	}
}

func TestEntriesThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	good := savedPublication{Workload: "w", URL: "dubbo://:1/a?interface=a"}
	doc := document{
		Publications:  []savedPublication{good, good, {Workload: "w", URL: "nonsense"}, {Workload: "no way", URL: "dubbo://:1/a"}},
		Subscriptions: []savedSubscription{{Workload: "w", Service: registry.Service{Interface: "a"}}, {Workload: "w"}, {Workload: "w", URL: "nonsense"}},
		Leases:        []savedLease{{Workload: "w", TTL: -1}, {Workload: "w"}, {Workload: "nobody's"}},
	}
	if err := (state.File{Path: filepath.Join(dir, "workloads.state")}).Save(doc); err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	s, err := Open(Options{Dir: dir, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	v := s.View().Load()
	if len(v.Publications) != 1 || len(v.Subscriptions) != 1 || len(v.Leases) != 1 || log.count("level=WARN") != 4 {
		t.Errorf("%+v, %d warnings", v, log.count("level=WARN"))
	}
}

// TestDiskFails: the directory vanishes, so that no file can be written, also by
// root.
func TestDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, log := filepath.Join(t.TempDir(), "state"), &logged{}
		s, _ := start(t, Options{Dir: dir, Log: log.logger(), Dial: newFakeHost().dial})
		publish(t, s, Publication{URL: providerURL(t, 1, "")})
		synctest.Wait() // the first probe is saved too
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for i := range 5 {
			gen := publish(t, s, Publication{URL: providerURL(t, 2+i, "")})
			if v := s.View().Load(); v.Generation < gen || v.DiskError == "" || len(v.Publications) != 2+i {
				t.Fatalf("%+v", v)
			}
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("5 calls took %v", took)
		}
		if n := log.count("level=WARN"); n != 1 {
			t.Errorf("warned %d times", n)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		awaitFor(t, s, 2*retryAtLast, "on disk again", func(v *View) bool { return v.DiskError == "" })
		var doc document
		if err := s.file.Load(&doc); err != nil || len(doc.Publications) != 6 {
			t.Errorf("%+v, %v", doc, err)
		}
	})
}

// TestWithoutRun: a call does not hang when nothing saves.
func TestWithoutRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		publish(t, s, Publication{URL: providerURL(t, 1, "")})
		if took := time.Since(begun); took != slowDisk || !strings.Contains(s.View().Load().DiskError, "longer") {
			t.Errorf("after %v: %+v", took, s.View().Load())
		}
	})
}

// TestCallerGivesUp: the error says that it was the disk that the call waited for.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		gen, err := s.Publish(ctx, Publication{URL: providerURL(t, 1, "")})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "disk") {
			t.Error(err)
		}
		if v := s.View().Load(); len(v.Publications) != 1 || v.Generation != gen {
			t.Errorf("%+v", v)
		}
	})
}

// TestSharedSave: whoever waits while a save is under way shares the next one.
func TestSharedSave(t *testing.T) {
	const callers = 50
	s, err := Open(Options{Dir: t.TempDir(), Dial: newFakeHost().dial})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			if _, err := s.Publish(t.Context(), Publication{URL: providerURL(t, 1000+i, "")}); err != nil {
				t.Error(err)
			}
		})
	}
	await(t, s, "all asked", func(v *View) bool { return len(v.Publications) == callers })
	_, first := s.saved.Watch()
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { s.Run(ctx) })
	<-first
	if got := s.saved.Load().upTo; got < callers {
		t.Errorf("the first save has %d of %d", got, callers)
	}
	wg.Wait()
	cancel()
	run.Wait()
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: filepath.Join(dir, "file")}); err == nil {
		t.Error("a file as state directory")
	}
	if err := os.Mkdir(filepath.Join(dir, "workloads.state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); err == nil {
		t.Error("a directory as state file")
	}
}
