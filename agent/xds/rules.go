package xds

import (
	"net"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/xdsclient"
)

const (
	faultFilter     = "envoy.filters.http.fault"
	filterConfigURL = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
	faultURL        = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"
	previousHosts   = "envoy.retry_host_predicates.previous_hosts"
)

// Clusters that Envoy needs and a Dubbo call must never reach.
func isBuiltin(cluster string) bool {
	switch cluster {
	case "BlackHoleCluster", "PassthroughCluster", "InboundPassthroughCluster":
		return true
	}
	return strings.HasPrefix(cluster, "inbound|")
}

// hostsOf are the hosts of a virtual host that belong to the port of the mesh:
// lower case, without port and final dot.
func hostsOf(c *routev3.RouteConfiguration, v *routev3.VirtualHost, port int, n *notes) []string {
	suffix := ":" + strconv.Itoa(port)
	// istiod names the routes of an HTTP port by that port alone; their domains have
	// none. Those of a port that may be HTTP are named "host:port", with domain "*".
	if p, err := strconv.Atoi(c.GetName()); err == nil && p != port {
		return nil
	}
	// Those for the gRPC generator are named "outbound|port||host".
	if parts := strings.Split(c.GetName(), "|"); len(parts) == 4 && parts[1] != strconv.Itoa(port) {
		return nil
	}
	var hosts []string
	for _, d := range v.GetDomains() {
		if d == "*" {
			if host, ok := strings.CutSuffix(v.GetName(), suffix); ok && c.GetName() == v.GetName() {
				d = host
			}
		}
		d = strings.TrimSuffix(d, suffix)
		if host, p, err := net.SplitHostPort(d); err == nil {
			if p != "*" {
				continue // of another port
			}
			d = host
		}
		d = strings.ToLower(strings.TrimSuffix(d, "."))
		if d == "" || net.ParseIP(strings.Trim(d, "[]")) != nil {
			continue // nobody calls a service by its address here
		}
		if d != "*" && strings.Contains(d, "*") {
			n.add("domain %s: only whole names and * are honoured", d)
			continue
		}
		hosts = append(hosts, d)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// virtualHost translates one; nil: it has nothing for a Dubbo call.
func virtualHost(name string, c *routev3.RouteConfiguration, v *routev3.VirtualHost, port int) *route.RouteSpec {
	var n notes
	spec := &route.RouteSpec{Name: name, Hosts: hostsOf(c, v, port, &n), Origin: origin(v.GetMetadata())}
	if len(spec.Hosts) == 0 || passesThrough(v) {
		return nil
	}
	n.fields(c, "name virtual_hosts internal_only_headers request_headers_to_add request_headers_to_remove validate_clusters max_direct_response_body_size_bytes request_mirror_policies ignore_port_in_host_matching ignore_path_parameters_in_path_matching most_specific_header_mutations_wins metadata typed_per_filter_config")
	n.fields(v, "name domains routes virtual_clusters request_headers_to_add request_headers_to_remove include_request_attempt_count include_attempt_count_in_response retry_policy request_mirror_policies metadata typed_per_filter_config per_request_buffer_limit_bytes request_body_buffer_limit include_is_timeout_retry_header")
	for _, m := range []map[string]*anypb.Any{c.GetTypedPerFilterConfig(), v.GetTypedPerFilterConfig()} {
		n.filters(m)
	}
	for _, r := range v.GetRoutes() {
		rule := rule(c, v, r)
		if spec.Origin == "" {
			spec.Origin = rule.Origin
		}
		spec.Routes = append(spec.Routes, rule)
	}
	spec.Unsupported = n
	return spec
}

// passesThrough tells whether a virtual host is Istio's "everything else".
func passesThrough(v *routev3.VirtualHost) bool {
	if v.GetName() == "block_all" { // outboundTrafficPolicy REGISTRY_ONLY: what is not named is not ours to refuse
		return true
	}
	for _, r := range v.GetRoutes() {
		if r.GetRoute().GetCluster() != "PassthroughCluster" {
			return false
		}
	}
	return len(v.GetRoutes()) > 0
}

// filters notes the configurations of HTTP filters other than the fault filter.
func (n *notes) filters(m map[string]*anypb.Any) {
	for name, a := range m {
		if name != faultFilter && a.GetTypeUrl() != faultURL {
			n.add("HTTP filter %s is not applied", name)
		}
	}
	slices.Sort(*n)
}

// rule translates one route.
func rule(c *routev3.RouteConfiguration, v *routev3.VirtualHost, r *routev3.Route) route.RouteRule {
	var n notes
	out := route.RouteRule{Name: r.GetName(), Origin: origin(r.GetMetadata()), Match: matches(r.GetMatch(), &n)}
	n.fields(r, "name match route redirect direct_response filter_action non_forwarding_action metadata decorator tracing typed_per_filter_config request_headers_to_add request_headers_to_remove per_request_buffer_limit_bytes request_body_buffer_limit stat_prefix")
	n.filters(r.GetTypedPerFilterConfig())
	// From the most specific to the least, so that the least specific wins, unless
	// the configuration turns that round.
	levels := []headers{r, v, c}
	if c.GetMostSpecificHeaderMutationsWins() {
		slices.Reverse(levels)
		out.DestinationLast = true
	}
	for _, l := range levels {
		changes(&out.Attachments, l, &n)
	}
	switch a := r.GetAction().(type) {
	case *routev3.Route_Route:
		forward(&out, c, v, a.Route, &n)
		fault(&out, c, v, r, &n)
	case *routev3.Route_DirectResponse:
		d := a.DirectResponse
		out.Direct = &route.DirectResponse{Status: int(d.GetStatus())}
		switch s := d.GetBody().GetSpecifier().(type) {
		case *corev3.DataSource_InlineString:
			out.Direct.Text = s.InlineString
		case *corev3.DataSource_InlineBytes:
			out.Direct.Text = strings.ToValidUTF8(string(s.InlineBytes), "?")
		case nil:
		default:
			n.add("the body of direct_response is not inline and is left out")
		}
		if d.GetBodyFormat() != nil {
			n.add("body_format is not honoured")
		}
	case *routev3.Route_Redirect:
		n.add("redirect is not honoured, calls are refused")
	default:
		n.add("the route has no action that can be honoured, calls are refused")
	}
	out.Unsupported = n
	return out
}

// forward translates a RouteAction.
func forward(out *route.RouteRule, c *routev3.RouteConfiguration, v *routev3.VirtualHost, a *routev3.RouteAction, n *notes) {
	n.fields(a, "cluster cluster_header weighted_clusters cluster_specifier_plugin inline_cluster_specifier_plugin cluster_not_found_response_code timeout idle_timeout max_stream_duration retry_policy request_mirror_policies priority hash_policy max_grpc_timeout grpc_timeout_offset upgrade_configs early_data_policy append_x_forwarded_host flush_timeout include_vh_rate_limits")
	switch s := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		if !isBuiltin(s.Cluster) {
			out.Clusters = []route.WeightedCluster{{Cluster: s.Cluster, Weight: 1}}
		}
	case *routev3.RouteAction_WeightedClusters:
		out.Clusters = weighted(s.WeightedClusters, n)
	default:
		n.add("the cluster is chosen in a way that is not honoured, calls are refused")
	}
	// An unset time-out is Envoy's 15 s for HTTP; a Dubbo call has one of its own, so
	// none is invented here.
	if d := a.GetTimeout(); d != nil {
		out.Timeout = max(0, d.AsDuration())
	} else if d := a.GetMaxStreamDuration().GetMaxStreamDuration(); d != nil {
		out.Timeout = max(0, d.AsDuration())
	}
	if d := a.GetIdleTimeout(); d.AsDuration() > 0 {
		n.add("idle_timeout is not honoured")
	}
	if p := a.GetPriority(); p != corev3.RoutingPriority_DEFAULT {
		n.add("priority %s is not honoured, the circuit breakers of DEFAULT count", p)
	}
	if p := a.GetRetryPolicy(); p != nil {
		out.Retry = retry(p, n)
	} else if p := v.GetRetryPolicy(); p != nil {
		out.Retry = retry(p, n)
	}
	for _, h := range a.GetHashPolicy() {
		hash(out, h, n)
	}
	policies := a.GetRequestMirrorPolicies()
	if len(policies) == 0 {
		policies = v.GetRequestMirrorPolicies()
	}
	if len(policies) == 0 {
		policies = c.GetRequestMirrorPolicies()
	}
	for _, m := range policies {
		n.fields(m, "cluster runtime_fraction trace_sampled disable_shadow_host_suffix_append")
		if m.GetCluster() == "" || isBuiltin(m.GetCluster()) {
			continue
		}
		share := uint32(route.Million)
		if f := m.GetRuntimeFraction(); f != nil {
			share = runtimePerMillion(f)
		}
		out.Mirrors = append(out.Mirrors, route.Mirror{Cluster: m.GetCluster(), Share: share})
	}
}

func weighted(w *routev3.WeightedCluster, n *notes) []route.WeightedCluster {
	n.fields(w, "clusters total_weight runtime_key_prefix")
	var list []route.WeightedCluster
	for _, c := range w.GetClusters() {
		n.fields(c, "name cluster_header weight request_headers_to_add request_headers_to_remove")
		if c.GetName() == "" {
			n.add("a weighted cluster that a header names (%s) is left out", c.GetClusterHeader())
			continue
		}
		wc := route.WeightedCluster{Cluster: c.GetName(), Weight: c.GetWeight().GetValue()}
		if isBuiltin(wc.Cluster) {
			n.add("weighted cluster %s is left out", wc.Cluster)
			continue
		}
		changes(&wc.Attachments, c, n)
		list = append(list, wc)
	}
	return list
}

// headers is what changes the headers of a request.
type headers interface {
	proto.Message
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
}

func changes(out *route.Changes, m headers, n *notes) {
	for _, key := range m.GetRequestHeadersToRemove() {
		// What an earlier level has set goes, too.
		out.Set = slices.DeleteFunc(out.Set, func(a route.Attachment) bool { return a.Key == key })
		out.Remove = append(out.Remove, key)
	}
	for _, o := range m.GetRequestHeadersToAdd() {
		h := o.GetHeader()
		value := h.GetValue()
		if value == "" {
			value = strings.ToValidUTF8(string(h.GetRawValue()), "?")
		}
		name := h.GetKey()
		if strings.HasPrefix(name, ":") || strings.EqualFold(name, "host") {
			n.add("header %s cannot be set", name)
			continue
		}
		literal, ok := unescape(value)
		if !ok {
			n.add("header %s: the value %q has a command operator, it is not set", name, value)
			continue
		}
		if literal == "" && !o.GetKeepEmptyValue() {
			continue
		}
		set := route.Attachment{Key: name, Value: literal}
		switch o.GetAppendAction() {
		case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
			set.When = route.Append
			//lint:ignore SA1019 it is still sent
			if a := o.GetAppend(); a != nil && !a.GetValue() {
				set.When = route.Overwrite
			}
		case corev3.HeaderValueOption_ADD_IF_ABSENT:
			set.When = route.IfAbsent
		case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			set.When = route.IfPresent
		}
		out.Set = append(out.Set, set)
	}
}

// unescape reads a header value of Envoy: "%%" is "%", and anything else with '%' is
// a command operator.
func unescape(value string) (string, bool) {
	if strings.Contains(strings.ReplaceAll(value, "%%", ""), "%") {
		return "", false
	}
	return strings.ReplaceAll(value, "%%", "%"), true
}

// implied are the conditions of Istio's default retry policy, in the versions that
// had one.
var implied = map[string]bool{
	"connect-failure": true, "refused-stream": true, "unavailable": true, "cancelled": true,
	"retriable-status-codes": true, "reset-before-request": true, "503": true,
}

// retry translates a retry policy. Calls that were certainly not executed go to
// another endpoint anyway; conditions count here only if an author wrote them.
func retry(p *routev3.RetryPolicy, n *notes) route.Retry {
	r := route.Retry{Attempts: 1, PerTry: max(0, p.GetPerTryTimeout().AsDuration()), SameEndpoint: true}
	if p.GetNumRetries() != nil {
		r.Attempts = uint8(min(p.GetNumRetries().GetValue(), 255))
	}
	for _, h := range p.GetRetryHostPredicate() {
		if h.GetName() == previousHosts {
			r.SameEndpoint = false
		} else {
			n.add("retry_host_predicate %s is not honoured", h.GetName())
		}
	}
	if b := p.GetRetryBackOff(); b != nil {
		r.Backoff, r.MaxDelay = max(0, b.GetBaseInterval().AsDuration()), max(0, b.GetMaxInterval().AsDuration())
	}
	n.fields(p, "retry_on num_retries per_try_timeout retry_host_predicate host_selection_retry_max_attempts retriable_status_codes retry_back_off")
	on := strings.FieldsFunc(p.GetRetryOn(), func(c rune) bool { return c == ',' || c == ' ' })
	if isImplied(on) {
		return r
	}
	for _, word := range on {
		switch word {
		case "5xx":
			r.On |= route.RetryLost | route.RetryTryTimeout | route.RetryError
		case "gateway-error":
			r.On |= route.RetryTryTimeout | route.RetryError
		case "reset":
			r.On |= route.RetryLost | route.RetryTryTimeout
		case "deadline-exceeded":
			r.On |= route.RetryTryTimeout
		case "unavailable", "internal", "resource-exhausted", "retriable-status-codes":
			r.On |= route.RetryError
		case "connect-failure", "refused-stream", "reset-before-request", "http3-post-connect-failure":
			// not executed: done anyway
		default:
			if code, err := strconv.Atoi(word); err == nil && code >= 500 && code < 600 {
				r.On |= route.RetryError
				continue
			}
			n.add("retry_on %s is not honoured", word)
		}
	}
	return r
}

// isImplied tells whether conditions are those that Istio puts everywhere.
func isImplied(on []string) bool {
	for _, word := range on {
		if !implied[word] {
			return false
		}
	}
	return slices.Contains(on, "connect-failure") && slices.Contains(on, "refused-stream") &&
		slices.Contains(on, "unavailable") && slices.Contains(on, "cancelled")
}

func hash(out *route.RouteRule, h *routev3.RouteAction_HashPolicy, n *notes) {
	p := route.HashPolicy{Terminal: h.GetTerminal()}
	switch s := h.GetPolicySpecifier().(type) {
	case *routev3.RouteAction_HashPolicy_Header_:
		if s.Header.GetRegexRewrite() != nil {
			n.add("hash_policy: regex_rewrite is not honoured")
		}
		switch name := strings.ToLower(s.Header.GetHeaderName()); name {
		case ":method", headerMethod, ":path":
			p.Method = true
		case headerGroup, headerVersion, ":authority", "host":
			return // the same for all calls of a service
		default:
			p.Attachment = s.Header.GetHeaderName()
		}
	case *routev3.RouteAction_HashPolicy_QueryParameter_:
		p.Attachment = s.QueryParameter.GetName()
	case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
		if !s.ConnectionProperties.GetSourceIp() {
			return
		}
		p.Source = true
	default:
		n.add("hash_policy: only headers, query parameters and the source address are honoured")
		return
	}
	out.Hash = append(out.Hash, p)
}

// fault finds the configuration of the fault filter that is nearest to the route.
func fault(out *route.RouteRule, c *routev3.RouteConfiguration, v *routev3.VirtualHost, r *routev3.Route, n *notes) {
	for _, m := range []map[string]*anypb.Any{r.GetTypedPerFilterConfig(), v.GetTypedPerFilterConfig(), c.GetTypedPerFilterConfig()} {
		a := m[faultFilter]
		if a == nil {
			for _, other := range m {
				if other.GetTypeUrl() == faultURL {
					a = other
				}
			}
		}
		if a == nil {
			continue
		}
		if a.GetTypeUrl() == filterConfigURL {
			var f routev3.FilterConfig
			if proto.Unmarshal(a.GetValue(), &f) != nil || f.GetDisabled() {
				return
			}
			a = f.GetConfig()
		}
		var f faultv3.HTTPFault
		if a.GetTypeUrl() != faultURL || proto.Unmarshal(a.GetValue(), &f) != nil {
			n.add("the configuration of the fault filter cannot be read, no fault is injected")
			return
		}
		inject(out, &f, n)
		return
	}
}

func inject(out *route.RouteRule, f *faultv3.HTTPFault, n *notes) {
	if f.GetUpstreamCluster() != "" || len(f.GetHeaders()) > 0 || len(f.GetDownstreamNodes()) > 0 {
		n.add("fault: conditions (upstream_cluster, headers, downstream_nodes) cannot be checked, no fault is injected")
		return
	}
	n.fields(f, "delay abort disable_downstream_cluster_stats filter_metadata delay_percent_runtime abort_percent_runtime delay_duration_runtime abort_http_status_runtime max_active_faults_runtime response_rate_limit_percent_runtime abort_grpc_status_runtime")
	if d := f.GetDelay(); d != nil {
		if _, fixed := d.GetFaultDelaySecifier().(*faultcommonv3.FaultDelay_FixedDelay); fixed {
			out.Fault.Delay, out.Fault.DelayShare = max(0, d.GetFixedDelay().AsDuration()), perMillion(d.GetPercentage())
		} else {
			n.add("fault: only fixed_delay is honoured")
		}
	}
	if a := f.GetAbort(); a != nil {
		n.within("fault.abort.", a, "http_status grpc_status header_abort percentage")
		switch e := a.GetErrorType().(type) {
		case *faultv3.FaultAbort_HttpStatus:
			out.Fault.AbortStatus, out.Fault.AbortShare = int(e.HttpStatus), perMillion(a.GetPercentage())
		case *faultv3.FaultAbort_GrpcStatus:
			out.Fault.AbortStatus, out.Fault.AbortShare = httpStatus(e.GrpcStatus), perMillion(a.GetPercentage())
		default:
			n.add("fault: header_abort is not honoured")
		}
	}
}

// httpStatus is the HTTP status of a gRPC status, by google.rpc.Code.
func httpStatus(grpc uint32) int {
	switch grpc {
	case 3, 9, 11:
		return 400
	case 4:
		return 504
	case 5:
		return 404
	case 7:
		return 403
	case 8:
		return 429
	case 16:
		return 401
	case 14:
		return 503
	}
	return 500
}

// specName names a virtual host in package route.
func specName(r *xdsclient.Route, v *xdsclient.VirtualHost) string { return r.Name + "/" + v.Name }
