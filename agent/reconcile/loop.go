package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

// Times of the loop. Sources: reference table of Consul's anti-entropy (full
// compare), CONTRACT §1 (a dead provider is gone within 3 s).
const (
	compareMin   = 30 * time.Second
	compareMax   = 60 * time.Second
	retryMin     = 500 * time.Millisecond
	retryMax     = 30 * time.Second
	awayMax      = 2 * time.Second  // asking a registry that is away costs nothing on the wire
	lostJitter   = time.Second      // so that a fleet does not return in step
	applyTimeout = 10 * time.Second // of one Apply; the next goes on where it ended
	hurry        = time.Second      // what an Apply still gets once its view is old
	probesMax    = 3 * time.Second  // how long a start waits for the first probes
)

// Options of a Loop. All but Mode, Models, Carried and Log are required.
type Options struct {
	Name      string             // of the registry, as in the configuration
	Registry  registry.Publisher // the backend
	Workloads *watch.Value[workload.View]
	Address   rewrite.Address // what other hosts dial, for this registry
	Ports     map[string]int  // in the place of Address.Port, for applications with an inbound port of their own
	HostID    string          // rewrite.HostID
	// Mode says how a service is published; it is asked again for every plan, see
	// Refresh. Nil: Mesh.
	Mode   func(registry.Service) Mode
	Models []registry.Model // nil: both; empty but not nil: none
	// Carried are the protocols that the inbound listener speaks. Providers of others
	// are shown at their own address. Nil: dubbo.
	Carried []string
	Log     *slog.Logger // nil: none
}

// Loop makes one registry equal to what is published.
type Loop struct {
	// immutable after New
	registry  registry.Publisher
	workloads *watch.Value[workload.View]
	settings  settings
	refresh   chan struct{} // capacity 1
	stopping  chan struct{} // closed by the first Withdraw
	stop      func()        // closes stopping, once
	turn      chan struct{} // capacity 1: whoever has put a value in may call Apply

	state watch.Value[State] // written by Run only

	// owned by Run
	view     *workload.View // that plan is of; nil: make a new plan
	plan     plan
	pace     pace
	tried    registry.Desired // what Apply was given last
	began    bool             // Apply was called once
	stopped  bool             // Withdraw was seen: every plan is empty
	next     time.Time        // when to Apply though nothing changed
	fails    int              // attempts in a row that left something to do and got nowhere
	result   result
	observed State
	journal  journal
}

// New makes a Loop; Run starts it.
func New(o Options) *Loop {
	if o.Mode == nil {
		o.Mode = func(registry.Service) Mode { return Mesh }
	}
	if o.Models == nil {
		o.Models = []registry.Model{registry.ModelInterface, registry.ModelApplication}
	}
	if o.Carried == nil {
		o.Carried = []string{"dubbo"}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	stopping := make(chan struct{})
	l := &Loop{
		registry: o.Registry, workloads: o.Workloads,
		settings: settings{registry: o.Name, address: o.Address, ports: o.Ports, hostID: o.HostID, mode: o.Mode, models: o.Models, carried: o.Carried},
		refresh:  make(chan struct{}, 1), stopping: stopping, turn: make(chan struct{}, 1),
		stop:    sync.OnceFunc(func() { close(stopping) }),
		journal: journal{log: o.Log.With("registry", o.Name)},
	}
	l.state.Store(&State{})
	return l
}

// State is how far the registry is. It is never nil.
func (l *Loop) State() *watch.Value[State] { return &l.state }

// Refresh makes the loop ask Mode again and compare, at both levels at once. It
// never blocks.
func (l *Loop) Refresh() {
	select {
	case l.refresh <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, and returns nil then. What was published stays in
// the registry, so that a restart finds it; see Withdraw.
func (l *Loop) Run(ctx context.Context) error {
	start := time.Now()
	for ctx.Err() == nil {
		view, changed := l.workloads.Watch()
		l.take(view)
		wait := time.Until(l.due(start))
		if wait <= 0 {
			l.round(ctx, changed)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-l.refresh:
			l.view, l.next = nil, time.Now()
		case <-l.unlessStopped():
			l.view, l.stopped = nil, true
		case <-l.registry.Lost():
			l.next = earliest(l.next, time.Now().Add(rand.N(lostJitter)))
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// Withdraw takes everything that this agent published out of the registry, and
// makes Run, whether it still works or not, want nothing from now on. It tries
// until the registry has done it or ctx ends.
func (l *Loop) Withdraw(ctx context.Context) error {
	l.stop()
	for fails := 0; ; fails++ {
		_, err := l.apply(ctx, registry.Desired{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("withdraw from registry %s: %w", l.settings.registry, err)
		case <-time.After(backoff(fails, awayMax)):
		}
	}
}

// take makes the plan of a view that it has not seen.
func (l *Loop) take(view *workload.View) {
	if view == nil || l.view != nil && l.view.Generation == view.Generation {
		return
	}
	refreshed := l.view == nil
	l.view = view
	before := l.plan
	l.plan = desired(view, before, l.settings)
	if l.stopped {
		l.plan = l.plan.withdrawn()
	}
	l.pace = l.pace.want(l.plan.desired.Applications, time.Now())
	if refreshed { // another mode: the new instances must be there when the old ones go
		l.pace = l.pace.overdue()
	}
	l.journal.invalid(before, l.plan)
	l.observe()
}

// due is when to Apply next; in the past: at once.
func (l *Loop) due(start time.Time) time.Time {
	switch {
	case l.view == nil:
		return time.Now().Add(compareMax)
	case !l.began && l.plan.unprobed:
		return start.Add(probesMax)
	case !l.began || !equalDesired(l.goal(), l.tried):
		return time.Time{}
	}
	return earliest(l.next, l.pace.at())
}

// goal is the plan as far as it may be written now.
func (l *Loop) goal() registry.Desired {
	d := l.plan.desired
	if l.began {
		d.Applications = l.pace.due(time.Now())
	}
	return d
}

// round is one Apply and what follows from it.
func (l *Loop) round(ctx context.Context, changed <-chan struct{}) {
	d := l.goal()
	l.pace, l.tried, l.began = l.pace.show(d.Applications), d, true

	cut, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go hasten(cut, cancel, changed, l.unlessStopped())
	report, err := l.apply(cut, d)
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	before := l.result
	if away := errors.Is(err, registry.ErrAway); report != nil && !away { // away: what it held it most likely holds
		l.result.applied, l.result.report = d, report
	}
	if errors.Is(context.Cause(cut), errOld) {
		l.next = now
		l.observe()
		return
	}
	l.result.err, l.result.away = err, errors.Is(err, registry.ErrAway)
	if err == nil {
		l.result.at = now
	}
	if l.result.held() > before.held() {
		l.fails = 0
	}
	switch {
	case l.result.complete(d):
		l.fails, l.next = 0, now.Add(compareMin+rand.N(compareMax-compareMin))
	case l.result.away:
		l.next = now.Add(backoff(l.fails, awayMax))
		l.fails++
	default:
		l.next = now.Add(backoff(l.fails, retryMax))
		l.fails++
	}
	l.journal.note(l.result)
	l.observe()
}

// apply is the only place that calls the registry. Once Withdraw was called it
// asks for nothing.
func (l *Loop) apply(ctx context.Context, d registry.Desired) (registry.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-l.stopping:
		d = registry.Desired{}
	default:
	}
	return l.registry.Apply(ctx, d)
}

// errOld is why an Apply was cut: what it writes is no longer what is wanted.
var errOld = errors.New("there is a newer view")

// hasten cuts an Apply whose view is old, so that a dead provider does not wait
// behind a long list of others. Whatever was written is written; the next Apply
// goes on.
func hasten(ctx context.Context, cut context.CancelCauseFunc, changed, stopping <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-stopping:
	case <-changed:
		timer := time.NewTimer(hurry)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return
		case <-stopping:
		case <-timer.C:
		}
	}
	cut(errOld)
}

// unlessStopped tells of a Withdraw once; then it is nil, which never tells.
func (l *Loop) unlessStopped() <-chan struct{} {
	if l.stopped {
		return nil
	}
	return l.stopping
}

// observe stores the state if it differs.
func (l *Loop) observe() {
	s := observe(l.plan, l.result, l.observed)
	if !reflect.DeepEqual(s, l.observed) {
		l.observed = s
		l.state.Store(&s)
	}
}

// backoff is a random time up to 0.5 s, doubled with each failure, at most limit.
func backoff(fails int, limit time.Duration) time.Duration {
	const floor = 50 * time.Millisecond // never a hot loop
	return floor + rand.N(min(limit, retryMin<<min(fails, 10))-floor)
}
