package config

import (
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Config is everything that can be set.
type Config struct {
	// Address is the host that others dial; Addresses are exceptions by registry
	// name.
	Address    string
	Addresses  map[string]string
	Listeners  Listeners
	StateDir   string
	Registries []Registry
	Services   []Service // the first that matches and says something decides
	Static     []Static  // of inbound
	Extra      []Extra   // of inbound
	MeshPorts  []int     // endpoints from xDS with one of these ports are other agents
	XDS        XDS
	Publish    Publish
	Protection Protection
	Stop       Stop
	Probe      Probe
	Limits     Limits
	Compat     Compat
	Log        Log

	File     string   // that was read; empty: none
	Warnings []string // to be logged once at the start
}

// Listeners are addresses, host:port. ControlSocket is a path; empty: none.
type Listeners struct {
	Outbound, Inbound, Control string
	ControlSocket              string
	ControlTokenFile           string // holds what callers of Control must send; empty: nothing
}

// Service has settings for the services that Match names: "com.a.Foo",
// "com.a.*", or a whole service key "g1/com.a.Foo:1.0.0"; '*' is any text.
type Service struct {
	Match       string
	Publish     string // "mesh", "direct", "both", "off"; empty: not said here
	Routing     string // "registry", "xds", "xds-then-registry"; empty: not said here
	LoadBalance string // "random", "roundrobin", "leastactive"; empty: not said here
}

// Extra is an inbound port of its own for one application (CONTRACT §4.1).
type Extra struct {
	Port        int
	Application string // its Dubbo name
}

// Static is a local application that registers itself at the inbound listener's
// address and asks the agent for nothing (docs/zero-code.md).
type Static struct {
	Application string // its Dubbo name
	Protocol    string // "dubbo"
	Host        string // address of this machine where it really listens; empty: 127.0.0.1
	Port        int
	// Services it offers; none: those that the registries list for it at the inbound
	// listener's address.
	Services []registry.Service
}

func (s Static) equal(o Static) bool {
	return s.Application == o.Application && s.Protocol == o.Protocol && s.Host == o.Host && s.Port == o.Port && slices.Equal(s.Services, o.Services)
}

// Publish says at which levels of a registry providers are written.
type Publish struct{ Models []registry.Model }

// Protection holds a set of providers that became empty or lost more than half.
type Protection struct {
	Enabled               bool
	EmptyHold, ShrinkHold time.Duration // how long at most
}

// Stop bounds the steps of an orderly end.
type Stop struct {
	NotifyWait time.Duration // for consumers to notice that providers went
	Drain      time.Duration // for calls in flight
}

// Probe says how local providers are watched (CONTRACT §2).
type Probe struct {
	Interval, Timeout time.Duration
	Fall, Rise        int
}

// Limits bound what clients can use up.
type Limits struct {
	Workloads, Publications, Subscriptions int
	Requests, HeldRequests                 int // of the control API at the same time
	RequestRate, RequestBurst              int // of the control API, a second and user
	Frame                                  int // bytes of a frame's body
	Connections                            int // on each of the outbound and inbound listeners
	InFlight                               int // calls on one connection to an endpoint
	Queue, Memory                          int // bytes that wait for one connection, and in all of them
}

// XDS says which ADS servers are asked for rules, and how. It is off while Servers
// is empty.
type XDS struct {
	Servers   []string // host:port, in order of preference
	Mode      string   // "sidecar" or "grpc"
	Delta     bool     // incremental
	Port      int      // of the services in the control plane
	Listeners []string // whose routes count, in mode sidecar; "*": all; none: that at the outbound listener's address
	TLS       XDSTLS
	Node      XDSNode
}

// XDSTLS secures the connection to the servers. Files are PEM.
type XDSTLS struct {
	Enabled                   bool
	CAFile, CertFile, KeyFile string // empty: the system's roots; no certificate
	TokenFile                 string // empty: no token
	ServerName                string // empty: the host of the address
}

// XDSNode is how the agent introduces itself.
type XDSNode struct {
	ID        string   // empty: made of the rest, as Istio wants it
	Name      string   // empty: the host's name
	Namespace string   // that Istio looks for Sidecar resources in
	Labels    []string // "key=value"
	Locality  string   // "region/zone/subzone"
}

// Compat are interfaces of other systems.
type Compat struct{ Mosn Mosn }

// Mosn are the calls of MOSN's dubbod; they are off while Listen is empty.
type Mosn struct {
	Listen       string // host:port
	ProviderPort int    // of the local provider; MOSN's requests do not say it
	Registry     string // name; empty: all
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// Secret is a password. It prints as "***".
type Secret string

// String does not tell.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString does not tell either.
func (s Secret) GoString() string { return s.String() }

// MarshalText does not tell either.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue does not tell either.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Redacted is a copy without passwords, safe to be shown.
func (c Config) Redacted() Config {
	c.Registries = slices.Clone(c.Registries)
	for i := range c.Registries {
		c.Registries[i].Password = Secret(c.Registries[i].Password.String())
	}
	c.Addresses = maps.Clone(c.Addresses)
	return c
}

// ExtraAddress is where an extra inbound port listens: at the host of the inbound
// listener.
func (c Config) ExtraAddress(x Extra) string {
	host, _, _ := net.SplitHostPort(c.Listeners.Inbound)
	return net.JoinHostPort(host, strconv.Itoa(x.Port))
}

// AddressFor is the host that users of a registry dial.
func (c Config) AddressFor(registry string) string {
	if a := c.Addresses[registry]; a != "" {
		return a
	}
	return c.Address
}

// Share is how the providers of a registry count beside those of others.
func (c Config) Share(registry string) (weight int, preferred bool) {
	for _, r := range c.Registries {
		if r.Name == registry {
			return r.Weight, r.Preferred
		}
	}
	return 100, false
}

// PublishMode is how a service is published: "mesh" unless Services say
// otherwise.
func (c Config) PublishMode(s registry.Service) string {
	for _, rule := range c.Services {
		if rule.Publish != "" && rule.matches(s) {
			return rule.Publish
		}
	}
	return "mesh"
}

// Routing is which source decides about calls of a service as Services say, or the
// empty string.
func (c Config) Routing(s registry.Service) string {
	for _, rule := range c.Services {
		if rule.Routing != "" && rule.matches(s) {
			return rule.Routing
		}
	}
	return ""
}

// LoadBalance is the load balancing that Services name, or the empty string.
func (c Config) LoadBalance(s registry.Service) string {
	for _, rule := range c.Services {
		if rule.LoadBalance != "" && rule.matches(s) {
			return rule.LoadBalance
		}
	}
	return ""
}
