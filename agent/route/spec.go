package route

import (
	"context"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// This file is the neutral model of rules: what a source of rules hands to the
// router, whatever language the rules were written in. xDS is translated to it by
// agent/xds. Terms are those of xDS (docs at envoyproxy.io/docs, "v3 API"); where
// Istio has another word it is named beside. Attachments take the place of HTTP
// headers, and "/interface/method" that of the path.
//
// Everything handed over is immutable from then on. Pointers may be shared between
// updates and between clusters; a spec that is equal to the one before need not be
// sent, and costs little when it is.

// RuleSource delivers rules, clusters and their endpoints.
type RuleSource interface {
	// Run sends what is known, first as soon as there is something and then after
	// each change, until ctx ends; then it returns nil. What it has sent stays valid
	// while it has no connection to its server.
	Run(ctx context.Context, ch chan<- RuleUpdate) error
	// SetServices replaces the set of services whose rules are needed: those whose
	// routing names the source and that somebody here calls or the registries list.
	// It never blocks and keeps the slice. A source that gets all rules anyway
	// ignores it.
	SetServices(set []registry.Service)
}

// RuleUpdate is a change; what it does not name stays as it was. All of it takes
// effect in one snapshot. A nil value removes the entry. The order between updates
// does not matter much: a route that names clusters without endpoints waits for
// them a while beside its predecessor, and a removed cluster serves the routes that
// name it a while (make before break).
type RuleUpdate struct {
	Source string // "xds"
	// Synced: the source has told everything that its server has for the services
	// wanted; a service without a route has none. Before that it is not known yet.
	Synced   bool
	Routes   map[string]*RouteSpec   // by RouteSpec.Name
	Clusters map[string]*ClusterSpec // by ClusterSpec.Name
	// Endpoints are by name of the cluster; an empty set is "none", nil "not known".
	// They stay when their cluster goes, until they are removed themselves.
	Endpoints map[string]*EndpointSet
	// Unsupported replaces what the source as a whole cannot honour (a rejected
	// resource with its reason, a listener's filter), by resource; nil: as before.
	Unsupported map[string][]string
}

// RouteSpec is the rules of some services: a virtual host (VirtualHost of RDS,
// VirtualService of Istio), or a RouteConfiguration of dubbo_proxy.
type RouteSpec struct {
	Name string // unique in the source: "http_proxy/com.a.foo:20882"
	// Hosts are names as Options.Host gives them for a service (CONTRACT §9), lower
	// case, without a port: the domains of the virtual host that the agent's port
	// belongs to. "*" is for services that no other spec of the source names.
	Hosts []string
	// Services are patterns, for rules that name services themselves (dubbo_proxy).
	// Hosts win over patterns; of several specs whose patterns match, the lowest
	// Order wins, then the lowest Name.
	Services []ServicePattern
	Order    int
	// Last: it decides only about services that no other spec is for, and only once the
	// source is synced. It is said of each service that has come to it.
	Last   bool
	Routes []RouteRule // the first that matches a call decides; none: the call is refused
	Origin string      // who wrote it, for people: "virtual-service dubbo/demo"; empty: generated
	// Unsupported is what of the virtual host cannot be honoured, one line each.
	Unsupported []string
}

// ServicePattern selects services (dubbo_proxy RouteConfiguration).
type ServicePattern struct {
	Interface string // exact, "prefix*", "*suffix" or "*"
	Group     string // empty: any
	Version   string // empty: any
}

// RouteRule is one route: what it matches and what then happens.
type RouteRule struct {
	Name   string // of the route, as its author called it: "canary"; may be empty
	Origin string // as in RouteSpec, where routes have their own
	Match  Match

	// Exactly one of the two; with neither every call is refused.
	Clusters []WeightedCluster // route.cluster is one of weight 1
	Direct   *DirectResponse   // direct_response

	Timeout     time.Duration // route.timeout; 0: none
	Retry       Retry         // retry_policy
	Hash        []HashPolicy  // hash_policy, in order; used if the cluster's policy is a hash
	Fault       Fault         // envoy.filters.http.fault
	Mirrors     []Mirror      // request_mirror_policies
	Attachments Changes       // request_headers_to_add, request_headers_to_remove of the route and of what encloses it
	// DestinationLast: the changes of a destination are made after Attachments, so that
	// they win (most_specific_header_mutations_wins). Otherwise before.
	DestinationLast bool

	// Unsupported is what of the route cannot be honoured, one line each.
	Unsupported []string
}

// Match is the conditions of a route; all must hold, and no condition always does.
type Match struct {
	// Path is tried on "/interface/method" (prefix, path, safe_regex). Kind Any: no
	// condition.
	Path StringMatch
	// Method, Group and Version are tried on those of the call; an empty group or
	// version is the empty string (pseudo headers dubbo-method and :method,
	// dubbo-group, dubbo-version; dubbo_proxy's method).
	Method, Group, Version StringMatch
	Attachments            []AttachmentMatch // headers, query_parameters
	Arguments              []ArgumentMatch   // dubbo_proxy's params_match
	// Fraction is the share of the calls that matches, in parts per million
	// (runtime_fraction); 0 means that there is no such condition, NoneOf none.
	Fraction uint32
}

// Million is all, where a share is in parts per million. NoneOf is a
// Match.Fraction that no call passes.
const (
	Million = 1_000_000
	NoneOf  = 1<<32 - 1
)

// MatchKind is how a StringMatch compares.
type MatchKind uint8

const (
	Any      MatchKind = iota // no condition, or: is present
	Exact                     // equal
	Prefix                    // begins with
	Suffix                    // ends with
	Contains                  // has in it
	Regex                     // the whole text matches (RE2, safe_regex)
	Range                     // is a decimal integer, From ≤ n < To (range_match)
)

// StringMatch is one comparison of a text (StringMatcher).
type StringMatch struct {
	Kind     MatchKind
	Text     string
	From, To int64 // of Range
	// IgnoreCase: ASCII letters are equal in both cases (ignore_case). Not for Regex
	// and Range.
	IgnoreCase bool
	Invert     bool // the condition holds when the comparison does not
}

// AttachmentMatch is a condition on one attachment (HeaderMatcher). With kind Any it
// is present_match. An attachment that is missing matches nothing, also not
// inverted, unless MissingIsEmpty; Any inverted is "missing".
type AttachmentMatch struct {
	Key string
	StringMatch
	MissingIsEmpty bool // treat_missing_header_as_empty
}

// ArgumentMatch is a condition on one argument of the call: a string, an integer as
// decimal text, or a boolean as "true" or "false". One that is missing, null, of
// another kind or in a serialization that is not read matches nothing, also not
// inverted.
type ArgumentMatch struct {
	Index int // from 0
	StringMatch
}

// WeightedCluster is one destination of a route.
type WeightedCluster struct {
	Cluster     string
	Weight      uint32  // share of the sum; 0: never chosen
	Attachments Changes // of this destination; RouteRule.DestinationLast has the order
}

// Changes are made to the attachments of a request: first removed, then set, in
// order.
type Changes struct {
	Remove []string
	Set    []Attachment
}

// Attachment is one to be set.
type Attachment struct {
	Key, Value string
	When       SetWhen
}

// SetWhen says what to do about an attachment that is there already (append_action).
type SetWhen uint8

const (
	Overwrite SetWhen = iota // OVERWRITE_IF_EXISTS_OR_ADD; Istio's "set"
	Append                   // APPEND_IF_EXISTS_OR_ADD: joined by ','; Istio's "add"
	IfAbsent                 // ADD_IF_ABSENT
	IfPresent                // OVERWRITE_IF_EXISTS
)

// DirectResponse answers a call without any provider. A Dubbo result has a type that
// a rule does not know: below 400 the result is null, else an RpcException with Text
// as message and RPCCode(Status) as code.
type DirectResponse struct {
	Status int // HTTP
	Text   string
}

// RPCCode is the code of org.apache.dubbo.rpc.RpcException for an HTTP status.
func RPCCode(status int) int {
	switch status {
	case 408, 504:
		return 2 // TIMEOUT_EXCEPTION
	case 401, 403, 404:
		return 4 // FORBIDDEN_EXCEPTION
	case 429:
		return 7 // LIMIT_EXCEEDED_EXCEPTION
	case 400, 415:
		return 5 // SERIALIZATION_EXCEPTION
	}
	return 1 // NETWORK_EXCEPTION
}

// Retry is what a route allows beyond the rule that a call which was certainly not
// executed may always go to another endpoint. The zero Retry allows nothing.
type Retry struct {
	Attempts uint8         // num_retries: tries after the first
	PerTry   time.Duration // per_try_timeout; 0: none
	On       RetryOn
	Backoff  time.Duration // retry_back_off.base_interval, doubled each time, jittered; 0: 25 ms
	MaxDelay time.Duration // retry_back_off.max_interval; 0: ten times Backoff
	// SameEndpoint: the try may go to one that was tried (no previous_hosts predicate).
	SameEndpoint bool
}

// RetryOn is a set of conditions. A Dubbo call is not idempotent by default, so a
// source sets them only for conditions that a rule's author has written, never for
// ones that its control plane puts everywhere (Istio's default of two retries).
type RetryOn uint8

const (
	RetryLost       RetryOn = 1 << iota // reset, 5xx: the connection broke with the call in flight
	RetryTryTimeout                     // 5xx, gateway-error, reset, deadline-exceeded: no answer within PerTry
	RetryError                          // 5xx, gateway-error, unavailable, retriable-status-codes: an answer with another status than OK
)

// HashPolicy names what is hashed (RouteAction.HashPolicy). The results of several
// are combined; one without a value is passed over.
type HashPolicy struct {
	Attachment string // header; empty: see the next ones
	Method     bool   // header :method or dubbo-method, :path
	Source     bool   // connection_properties.source_ip: the caller, by address
	Terminal   bool   // if it has a value the rest is not looked at
}

// Fault is what is done to calls on purpose. Shares are in parts per million.
type Fault struct {
	DelayShare, AbortShare uint32
	Delay                  time.Duration // fixed_delay
	AbortStatus            int           // http_status; the call fails with RPCCode of it
}

// Mirror sends a copy of a call elsewhere and drops the answer.
type Mirror struct {
	Cluster string
	Share   uint32 // of the calls, parts per million (runtime_fraction)
}

// ClusterSpec is a set of equal endpoints and how calls are shared between them
// (Cluster of CDS, subset of a DestinationRule). Durations and counts that are 0
// mean the default that is named.
type ClusterSpec struct {
	Name   string // "outbound|20882|blue|com.a.foo"
	Origin string // "destination-rule dubbo/demo"; empty: generated

	Policy  Policy
	Choices int      // with LeastRequest: among how many it chooses (choice_count), at most MostChoices; 0: 2
	Ring    RingSize // with RingHash
	Table   int      // with Maglev: maglev_lb_config.table_size; 0, or no prime: 65537

	// Resolve: the endpoints' hosts may be names, looked up this often (STRICT_DNS,
	// dns_refresh_rate) by package resolve before the router sees them. 0: they are
	// addresses (EDS, STATIC).
	Resolve time.Duration
	Family  Family // with Resolve

	ConnectTimeout time.Duration // connect_timeout; 0: that of the proxy
	KeepAlive      KeepAlive     // upstream_connection_options.tcp_keepalive
	Limits         Limits        // circuit_breakers.thresholds[DEFAULT]
	Outlier        *Outlier      // outlier_detection; nil: none

	// PanicPercent: when less of a priority than this is healthy, health is not
	// looked at (healthy_panic_threshold). 0: no panic, which is Istio's default;
	// xDS's own, when unset, is 50.
	PanicPercent float64
	// LocalityWeighted: LocalitySpec.Weight counts (locality_weighted_lb_config).
	LocalityWeighted bool

	// Unsupported is what of the cluster cannot be honoured, one line each.
	Unsupported []string
}

// Family is which addresses of a name count (dns_lookup_family).
type Family uint8

const (
	AutoFamily    Family = iota // AUTO: those of IPv6, if there are any, else those of IPv4
	IPv4Only                    // V4_ONLY, which Istio sends
	IPv6Only                    // V6_ONLY
	IPv4Preferred               // V4_PREFERRED: those of IPv4, if there are any, else those of IPv6
	BothFamilies                // ALL
)

// MostChoices bounds ClusterSpec.Choices: each is a draw for each call.
const MostChoices = 32

// RingSize bounds the points on the ring.
type RingSize struct {
	Min, Max int // minimum_ring_size, 0: 1024; maximum_ring_size, 0: 8388608
}

// KeepAlive is TCP's own; zero values are the system's.
type KeepAlive struct {
	Enabled        bool
	Probes         int           // keepalive_probes
	Idle, Interval time.Duration // keepalive_time, keepalive_interval
}

// Unlimited is a limit that is none; Istio sends it for each that is not set.
// Nothing is one that lets nothing pass, 0 in xDS.
const (
	Unlimited = 1<<32 - 1
	Nothing   = 1<<32 - 2
)

// Limits are the circuit breakers. All but HostConnections count over the whole
// cluster. 0 means Unlimited here.
type Limits struct {
	Connections uint32 // max_connections: upstream connections; one to each endpoint is always allowed
	Pending     uint32 // max_pending_requests: calls that wait for a connection to be made
	Requests    uint32 // max_requests: calls in flight
	Retries     uint32 // max_retries: retries in flight, without a RetryBudget
	// RetryBudget takes the place of Retries, and of the agent's own budget
	// (retry_budget); nil: none.
	RetryBudget     *RetryBudget
	HostConnections uint32 // per_host_thresholds.max_connections: to one endpoint
}

// RetryBudget allows retries in flight in proportion to the calls in flight.
type RetryBudget struct {
	Percent     float64 // budget_percent; xDS's default is 20
	Concurrency uint32  // min_retry_concurrency: so many are always allowed; xDS's default is 3
}

// Outlier is when an endpoint is ejected, and how long. A remote error is an answer
// with another status than OK; a local one a refused or broken connection, or no
// answer in time. Exceptions that a service throws are no errors.
type Outlier struct {
	Consecutive         uint32        // consecutive_5xx: errors in a row, remote, and local unless Split; 0: not looked at
	ConsecutiveGateway  uint32        // consecutive_gateway_failure: the same, of local errors and answers of another agent only; 0: not looked at
	ConsecutiveLocal    uint32        // consecutive_local_origin_failure, with Split; 0: not looked at
	Split               bool          // split_external_local_origin_errors
	Interval            time.Duration // 0: 10 s
	BaseEjection        time.Duration // base_ejection_time, times the ejections so far; 0: 30 s
	MaxEjection         time.Duration // max_ejection_time; 0: 300 s, at least BaseEjection
	Jitter              time.Duration // max_ejection_time_jitter: at most so much longer, at random
	MaxEjectionPercent  uint32        // of the endpoints; 100: all
	AlwaysOne           bool          // always_eject_one_host: one may be ejected whatever MaxEjectionPercent says
	SuccessRate         bool          // enforcing_success_rate above 0; with Split of remote errors only
	LocalSuccessRate    bool          // enforcing_local_origin_success_rate above 0; of local errors, with Split
	SuccessRateHosts    int           // success_rate_minimum_hosts; 0: 5
	SuccessRateRequests int           // success_rate_request_volume, in Interval; 0: 100
	SuccessRateFactor   float64       // success_rate_stdev_factor, as 1.9; 0: 1.9
}

// EndpointSet is the endpoints of a cluster (ClusterLoadAssignment of EDS, or
// Cluster.load_assignment).
type EndpointSet struct {
	Localities []LocalitySpec
	// Overprovisioning in percent: a priority gets all calls while this times its
	// healthy share is at least 100 (overprovisioning_factor). 0: 140.
	Overprovisioning uint32
	// Unsupported is what is wrong with the set, one line each: a name that cannot be
	// looked up.
	Unsupported []string
}

// LocalitySpec is the endpoints of one place (LocalityLbEndpoints).
type LocalitySpec struct {
	Region, Zone, SubZone string
	Priority              uint32 // 0 is the first
	Weight                uint32 // load_balancing_weight, with ClusterSpec.LocalityWeighted; 0: gets nothing
	Endpoints             []EndpointSpec
}

// EndpointSpec is one endpoint (LbEndpoint).
type EndpointSpec struct {
	Address string // host:port; the router is given IP addresses, or it does not know when they change
	Host    string // the name that Address was found by; empty: it was given
	Weight  uint32 // load_balancing_weight; 0: 1
	Health  Health
	// Mesh: it is the inbound listener of another agent (tlsMode istio in
	// metadata, or the port is one of meshPorts; CONTRACT §5).
	Mesh     bool
	Metadata map[string]string // for people: "workload": "reviews;dubbo;…"
}

// Health is what the control plane says of an endpoint (HealthStatus).
type Health uint8

const (
	Healthy   Health = iota // HEALTHY, UNKNOWN
	Degraded                // DEGRADED: as Unhealthy, but used before those
	Draining                // DRAINING, TIMEOUT: as Unhealthy
	Unhealthy               // UNHEALTHY: gets calls in panic only
)

// Routing says which sources decide about a service.
type Routing string

const (
	FromRegistry        Routing = "registry"          // the registries' providers
	FromXDS             Routing = "xds"               // rules alone: without a route calls are refused
	FromXDSThenRegistry Routing = "xds-then-registry" // rules while they lead to endpoints, else the registries
)
