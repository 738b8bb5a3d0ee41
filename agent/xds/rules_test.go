package xds

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

func parse[M proto.Message](t *testing.T, text string, m M) M {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return m
}

func TestMatches(t *testing.T) {
	attachment := func(m route.StringMatch) route.Match {
		return route.Match{Attachments: []route.AttachmentMatch{{Key: "k", StringMatch: m}}}
	}
	is := func(kind route.MatchKind, text string) route.StringMatch {
		return route.StringMatch{Kind: kind, Text: text}
	}
	for text, want := range map[string]route.Match{
		`prefix: "/"`:              {},
		`prefix: "/com.a.Foo/say"`: {Path: is(route.Prefix, "/com.a.Foo/say")},
		`path: "/com.a.Foo/sayHello" case_sensitive {}`:                                    {Path: route.StringMatch{Kind: route.Exact, Text: "/com.a.Foo/sayHello", IgnoreCase: true}},
		`safe_regex { regex: "/com.*" }`:                                                   {Path: is(route.Regex, "/com.*")},
		`path_separated_prefix: "/com.a.Foo"`:                                              {Path: is(route.Regex, `/com\.a\.Foo(/.*)?`)},
		`connect_matcher {}`:                                                               {Fraction: route.NoneOf},
		`prefix: "/" headers { name: "k" string_match { exact: "v" } }`:                    attachment(is(route.Exact, "v")),
		`prefix: "/" headers { name: "k" string_match { prefix: "v" ignore_case: true } }`: attachment(route.StringMatch{Kind: route.Prefix, Text: "v", IgnoreCase: true}),
		`prefix: "/" headers { name: "k" string_match { suffix: "v" } }`:                   attachment(is(route.Suffix, "v")),
		`prefix: "/" headers { name: "k" string_match { contains: "v" } }`:                 attachment(is(route.Contains, "v")),
		`prefix: "/" headers { name: "k" string_match { safe_regex { regex: "v" } } }`:     attachment(is(route.Regex, "v")),
		`prefix: "/" headers { name: "k" exact_match: "v" }`:                               attachment(is(route.Exact, "v")),
		`prefix: "/" headers { name: "k" prefix_match: "v" }`:                              attachment(is(route.Prefix, "v")),
		`prefix: "/" headers { name: "k" suffix_match: "v" }`:                              attachment(is(route.Suffix, "v")),
		`prefix: "/" headers { name: "k" contains_match: "v" }`:                            attachment(is(route.Contains, "v")),
		`prefix: "/" headers { name: "k" safe_regex_match { regex: "v" } }`:                attachment(is(route.Regex, "v")),
		`prefix: "/" headers { name: "k" range_match { start: 1 end: 5 } }`:                attachment(route.StringMatch{Kind: route.Range, From: 1, To: 5}),
		`prefix: "/" headers { name: "k" }`:                                                attachment(route.StringMatch{}),
		`prefix: "/" headers { name: "k" present_match: true }`:                            attachment(route.StringMatch{}),
		`prefix: "/" headers { name: "k" present_match: false }`:                           attachment(route.StringMatch{Invert: true}),
		`prefix: "/" headers { name: "k" present_match: false invert_match: true }`:        attachment(route.StringMatch{}),
		`prefix: "/" headers { name: "k" string_match { exact: "v" } invert_match: true treat_missing_header_as_empty: true }`: {
			Attachments: []route.AttachmentMatch{{Key: "k", StringMatch: route.StringMatch{Kind: route.Exact, Text: "v", Invert: true}, MissingIsEmpty: true}},
		},
		`prefix: "/" query_parameters { name: "k" string_match { exact: "v" } }`: attachment(is(route.Exact, "v")),
		`prefix: "/" query_parameters { name: "k" present_match: true }`:         attachment(route.StringMatch{}),
		`prefix: "/" headers { name: ":method" string_match { exact: "say" } }`:  {Method: is(route.Exact, "say")},
		`prefix: "/" headers { name: "Dubbo-Method" string_match { exact: "say" } } headers { name: "dubbo-group" exact_match: "g" } headers { name: "dubbo-version" string_match { prefix: "1." } }`: {
			Method: is(route.Exact, "say"), Group: is(route.Exact, "g"), Version: is(route.Prefix, "1."),
		},
		`prefix: "/" headers { name: "dubbo-group" present_match: true }`:                    {Group: route.StringMatch{Kind: route.Exact, Invert: true}},
		`prefix: "/" headers { name: "dubbo-group" present_match: true invert_match: true }`: {Group: route.StringMatch{Kind: route.Exact}},
		`prefix: "/" headers { name: ":path" string_match { prefix: "/x" } }`:                {Path: is(route.Prefix, "/x")},
		`prefix: "/x" headers { name: ":path" string_match { exact: "/xy" } }`:               {Path: is(route.Exact, "/xy")},
		`path: "/xy" headers { name: ":path" string_match { prefix: "/x" } }`:                {Path: is(route.Exact, "/xy")},
		`path: "/xy" headers { name: ":path" string_match { prefix: "/z" } }`:                {Path: is(route.Exact, "/xy"), Fraction: route.NoneOf},
		`prefix: "/x" headers { name: ":path" string_match { suffix: "y" } }`:                {Path: is(route.Prefix, "/x"), Fraction: route.NoneOf},
		`prefix: "/" headers { name: ":authority" string_match { exact: "x" } }`:             {Fraction: route.NoneOf},
		`prefix: "/" grpc {}`: {Fraction: route.NoneOf},
		`prefix: "/" tls_context { presented { value: true } }`:                                {Fraction: route.NoneOf},
		`prefix: "/" runtime_fraction { default_value { numerator: 5 } }`:                      {Fraction: 50_000},
		`prefix: "/" runtime_fraction { default_value { numerator: 7 denominator: MILLION } }`: {Fraction: 7},
		`prefix: "/" runtime_fraction { default_value { numerator: 100 } }`:                    {},
		`prefix: "/" runtime_fraction { default_value {} }`:                                    {Fraction: route.NoneOf},
	} {
		var n notes
		got := matches(parse(t, text, new(routev3.RouteMatch)), &n)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", text, got, want)
		}
		// A route that never matches says why, unless its author asked for that.
		byAuthor := strings.Contains(text, "default_value {}") || strings.Contains(text, `prefix: "/z"`)
		if (got.Fraction == route.NoneOf && !byAuthor) != (len(n) > 0) {
			t.Errorf("%s: notes %v", text, n)
		}
	}
}

// first translates a route of a virtual host in a configuration.
func first(t *testing.T, text string) route.RouteRule {
	t.Helper()
	c := parse(t, `name: "r" virtual_hosts { name: "shop" domains: "shop" `+text+` }`, new(routev3.RouteConfiguration))
	v := c.GetVirtualHosts()[0]
	spec := virtualHost("r/shop", c, v, 20882)
	if spec == nil || len(spec.Routes) == 0 {
		t.Fatal("no route")
	}
	return spec.Routes[0]
}

func TestRoutes(t *testing.T) {
	const all = `routes { match { prefix: "/" } `
	to := []route.WeightedCluster{{Cluster: "a", Weight: 1}}
	for text, want := range map[string]route.RouteRule{
		`route { cluster: "a" }`: {Clusters: to},
		`route { weighted_clusters { clusters { name: "a" weight { value: 1 } } clusters { name: "b" weight { value: 1 } } clusters { name: "c" weight {} } } }`: {
			Clusters: []route.WeightedCluster{{Cluster: "a", Weight: 1}, {Cluster: "b", Weight: 1}, {Cluster: "c"}},
		},
		`route { weighted_clusters { clusters { name: "a" weight { value: 9 } request_headers_to_remove: "x" request_headers_to_add { header { key: "k" value: "v" } append_action: OVERWRITE_IF_EXISTS_OR_ADD } } } }`: {
			Clusters: []route.WeightedCluster{{Cluster: "a", Weight: 9, Attachments: route.Changes{Remove: []string{"x"}, Set: []route.Attachment{{Key: "k", Value: "v", When: route.Overwrite}}}}},
		},
		`route { cluster: "BlackHoleCluster" }`:                                             {},
		`route { cluster_header: "x" }`:                                                     {Unsupported: []string{"the cluster is chosen in a way that is not honoured, calls are refused"}},
		`route { cluster: "a" timeout {} }`:                                                 {Clusters: to},
		`route { cluster: "a" timeout { seconds: 3 } }`:                                     {Clusters: to, Timeout: 3 * time.Second},
		`route { cluster: "a" max_stream_duration { max_stream_duration { seconds: 4 } } }`: {Clusters: to, Timeout: 4 * time.Second},
		`route { cluster: "a" retry_policy { retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes" num_retries { value: 2 } retriable_status_codes: 503 host_selection_retry_max_attempts: 5 retry_host_predicate { name: "envoy.retry_host_predicates.previous_hosts" } } }`: {
			Clusters: to, Retry: route.Retry{Attempts: 2},
		},
		`route { cluster: "a" retry_policy { retry_on: "5xx" } }`: {
			Clusters: to, Retry: route.Retry{Attempts: 1, On: route.RetryLost | route.RetryTryTimeout | route.RetryError, SameEndpoint: true},
		},
		`route { cluster: "a" retry_policy { retry_on: "connect-failure,reset" num_retries { value: 3 } per_try_timeout { nanos: 5000000 } retry_back_off { base_interval { seconds: 1 } max_interval { seconds: 2 } } } }`: {
			Clusters: to, Retry: route.Retry{Attempts: 3, PerTry: 5 * time.Millisecond, On: route.RetryLost | route.RetryTryTimeout, Backoff: time.Second, MaxDelay: 2 * time.Second, SameEndpoint: true},
		},
		`route { cluster: "a" retry_policy { retry_on: "gateway-error,retriable-4xx,503,deadline-exceeded" } }`: {
			Clusters: to, Retry: route.Retry{Attempts: 1, On: route.RetryTryTimeout | route.RetryError, SameEndpoint: true}, Unsupported: []string{"retry_on retriable-4xx is not honoured"},
		},
		`route { cluster: "a" hash_policy { header { header_name: "user" } terminal: true } hash_policy { connection_properties { source_ip: true } } hash_policy { header { header_name: ":path" } } hash_policy { query_parameter { name: "q" } } hash_policy { cookie { name: "c" } } }`: {
			Clusters:    to,
			Hash:        []route.HashPolicy{{Attachment: "user", Terminal: true}, {Source: true}, {Method: true}, {Attachment: "q"}},
			Unsupported: []string{"hash_policy: only headers, query parameters and the source address are honoured"},
		},
		`route { cluster: "a" request_mirror_policies { cluster: "m" } request_mirror_policies { cluster: "n" runtime_fraction { default_value { numerator: 20 } } } }`: {
			Clusters: to, Mirrors: []route.Mirror{{Cluster: "m", Share: route.Million}, {Cluster: "n", Share: 200_000}},
		},
		`route { cluster: "a" prefix_rewrite: "/x" metadata_match {} }`:    {Clusters: to, Unsupported: []string{"metadata_match is not honoured", "prefix_rewrite is not honoured"}},
		`direct_response { status: 503 body { inline_string: "closed" } }`: {Direct: &route.DirectResponse{Status: 503, Text: "closed"}},
		`redirect { host_redirect: "x" }`:                                  {Unsupported: []string{"redirect is not honoured, calls are refused"}},
		`route { cluster: "a" } request_headers_to_add { header { key: "a" value: "50%%" } } request_headers_to_add { header { key: "b" value: "%REQ(x)%" } } request_headers_to_add { header { key: "c" value: "1" } append { value: false } } request_headers_to_add { header { key: "d" value: "1" } append_action: ADD_IF_ABSENT } response_headers_to_remove: "z"`: {
			Clusters:    to,
			Attachments: route.Changes{Set: []route.Attachment{{Key: "a", Value: "50%", When: route.Append}, {Key: "c", Value: "1"}, {Key: "d", Value: "1", When: route.IfAbsent}}},
			Unsupported: []string{`header b: the value "%REQ(x)%" has a command operator, it is not set`, "response_headers_to_remove is not honoured"},
		},
		`route { cluster: "a" } typed_per_filter_config { key: "envoy.filters.http.fault" value { [type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] { delay { fixed_delay { seconds: 1 } percentage { numerator: 10 } } abort { http_status: 503 percentage { numerator: 5 denominator: TEN_THOUSAND } } } } }`: {
			Clusters: to, Fault: route.Fault{Delay: time.Second, DelayShare: 100_000, AbortStatus: 503, AbortShare: 500},
		},
		`route { cluster: "a" } typed_per_filter_config { key: "envoy.filters.http.fault" value { [type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault] { abort { grpc_status: 14 percentage { numerator: 100 } } headers { name: "x" } } } }`: {
			Clusters: to, Unsupported: []string{"fault: conditions (upstream_cluster, headers, downstream_nodes) cannot be checked, no fault is injected"},
		},
		`route { cluster: "a" } typed_per_filter_config { key: "example" value { [type.googleapis.com/envoy.config.route.v3.FilterConfig] {} } }`: {
			Clusters: to, Unsupported: []string{"HTTP filter example is not applied"},
		},
		`name: "canary" metadata { filter_metadata { key: "istio" value { fields { key: "config" value { string_value: "/apis/networking.istio.io/v1/namespaces/dubbo/virtual-service/demo" } } } } } route { cluster: "a" }`: {
			Name: "canary", Origin: "virtual-service dubbo/demo", Clusters: to,
		},
	} {
		got := first(t, all+text+" }")
		slices.Sort(got.Unsupported)
		if len(got.Unsupported) == 0 {
			got.Unsupported = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", text, got, want)
		}
	}
	// What encloses a route: its retry policy, mirrors and headers, from the inside out.
	got := first(t, `retry_policy { retry_on: "reset" } request_mirror_policies { cluster: "m" } request_headers_to_add { header { key: "outer" value: "1" } } `+
		all+`request_headers_to_add { header { key: "inner" value: "1" } } route { cluster: "a" } }`)
	if got.Retry.On != route.RetryLost|route.RetryTryTimeout || len(got.Mirrors) != 1 || len(got.Attachments.Set) != 2 || got.Attachments.Set[1].Key != "outer" {
		t.Errorf("%+v", got)
	}
}

func TestHosts(t *testing.T) {
	for _, test := range []struct {
		route, vhost string
		domains      string
		want         []string
	}{
		{"http_proxy", "com.a.foo:20882", "com.a.foo:20882 com.a.foo.:20882", []string{"com.a.foo"}},
		{"http_proxy", "com.a.foo:8080", "com.a.foo:8080", nil},
		{"20882", "com.a.foo:20882", "com.a.foo com.a.foo. 10.1.2.3 [::1]", []string{"com.a.foo"}},
		{"8080", "com.a.foo:8080", "com.a.foo", nil},
		{"com.a.foo:20882", "com.a.foo:20882", "*", []string{"com.a.foo"}},
		{"outbound|20882||com.a.foo", "com.a.foo:20882", "com.a.Foo com.a.foo:20882 10.0.0.1:20882", []string{"com.a.foo"}},
		{"outbound|8080||com.a.foo", "com.a.foo:8080", "com.a.foo", nil},
		{"mine", "anything", "* *.com", []string{"*"}},
		{"mine", "shop", "shop:*", []string{"shop"}},
	} {
		var n notes
		got := hostsOf(&routev3.RouteConfiguration{Name: test.route}, &routev3.VirtualHost{Name: test.vhost, Domains: strings.Fields(test.domains)}, 20882, &n)
		if !slices.Equal(got, test.want) {
			t.Errorf("%+v: %q", test, got)
		}
		if (len(n) > 0) != strings.Contains(test.domains, "*.") {
			t.Errorf("%+v: notes %v", test, n)
		}
	}
	for _, text := range []string{
		`name: "allow_any" domains: "*" routes { match { prefix: "/" } route { cluster: "PassthroughCluster" } }`,
		`name: "block_all" domains: "*" routes { match { prefix: "/" } direct_response { status: 502 } }`,
	} {
		if spec := virtualHost("x", &routev3.RouteConfiguration{Name: "http_proxy"}, parse(t, text, new(routev3.VirtualHost)), 20882); spec != nil {
			t.Errorf("%s became %+v", text, spec)
		}
	}
}

func TestClusters(t *testing.T) {
	for text, want := range map[string]route.ClusterSpec{
		`type: EDS`:                          {Policy: route.RoundRobin, PanicPercent: 50},
		`type: STRICT_DNS lb_policy: RANDOM`: {Policy: route.Random, PanicPercent: 50, Resolve: 5 * time.Second},
		`type: STRICT_DNS dns_refresh_rate { seconds: 60 } respect_dns_ttl: true dns_lookup_family: V4_ONLY dns_jitter { nanos: 100000000 }`: {
			Policy: route.RoundRobin, PanicPercent: 50, Resolve: 5 * time.Second, Family: route.IPv4Only,
		},
		`cluster_type { name: "envoy.cluster.dns" typed_config { [type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster] {
			dns_refresh_rate { seconds: 20 } dns_lookup_family: V4_PREFERRED all_addresses_in_single_endpoint: true } } }`: {
			Policy: route.RoundRobin, PanicPercent: 50, Resolve: 20 * time.Second, Family: route.IPv4Preferred,
			Unsupported: []string{"all_addresses_in_single_endpoint is not honoured"},
		},
		`type: LOGICAL_DNS dns_refresh_rate { seconds: 30 } lb_policy: LEAST_REQUEST least_request_lb_config { choice_count { value: 5 } }`: {
			Policy: route.LeastRequest, PanicPercent: 50, Resolve: 30 * time.Second, Choices: 5,
			Unsupported: []string{"type LOGICAL_DNS is taken as STRICT_DNS: each address of the name gets calls"},
		},
		`type: STATIC lb_policy: RING_HASH ring_hash_lb_config { minimum_ring_size { value: 7 } maximum_ring_size { value: 9 } hash_function: MURMUR_HASH_2 }`: {
			Policy: route.RingHash, Ring: route.RingSize{Min: 7, Max: 9}, PanicPercent: 50, Unsupported: []string{"ring_hash_lb_config.hash_function MURMUR_HASH_2 is not honoured"},
		},
		`type: EDS lb_policy: LEAST_REQUEST least_request_lb_config { choice_count { value: 1000 } }`: {
			Policy: route.LeastRequest, PanicPercent: 50, Choices: 32, Unsupported: []string{"choice_count 1000 is not honoured, it is 32"},
		},
		`type: EDS lb_policy: LEAST_REQUEST least_request_lb_config { choice_count { value: 2 } }`: {Policy: route.LeastRequest, PanicPercent: 50},
		`type: EDS lb_policy: MAGLEV maglev_lb_config { table_size { value: 251 } }`:               {Policy: route.Maglev, Table: 251, PanicPercent: 50},
		`type: ORIGINAL_DST lb_policy: CLUSTER_PROVIDED`: {
			Policy: route.LeastRequest, PanicPercent: 50,
			Unsupported: []string{"lb_policy CLUSTER_PROVIDED is not honoured, calls are shared by least request", "type ORIGINAL_DST is not honoured, it has no endpoints"},
		},
		`type: EDS common_lb_config { healthy_panic_threshold {} locality_weighted_lb_config {} }`: {Policy: route.RoundRobin, LocalityWeighted: true},
		`type: EDS connect_timeout { seconds: 2 } upstream_connection_options { tcp_keepalive { keepalive_probes { value: 3 } keepalive_time { value: 60 } keepalive_interval { value: 5 } } }`: {
			Policy: route.RoundRobin, PanicPercent: 50, ConnectTimeout: 2 * time.Second, KeepAlive: route.KeepAlive{Enabled: true, Probes: 3, Idle: time.Minute, Interval: 5 * time.Second},
		},
		`type: EDS circuit_breakers { thresholds { priority: HIGH max_requests { value: 1 } } thresholds { max_connections {} max_requests { value: 7 } retry_budget {} } per_host_thresholds { max_connections { value: 2 } } }`: {
			Policy: route.RoundRobin, PanicPercent: 50,
			Limits:      route.Limits{Connections: route.Nothing, Requests: 7, RetryBudget: &route.RetryBudget{Percent: 20, Concurrency: 3}, HostConnections: 2},
			Unsupported: []string{"circuit_breakers.thresholds of priority HIGH is not honoured"},
		},
		`type: EDS outlier_detection {}`: {
			Policy: route.RoundRobin, PanicPercent: 50, Outlier: &route.Outlier{Consecutive: 5, MaxEjectionPercent: 10, SuccessRate: true},
		},
		`type: EDS outlier_detection { consecutive_5xx { value: 3 } interval { seconds: 1 } base_ejection_time { seconds: 2 } max_ejection_time { seconds: 9 } max_ejection_percent { value: 100 } enforcing_success_rate {} consecutive_gateway_failure { value: 4 } enforcing_consecutive_gateway_failure { value: 100 } split_external_local_origin_errors: true consecutive_local_origin_failure { value: 6 } success_rate_minimum_hosts { value: 2 } success_rate_request_volume { value: 10 } success_rate_stdev_factor { value: 1500 } enforcing_failure_percentage { value: 1 } }`: {
			Policy: route.RoundRobin, PanicPercent: 50, Outlier: &route.Outlier{
				Consecutive: 3, ConsecutiveGateway: 4, ConsecutiveLocal: 6, Split: true, Interval: time.Second, BaseEjection: 2 * time.Second, MaxEjection: 9 * time.Second,
				MaxEjectionPercent: 100, SuccessRateHosts: 2, SuccessRateRequests: 10, SuccessRateFactor: 1.5, LocalSuccessRate: true,
			}, Unsupported: []string{"outlier_detection by failure_percentage is not honoured"},
		},
		`type: EDS outlier_detection { max_ejection_time_jitter { seconds: 4 } always_eject_one_host { value: true } detect_degraded_hosts { value: true } enforcing_local_origin_success_rate { value: 7 } }`: {
			Policy: route.RoundRobin, PanicPercent: 50, Outlier: &route.Outlier{Consecutive: 5, MaxEjectionPercent: 10, SuccessRate: true, Jitter: 4 * time.Second, AlwaysOne: true},
			Unsupported: []string{"outlier_detection.detect_degraded_hosts is not honoured", "outlier_detection.enforcing_local_origin_success_rate: a part of 100 counts as 100"},
		},
		`type: EDS lb_policy: MAGLEV maglev_lb_config { table_size { value: 65536 } } common_lb_config { zone_aware_lb_config { fail_traffic_on_panic: true } }`: {
			Policy: route.Maglev, PanicPercent: 50, Unsupported: []string{"maglev table_size 65536 is no prime, it is 65537", "zone_aware_lb_config is not honoured"},
		},
		`type: EDS health_checks {} lb_subset_config {}`: {Policy: route.RoundRobin, PanicPercent: 50, Unsupported: []string{"health_checks is not honoured", "lb_subset_config is not honoured"}},
		`type: EDS transport_socket { name: "envoy.transport_sockets.tls" }`: {
			Policy: route.RoundRobin, PanicPercent: 50, Unsupported: []string{"transport_socket envoy.transport_sockets.tls is not honoured, endpoints are called without it"},
		},
		`type: EDS load_balancing_policy { policies { typed_extension_config { name: "x" typed_config { [type.googleapis.com/envoy.config.route.v3.FilterConfig] {} } } } policies { typed_extension_config { name: "y" typed_config { [type.googleapis.com/envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality] { endpoint_picking_policy { policies { typed_extension_config { name: "z" typed_config { [type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest] {} } } } } } } } } }`: {
			Policy: route.LeastRequest, LocalityWeighted: true, PanicPercent: 50,
		},
	} {
		got := clusterSpec(&xdsclient.Cluster{Name: "a", Config: parse(t, `name: "a" `+text, new(clusterv3.Cluster))})
		want.Name = "a"
		slices.Sort(got.Unsupported)
		if len(got.Unsupported) == 0 {
			got.Unsupported = nil
		}
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", text, *got, want)
		}
	}
}

func TestEndpoints(t *testing.T) {
	var n notes
	a := &xdsclient.Assignment{Overprovisioning: 150, DropPerMillion: 1, Localities: []xdsclient.Locality{{Region: "r", Priority: 1, Weight: 3, Endpoints: []xdsclient.Endpoint{
		{Host: "10.0.0.1", Port: 20880, Weight: 2, Health: xdsclient.Draining},
		{Host: "10.0.0.2", Port: 20882, Health: xdsclient.Unhealthy},
		{Host: "10.0.0.3", Port: 1, Health: xdsclient.Degraded, Metadata: []xdsclient.Metadata{{Filter: transportMatch, Key: "tlsMode", Value: "istio"}, {Filter: istio, Key: "workload", Value: "w"}}},
		{Host: "/pipe"},
	}}}}
	got := endpointSet(a, true, []int{20882}, &n)
	want := &route.EndpointSet{Overprovisioning: 150, Localities: []route.LocalitySpec{{Region: "r", Priority: 1, Weight: 3, Endpoints: []route.EndpointSpec{
		{Address: "10.0.0.1:20880", Weight: 2, Health: route.Draining},
		{Address: "10.0.0.2:20882", Health: route.Unhealthy, Mesh: true},
		{Address: "10.0.0.3:1", Health: route.Degraded, Mesh: true, Metadata: map[string]string{"workload": "w"}},
	}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if !slices.Equal(n, notes{"drop_overloads is not honoured", "endpoint /pipe has no port and is left out", "TLS to endpoints with tlsMode istio is not honoured, they are called in plain text"}) {
		t.Errorf("%v", n)
	}
	if n = nil; endpointSet(a, false, nil, &n) == nil || len(n) != 2 {
		t.Errorf("the cluster is called in plain text: %v", n)
	}
	if endpointSet(&xdsclient.Assignment{Missing: true}, false, nil, &n) != nil || endpointSet(&xdsclient.Assignment{}, false, nil, &n) == nil {
		t.Error("missing is not known, empty is none")
	}
}

// What did not change is not sent again, and what is not honoured is said once.
func TestChangeIsProportional(t *testing.T) {
	s := control(t)
	s.Set(xdstest.Cluster("blue"), xdstest.Endpoints("blue", "10.0.0.1:20882"), xdstest.Cluster("green"), xdstest.Endpoints("green", "10.0.0.2:20882"),
		xdstest.Listener("127.0.0.1_20881", "http_proxy"), xdstest.Listener("other", "elsewhere"),
		xdstest.Routes("http_proxy", xdstest.VirtualHost("shop", "blue", "green"), xdstest.VirtualHost("stock", "green")))
	r := start(t, s, Options{Listeners: []string{"127.0.0.1_20881"}})
	r.until("both", func() bool { return r.synced && len(r.routes) == 2 && len(r.endpoints) == 2 })

	n := r.count
	s.Set(xdstest.Endpoints("blue", "10.0.0.1:20882", "10.0.0.3:20882"))
	r.until("an endpoint", func() bool { return r.count > n })
	if u := r.last; len(u.Endpoints) != 1 || len(u.Clusters)+len(u.Routes) != 0 || !u.Synced {
		t.Errorf("an endpoint's change sent %+v", u)
	}
	n = r.count
	s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("shop", "blue"), xdstest.VirtualHost("stock", "green")))
	r.until("a route", func() bool { return r.count > n })
	if u := r.last; len(u.Routes) != 1 || u.Routes["http_proxy/shop"] == nil || len(u.Clusters)+len(u.Endpoints) != 0 {
		t.Errorf("a route's change sent %+v", u)
	}
	n = r.count
	s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("stock", "green")))
	r.until("a route gone", func() bool { return r.count > n })
	if u := r.last; len(u.Routes) != 1 || len(r.routes) != 1 {
		t.Errorf("a route's end sent %+v", u)
	}

	// Refused: said, and taken back.
	bad := xdstest.Endpoints("green", "10.0.0.2:20882")
	bad.Endpoints[0].Priority = 1000
	s.Set(bad)
	r.until("refused", func() bool { return len(r.general["ClusterLoadAssignment green"]) == 1 })
	if len(r.Unsupported()["ClusterLoadAssignment green"]) != 1 {
		t.Errorf("%v", r.Unsupported())
	}
	s.Set(xdstest.Endpoints("green", "10.0.0.2:20882"))
	r.until("good again", func() bool { return r.general != nil && len(r.general) == 0 })
	if len(r.Unsupported()) != 0 {
		t.Errorf("%v", r.Unsupported())
	}
}

// A service whose port is no HTTP for istiod has a cluster and no virtual host: calls
// go to the cluster, and the listener says why.
func TestServicesWithoutRoutes(t *testing.T) {
	const foo, spec = "outbound|20882||com.a.Foo", "cluster/outbound|20882||com.a.Foo"
	s := control(t)
	l := xdstest.Listener("0.0.0.0_20882", "x")
	l.FilterChains[0].Filters = []*listenerv3.Filter{
		{Name: "istio.metadata_exchange"}, {Name: "example.rbac", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "x/y"}}},
		{Name: "t", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: xdstest.Any(&tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: foo}})}},
	}
	s.Set(xdstest.Cluster(foo), xdstest.Endpoints(foo, "10.0.0.1:20882"), l)
	for _, other := range []string{"outbound|20882|blue|com.a.Foo", "outbound|8080||com.a.Foo", "inbound|20882||", "PassthroughCluster", "BlackHoleCluster"} {
		s.Set(xdstest.Cluster(other), xdstest.Endpoints(other, "10.0.0.2:20882"))
	}
	r := start(t, s, Options{})
	r.until("its cluster", func() bool { return r.synced && r.routes[spec] != nil && r.general["listener 0.0.0.0_20882"] != nil })
	if len(r.routes) != 1 || len(r.clusters) != 3 { // neither inbound nor built in
		t.Errorf("routes %v, clusters %v", r.routes, r.clusters)
	}
	want := &route.RouteSpec{Name: spec, Hosts: []string{"com.a.foo"}, Last: true, Routes: []route.RouteRule{{Clusters: []route.WeightedCluster{{Cluster: foo, Weight: 1}}}}}
	if !reflect.DeepEqual(r.routes[spec], want) {
		t.Errorf("\n got %+v\nwant %+v", r.routes[spec], want)
	}
	if n := r.general["listener 0.0.0.0_20882"]; !slices.Equal(n, []string{"network filter example.rbac is not applied", "there are no routes, only tcp_proxy to " + foo + ": name the port dubbo, without a protocol"}) {
		t.Errorf("%q", n)
	}
	// The server drops the cluster while a virtual host names it.
	s.Set(xdstest.Listener("0.0.0.0_20882", "20882"), xdstest.Routes("20882", xdstest.VirtualHost("com.a.foo", foo)))
	r.until("a virtual host", func() bool { return r.routes["20882/com.a.foo"] != nil })
	s.Delete(xdstest.ClusterURL, foo)
	r.until("no cluster any more", func() bool {
		return r.routes[spec] == nil && r.clusters[foo] != nil && len(r.clusters[foo].Unsupported) == 1
	})
	s.Set(xdstest.Cluster(foo), xdstest.Endpoints(foo, "10.0.0.1:20882"))
	r.until("the cluster again", func() bool { return r.routes[spec] != nil && len(r.clusters[foo].Unsupported) == 0 })
}

// The same by name: istiod's gRPC generator has a route configuration without
// virtual hosts for such a service.
func TestServicesWithoutRoutesByName(t *testing.T) {
	const name = "outbound|20882||com.a.foo"
	s := control(t)
	s.Set(xdstest.APIListener("com.a.foo:20882", name), xdstest.Routes(name), xdstest.Cluster(name), xdstest.Endpoints(name, "10.0.0.1:20882"))
	r := start(t, s, Options{Mode: GRPC}, service("com.a.Foo"))
	const implied = name + "/cluster/" + name
	r.until("its cluster", func() bool { return r.synced && r.routes[implied] != nil && r.endpoints[name] != nil })
	if spec := r.routes[implied]; !spec.Last || !slices.Equal(spec.Hosts, []string{"com.a.foo"}) || len(spec.Routes) != 1 || spec.Routes[0].Clusters[0].Cluster != name {
		t.Errorf("%+v", spec)
	}
	s.Set(xdstest.Routes(name, xdstest.VirtualHost("com.a.foo:20882", name)))
	r.until("a virtual host", func() bool { return r.routes[implied] == nil && r.routes[name+"/com.a.foo:20882"] != nil })
	s.Set(xdstest.Routes(name))
	r.until("none again", func() bool { return r.routes[implied] != nil && len(r.routes) == 1 })
	// The service goes as istiod lets it go.
	s.Delete(xdstest.ListenerURL, "com.a.foo:20882")
	s.Delete(xdstest.ClusterURL, name)
	r.until("gone", func() bool { return len(r.routes)+len(r.clusters)+len(r.endpoints) == 0 })
}

// What of a listener and of a route configuration has no place in a rule is said.
func TestNotesOfListeners(t *testing.T) {
	s := control(t)
	l := xdstest.Listener("out", "r")
	m := new(hcmv3.HttpConnectionManager)
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	m.GetRds().ConfigSource = &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Path{Path: "/x"}}
	m.HttpFilters = []*hcmv3.HttpFilter{
		{Name: "envoy.filters.http.fault", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: xdstest.Any(parse(t, `abort { http_status: 500 percentage { numerator: 100 } }`, new(faultv3.HTTPFault)))}},
		{Name: "envoy.filters.http.fault", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: xdstest.Any(new(faultv3.HTTPFault))}},
		{Name: "envoy.filters.http.router"}, {Name: "example.authz"}, {Name: "example.off", Disabled: true},
	}
	l.FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: xdstest.Any(m)}
	s.Set(l, parse(t, `name: "r" vhds { config_source { ads {} } }`, new(routev3.RouteConfiguration)))
	r := start(t, s, Options{})
	r.until("said", func() bool { return len(r.general["listener out"]) > 0 && len(r.general["route configuration r"]) > 0 })
	if n := r.general["listener out"]; !slices.Equal(n, []string{
		"the fault of HTTP filter envoy.filters.http.fault is not injected, only those of routes are", "HTTP filter example.authz is not applied",
		"rds.config_source is not honoured, the server of this resource is asked",
	}) {
		t.Errorf("%q", n)
	}
	s.Set(xdstest.Listener("out", "r"), xdstest.Routes("r"))
	r.until("all well", func() bool { return r.general != nil && len(r.general) == 0 })
}

// By name: a service is synced when its listener was answered, also if it is not
// there.
func TestGRPC(t *testing.T) {
	s := control(t)
	s.Set(xdstest.APIListener("com.a.foo:20882", "outbound|20882||com.a.foo"),
		xdstest.Routes("outbound|20882||com.a.foo", xdstest.VirtualHost("com.a.foo", "blue")), xdstest.Cluster("blue"), xdstest.Endpoints("blue", "10.0.0.1:20882"))
	foo, bar := service("com.a.Foo"), service("com.a.Bar")
	r := start(t, s, Options{Mode: GRPC}, foo)
	r.until("foo", func() bool { return r.synced && len(r.routes) == 1 })
	r.SetServices(services(foo, bar))
	r.until("asking for bar", func() bool { return !r.synced })
	r.until("no bar", func() bool { return r.synced })
	r.SetServices(services(bar))
	r.until("foo forgotten", func() bool { return len(r.routes) == 0 && len(r.clusters) == 0 && len(r.endpoints) == 0 })
}

func TestOptions(t *testing.T) {
	node := &corev3.Node{Id: "x"}
	for name, o := range map[string]Options{
		"mode":   {Mode: "x", Port: 1, Client: xdsclient.Options{Node: node, Servers: []xdsclient.Server{{Address: "a"}}}},
		"port":   {Client: xdsclient.Options{Node: node, Servers: []xdsclient.Server{{Address: "a"}}}},
		"server": {Port: 1, Client: xdsclient.Options{Node: node}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
