package route

import (
	"context"
	"log/slog"

	"github.com/meshferry/meshferry/registry"
)

// SetState says how far a set of providers can be trusted.
type SetState string

const (
	Waiting   SetState = "waiting"   // nothing was heard of the interface yet
	Ready     SetState = "ready"     // what the registry says now
	Empty     SetState = "empty"     // the registry says that there is none
	Protected SetState = "protected" // held: the registry does not confirm all of it; Reason says why
	Dropped   SetState = "dropped"   // the source does not follow the interface any more; its set is forgotten
)

// Update is the whole set of providers of one interface, as one source sees it.
type Update struct {
	Source    string // the registry's name
	Interface string
	Providers []registry.Provider // of every group, version, protocol and model; empty in state waiting, empty and dropped
	State     SetState
	Reason    string // why the state is not ready, for people
}

// Source delivers sets of providers.
type Source interface {
	// Run sends an Update for each interface that it follows, first as soon as
	// something is known and then after each change, until ctx ends; then it
	// returns nil.
	Run(ctx context.Context, ch chan<- Update) error
	// Want asks the source to follow an interface because a call needs it. It
	// never blocks and may be repeated; a source may stop some time after the
	// last Want.
	Want(iface string)
}

// Local is one local provider behind the inbound listener.
type Local struct {
	Address     string // dials it: "127.0.0.1:20880"
	Application string
	Workload    string
	Protocol    string // "dubbo", "tri"
	// Service is what it offers. The zero Service means what Application has
	// registered itself at Options.Inbound, whatever that is: it is adopted as soon
	// as a source tells of it, and Path and URL come from there.
	Service  registry.Service
	Path     string
	URL      registry.URL // canonical: weight, timestamp, serialization, callbacks, token
	Weight   int          // 0: that of the URL
	Readonly bool         // used only if no other process has the service
}

// Caller is one local subscription: what a consumer set for its calls.
type Caller struct {
	Application string
	Service     registry.Service // as asked; may hold "*" or "a,b"
	Protocol    string
	URL         registry.URL // consumer://…: timeout, loadbalance
	PID         int          // 0: unknown
}

// Directions of a call, seen from this host.
const (
	Outbound = "outbound" // a local consumer calls
	Inbound  = "inbound"  // a local provider is called
)

// Share is how the providers that a source lists count beside those of others. For
// one that several list the best counts.
type Share struct {
	Weight int // in percent of the provider's own weight
	// Preferred: others are called only if none of the preferred ones can be
	// (org.apache.dubbo.rpc.cluster.support.registry.ZoneAwareClusterInvoker).
	Preferred bool
}

// Options of New. The zero value works.
type Options struct {
	Sources []Source
	// Policy names the load balancing configured for a service ("" when none):
	// random, roundrobin, leastactive. It beats what URLs say. Nil: none.
	Policy func(registry.Service) string
	// Rules delivers rules; nil: there are none. Host names a service as rules do
	// (CONTRACT §9), and Routing says who decides about it. Both are needed with
	// Rules and must be pure; Refresh makes the router ask Routing again.
	Rules   RuleSource
	Host    func(registry.Service) string
	Routing func(registry.Service) Routing
	// Registry says how providers of a source count beside those of others; it is
	// asked by the source's name. Nil: all alike.
	Registry func(source string) Share
	// Inbound are the addresses, host:port, at which registries list the inbound
	// listener. Refresh makes the router ask again. Nil: none.
	Inbound func() []string
	// Applications have an inbound port of their own: Snapshot.Application.
	Applications []string
	MaxStats     int // services with statistics of their own; more share one entry. 0: 10000
	MaxAwait     int // calls that wait for unknown interfaces at the same time. 0: 1024
	Log          *slog.Logger
}
