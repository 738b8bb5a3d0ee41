package route

import (
	"context"

	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/registry"
)

// Router compiles what the sources and the agent say into snapshots.
type Router struct {
	o       Options
	current watch.Value[Snapshot]
}

// ifaceSet is what is known of one interface.
type ifaceSet struct{ merged Update }

func (s *ifaceSet) services() []registry.Service { return nil }

type localSet struct{}

// New is a router with an empty snapshot.
func New(o Options) *Router {
	r := &Router{o: o}
	r.current.Store(&Snapshot{})
	return r
}

// Run compiles until ctx ends.
func (r *Router) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// SetLocal replaces the local providers.
func (r *Router) SetLocal(set []Local) {}

// SetCallers replaces the local subscriptions.
func (r *Router) SetCallers(set []Caller) {}

// Snapshot is the current snapshot, never nil: one atomic load.
func (r *Router) Snapshot() *Snapshot { return r.current.Load() }

// Changes tells when the snapshot is replaced.
func (r *Router) Changes() *watch.Value[Snapshot] { return &r.current }

// Await asks the sources for an interface and waits until something is known.
func (r *Router) Await(ctx context.Context, iface string) bool { return false }

// EachStats calls f for all statistics.
func (r *Router) EachStats(f func(direction string, s registry.Service, st *Stats)) {}

// Explain tells how a call would be routed.
func (r *Router) Explain(q Query) Explanation { return Explanation{} }
