package controlplane

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	fault "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	dubbo "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/v3"
	previous "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/meshferry/meshferry/controlplane/istio"
)

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// virtualHost has the routes of a service for nodes like p, as istiod writes them.
// For gRPC the domains and the time-out differ.
func (s *service) virtualHost(vs *virtualService, rules map[string]*destinationRule, p *profile, grpc bool) *route.VirtualHost {
	port := ":" + itoa(s.port)
	v := &route.VirtualHost{Name: s.host + port, IncludeRequestAttemptCount: true,
		Domains: []string{s.host + port, s.host + "." + port}}
	if grpc {
		v.Domains = []string{s.host, s.host + port, s.host + ".", s.host + "." + port}
	}
	v.Routes = s.routes(vs, rules, p, grpc)
	return v
}

func (s *service) routes(vs *virtualService, rules map[string]*destinationRule, p *profile, grpc bool) []*route.Route {
	if vs == nil {
		return []*route.Route{{
			Name: "default", Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
			Action: &route.Route_Route{Route: s.action(&networking.HTTPRoute{Route: []*networking.HTTPRouteDestination{{Destination: &networking.Destination{Host: s.host}}}}, rules, grpc)},
		}}
	}
	var list []*route.Route
	for _, r := range vs.Spec.Http {
		matches := r.Match
		if len(matches) == 0 {
			matches = []*networking.HTTPMatchRequest{{}}
		}
		for _, m := range matches {
			if m.Port != 0 && m.Port != s.port || !p.fits(m) {
				continue
			}
			fits := match(m)
			if len(r.Match) > 0 { // as istiod, also without a uri
				fits.CaseSensitive = wrapperspb.Bool(!m.IgnoreUriCase)
			}
			out := &route.Route{Name: r.Name, Match: fits, Metadata: &core.Metadata{FilterMetadata: map[string]*structpb.Struct{
				"istio": {Fields: map[string]*structpb.Value{"config": structpb.NewStringValue(vs.Ref())}}}}}
			if m.Name != "" {
				out.Name = r.Name + "." + m.Name
			}
			if d := r.DirectResponse; d != nil {
				out.Action = &route.Route_DirectResponse{DirectResponse: &route.DirectResponseAction{Status: d.Status}}
				if b := d.Body; b != nil {
					out.GetDirectResponse().Body = &core.DataSource{Specifier: &core.DataSource_InlineString{InlineString: b.GetString_()}}
				}
			} else {
				out.Action = &route.Route_Route{Route: s.action(r, rules, grpc)}
			}
			if f := faults(r.Fault); f != nil {
				out.TypedPerFilterConfig = map[string]*anypb.Any{"envoy.filters.http.fault": pack(f)}
			}
			out.RequestHeadersToAdd, out.RequestHeadersToRemove = headers(r.Headers)
			list = append(list, out)
		}
	}
	return list
}

func match(m *networking.HTTPMatchRequest) *route.RouteMatch {
	out := &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}}
	if m.Uri != nil {
		switch u := m.Uri.MatchType.(type) {
		case *networking.StringMatch_Exact:
			out.PathSpecifier = &route.RouteMatch_Path{Path: u.Exact}
		case *networking.StringMatch_Prefix:
			out.PathSpecifier = &route.RouteMatch_Prefix{Prefix: u.Prefix}
		case *networking.StringMatch_Regex:
			out.PathSpecifier = &route.RouteMatch_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: u.Regex}}
		}
	}
	if m.Method != nil {
		out.Headers = append(out.Headers, header(":method", m.Method))
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		out.Headers = append(out.Headers, header(name, m.Headers[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(m.WithoutHeaders)) {
		h := header(name, m.WithoutHeaders[name])
		h.InvertMatch, h.TreatMissingHeaderAsEmpty = true, h.GetStringMatch() != nil
		out.Headers = append(out.Headers, h)
	}
	for _, name := range slices.Sorted(maps.Keys(m.QueryParams)) {
		q := &route.QueryParameterMatcher{Name: name, QueryParameterMatchSpecifier: &route.QueryParameterMatcher_PresentMatch{PresentMatch: true}}
		if t := text(m.QueryParams[name]); t != nil {
			q.QueryParameterMatchSpecifier = &route.QueryParameterMatcher_StringMatch{StringMatch: t}
		}
		out.QueryParameters = append(out.QueryParameters, q)
	}
	return out
}

func header(name string, m *networking.StringMatch) *route.HeaderMatcher {
	if t := text(m); t != nil {
		return &route.HeaderMatcher{Name: name, HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{StringMatch: t}}
	}
	return &route.HeaderMatcher{Name: name, HeaderMatchSpecifier: &route.HeaderMatcher_PresentMatch{PresentMatch: true}}
}

// text is nil for a match of any value.
func text(m *networking.StringMatch) *matcher.StringMatcher {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: t.Exact}}
	case *networking.StringMatch_Prefix:
		return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: t.Prefix}}
	case *networking.StringMatch_Regex:
		return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: t.Regex}}}
	}
	return nil
}

// destination is the name of a destination's cluster. The port is that of the
// service, unless the destination names one.
func (s *service) destination(d *networking.Destination) string {
	port := d.GetPort().GetNumber()
	if port == 0 {
		port = s.port
	}
	return clusterName(port, d.Subset, istio.Host(d.Host))
}

func (s *service) action(r *networking.HTTPRoute, rules map[string]*destinationRule, grpc bool) *route.RouteAction {
	out := &route.RouteAction{Timeout: cmp.Or(r.Timeout, durationpb.New(0)), RetryPolicy: retries(r.Retries)}
	if grpc {
		out.MaxStreamDuration = &route.RouteAction_MaxStreamDuration{MaxStreamDuration: out.Timeout}
		out.Timeout = nil
	}
	var weighted []*route.WeightedCluster_ClusterWeight
	for _, d := range r.Route {
		if len(r.Route) > 1 && d.Weight == 0 {
			continue
		}
		c := &route.WeightedCluster_ClusterWeight{Name: s.destination(d.Destination), Weight: wrapperspb.UInt32(uint32(d.Weight))}
		c.RequestHeadersToAdd, c.RequestHeadersToRemove = headers(d.Headers)
		weighted = append(weighted, c)
		if rule := rules[istio.Host(d.Destination.Host)]; rule != nil {
			out.HashPolicy = append(out.HashPolicy, s.hash(rule, d.Destination.Subset)...)
		}
	}
	out.HashPolicy = slices.CompactFunc(out.HashPolicy, func(a, b *route.RouteAction_HashPolicy) bool {
		return a.GetHeader().GetHeaderName() == b.GetHeader().GetHeaderName()
	})
	if len(weighted) == 1 && len(weighted[0].RequestHeadersToAdd)+len(weighted[0].RequestHeadersToRemove) == 0 {
		out.ClusterSpecifier = &route.RouteAction_Cluster{Cluster: weighted[0].Name}
	} else {
		if len(weighted) == 1 {
			weighted[0].Weight = wrapperspb.UInt32(100)
		}
		out.ClusterSpecifier = &route.RouteAction_WeightedClusters{WeightedClusters: &route.WeightedCluster{Clusters: weighted}}
	}
	mirrors := r.Mirrors
	if r.Mirror != nil {
		mirrors = []*networking.HTTPMirrorPolicy{{Destination: r.Mirror, Percentage: r.MirrorPercentage}}
	}
	for _, m := range mirrors {
		percent := cmp.Or(m.Percentage, &networking.Percent{Value: 100})
		if percent.Value > 0 {
			out.RequestMirrorPolicies = append(out.RequestMirrorPolicies, &route.RouteAction_RequestMirrorPolicy{Cluster: s.destination(m.Destination),
				RuntimeFraction: &core.RuntimeFractionalPercent{DefaultValue: fraction(percent)}})
		}
	}
	return out
}

// hash is the hash policy of a destination with consistentHash.
func (s *service) hash(rule *destinationRule, subset string) []*route.RouteAction_HashPolicy {
	policy := rule.Spec.TrafficPolicy
	for _, sub := range rule.Spec.Subsets {
		if sub.Name == subset {
			policy = merge(policy, sub.TrafficPolicy)
		}
	}
	name := s.policy(policy).GetLoadBalancer().GetConsistentHash().GetHttpHeaderName()
	if name == "" {
		return nil
	}
	return []*route.RouteAction_HashPolicy{{PolicySpecifier: &route.RouteAction_HashPolicy_Header_{Header: &route.RouteAction_HashPolicy_Header{HeaderName: name}}}}
}

var previousHosts = pack(&previous.PreviousHostsPredicate{})

// retries is what istiod sends; without any it is Istio's default of two. The
// agent tries again only what was certainly not executed, unless the rule names
// more (docs/xds.md).
func retries(r *networking.HTTPRetry) *route.RetryPolicy {
	if r != nil && r.Attempts == 0 {
		return nil
	}
	out := &route.RetryPolicy{
		RetryOn: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", NumRetries: wrapperspb.UInt32(2),
		RetryHostPredicate: []*route.RetryPolicy_RetryHostPredicate{{Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &route.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: previousHosts}}},
		HostSelectionRetryMaxAttempts: 5,
	}
	if r == nil {
		return out
	}
	out.NumRetries, out.PerTryTimeout = wrapperspb.UInt32(uint32(r.Attempts)), r.PerTryTimeout
	if r.RetryOn != "" {
		var on []string
		for _, one := range strings.Split(r.RetryOn, ",") {
			one = strings.TrimSpace(one)
			if code, err := strconv.ParseUint(one, 10, 16); err == nil {
				out.RetriableStatusCodes = append(out.RetriableStatusCodes, uint32(code))
			} else if one != "" {
				on = append(on, one)
			}
		}
		if len(out.RetriableStatusCodes) > 0 && !slices.Contains(on, "retriable-status-codes") {
			on = append(on, "retriable-status-codes")
		}
		out.RetryOn = strings.Join(on, ",")
	}
	if ignore := r.RetryIgnorePreviousHosts; ignore != nil && !ignore.Value {
		out.RetryHostPredicate = nil
	}
	if r.Backoff != nil {
		out.RetryBackOff = &route.RetryPolicy_RetryBackOff{BaseInterval: r.Backoff}
	}
	return out
}

func headers(h *networking.Headers) (add []*core.HeaderValueOption, remove []string) {
	ops := h.GetRequest()
	for _, group := range []struct {
		values map[string]string
		action core.HeaderValueOption_HeaderAppendAction
	}{{ops.GetSet(), core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}, {ops.GetAdd(), core.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD}} {
		for _, k := range slices.Sorted(maps.Keys(group.values)) {
			add = append(add, &core.HeaderValueOption{Header: &core.HeaderValue{Key: k, Value: group.values[k]}, AppendAction: group.action})
		}
	}
	return add, ops.GetRemove()
}

func fraction(p *networking.Percent) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: uint32(p.GetValue()*10000 + 0.5), Denominator: typev3.FractionalPercent_MILLION}
}

func faults(f *networking.HTTPFaultInjection) *fault.HTTPFault {
	if f == nil {
		return nil
	}
	percent := func(p *networking.Percent) *typev3.FractionalPercent {
		if p == nil {
			p = &networking.Percent{Value: 100}
		}
		return fraction(p)
	}
	out := &fault.HTTPFault{}
	if d := f.Delay; d != nil {
		out.Delay = &commonfault.FaultDelay{FaultDelaySecifier: &commonfault.FaultDelay_FixedDelay{FixedDelay: d.GetFixedDelay()}, Percentage: percent(d.Percentage)}
	}
	if a := f.Abort; a != nil {
		out.Abort = &fault.FaultAbort{ErrorType: &fault.FaultAbort_HttpStatus{HttpStatus: uint32(a.GetHttpStatus())}, Percentage: percent(a.Percentage)}
	}
	return out
}

// dubboRoutes is the service for Envoy's dubbo_proxy: what of the routes it can
// match. It has no time-outs, retries, faults or mirrors.
func (s *service) dubboRoutes(vs *virtualService, rules map[string]*destinationRule, p *profile) *dubbo.RouteConfiguration {
	out := &dubbo.RouteConfiguration{Name: s.host, Interface: s.Interface, Group: s.Group, Version: s.Version}
	for _, r := range s.routes(vs, rules, p, false) {
		if r.GetRoute() == nil {
			continue
		}
		m, ok := dubboMatch(s.Interface, r.Match)
		if !ok {
			continue
		}
		action := &dubbo.RouteAction{}
		if w := r.GetRoute().GetWeightedClusters(); w != nil {
			clusters := &route.WeightedCluster{}
			for _, c := range w.Clusters {
				clusters.Clusters = append(clusters.Clusters, &route.WeightedCluster_ClusterWeight{Name: c.Name, Weight: c.Weight})
			}
			action.ClusterSpecifier = &dubbo.RouteAction_WeightedClusters{WeightedClusters: clusters}
		} else {
			action.ClusterSpecifier = &dubbo.RouteAction_Cluster{Cluster: r.GetRoute().GetCluster()}
		}
		out.Routes = append(out.Routes, &dubbo.Route{Match: m, Route: action})
	}
	return out
}

// dubboMatch is false for a match that dubbo_proxy cannot express, or that no
// call of the interface satisfies.
func dubboMatch(iface string, m *route.RouteMatch) (*dubbo.RouteMatch, bool) {
	out := &dubbo.RouteMatch{}
	method := func(s *matcher.StringMatcher) bool {
		if out.Method != nil {
			return false
		}
		out.Method = &dubbo.MethodMatch{Name: s}
		return true
	}
	switch p := m.PathSpecifier.(type) {
	case *route.RouteMatch_Path:
		name, ok := strings.CutPrefix(p.Path, "/"+iface+"/")
		if !ok || !method(&matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: name}}) {
			return nil, false
		}
	case *route.RouteMatch_Prefix:
		if strings.HasPrefix("/"+iface+"/", p.Prefix) {
			break // any method
		}
		name, ok := strings.CutPrefix(p.Prefix, "/"+iface+"/")
		if !ok || !method(&matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: name}}) {
			return nil, false
		}
	default:
		return nil, false
	}
	if len(m.QueryParameters) > 0 {
		return nil, false
	}
	for _, h := range m.Headers {
		if h.Name == "dubbo-method" || h.Name == ":method" {
			if h.InvertMatch || h.GetStringMatch() == nil || !method(h.GetStringMatch()) {
				return nil, false
			}
			continue
		}
		out.Headers = append(out.Headers, h)
	}
	if out.Method == nil { // Envoy refuses a route without one
		method(&matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{SafeRegex: &matcher.RegexMatcher{Regex: ".*"}}})
	}
	return out, true
}

// call is one call as a route sees it.
type call struct {
	path    string
	headers map[string]string // attachments, and the names that begin with ':' or "dubbo-"
}

// matches is Envoy's reading of a match, whole-string for regular expressions.
func (c call) matches(m *route.RouteMatch) (bool, string) {
	switch p := m.PathSpecifier.(type) {
	case *route.RouteMatch_Path:
		if c.path != p.Path && (m.CaseSensitive.GetValue() || !strings.EqualFold(c.path, p.Path)) {
			return false, "path is " + c.path + ", not " + p.Path
		}
	case *route.RouteMatch_Prefix:
		head := c.path[:min(len(c.path), len(p.Prefix))]
		if head != p.Prefix && (m.CaseSensitive == nil || m.CaseSensitive.Value || !strings.EqualFold(head, p.Prefix)) {
			return false, "path is " + c.path + ", not " + p.Prefix + "…"
		}
	case *route.RouteMatch_SafeRegex:
		if !whole(p.SafeRegex.Regex, c.path) {
			return false, "path is " + c.path + ", not like " + p.SafeRegex.Regex
		}
	}
	for _, h := range m.Headers {
		value, found := c.headers[h.Name]
		ok := found
		if t := h.GetStringMatch(); t != nil {
			ok = (found || h.TreatMissingHeaderAsEmpty) && textMatches(t, value)
		}
		if ok == h.InvertMatch {
			if !found {
				value = "(none)"
			}
			return false, "attachment " + h.Name + " is " + value
		}
	}
	if len(m.QueryParameters) > 0 {
		return false, "a Dubbo call has no query"
	}
	return true, ""
}

func textMatches(t *matcher.StringMatcher, value string) bool {
	switch p := t.MatchPattern.(type) {
	case *matcher.StringMatcher_Exact:
		return value == p.Exact
	case *matcher.StringMatcher_Prefix:
		return strings.HasPrefix(value, p.Prefix)
	case *matcher.StringMatcher_SafeRegex:
		return whole(p.SafeRegex.Regex, value)
	}
	return false
}

func whole(expression, value string) bool {
	re, err := regexp.Compile(`^(?:` + expression + `)$`)
	return err == nil && re.MatchString(value)
}
