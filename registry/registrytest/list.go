package registrytest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// list has somebody follow the names of interfaces while they come, at both
// levels. A backend that cannot list is skipped.
func list(t *testing.T, s Store) {
	a, b := s.start(t, "host-a"), s.start(t, "host-b")
	l, ok := b.Registry.(registry.Lister)
	if !ok {
		t.Skip("the registry is no Lister")
	}
	ctx, cancel := context.WithCancel(context.Background())
	names, ended := make(chan []string), make(chan error, 1)
	go func() { ended <- l.List(ctx, names) }()
	defer func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("List returned %v after its context ended, want nil", err)
			}
		case <-time.After(s.Patience):
			t.Error("List did not return after its context ended")
		}
	}()
	until := func(want ...string) {
		t.Helper()
		deadline := time.After(s.Patience)
		for {
			select {
			case got := <-names:
				if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
					t.Errorf("not sorted, or a name twice: %q", got)
				}
				if !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(got, name) }) {
					return
				}
			case <-deadline:
				t.Fatalf("never listed %q", want)
			}
		}
	}
	select { // an empty store is known to be empty
	case got := <-names:
		if slices.Contains(got, greeter) {
			t.Fatalf("an empty store lists %q", got)
		}
	case <-time.After(s.Patience):
		t.Fatal("an empty store is not listed")
	}
	d := provider(greeter, "192.0.2.1", 20882, "")
	a.Hold(d)
	until(greeter)
	const third = "org.example.Third"
	a.Hold(join(d, instance("192.0.2.1", "r1", order, third)))
	until(greeter, order, third)

	late, stop := context.WithTimeout(ctx, s.Patience) // somebody who comes late is told at once
	defer stop()
	again := make(chan []string, 1)
	go func() { _ = l.List(late, again) }()
	select {
	case got := <-again:
		if !slices.Contains(got, greeter) || !slices.Contains(got, order) {
			t.Errorf("a late listener is told %q", got)
		}
	case <-late.Done():
		t.Error("a late listener is not told")
	}
}
