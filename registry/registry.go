package registry

import (
	"context"
	"time"
)

// Model tells at which level a provider was registered.
type Model string

const (
	ModelInterface   Model = "interface"   // one entry for each provider URL
	ModelApplication Model = "application" // one entry for each instance, services in its metadata
)

// Provider is one provider as a registry lists it.
type Provider struct {
	URL   URL
	Model Model
}

// Endpoints is the whole set of providers of one interface, of every group,
// version, protocol and model, at one moment.
type Endpoints struct {
	Interface string
	Providers []Provider
	// Incomplete says why providers may be missing (metadata of an instance that
	// could not be read, say); empty when the set is whole.
	Incomplete string
}

// Desired is the whole truth of one agent: everything that it wants a registry
// to hold, and nothing else.
type Desired struct {
	Providers    []URL         // interface level, exact text
	Applications []Application // application level
	Consumers    []URL         // interface level, for dashboards
}

// ItemState says how far the registry is with one item of Desired.
type ItemState string

const (
	Held     ItemState = "held"     // the registry has it, in our session
	Pending  ItemState = "pending"  // not yet; it is tried again
	Conflict ItemState = "conflict" // somebody else who is alive holds it; never fought
)

// Item is the state of one item.
type Item struct {
	State ItemState
	Owner string // of a conflict: the other's host id or session
	Err   string // why it is pending
}

// Report tells for each item of a Desired how it stands: providers and consumers
// by URL text, applications by Application.ID.
type Report map[string]Item

// Publisher makes a registry hold what is desired.
type Publisher interface {
	// Apply makes the registry equal to d: writes what is missing or differs and
	// removes what this agent wrote earlier and d does not name. It is
	// idempotent, and returns when everything was tried once or ctx ends. The
	// report names every item of d. The error is for the registry as a whole
	// (ErrAway when it cannot be reached).
	Apply(ctx context.Context, d Desired) (Report, error)
	// Lost has capacity 1 and gets a value when something of ours may have
	// disappeared, a new session began, or the registry has gone away: call Apply
	// again, which tells how it stands now.
	Lost() <-chan struct{}
}

// Subscriber delivers the providers of an interface.
type Subscriber interface {
	// Subscribe sends the whole set of providers of iface, first as soon as it is
	// known and then after each change, until ctx ends; then it returns nil. While
	// the registry is away it sends nothing. It errs at once for an interface
	// name that no registry could hold. Any number of subscriptions share what
	// they watch.
	Subscribe(ctx context.Context, iface string, ch chan<- Endpoints) error
}

// Lister names what a registry holds, for those who follow all of it: a control
// plane. A backend implements it beside Registry if it can.
type Lister interface {
	// List sends the names of all interfaces that may have providers, sorted, first
	// as soon as they are known and then after each change, until ctx ends; then it
	// returns nil. No interface that has a provider is missing. A name may stand
	// there that has none any more, or that is none (some registries keep other
	// things beside interfaces): Subscribe tells. While the registry is away it
	// sends nothing.
	List(ctx context.Context, ch chan<- []string) error
}

// Status is the state of the connection to a registry.
type Status struct {
	State   string    // Connecting, Connected, Away or Closed
	Since   time.Time // when State was entered
	Session string    // the registry's name of our session, if it has one
	Err     string    // the last error while away
}

// States of a Status.
const (
	Connecting = "connecting" // not connected yet
	Connected  = "connected"  // it can be read and written
	Away       = "away"       // it was connected, and is tried again
	Closed     = "closed"     // Run has ended
)

// Registry is what a backend's New returns.
type Registry interface {
	Publisher
	Subscriber
	// Run holds the connection until ctx ends. Stopping it leaves what was
	// published in place for as long as the registry keeps a session, so that a
	// restart can resume it; an agent that stops for good applies an empty
	// Desired first.
	Run(ctx context.Context) error
	Status() Status
}

// Store keeps a small document between two runs of a process. It can hold the id and
// password of a session, so it must be readable by its owner only. Load returns
// nothing before the first Save. Save must be atomic.
type Store interface {
	Load() ([]byte, error)
	Save([]byte) error
}

// MetadataFunc asks a provider's own MetadataService for the metadata of one
// revision: instances with storage-type "local" keep it nowhere else.
type MetadataFunc func(ctx context.Context, i Instance) (Metadata, error)
