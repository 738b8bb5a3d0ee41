package registrytest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Agent is a registry that runs, with what tests ask of it. It knows a registry by its
// interface only.
type Agent struct {
	registry.Registry
	Stop func() // ends Run and waits for it; may be called twice

	t        *testing.T
	patience time.Duration // bounds each wait
}

// Start runs a registry until the test ends or Stop is called, and waits until it is
// connected.
func Start(t *testing.T, r registry.Registry, patience time.Duration) Agent {
	t.Helper()
	a := Launch(t, r, patience)
	a.Eventually("connected", func() bool { return r.Status().State == registry.Connected })
	return a
}

// Launch is Start without the wait.
func Launch(t *testing.T, r registry.Registry, patience time.Duration) Agent {
	t.Helper()
	stop := inBackground(t, "Run", patience, r.Run)
	t.Cleanup(stop)
	return Agent{Registry: r, Stop: stop, t: t, patience: patience}
}

// inBackground runs f, which must return nil soon after its context has ended. stop
// ends it, once.
func inBackground(t *testing.T, what string, patience time.Duration, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s returned %v after its context ended, want nil", what, err)
			}
		case <-time.After(patience):
			t.Errorf("%s did not return after its context ended", what)
		}
	})
}

// Eventually asks again and again: for states that have no event.
func (a Agent) Eventually(what string, done func() bool) {
	a.t.Helper()
	deadline := time.After(a.patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			a.t.Fatalf("never %s; status %+v", what, a.Status())
		}
	}
}

// Try applies d, which must reach the registry, and checks that the report names
// every item.
func (a Agent) Try(d registry.Desired) registry.Report {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), a.patience)
	defer cancel()
	report, err := a.Apply(ctx, d)
	if err != nil {
		a.t.Fatalf("Apply: %v", err)
	}
	for _, key := range keys(d) {
		if _, ok := report[key]; !ok {
			a.t.Fatalf("the report does not name %s: %v", key, report)
		}
	}
	return report
}

// Hold applies d and demands that every item is held.
func (a Agent) Hold(d registry.Desired) {
	a.t.Helper()
	for key, item := range a.Try(d) {
		if item.State != registry.Held {
			a.t.Fatalf("%s is %+v, want held", key, item)
		}
	}
}

// HoldSoon applies d until every item is held, as the reconciling loop does.
func (a Agent) HoldSoon(d registry.Desired) {
	a.t.Helper()
	a.Eventually("holding all", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), a.patience)
		defer cancel()
		report, err := a.Apply(ctx, d)
		for _, item := range report {
			if item.State != registry.Held {
				return false
			}
		}
		return err == nil
	})
}

// AwaitLost forgets what Lost has told so far, and gives what waits for the next.
func (a Agent) AwaitLost() (told func()) {
	select {
	case <-a.Lost():
	default:
	}
	return func() {
		a.t.Helper()
		select {
		case <-a.Lost():
		case <-time.After(a.patience):
			a.t.Fatal("Lost told nothing")
		}
	}
}

func keys(d registry.Desired) []string {
	var all []string
	for _, u := range slices.Concat(d.Providers, d.Consumers) {
		all = append(all, u.String())
	}
	for _, app := range d.Applications {
		all = append(all, app.ID())
	}
	return all
}

// Listener is one subscription and the sets that it delivered.
type Listener struct {
	Cancel func() // ends Subscribe and checks what it returned; may be called twice

	t        *testing.T
	patience time.Duration
	sets     chan registry.Endpoints
	last     registry.Endpoints
}

// Listen subscribes until the test ends or Cancel is called.
func (a Agent) Listen(iface string) *Listener {
	a.t.Helper()
	l := &Listener{t: a.t, patience: a.patience, sets: make(chan registry.Endpoints)}
	l.Cancel = inBackground(a.t, "Subscribe("+iface+")", a.patience, func(ctx context.Context) error { return a.Subscribe(ctx, iface, l.sets) })
	a.t.Cleanup(l.Cancel)
	return l
}

// Await reads sets until one satisfies done, and gives that one.
func (l *Listener) Await(what string, done func(registry.Endpoints) bool) registry.Endpoints {
	l.t.Helper()
	for deadline := time.After(l.patience); ; {
		select {
		case l.last = <-l.sets:
			if done(l.last) {
				return l.last
			}
		case <-deadline:
			l.t.Fatalf("never got %s; the last set was\n%s", what, strings.Join(lines(l.last), "\n"))
		}
	}
}

// Until reads sets until one is exactly want, as sorted lines "model URL"; check, if
// any, sees each set.
func (l *Listener) Until(want []string, check ...func(set []string)) {
	l.t.Helper()
	l.Await(strings.Join(want, "\n"), func(e registry.Endpoints) bool {
		got := lines(e)
		for _, c := range check {
			c(got)
		}
		return slices.Equal(got, want)
	})
}

// Within reads sets until one is exactly want; false: none was, for so long.
func (l *Listener) Within(length time.Duration, want []string) bool {
	for deadline := time.After(length); ; {
		select {
		case l.last = <-l.sets:
			if slices.Equal(lines(l.last), want) {
				return true
			}
		case <-deadline:
			return false
		}
	}
}

// IsNext demands that the next set is want: nothing was delivered before it.
func (l *Listener) IsNext(want []string) {
	l.t.Helper()
	e := l.Await("any set", func(registry.Endpoints) bool { return true })
	if got := lines(e); !slices.Equal(got, want) {
		l.t.Fatalf("next set is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// NotEmpty is a check for changes that must not take the last provider away in between.
func NotEmpty(t *testing.T) func(set []string) {
	return func(set []string) {
		if len(set) == 0 {
			t.Error("the set was empty during the change")
		}
	}
}

func lines(e registry.Endpoints) []string {
	var all []string
	for _, p := range e.Providers {
		all = append(all, string(p.Model)+" "+p.URL.String())
	}
	slices.Sort(all)
	if e.Incomplete != "" {
		all = append(all, "incomplete "+e.Incomplete)
	}
	return all
}
