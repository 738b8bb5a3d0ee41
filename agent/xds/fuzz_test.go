package xds

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dubbov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/dubbo_proxy/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// Whatever a control plane sends is translated or noted, and shares stay in range.
func FuzzTranslate(f *testing.F) {
	for _, kind := range []string{"http-sidecar", "vs-misc"} {
		list, err := xdstest.Load(dumps+"master-"+kind+"-RDS.json.gz", kinds["RDS"])
		if err != nil {
			f.Fatal(err)
		}
		for _, m := range list {
			f.Add(xdstest.Any(m).GetValue())
		}
	}
	f.Add(xdstest.Any(xdstest.Cluster("a")).GetValue())
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := new(routev3.RouteConfiguration)
		if proto.Unmarshal(raw, c) == nil {
			for _, v := range c.GetVirtualHosts() {
				spec := virtualHost("x", c, v, 20882)
				if spec == nil {
					continue
				}
				for _, r := range spec.Routes {
					if s := r.Match.Fraction; s > route.Million && s != route.NoneOf || r.Fault.AbortShare > route.Million || r.Fault.DelayShare > route.Million {
						t.Errorf("shares of %+v", r)
					}
					if r.Direct != nil && len(r.Clusters) > 0 {
						t.Errorf("two actions: %+v", r)
					}
				}
			}
		}
		cl := new(clusterv3.Cluster)
		if proto.Unmarshal(raw, cl) == nil {
			clusterSpec(&xdsclient.Cluster{Name: "x", Config: cl})
		}
		m := new(dubbov3.MultipleRouteConfiguration)
		if proto.Unmarshal(raw, m) == nil {
			dubboSpecs("x", m.GetRouteConfig())
		}
	})
}
