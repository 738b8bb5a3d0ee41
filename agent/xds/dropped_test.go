package xds

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	dubbov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/internal/prototest"
	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// These tests set each field of the messages that control planes send, by reflection,
// and fail for one that neither changes what the router gets nor is said. Fields that
// mean nothing to a Dubbo call are named here, with the reason.

func asText(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

const (
	statistics = "Envoy's statistics and traces"
	ofHTTP     = "HTTP alone"
	internals  = "how Envoy does it, not what it does"
	metadata   = "for other programs; Istio's own name of the resource is read, see TestRoutes"
	regexps    = "Go's RE2 has a bound of its own"
	noRuntime  = "there is no runtime"
)

// leaves are set as a whole.
var leaves = []string{
	"envoy.type.v3.FractionalPercent", "envoy.type.v3.Percent", "envoy.config.core.v3.RuntimeFractionalPercent", "envoy.config.core.v3.Metadata",
	"envoy.config.core.v3.TypedExtensionConfig", "envoy.config.route.v3.FilterAction", "envoy.config.core.v3.ConfigSource", "envoy.config.core.v3.TransportSocket", "xds.core.v3.TypedExtensionConfig",
	"envoy.config.route.v3.ClusterSpecifierPlugin", "envoy.config.cluster.v3.Filter", "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
	"envoy.extensions.filters.network.dubbo_proxy.v3.DubboFilter",
}

func nothingDropped(t *testing.T, s prototest.Subject) {
	t.Helper()
	s.Leaves = leaves
	s.Said = func(before, after, field string) bool {
		return strings.Count(after, field) > strings.Count(before, field)
	}
	for _, path := range s.Dropped() {
		t.Errorf("%s: dropped in silence", path)
	}
}

func TestNoFieldOfRoutesIsDropped(t *testing.T) {
	config := func(top, host, match, action, more string) proto.Message {
		return parse(t, fmt.Sprintf(`name: "r" %s virtual_hosts { name: "shop" domains: "shop" %s routes { match { %s } %s %s } }`, top, host, match, action, more), new(routev3.RouteConfiguration))
	}
	const prefix, forward = `prefix: "/"`, `route { cluster: "a" }`
	const header, bare, mirror = `request_headers_to_add { header { key: "k" value: "v" } }`, `request_headers_to_add { header { key: "k" } }`, `request_mirror_policies { cluster: "m" }`
	const retry = `retry_policy { retry_on: "reset" retry_host_predicate { name: "envoy.retry_host_predicates.previous_hosts" } }`
	weighted := func(more string) string {
		return `route { weighted_clusters { clusters { name: "a" weight { value: 1 } ` + more + ` } } }`
	}
	bases := map[string]proto.Message{
		"most_specific_header_mutations_wins":                                  config(header, `request_headers_to_add { header { key: "k" value: "w" } }`, prefix, forward, ""),
		"virtual_hosts.routes.match.headers":                                   config("", "", prefix+` headers { name: "k" string_match { exact: "v" } }`, forward, ""),
		"virtual_hosts.routes.match.query_parameters":                          config("", "", prefix+` query_parameters { name: "k" string_match { exact: "v" } }`, forward, ""),
		"virtual_hosts.routes.route.weighted_clusters":                         config("", "", prefix, weighted(""), ""),
		"virtual_hosts.routes.route.weighted_clusters.clusters.cluster_header": config("", "", prefix, `route { weighted_clusters { clusters { weight { value: 1 } } } }`, ""),
		"virtual_hosts.routes.route.hash_policy.header":                        config("", "", prefix, `route { cluster: "a" hash_policy { header { header_name: "k" } } }`, ""),
		"virtual_hosts.routes.route.hash_policy.query_parameter":               config("", "", prefix, `route { cluster: "a" hash_policy { query_parameter { name: "k" } } }`, ""),
		"virtual_hosts.routes.route.hash_policy.terminal":                      config("", "", prefix, `route { cluster: "a" hash_policy { header { header_name: "k" } } }`, ""),
		"virtual_hosts.routes.direct_response":                                 config("", "", prefix, `direct_response { status: 200 body { inline_string: "x" } }`, ""),
		"virtual_hosts.routes.direct_response.body.inline_bytes":               config("", "", prefix, `direct_response { status: 200 body { inline_bytes: "y" } }`, ""),
		"virtual_hosts.routes.route.retry_policy":                              config("", "", prefix, `route { cluster: "a" `+retry+` }`, ""),
		"virtual_hosts.retry_policy":                                           config("", retry, prefix, forward, ""),
		"virtual_hosts.routes.route.request_mirror_policies":                   config("", "", prefix, `route { cluster: "a" `+mirror+` }`, ""),
		"virtual_hosts.request_mirror_policies":                                config("", mirror, prefix, forward, ""),
		"request_mirror_policies":                                              config(mirror, "", prefix, forward, ""),
	}
	for where, with := range map[string]func(string) proto.Message{
		"request_headers_to_add":                                                       func(h string) proto.Message { return config(h, "", prefix, forward, "") },
		"virtual_hosts.request_headers_to_add":                                         func(h string) proto.Message { return config("", h, prefix, forward, "") },
		"virtual_hosts.routes.request_headers_to_add":                                  func(h string) proto.Message { return config("", "", prefix, forward, h) },
		"virtual_hosts.routes.route.weighted_clusters.clusters.request_headers_to_add": func(h string) proto.Message { return config("", "", prefix, weighted(h), "") },
	} {
		bases[where] = with(header)
		bases[where+".header.raw_value"], bases[where+".keep_empty_value"] = with(bare), with(bare)
	}
	nothingDropped(t, prototest.Subject{
		Base: config("", "", prefix, forward, ""), Bases: bases,
		Translate: func(m proto.Message) string {
			c := m.(*routev3.RouteConfiguration)
			var out []any
			for i, v := range c.GetVirtualHosts() {
				out = append(out, virtualHost(fmt.Sprint(i), c, v, 20882))
			}
			return asText(t, out)
		},
		Meaningless: map[string]string{
			"name": "of the configuration", "virtual_hosts.name": "the key under which it is handed on, see TestHosts", "*.metadata": metadata,
			"*.stat_prefix": statistics, "virtual_hosts.virtual_clusters": statistics, "virtual_hosts.routes.decorator": statistics, "virtual_hosts.routes.tracing": statistics,
			"*.trace_sampled": statistics, "*.google_re2": regexps, "*.runtime_key_prefix": noRuntime,
			"ignore_port_in_host_matching":                                              "hosts are compared without their ports anyway, see TestHosts",
			"ignore_path_parameters_in_path_matching":                                   "the path of a Dubbo call has none",
			"internal_only_headers":                                                     ofHTTP,
			"max_direct_response_body_size_bytes":                                       "bounds what the server sends itself",
			"validate_clusters":                                                         "clusters that are missing are waited for, and counted",
			"virtual_hosts.include_request_attempt_count":                               "a header of HTTP, which Istio puts everywhere",
			"virtual_hosts.include_attempt_count_in_response":                           ofHTTP,
			"virtual_hosts.include_is_timeout_retry_header":                             ofHTTP,
			"*.per_request_buffer_limit_bytes":                                          "frames are bounded by limits.frame",
			"*.request_body_buffer_limit":                                               "frames are bounded by limits.frame",
			"*.disable_shadow_host_suffix_append":                                       ofHTTP,
			"*.append":                                                                  "true is the default; false is in TestRoutes",
			"*.host_selection_retry_max_attempts":                                       internals,
			"*.retriable_status_codes":                                                  "with its condition each error status is retried",
			"virtual_hosts.routes.direct_response.body.watched_directory":               "of a file, which is said",
			"virtual_hosts.routes.route.append_x_forwarded_host":                        ofHTTP,
			"virtual_hosts.routes.route.cluster_not_found_response_code":                ofHTTP,
			"virtual_hosts.routes.route.early_data_policy":                              ofHTTP,
			"virtual_hosts.routes.route.flush_timeout":                                  ofHTTP,
			"virtual_hosts.routes.route.grpc_timeout_offset":                            ofHTTP,
			"virtual_hosts.routes.route.max_grpc_timeout":                               ofHTTP,
			"virtual_hosts.routes.route.include_vh_rate_limits":                         "the rate limits are said",
			"virtual_hosts.routes.route.upgrade_configs":                                ofHTTP,
			"*.grpc_timeout_header_max":                                                 ofHTTP,
			"*.grpc_timeout_header_offset":                                              ofHTTP,
			"virtual_hosts.routes.match.case_sensitive":                                 "true is the default; false is in TestMatches",
			"virtual_hosts.retry_policy.retry_host_predicate.typed_config":              "of predicates that have one, all of which are said",
			"virtual_hosts.routes.route.retry_policy.retry_host_predicate.typed_config": "of predicates that have one, all of which are said",
			"*.total_weight":                                                            "deprecated: it is the sum",
		},
	})
}

func TestNoFieldOfFaultsIsDropped(t *testing.T) {
	nothingDropped(t, prototest.Subject{
		Base: parse(t, `delay { fixed_delay { seconds: 1 } percentage { numerator: 1 } } abort { http_status: 500 percentage { numerator: 1 } }`, new(faultv3.HTTPFault)),
		Translate: func(m proto.Message) string {
			c := parse(t, `name: "r" virtual_hosts { name: "shop" domains: "shop" routes { match { prefix: "/" } route { cluster: "a" } } }`, new(routev3.RouteConfiguration))
			c.VirtualHosts[0].Routes[0].TypedPerFilterConfig = map[string]*anypb.Any{faultFilter: xdstest.Any(m)}
			return asText(t, virtualHost("v", c, c.VirtualHosts[0], 20882))
		},
		Meaningless: map[string]string{
			"filter_metadata": statistics, "disable_downstream_cluster_stats": statistics,
			"delay_percent_runtime": noRuntime, "abort_percent_runtime": noRuntime, "delay_duration_runtime": noRuntime, "abort_http_status_runtime": noRuntime,
			"max_active_faults_runtime": noRuntime, "response_rate_limit_percent_runtime": noRuntime, "abort_grpc_status_runtime": noRuntime,
		},
	})
}

// clusters is a subject of clusters.
func clusterSubject(t *testing.T, base string) prototest.Subject {
	return prototest.Subject{
		Base: parse(t, `name: "a" `+base, new(clusterv3.Cluster)),
		Translate: func(m proto.Message) string {
			return asText(t, clusterSpec(&xdsclient.Cluster{Name: "a", Config: m.(*clusterv3.Cluster)}))
		},
	}
}

func TestNoFieldOfClustersIsDropped(t *testing.T) {
	bases := map[string]proto.Message{}
	for path, text := range map[string]string{
		"ring_hash_lb_config":      `type: EDS lb_policy: RING_HASH ring_hash_lb_config { hash_function: XX_HASH }`,
		"maglev_lb_config":         `type: EDS lb_policy: MAGLEV`,
		"least_request_lb_config":  `type: EDS lb_policy: LEAST_REQUEST`,
		"dns_refresh_rate":         `type: STRICT_DNS`,
		"respect_dns_ttl":          `type: STRICT_DNS dns_refresh_rate { seconds: 60 }`,
		"dns_lookup_family":        `type: STRICT_DNS`,
		"dns_failure_refresh_rate": `type: STRICT_DNS`,
		"circuit_breakers":         `type: EDS circuit_breakers { thresholds {} }`,
		"outlier_detection":        `type: EDS outlier_detection { enforcing_consecutive_gateway_failure { value: 100 } split_external_local_origin_errors: true }`,
		"outlier_detection.split_external_local_origin_errors": `type: EDS outlier_detection {}`,
	} {
		bases[path] = parse(t, `name: "a" `+text, new(clusterv3.Cluster))
	}
	s := clusterSubject(t, "type: EDS")
	s.Bases = bases
	s.Meaningless = map[string]string{
		"name": "the key", "alt_stat_name": statistics, "track_cluster_stats": statistics, "track_timeout_budgets": statistics, "stats_matcher": statistics,
		"lrs_report_endpoint_metrics": "of lrs_server, which is said", "*.track_remaining": statistics, "metadata": metadata,
		"load_assignment":                                              "endpoints have a test of their own, in package xdsclient",
		"eds_cluster_config.service_name":                              "package xdsclient asks for it",
		"per_connection_buffer_limit_bytes":                            "bounds are those of the proxy",
		"upstream_http_protocol_options":                               "TLS is said",
		"http_protocol_options":                                        ofHTTP,
		"http2_protocol_options":                                       ofHTTP,
		"protocol_selection":                                           ofHTTP,
		"common_http_protocol_options.max_headers_count":               ofHTTP,
		"common_http_protocol_options.max_response_headers_kb":         ofHTTP,
		"common_http_protocol_options.headers_with_underscores_action": ofHTTP,
		"cleanup_interval":                                             "of ORIGINAL_DST, which is said",
		"wait_for_warm_on_init":                                        "routes wait for their clusters anyway",
		"ignore_health_on_host_removal":                                "an endpoint that was removed gets no calls, whatever its health",
		"common_lb_config.update_merge_window":                         internals,
		"common_lb_config.override_host_status":                        "of the policy override_host, which is said",
		"dns_jitter":                                                   "look-ups are spread by up to a tenth anyway",
		"circuit_breakers.per_host_thresholds.priority":                "Envoy looks at those of DEFAULT alone",
		"outlier_detection.failure_percentage_threshold":               "counts when it is enforced, which is said",
		"outlier_detection.failure_percentage_minimum_hosts":           "counts when it is enforced, which is said",
		"outlier_detection.failure_percentage_request_volume":          "counts when it is enforced, which is said",
	}
	nothingDropped(t, s)
}

// What hides in an Any.
func TestNoFieldOfClusterExtensionsIsDropped(t *testing.T) {
	policy := func(m proto.Message) *clusterv3.Cluster {
		return &clusterv3.Cluster{Name: "a", LoadBalancingPolicy: &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
			TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: "p", TypedConfig: xdstest.Any(m)},
		}}}}
	}
	for name, test := range map[string]struct {
		message proto.Message
		cluster func(proto.Message) *clusterv3.Cluster
		skip    map[string]string
	}{
		"round robin":   {new(roundv3.RoundRobin), policy, nil},
		"random":        {new(randomv3.Random), policy, nil},
		"least request": {new(leastv3.LeastRequest), policy, nil},
		"ring hash":     {&ringv3.RingHash{HashFunction: ringv3.RingHash_XX_HASH}, policy, nil},
		"maglev":        {new(maglevv3.Maglev), policy, nil},
		"dns": {new(dnsv3.DnsCluster), func(m proto.Message) *clusterv3.Cluster {
			return &clusterv3.Cluster{Name: "a", ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{Name: "envoy.cluster.dns", TypedConfig: xdstest.Any(m)}}}
		}, map[string]string{"dns_jitter": "look-ups are spread by up to a tenth anyway", "respect_dns_ttl": "in TestClusters"}},
		"http options": {new(httpv3.HttpProtocolOptions), func(m proto.Message) *clusterv3.Cluster {
			return &clusterv3.Cluster{Name: "a", TypedExtensionProtocolOptions: map[string]*anypb.Any{"x": xdstest.Any(m)}}
		}, map[string]string{
			"upstream_http_protocol_options": "TLS is said", "explicit_http_config": ofHTTP, "use_downstream_protocol_config": ofHTTP, "auto_config": ofHTTP, "header_validation_config": ofHTTP,
			"common_http_protocol_options.max_headers_count": ofHTTP, "common_http_protocol_options.max_response_headers_kb": ofHTTP, "common_http_protocol_options.headers_with_underscores_action": ofHTTP,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := clusterSubject(t, "")
			translate := s.Translate
			s.Base, s.Meaningless = test.message, test.skip
			s.Translate = func(m proto.Message) string { return translate(test.cluster(m)) }
			nothingDropped(t, s)
		})
	}
}

func TestNoFieldOfDubboProxyIsDropped(t *testing.T) {
	nothingDropped(t, prototest.Subject{
		Base: parse(t, `stat_prefix: "x" multiple_route_config { name: "m" route_config { name: "r" interface: "com.a.Foo" routes { match { headers { name: "k" string_match { exact: "v" } } method { name { exact: "say" } } } route { cluster: "a" } } } }`, new(dubbov3.DubboProxy)),
		Bases: map[string]proto.Message{
			"multiple_route_config.route_config.routes.route.weighted_clusters":                                                  parse(t, `multiple_route_config { route_config { routes { route { weighted_clusters { clusters { name: "a" weight { value: 1 } request_headers_to_add { header { key: "k" value: "v" } } } } } } } }`, new(dubbov3.DubboProxy)),
			"multiple_route_config.route_config.routes.route.weighted_clusters.clusters.cluster_header":                          parse(t, `multiple_route_config { route_config { routes { route { weighted_clusters { clusters { weight { value: 1 } } } } } } }`, new(dubbov3.DubboProxy)),
			"multiple_route_config.route_config.routes.route.weighted_clusters.clusters.request_headers_to_add.header.raw_value": parse(t, `multiple_route_config { route_config { routes { route { weighted_clusters { clusters { name: "a" request_headers_to_add { header { key: "k" } } } } } } } }`, new(dubbov3.DubboProxy)),
			"multiple_route_config.route_config.routes.route.weighted_clusters.clusters.request_headers_to_add.keep_empty_value": parse(t, `multiple_route_config { route_config { routes { route { weighted_clusters { clusters { name: "a" request_headers_to_add { header { key: "k" } } } } } } } }`, new(dubbov3.DubboProxy)),
		},
		Translate: func(m proto.Message) string {
			value, names, clusters, err := dubboProxy.Filter(xdstest.Any(m).GetValue())
			if err != nil {
				return err.Error()
			}
			tr := newTranslator(Sidecar, 20882, nil)
			out := route.RuleUpdate{Routes: map[string]*route.RouteSpec{}}
			said := map[string][]string{}
			tr.listener("l", &xdsclient.Listener{Name: "l", Config: &listenerv3.Listener{Name: "l"}, Filters: []xdsclient.Filter{{TypeURL: dubboProxyURL, Value: value}}}, &out, said)
			return asText(t, []any{out, said, names, clusters})
		},
		Meaningless: map[string]string{
			"stat_prefix": statistics, "*.google_re2": regexps, "*.append": "true is the default", "*.total_weight": "deprecated: it is the sum", "*.runtime_key_prefix": noRuntime,
			"multiple_route_config.name": "of the resource", "protocol_type": "has one value", "serialization_type": "has one value",
			"route_config": "the old form of multiple_route_config, which wins; in TestDubboProxy",
		},
	})
}
