package workload

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Errors of the calls. They come wrapped with text for people; the control API
// maps them to the HTTP statuses named here.
var (
	ErrInvalid   = errors.New("invalid")             // 422: the request cannot be meant
	ErrOwned     = errors.New("owned")               // 409: a living other workload has the same service at the same port
	ErrForbidden = errors.New("forbidden")           // 403: it belongs to another user
	ErrLimit     = errors.New("limit reached")       // 429: too many workloads, publications or subscriptions
	ErrUnknown   = errors.New("unknown")             // 404: no such thing
	ErrStopped   = errors.New("workloads are ended") // 503: Run has returned
)

// Why a publication is not Live.
const (
	ReasonSettling   = "settling"    // the first probe is under way
	ReasonPortClosed = "port-closed" // the local port refuses connections, or never answered
	ReasonNoAnswer   = "no-answer"   // it accepts connections, but does not answer (hung)
	ReasonReadonly   = "readonly"    // the provider said that it is about to stop
)

// Owner is the process that asked, as the kernel tells it. -1 is unknown.
type Owner struct{ UID, PID int }

// Nobody is the Owner of whom nothing is known.
var Nobody = Owner{UID: -1, PID: -1}

// Identity names a publication. Everything else about it is content.
type Identity struct {
	Workload string // the application's own name for this start, or anon/<application>/<port>
	Protocol string // "dubbo", or one that the agent need not speak: "tri", "rest"
	Service  registry.Service
	Path     string // usually the interface
	Port     int    // local port
}

// Publication is one service that a local application offers.
type Publication struct {
	Identity
	URL        registry.URL // as the application gave it
	Registries []string     // names; none: every registry
	Client     string       // "java", "go", ...: the SDK
	Owner      Owner

	Live    bool   // its local port answers: it may be advertised
	Address string // where the provider is dialled, "127.0.0.1:20880"; what answered, once Live
	Reason  string // why it is not Live
}

// Wants tells whether the publication is for a registry.
func (p Publication) Wants(registry string) bool {
	return len(p.Registries) == 0 || slices.Contains(p.Registries, registry)
}

// ProviderRules is the Protocol of a subscription by which a provider asks for the
// rules about itself (a provider:// URL). It is another one than a consumer's of
// the same service in the same application.
const ProviderRules = "provider"

// Subscription is one service that a local application calls.
type Subscription struct {
	ID       string // "s-…", the same for the same (workload, protocol, service)
	Workload string // anon/<application> when the application has no name of its own
	Protocol string // "dubbo", "tri", several with commas, empty for any, or ProviderRules
	Service  registry.Service
	// Service is as asked: group and version may be "*" or "a,b".
	URL        registry.URL // consumer://…, as the application gave it
	Client     string
	Categories []string
	Owner      Owner
}

// LeaseState says how the agent knows that an application lives.
type LeaseState string

const (
	LeaseHeld    LeaseState = "held"    // a stream is open
	LeaseRenewed LeaseState = "renewed" // the last renewal is younger than the TTL
	LeaseBroken  LeaseState = "broken"  // neither: only probes count now
	LeaseUnknown LeaseState = "unknown" // the agent started less than a TTL ago
)

// Lease of a workload. A workload without one lives by its probes alone.
type Lease struct {
	Workload string
	State    LeaseState
	TTL      time.Duration
	Owner    Owner
}

// View is everything that local applications asked for, at one moment. It is
// immutable; everything is sorted by name.
type View struct {
	// Generation grows with every change of Publications, Subscriptions or Static. A
	// new View with the same Generation differs in Leases, owners or DiskError only.
	Generation    uint64
	Publications  []Publication
	Subscriptions []Subscription
	Static        []Static
	Leases        []Lease
	DiskError     string // why the state is not on disk; empty when it is
}

// Match selects publications or subscriptions. A field that is empty, zero or
// nil matches any.
type Match struct {
	// URL matches the protocol, service, path and port that it names, and of
	// publications only those whose content it still is. The fields below can
	// narrow it.
	URL         *registry.URL
	Workload    string
	Application string // parameter "application" of the URL
	Protocol    string
	Interface   string
	Group       *string
	Version     *string
	Path        string
	Port        int
}

// ProbeSettings: how local ports are probed. Zero fields take the default.
type ProbeSettings struct {
	Interval time.Duration // between two probes of an address, 1 s
	Timeout  time.Duration // of one probe, 300 ms
	Fall     int           // time-outs in a row until an address counts as hung, 3
	Rise     int           // answers in a row until it is back, 2
}

func (p ProbeSettings) withDefaults() ProbeSettings {
	return ProbeSettings{
		Interval: cmp.Or(p.Interval, time.Second),
		Timeout:  cmp.Or(p.Timeout, 300*time.Millisecond),
		Fall:     cmp.Or(p.Fall, 3),
		Rise:     cmp.Or(p.Rise, 2),
	}
}

// Limits bound what applications can ask for. Zero fields take the default.
type Limits struct {
	Workloads     int // 256
	Publications  int // 2000
	Subscriptions int // 4000
}

// Options of Open. Dir is required.
type Options struct {
	Dir      string // the state file is <Dir>/workloads.state
	Probe    ProbeSettings
	Limits   Limits
	OwnPorts []int // ports of the agent's own listeners: never a provider's
	// Own are those listeners with their addresses: a static application can have
	// the port of one at an address of its own. Nil: OwnPorts at any address.
	Own []netip.AddrPort
	Log *slog.Logger
	// Dial connects to a local address; nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Addresses are those of this machine; nil: net.InterfaceAddrs.
	Addresses func() ([]net.Addr, error)
}
