package backend

import (
	"errors"
	"fmt"
	"sync"

	"github.com/meshferry/meshferry/registry"
)

// Outcome gathers what an Apply comes to, while its items are worked on.
type Outcome struct {
	mu     sync.Mutex
	report registry.Report // guarded by mu
	away   error           // guarded by mu; a failure of the connection
	errs   []error         // guarded by mu; of what the report has no item for
}

// NewOutcome knows of nothing yet.
func NewOutcome() *Outcome { return &Outcome{report: registry.Report{}} }

// Set says how these items of the report stand.
func (o *Outcome) Set(item registry.Item, keys ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		o.report[key] = item
	}
}

// Fail says why these items are pending. Without any, the error is of the whole. One
// that is ErrAway is of the whole in any case.
func (o *Outcome) Fail(err error, keys ...string) {
	o.Set(registry.Item{State: registry.Pending, Err: err.Error()}, keys...)
	o.mu.Lock()
	defer o.mu.Unlock()
	if errors.Is(err, registry.ErrAway) {
		o.away = err
	} else if len(keys) == 0 {
		o.errs = append(o.errs, err)
	}
}

// OK tells whether nothing has failed that is of the whole.
func (o *Outcome) OK() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.away == nil && len(o.errs) == 0
}

// Report is what Apply returns.
func (o *Outcome) Report() (registry.Report, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away != nil {
		return o.report, fmt.Errorf("apply: %w", o.away)
	}
	return o.report, errors.Join(o.errs...)
}

// Nothing is what Apply returns when nothing can be said of any item.
func (o *Outcome) Nothing(err error, keys []string) (registry.Report, error) {
	o.Set(registry.Item{State: registry.Pending, Err: err.Error()}, keys...)
	return o.report, fmt.Errorf("apply: %w", err)
}
