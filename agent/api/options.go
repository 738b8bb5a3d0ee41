package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/xdsclient"
)

// Options of a Server. Agent, Listeners, Workloads, Routes and Outbound are
// required.
type Options struct {
	Agent     string         // boot id; an upgrade keeps it, a restart does not
	Version   string         // of the program, shown in status
	Address   string         // host:port that other hosts dial, shown in status
	Extra     []Extra        // exceptions of Address
	Listeners []net.Listener // loopback TCP and unix; the server closes them
	Workloads *workload.Store
	Routes    Routes
	// Registries are those of the configuration now, in its order.
	Registries func() []Registry
	// Inbound is every host:port at which registries list providers behind this
	// agent. Nil: Address.
	Inbound   func() []string
	Outbound  netip.AddrPort // bound address of the outbound listener
	Protocols []string       // what the outbound listener speaks; nil: dubbo

	XDS   func() xdsclient.Status // of the xDS client; nil: there is none
	Mosn  *Mosn                   // MOSN-compatible calls; nil: none
	Admin http.Handler            // /healthz, /readyz, /metrics and /debug/xds; nil: none
	// Draining tells that the agent is stopping: what would change state is
	// refused with 503. Nil: never.
	Draining func() bool
	// TokenFile holds a token that TCP callers must send; empty: none. It must be
	// readable by its owner only. A listener that is not on loopback needs one.
	TokenFile string
	Limits    Limits
	Log       *slog.Logger

	// LeaseEvery is the time between two lines of a held lease; 5 s.
	LeaseEvery time.Duration
	// FirstSet bounds how long a subscribe waits for the first set; 1 s.
	FirstSet time.Duration
}

// Registry is what the API shows of one registry, and where it sees that a
// publication has arrived.
type Registry struct {
	Name   string
	URL    string // without user and password
	Status func() registry.Status
	State  *watch.Value[reconcile.State] // of its reconcile.Loop; never holds nil
}

// Extra is an inbound port that belongs to one application.
type Extra struct {
	Application string `json:"application"`
	Address     string `json:"address"` // host:port that other hosts dial
}

// Routes is what the API reads of a *route.Router.
type Routes interface {
	Snapshot() *route.Snapshot
	Changes() *watch.Value[route.Snapshot]
	Await(ctx context.Context, iface string) bool
	AwaitService(ctx context.Context, s registry.Service) bool
	Unsupported() []string
	Explain(q route.Query) route.Explanation
}

// Mosn enables the calls of MOSN's dubbod on listeners of their own. Its bodies
// name no provider port, so every publication has ProviderPort. Source: MOSN
// pkg/upstream/servicediscovery/dubbod.
type Mosn struct {
	Listeners    []net.Listener
	ProviderPort int
	Registry     string // where to publish; empty: everywhere
}

func (o Options) withDefaults() Options {
	o.Limits = o.Limits.withDefaults()
	if o.Inbound == nil {
		o.Inbound = func() []string { return []string{o.Address} }
	}
	if o.Protocols == nil {
		o.Protocols = []string{"dubbo"}
	}
	if o.Registries == nil {
		o.Registries = func() []Registry { return nil }
	}
	if o.Draining == nil {
		o.Draining = func() bool { return false }
	}
	if o.LeaseEvery <= 0 {
		o.LeaseEvery = 5 * time.Second
	}
	if o.FirstSet <= 0 {
		o.FirstSet = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) check() error {
	switch {
	case o.Agent == "":
		return errors.New("no boot id")
	case o.Workloads == nil || o.Routes == nil:
		return errors.New("no workloads or no routes")
	case !o.Outbound.IsValid():
		return errors.New("no outbound address")
	}
	listeners := o.Listeners
	if o.Mosn != nil {
		if o.Mosn.ProviderPort < 1 || o.Mosn.ProviderPort > 65535 {
			return fmt.Errorf("MOSN-compatible calls: the provider port %d is not in 1..65535", o.Mosn.ProviderPort)
		}
		listeners = append(listeners[:len(listeners):len(listeners)], o.Mosn.Listeners...)
	}
	for _, l := range listeners {
		if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() && o.TokenFile == "" {
			return fmt.Errorf("listener %s is not on loopback; that needs a token file", a)
		}
	}
	return nil
}

// readToken returns the hash of the token in a file, or nil for no file.
func readToken(file string) (*[sha256.Size]byte, error) {
	if file == "" {
		return nil, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("token file %s is readable by others (mode %v): make it 0600", file, info.Mode().Perm())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return nil, fmt.Errorf("token file %s is empty", file)
	}
	sum := sha256.Sum256([]byte(token))
	return &sum, nil
}
