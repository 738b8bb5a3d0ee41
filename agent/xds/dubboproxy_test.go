package xds

import (
	"reflect"
	"slices"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	dubbov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/v3"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

func service(name string) registry.Service { return registry.Service{Interface: name} }

func services(list ...registry.Service) []registry.Service { return list }

const dubboConfig = `
  name: "first" interface: "com.a.*" group: "g" version: "1.0.0"
  routes { match { method { name { exact: "say" } } headers { name: "user" string_match { prefix: "j" } } } route { cluster: "blue" } }
  routes { match { method { name { safe_regex { regex: "get.*" } } params_match { key: 2 value { range_match { start: -1 end: 9 } } } params_match { key: 0 value { exact_match: "x" } } } } route { cluster: "green" } }
  routes { match { method { params_match { key: 1 value {} } } } route { cluster: "green" } }
  routes { match {} route { weighted_clusters { clusters { name: "blue" weight { value: 3 } } clusters { name: "green" weight { value: 1 } } } metadata_match {} } }`

func wantDubbo(prefix string) []*route.RouteSpec {
	return []*route.RouteSpec{{
		Name: prefix + "/0/first", Services: []route.ServicePattern{{Interface: "com.a.*", Group: "g", Version: "1.0.0"}},
		Routes: []route.RouteRule{
			{
				Match: route.Match{
					Method:      route.StringMatch{Kind: route.Exact, Text: "say"},
					Attachments: []route.AttachmentMatch{{Key: "user", StringMatch: route.StringMatch{Kind: route.Prefix, Text: "j"}}},
				},
				Clusters: []route.WeightedCluster{{Cluster: "blue", Weight: 1}},
			},
			{
				Match: route.Match{Method: route.StringMatch{Kind: route.Regex, Text: "get.*"}, Arguments: []route.ArgumentMatch{
					{StringMatch: route.StringMatch{Kind: route.Exact, Text: "x"}}, {Index: 2, StringMatch: route.StringMatch{Kind: route.Range, From: -1, To: 9}},
				}},
				Clusters: []route.WeightedCluster{{Cluster: "green", Weight: 1}},
			},
			{
				Match:       route.Match{Fraction: route.NoneOf},
				Clusters:    []route.WeightedCluster{{Cluster: "green", Weight: 1}},
				Unsupported: []string{"params_match of parameter 1 cannot be checked, so the route never matches"},
			},
			{
				Clusters:    []route.WeightedCluster{{Cluster: "blue", Weight: 3}, {Cluster: "green", Weight: 1}},
				Unsupported: []string{"metadata_match is not honoured"},
			},
		},
	}, {
		Name: prefix + "/1/rest", Order: 1, Services: []route.ServicePattern{{Interface: "*"}},
		Routes: []route.RouteRule{{Clusters: []route.WeightedCluster{{Cluster: "green", Weight: 1}}}},
	}}
}

func dubboListener(t *testing.T, text string) *listenerv3.Listener {
	t.Helper()
	m := parse(t, text, new(dubbov3.DubboProxy))
	return &listenerv3.Listener{Name: "dubbo", FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name: "envoy.filters.network.dubbo_proxy", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: xdstest.Any(m)},
	}}}}}
}

func TestDubboProxy(t *testing.T) {
	const rest = ` name: "rest" interface: "*" routes { match {} route { cluster: "green" } }`
	const head = `stat_prefix: "dubbo" dubbo_filters { name: "envoy.filters.dubbo.router" } `
	for name, test := range map[string]struct{ config, prefix string }{
		"inline":   {head + `route_config {` + dubboConfig + `} route_config {` + rest + `}`, "listener/dubbo"},
		"multiple": {head + `multiple_route_config { name: "m" route_config {` + dubboConfig + `} route_config {` + rest + `} }`, "listener/dubbo"},
		"drds":     {head + `drds { config_source { ads {} } route_config_name: "m" }`, "drds/m"},
	} {
		t.Run(name, func(t *testing.T) {
			s := control(t)
			s.Set(xdstest.Cluster("blue"), xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Cluster("green"), xdstest.Endpoints("green", "10.0.0.2:1"), dubboListener(t, test.config))
			if name == "drds" {
				s.Set(parse(t, `name: "m" route_config {`+dubboConfig+`} route_config {`+rest+`}`, new(dubbov3.MultipleRouteConfiguration)))
			}
			r := start(t, s, Options{})
			r.until("both", func() bool { return r.synced && len(r.routes) == 2 && len(r.endpoints) == 2 })
			for _, want := range wantDubbo(test.prefix) {
				got := r.routes[want.Name]
				if got == nil {
					t.Errorf("no %s", want.Name)
					continue
				}
				for i := range got.Routes {
					if len(got.Routes[i].Unsupported) == 0 {
						got.Routes[i].Unsupported = nil
					}
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("\n got %+v\nwant %+v", got, want)
				}
			}
			if n := r.Unsupported()["route "+test.prefix+"/0/first"]; !slices.Equal(n, []string{"route 2: params_match of parameter 1 cannot be checked, so the route never matches", "route 3: metadata_match is not honoured"}) {
				t.Errorf("%q", n)
			}
			if name == "drds" {
				s.Set(parse(t, `name: "m" route_config {`+rest+`}`, new(dubbov3.MultipleRouteConfiguration)))
				r.until("changed", func() bool { return len(r.routes) == 1 && r.routes["drds/m/0/rest"] != nil })
			}
			s.Delete(xdstest.ListenerURL, "dubbo")
			r.until("gone", func() bool { return len(r.routes) == 0 })
		})
	}
}
