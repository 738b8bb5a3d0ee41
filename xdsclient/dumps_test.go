package xdsclient_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachetypes "github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// dump reads one file of a dump of istiod.
func dump(t testing.TB, path string, blank func() proto.Message) []proto.Message {
	t.Helper()
	list, err := xdstest.Load(path, blank)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return list
}

var dumped = map[string]func() proto.Message{
	"CDS": func() proto.Message { return new(clusterv3.Cluster) },
	"EDS": func() proto.Message { return new(endpointv3.ClusterLoadAssignment) },
	"LDS": func() proto.Message { return new(listenerv3.Listener) },
	"RDS": func() proto.Message { return new(routev3.RouteConfiguration) },
}

func dumpNames(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/istiod/*.json.gz")
	if err != nil || len(files) == 0 {
		t.Fatal("no dumps", err)
	}
	var names []string
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".json.gz")
		names = append(names, name[:strings.LastIndexByte(name, '-')])
	}
	return slices.Compact(names)
}

// Everything that istiod sent in any mode is accepted, and all that it names is
// delivered.
func TestDumpsOfIstiod(t *testing.T) {
	for _, name := range dumpNames(t) {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, xdstest.Options{})
			var listeners []string
			count := map[string]int{}
			endpoints := map[string]int{}
			for kind, blank := range dumped {
				list := dump(t, "testdata/istiod/"+name+"-"+kind+".json.gz", blank)
				count[kind] = len(list)
				for _, m := range list {
					switch m := m.(type) {
					case *listenerv3.Listener:
						listeners = append(listeners, m.GetName())
					case *endpointv3.ClusterLoadAssignment:
						for _, g := range m.GetEndpoints() {
							endpoints[m.GetClusterName()] += len(g.GetLbEndpoints())
						}
					}
				}
				s.Set(list...)
			}
			byName := strings.HasSuffix(name, "grpcgen") || name == "master-vs-misc"
			o := fast(s)
			o.Wildcard = !byName
			o.ResourceTimeout, o.MissingHold = patience/20, patience/40
			c := start(t, o)
			c.SetListeners(listeners)
			c.until("ready", func() bool { return c.ready && len(c.listen) == count["LDS"] })
			for _, r := range s.Requests() {
				if r.NACK != "" {
					t.Errorf("refused: %+v", r)
				}
			}
			if !byName && len(c.cluster) != count["CDS"] {
				t.Errorf("%d clusters of %d", len(c.cluster), count["CDS"])
			}
			for cluster, n := range endpoints {
				if cl := c.cluster[cluster]; cl != nil && cl.Endpoints.Len() != n {
					t.Errorf("cluster %s has %d endpoints of %d", cluster, cl.Endpoints.Len(), n)
				}
			}
			d := c.Dump()
			for _, r := range d.Resources {
				if r.State == xdsclient.Acked && r.Decode() == nil {
					t.Errorf("%s cannot be printed", r.Name)
				}
			}
		})
	}
}

// The real server of go-control-plane, both ways.
func TestGoControlPlane(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		snapshots := cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil)
		put := func(version string, list map[string][]cachetypes.Resource) {
			t.Helper()
			snap, err := cachev3.NewSnapshot(version, list)
			if err != nil {
				t.Fatal(err)
			}
			if err := snapshots.SetSnapshot(ctx, node.GetId(), snap); err != nil {
				t.Fatal(err)
			}
		}
		content := func(blue string, hosts ...*routev3.VirtualHost) map[string][]cachetypes.Resource {
			return map[string][]cachetypes.Resource{
				cds: {xdstest.Cluster("blue"), xdstest.Cluster("green")},
				eds: {xdstest.Endpoints("blue", blue+":1"), xdstest.Endpoints("green", "10.0.0.2:1")},
				lds: {xdstest.Listener("out", "r")},
				rds: {xdstest.Routes("r", hosts...)},
			}
		}
		put("1", content("10.0.0.1", xdstest.VirtualHost("shop", "blue", "green")))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g := grpc.NewServer()
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(ctx, snapshots, nil))
		served := make(chan struct{})
		go func() { defer close(served); _ = g.Serve(l) }()
		defer func() { g.Stop(); <-served }()

		o := xdsclient.Options{Node: node, Wildcard: true, Delta: delta, Servers: []xdsclient.Server{{Address: l.Addr().String()}}}
		c := start(t, o)
		c.until("shop", c.has("r", "shop=blue+green"))
		c.until("ready", func() bool { return c.ready })
		c.coherent()
		put("2", content("10.0.0.9", xdstest.VirtualHost("shop", "green")))
		c.until("changed", func() bool { return c.has("r", "shop=green")() && c.serves("blue", "10.0.0.9")() })
		next := content("10.0.0.9", xdstest.VirtualHost("shop", "green"))
		next[cds], next[eds] = next[cds][1:], next[eds][1:]
		put("3", next)
		c.until("blue gone", func() bool { return c.cluster["blue"] == nil })
		c.coherent()
		for _, s := range c.Dump().Types {
			if s.NACKs != 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}
