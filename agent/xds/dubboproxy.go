package xds

import (
	"fmt"
	"maps"
	"slices"

	dubbov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/v3"
	"google.golang.org/protobuf/proto"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/xdsclient"
)

// Type URLs of Envoy's dubbo_proxy filter and of what DRDS carries.
const (
	dubboProxyURL  = "type.googleapis.com/envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy"
	dubboRoutesURL = "type.googleapis.com/envoy.extensions.filters.network.dubbo_proxy.v3.MultipleRouteConfiguration"
)

// dubboProxy teaches the client the filter: routes inline, in the old and in the
// new form, and by DRDS.
var dubboProxy = xdsclient.Extension{
	FilterURL: dubboProxyURL,
	Filter: func(raw []byte) (any, []string, []string, error) {
		m := new(dubbov3.DubboProxy)
		if err := proto.Unmarshal(raw, m); err != nil {
			return nil, nil, nil, err
		}
		var names []string
		if n := m.GetDrds().GetRouteConfigName(); n != "" {
			names = append(names, n)
		}
		clusters, err := dubboClusters(inlineRoutes(m))
		return m, names, clusters, err
	},
	RouteURL: dubboRoutesURL,
	Route: func(raw []byte) (string, any, []string, error) {
		m := new(dubbov3.MultipleRouteConfiguration)
		if err := proto.Unmarshal(raw, m); err != nil {
			return "", nil, nil, err
		}
		clusters, err := dubboClusters(m.GetRouteConfig())
		return m.GetName(), m, clusters, err
	},
}

func inlineRoutes(m *dubbov3.DubboProxy) []*dubbov3.RouteConfiguration {
	if r := m.GetMultipleRouteConfig(); r != nil {
		return r.GetRouteConfig()
	}
	//lint:ignore SA1019 it is still sent
	return m.GetRouteConfig()
}

func dubboClusters(list []*dubbov3.RouteConfiguration) ([]string, error) {
	var clusters []string
	for _, c := range list {
		for i, r := range c.GetRoutes() {
			if r.GetRoute() == nil {
				return nil, fmt.Errorf("route configuration %q, route %d: no action", c.GetName(), i)
			}
			if n := r.GetRoute().GetCluster(); n != "" {
				clusters = append(clusters, n)
			}
			for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
				clusters = append(clusters, w.GetName())
			}
		}
	}
	return clusters, nil
}

// dubboSpecs translates route configurations of dubbo_proxy: the first one whose
// pattern matches a service has its routes.
func dubboSpecs(prefix string, list []*dubbov3.RouteConfiguration) []*route.RouteSpec {
	var out []*route.RouteSpec
	for i, c := range list {
		s := &route.RouteSpec{
			Name: fmt.Sprintf("%s/%d/%s", prefix, i, c.GetName()), Order: i,
			Services: []route.ServicePattern{{Interface: c.GetInterface(), Group: c.GetGroup(), Version: c.GetVersion()}},
		}
		if c.GetInterface() == "" {
			s.Services[0].Interface = "*"
		}
		for _, r := range c.GetRoutes() {
			s.Routes = append(s.Routes, dubboRule(r))
		}
		out = append(out, s)
	}
	return out
}

func dubboRule(r *dubbov3.Route) route.RouteRule {
	var n notes
	out := route.RouteRule{Match: matches(&routev3.RouteMatch{Headers: r.GetMatch().GetHeaders()}, &n)}
	b := matchBuilder{n: &n, out: out.Match}
	if name := r.GetMatch().GetMethod().GetName(); name != nil {
		if v, ok := b.text(name); ok {
			b.set(&b.out.Method, "method", v)
		}
	}
	params := r.GetMatch().GetMethod().GetParamsMatch()
	for _, index := range slices.Sorted(maps.Keys(params)) {
		one := route.ArgumentMatch{Index: int(index)}
		switch p := params[index].GetParameterMatchSpecifier().(type) {
		case *dubbov3.MethodMatch_ParameterMatchSpecifier_ExactMatch:
			one.StringMatch = route.StringMatch{Kind: route.Exact, Text: p.ExactMatch}
		case *dubbov3.MethodMatch_ParameterMatchSpecifier_RangeMatch:
			one.StringMatch = route.StringMatch{Kind: route.Range, From: p.RangeMatch.GetStart(), To: p.RangeMatch.GetEnd()}
		default:
			b.never(fmt.Sprintf("params_match of parameter %d", index))
			continue
		}
		b.out.Arguments = append(b.out.Arguments, one)
	}
	if b.impossible {
		b.out.Fraction = route.NoneOf
	}
	out.Match = b.out
	a := r.GetRoute()
	n.fields(a, "cluster weighted_clusters")
	if c := a.GetCluster(); c != "" {
		out.Clusters = []route.WeightedCluster{{Cluster: c, Weight: 1}}
	} else {
		out.Clusters = weighted(a.GetWeightedClusters(), &n)
	}
	out.Unsupported = n
	return out
}
