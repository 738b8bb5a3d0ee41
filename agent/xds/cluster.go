package xds

import (
	"math/big"
	"net"
	"slices"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	lbv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/xdsclient"
)

const (
	policyURL   = "type.googleapis.com/envoy.extensions.load_balancing_policies."
	dnsCluster  = "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster"
	httpOptions = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	dnsRefresh  = 5 * time.Second // dns_refresh_rate when it is not set
)

// clusterSpec translates a cluster without its endpoints.
func clusterSpec(c *xdsclient.Cluster) *route.ClusterSpec {
	m := c.Config
	var n notes
	s := &route.ClusterSpec{Name: c.Name, Origin: origin(m.GetMetadata()), ConnectTimeout: max(0, m.GetConnectTimeout().AsDuration())}
	if c.Orphan {
		n.add("the server has removed this cluster, but a route still names it")
	}
	n.fields(m, "name alt_stat_name type cluster_type eds_cluster_config connect_timeout per_connection_buffer_limit_bytes lb_policy load_assignment circuit_breakers "+
		"upstream_http_protocol_options common_http_protocol_options http_protocol_options http2_protocol_options typed_extension_protocol_options dns_refresh_rate dns_jitter dns_failure_refresh_rate "+
		"respect_dns_ttl dns_lookup_family wait_for_warm_on_init outlier_detection cleanup_interval common_lb_config ring_hash_lb_config maglev_lb_config least_request_lb_config round_robin_lb_config "+
		"metadata protocol_selection upstream_connection_options load_balancing_policy track_cluster_stats track_timeout_budgets ignore_health_on_host_removal "+
		"lrs_report_endpoint_metrics transport_socket transport_socket_matches filters stats_matcher")
	if e := m.GetEdsClusterConfig().GetEdsConfig(); e != nil && e.GetAds() == nil && e.GetSelf() == nil {
		n.add("eds_config is not honoured, endpoints are asked for where the cluster came from")
	}
	for _, f := range m.GetFilters() {
		if !harmless[f.GetName()] {
			n.add("network filter %s is not applied", f.GetName())
		}
	}
	switch {
	case m.GetClusterType().GetTypedConfig().GetTypeUrl() == dnsCluster:
		var d dnsv3.DnsCluster
		if err := proto.Unmarshal(m.GetClusterType().GetTypedConfig().GetValue(), &d); err != nil {
			n.add("cluster_type %s cannot be read, names are not looked up", m.GetClusterType().GetName())
			break
		}
		n.fields(&d, "dns_refresh_rate dns_lookup_family dns_jitter respect_dns_ttl")
		names(s, d.GetDnsRefreshRate(), d.GetDnsLookupFamily().String(), d.GetRespectDnsTtl())
	case m.GetClusterType() != nil:
		n.add("cluster_type %s is not honoured, it has no endpoints", m.GetClusterType().GetName())
	case m.GetType() == clusterv3.Cluster_STRICT_DNS, m.GetType() == clusterv3.Cluster_LOGICAL_DNS:
		//lint:ignore SA1019 control planes still send it
		names(s, m.GetDnsRefreshRate(), m.GetDnsLookupFamily().String(), m.GetRespectDnsTtl())
		if m.GetType() == clusterv3.Cluster_LOGICAL_DNS {
			n.add("type LOGICAL_DNS is taken as STRICT_DNS: each address of the name gets calls")
		}
		//lint:ignore SA1019 control planes still send it
		if m.GetDnsFailureRefreshRate() != nil {
			n.add("dns_failure_refresh_rate is not honoured, it is dns_refresh_rate")
		}
	case m.GetType() == clusterv3.Cluster_ORIGINAL_DST:
		n.add("type ORIGINAL_DST is not honoured, it has no endpoints")
	}
	if m.GetTransportSocket() != nil && m.GetTransportSocket().GetName() != rawBuffer {
		n.add("transport_socket %s is not honoured, endpoints are called without it", m.GetTransportSocket().GetName())
	}
	for _, t := range m.GetTransportSocketMatches() {
		if t.GetTransportSocket().GetName() != rawBuffer && !isIstioTLS(t) { // endpointSet tells of Istio's
			n.add("transport_socket_matches %s is not honoured, endpoints are called without it", t.GetName())
		}
	}
	balancing(s, m, &n)
	if u := m.GetUpstreamConnectionOptions(); u != nil {
		n.fields(u, "tcp_keepalive")
	}
	if k := m.GetUpstreamConnectionOptions().GetTcpKeepalive(); k != nil {
		s.KeepAlive = route.KeepAlive{
			Enabled: true, Probes: int(k.GetKeepaliveProbes().GetValue()),
			Idle:     time.Duration(k.GetKeepaliveTime().GetValue()) * time.Second,
			Interval: time.Duration(k.GetKeepaliveInterval().GetValue()) * time.Second,
		}
	}
	limits(s, m.GetCircuitBreakers(), &n)
	s.Outlier = outlier(m.GetOutlierDetection(), &n)
	s.PanicPercent = 50
	if p := m.GetCommonLbConfig().GetHealthyPanicThreshold(); p != nil {
		s.PanicPercent = p.GetValue()
	}
	if l := m.GetCommonLbConfig(); l != nil {
		s.LocalityWeighted = s.LocalityWeighted || l.GetLocalityWeightedLbConfig() != nil
		n.fields(l, "healthy_panic_threshold locality_weighted_lb_config update_merge_window override_host_status")
	}
	//lint:ignore SA1019 control planes still send it
	connections(m.GetCommonHttpProtocolOptions(), &n)
	for name, a := range m.GetTypedExtensionProtocolOptions() {
		if a.GetTypeUrl() == httpOptions {
			httpProtocol(a, &n)
		} else {
			n.add("typed_extension_protocol_options %s is not honoured", name)
		}
	}
	slices.Sort(n)
	s.Unsupported = n
	return s
}

// names has the hosts of a cluster looked up. The system's resolver does not tell
// how long an answer holds: with ttl it is asked often, and answers from its cache.
func names(s *route.ClusterSpec, every *durationpb.Duration, family string, ttl bool) {
	s.Resolve = dnsRefresh
	if d := every.AsDuration(); d > 0 && (d < dnsRefresh || !ttl) {
		s.Resolve = d
	}
	switch family {
	case "V4_ONLY":
		s.Family = route.IPv4Only
	case "V6_ONLY":
		s.Family = route.IPv6Only
	case "V4_PREFERRED":
		s.Family = route.IPv4Preferred
	case "ALL":
		s.Family = route.BothFamilies
	}
}

// httpProtocol notes what of the options for HTTP would mean something to Dubbo.
func httpProtocol(a *anypb.Any, n *notes) {
	var o httpv3.HttpProtocolOptions
	if proto.Unmarshal(a.GetValue(), &o) != nil {
		n.add("the options for HTTP cannot be read")
		return
	}
	n.fields(&o, "common_http_protocol_options upstream_http_protocol_options explicit_http_config use_downstream_protocol_config auto_config header_validation_config outlier_detection http_filters")
	connections(o.GetCommonHttpProtocolOptions(), n)
	if o.GetOutlierDetection() != nil {
		n.add("outlier_detection of the protocol options is not honoured")
	}
	for _, f := range o.GetHttpFilters() {
		if !harmless[f.GetName()] {
			n.add("HTTP filter %s is not applied", f.GetName())
		}
	}
}

// connections notes what would bound the connections to endpoints.
func connections(o *corev3.HttpProtocolOptions, n *notes) {
	if o == nil {
		return
	}
	n.fields(o, "idle_timeout max_requests_per_connection max_headers_count max_response_headers_kb headers_with_underscores_action")
	if o.GetIdleTimeout().AsDuration() > 0 {
		n.add("idle_timeout is not honoured")
	}
	if o.GetMaxRequestsPerConnection().GetValue() > 0 {
		n.add("max_requests_per_connection is not honoured")
	}
}

func balancing(s *route.ClusterSpec, m *clusterv3.Cluster, n *notes) {
	if l := m.GetLoadBalancingPolicy(); l != nil {
		for _, p := range l.GetPolicies() {
			if typedPolicy(s, p.GetTypedExtensionConfig(), n) {
				return
			}
		}
		n.add("load_balancing_policy: none of its policies is known, calls are shared by least request")
		s.Policy = route.LeastRequest
		return
	}
	switch p := m.GetLbPolicy(); p {
	case clusterv3.Cluster_ROUND_ROBIN:
		s.Policy = route.RoundRobin
		if c := m.GetRoundRobinLbConfig(); c != nil {
			n.fields(c, "")
		}
	case clusterv3.Cluster_LEAST_REQUEST:
		s.Policy = route.LeastRequest
		if c := m.GetLeastRequestLbConfig(); c != nil {
			n.fields(c, "choice_count")
			choices(s, c.GetChoiceCount(), n)
		}
	case clusterv3.Cluster_RANDOM:
		s.Policy = route.Random
	case clusterv3.Cluster_RING_HASH:
		s.Policy = route.RingHash
		r := m.GetRingHashLbConfig()
		s.Ring = route.RingSize{Min: size(r.GetMinimumRingSize()), Max: size(r.GetMaximumRingSize())}
		if r.GetHashFunction() != clusterv3.Cluster_RingHashLbConfig_XX_HASH {
			n.add("ring_hash_lb_config.hash_function %s is not honoured", r.GetHashFunction())
		}
	case clusterv3.Cluster_MAGLEV:
		maglev(s, m.GetMaglevLbConfig().GetTableSize(), n)
	default:
		n.add("lb_policy %s is not honoured, calls are shared by least request", p)
		s.Policy = route.LeastRequest
	}
}

// maglev notes a table that Envoy would not take: its size must be a prime.
func maglev(s *route.ClusterSpec, v *wrapperspb.UInt64Value, n *notes) {
	s.Policy, s.Table = route.Maglev, size(v)
	if v != nil && !big.NewInt(int64(s.Table)).ProbablyPrime(0) {
		n.add("maglev table_size %d is no prime, it is 65537", s.Table)
		s.Table = 0
	}
}

// size is a number of the API as an int; unreasonable ones are cut.
func size(v *wrapperspb.UInt64Value) int { return int(min(v.GetValue(), 1<<30)) }

func choices(s *route.ClusterSpec, v *wrapperspb.UInt32Value, n *notes) {
	switch count := v.GetValue(); {
	case count > route.MostChoices:
		n.add("choice_count %d is not honoured, it is %d", count, route.MostChoices)
		s.Choices = route.MostChoices
	case count > 2:
		s.Choices = int(count)
	}
}

// typedPolicy takes a policy in the form of an extension; false: it is not known.
func typedPolicy(s *route.ClusterSpec, c *corev3.TypedExtensionConfig, n *notes) bool {
	a := c.GetTypedConfig()
	switch a.GetTypeUrl() {
	case policyURL + "round_robin.v3.RoundRobin":
		var p roundv3.RoundRobin
		if proto.Unmarshal(a.GetValue(), &p) != nil {
			return false
		}
		s.Policy = route.RoundRobin
		n.fields(&p, "locality_lb_config")
		localities(s, p.GetLocalityLbConfig(), n)
	case policyURL + "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin":
		s.Policy = route.RoundRobin
		n.add("client_side_weighted_round_robin is done by the configured weights alone")
	case policyURL + "random.v3.Random":
		var p randomv3.Random
		if proto.Unmarshal(a.GetValue(), &p) != nil {
			return false
		}
		s.Policy = route.Random
		n.fields(&p, "locality_lb_config")
		localities(s, p.GetLocalityLbConfig(), n)
	case policyURL + "least_request.v3.LeastRequest":
		var p leastv3.LeastRequest
		if proto.Unmarshal(a.GetValue(), &p) != nil {
			return false
		}
		s.Policy = route.LeastRequest
		choices(s, p.GetChoiceCount(), n)
		n.fields(&p, "choice_count locality_lb_config")
		localities(s, p.GetLocalityLbConfig(), n)
	case policyURL + "ring_hash.v3.RingHash":
		var p ringv3.RingHash
		if proto.Unmarshal(a.GetValue(), &p) != nil {
			return false
		}
		s.Policy, s.Ring = route.RingHash, route.RingSize{Min: size(p.GetMinimumRingSize()), Max: size(p.GetMaximumRingSize())}
		n.fields(&p, "minimum_ring_size maximum_ring_size hash_function locality_weighted_lb_config")
		if f := p.GetHashFunction(); f == ringv3.RingHash_MURMUR_HASH_2 {
			n.add("hash_function %s is not honoured", f)
		}
		s.LocalityWeighted = s.LocalityWeighted || p.GetLocalityWeightedLbConfig() != nil
	case policyURL + "maglev.v3.Maglev":
		var p maglevv3.Maglev
		if proto.Unmarshal(a.GetValue(), &p) != nil {
			return false
		}
		maglev(s, p.GetTableSize(), n)
		n.fields(&p, "table_size locality_weighted_lb_config")
		s.LocalityWeighted = s.LocalityWeighted || p.GetLocalityWeightedLbConfig() != nil
	case policyURL + "wrr_locality.v3.WrrLocality":
		var p wrrv3.WrrLocality
		if proto.Unmarshal(a.GetValue(), &p) != nil {
			return false
		}
		for _, inner := range p.GetEndpointPickingPolicy().GetPolicies() {
			if inner.GetTypedExtensionConfig().GetTypedConfig().GetTypeUrl() != a.GetTypeUrl() && typedPolicy(s, inner.GetTypedExtensionConfig(), n) {
				s.LocalityWeighted = true
				return true
			}
		}
		return false
	default:
		return false
	}
	return true
}

func localities(s *route.ClusterSpec, l *lbv3.LocalityLbConfig, n *notes) {
	s.LocalityWeighted = s.LocalityWeighted || l.GetLocalityWeightedLbConfig() != nil
	if l != nil {
		n.fields(l, "locality_weighted_lb_config")
	}
}

// limits translates circuit breakers. What is not set is unlimited: Envoy's 1024 is
// meant for HTTP, and Istio sends every value.
func limits(s *route.ClusterSpec, c *clusterv3.CircuitBreakers, n *notes) {
	hosts := uint32(0)
	for _, t := range c.GetPerHostThresholds() {
		if t.GetPriority() == corev3.RoutingPriority_DEFAULT {
			hosts = limit(t.GetMaxConnections()) // the only one that Envoy has there
			n.within("circuit_breakers.per_host_thresholds.", t, "priority max_connections track_remaining")
		}
	}
	s.Limits.HostConnections = hosts
	for _, t := range c.GetThresholds() {
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT {
			n.add("circuit_breakers.thresholds of priority %s is not honoured", t.GetPriority())
			continue
		}
		n.within("circuit_breakers.thresholds.", t, "priority max_connections max_pending_requests max_requests max_retries retry_budget track_remaining")
		s.Limits = route.Limits{
			Connections: limit(t.GetMaxConnections()), Pending: limit(t.GetMaxPendingRequests()),
			Requests: limit(t.GetMaxRequests()), Retries: limit(t.GetMaxRetries()), HostConnections: hosts,
		}
		if b := t.GetRetryBudget(); b != nil {
			n.within("circuit_breakers.thresholds.retry_budget.", b, "budget_percent min_retry_concurrency")
			budget := &route.RetryBudget{Percent: 20, Concurrency: or(b.GetMinRetryConcurrency(), 3)}
			if p := b.GetBudgetPercent(); p != nil {
				budget.Percent = min(max(0, p.GetValue()), 100)
			}
			s.Limits.RetryBudget = budget
		}
	}
}

// limit is 0 when it is not set, as package route has it.
func limit(v *wrapperspb.UInt32Value) uint32 {
	switch {
	case v == nil:
		return 0
	case v.GetValue() == 0:
		return route.Nothing
	}
	return v.GetValue()
}

func outlier(m *clusterv3.OutlierDetection, n *notes) *route.Outlier {
	if m == nil {
		return nil
	}
	o := &route.Outlier{
		Split: m.GetSplitExternalLocalOriginErrors(), Interval: max(0, m.GetInterval().AsDuration()),
		BaseEjection: max(0, m.GetBaseEjectionTime().AsDuration()), MaxEjection: max(0, m.GetMaxEjectionTime().AsDuration()),
		Jitter:              max(0, m.GetMaxEjectionTimeJitter().AsDuration()),
		MaxEjectionPercent:  or(m.GetMaxEjectionPercent(), 10),
		AlwaysOne:           m.GetAlwaysEjectOneHost().GetValue(),
		LocalSuccessRate:    m.GetSplitExternalLocalOriginErrors() && or(m.GetEnforcingLocalOriginSuccessRate(), 100) > 0,
		SuccessRate:         or(m.GetEnforcingSuccessRate(), 100) > 0,
		SuccessRateHosts:    int(m.GetSuccessRateMinimumHosts().GetValue()),
		SuccessRateRequests: int(m.GetSuccessRateRequestVolume().GetValue()),
		SuccessRateFactor:   float64(m.GetSuccessRateStdevFactor().GetValue()) / 1000,
	}
	if or(m.GetEnforcingConsecutive_5Xx(), 100) > 0 {
		o.Consecutive = or(m.GetConsecutive_5Xx(), 5)
	}
	if or(m.GetEnforcingConsecutiveGatewayFailure(), 0) > 0 {
		o.ConsecutiveGateway = or(m.GetConsecutiveGatewayFailure(), 5)
	}
	if o.Split && or(m.GetEnforcingConsecutiveLocalOriginFailure(), 100) > 0 {
		o.ConsecutiveLocal = or(m.GetConsecutiveLocalOriginFailure(), 5)
	}
	for name, v := range map[string]*wrapperspb.UInt32Value{
		"enforcing_consecutive_5xx": m.GetEnforcingConsecutive_5Xx(), "enforcing_success_rate": m.GetEnforcingSuccessRate(),
		"enforcing_local_origin_success_rate":        m.GetEnforcingLocalOriginSuccessRate(),
		"enforcing_consecutive_gateway_failure":      m.GetEnforcingConsecutiveGatewayFailure(),
		"enforcing_consecutive_local_origin_failure": m.GetEnforcingConsecutiveLocalOriginFailure(),
	} {
		if v.GetValue() > 0 && v.GetValue() < 100 {
			n.add("outlier_detection.%s: a part of 100 counts as 100", name)
		}
	}
	n.within("outlier_detection.", m, "consecutive_5xx interval base_ejection_time max_ejection_percent enforcing_consecutive_5xx enforcing_success_rate success_rate_minimum_hosts success_rate_request_volume "+
		"success_rate_stdev_factor consecutive_gateway_failure enforcing_consecutive_gateway_failure split_external_local_origin_errors consecutive_local_origin_failure "+
		"enforcing_consecutive_local_origin_failure enforcing_local_origin_success_rate failure_percentage_threshold enforcing_failure_percentage enforcing_failure_percentage_local_origin "+
		"failure_percentage_minimum_hosts failure_percentage_request_volume max_ejection_time max_ejection_time_jitter always_eject_one_host monitors")
	if m.GetEnforcingFailurePercentage().GetValue() > 0 || m.GetEnforcingFailurePercentageLocalOrigin().GetValue() > 0 {
		n.add("outlier_detection by failure_percentage is not honoured")
	}
	if len(m.GetMonitors()) > 0 {
		n.add("outlier_detection.monitors is not honoured")
	}
	slices.Sort(*n)
	return o
}

func or(v *wrapperspb.UInt32Value, otherwise uint32) uint32 {
	if v == nil {
		return otherwise
	}
	return v.GetValue()
}

// Keys and values of endpoint metadata.
const (
	transportMatch = "envoy.transport_socket_match"
	rawBuffer      = "envoy.transport_sockets.raw_buffer"
	tlsMode        = "tlsMode"
	istio          = "istio"
)

// isIstioTLS tells that a transport socket is for endpoints with tlsMode istio.
// istiod gives it to every cluster, whether or not there are such endpoints.
func isIstioTLS(t *clusterv3.Cluster_TransportSocketMatch) bool {
	return t.GetTransportSocket().GetName() != rawBuffer && t.GetMatch().GetFields()[tlsMode].GetStringValue() == istio
}

// endpointSet translates endpoints of a cluster; nil: they are not known. secure
// tells that those with tlsMode istio are to be called with TLS.
func endpointSet(a *xdsclient.Assignment, secure bool, meshPorts []int, n *notes) *route.EndpointSet {
	if a == nil || a.Missing {
		return nil
	}
	if a.DropPerMillion > 0 {
		n.add("drop_overloads is not honoured")
	}
	for _, field := range a.Unread {
		n.add("%s is not honoured", field)
	}
	s := &route.EndpointSet{Overprovisioning: a.Overprovisioning}
	marked := false
	for _, l := range a.Localities {
		spec := route.LocalitySpec{Region: l.Region, Zone: l.Zone, SubZone: l.SubZone, Priority: l.Priority, Weight: l.Weight}
		if len(l.Endpoints) > 0 {
			spec.Endpoints = make([]route.EndpointSpec, 0, len(l.Endpoints))
		}
		for i := range l.Endpoints {
			e := &l.Endpoints[i]
			if e.Port == 0 {
				n.add("endpoint %s has no port and is left out", e.Host)
				continue
			}
			out := route.EndpointSpec{
				Address: net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))), Weight: e.Weight,
				Mesh: e.Meta(transportMatch, tlsMode) == istio || slices.Contains(meshPorts, int(e.Port)),
			}
			switch e.Health {
			case xdsclient.Unhealthy:
				out.Health = route.Unhealthy
			case xdsclient.Draining, xdsclient.TimedOut:
				out.Health = route.Draining
			case xdsclient.Degraded:
				out.Health = route.Degraded
			}
			marked = marked || e.Meta(transportMatch, tlsMode) == istio
			if w := e.Meta(istio, "workload"); w != "" {
				out.Metadata = map[string]string{"workload": w}
			}
			spec.Endpoints = append(spec.Endpoints, out)
		}
		s.Localities = append(s.Localities, spec)
	}
	if secure && marked {
		n.add("TLS to endpoints with tlsMode istio is not honoured, they are called in plain text")
	}
	return s
}
