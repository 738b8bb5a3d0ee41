package xds

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

const dumps = "../../xdsclient/testdata/istiod/"

// kinds in the order in which files are named.
var kinds = map[string]func() proto.Message{
	"CDS": func() proto.Message { return new(clusterv3.Cluster) },
	"EDS": func() proto.Message { return new(endpointv3.ClusterLoadAssignment) },
	"LDS": func() proto.Message { return new(listenerv3.Listener) },
	"RDS": func() proto.Message { return new(routev3.RouteConfiguration) },
}

// Every dump of istiod, as the router gets it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob(dumps + "*-EDS.json.gz")
	more, _ := filepath.Glob(dumps + "*-LDS.json.gz")
	if err != nil || len(files)+len(more) == 0 {
		t.Fatal("no dumps", err)
	}
	var names []string
	for _, f := range append(files, more...) {
		name := strings.TrimSuffix(filepath.Base(f), ".json.gz")
		names = append(names, name[:len(name)-len("-EDS")])
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := control(t)
			var services []registry.Service
			hosts := map[registry.Service]string{}
			for kind, blank := range kinds {
				list, err := xdstest.Load(dumps+name+"-"+kind+".json.gz", blank)
				if err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				for _, m := range list {
					if l, ok := m.(*listenerv3.Listener); ok {
						host, isMesh := strings.CutSuffix(l.GetName(), ":20882")
						service := registry.Service{Interface: host}
						if isMesh {
							services = append(services, service)
							hosts[service] = host
						}
					}
				}
				s.Set(list...)
			}
			o := Options{Host: func(s registry.Service) string { return hosts[s] }}
			if strings.HasSuffix(name, "grpcgen") || name == "master-vs-misc" {
				o.Mode = GRPC
			}
			r := start(t, s, o, services...)
			r.until("synced", func() bool { return r.synced })
			got := render(t, map[string]any{
				"routes": r.routes, "clusters": r.clusters, "endpoints": r.endpoints, "unsupported": r.Unsupported(),
			})
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s; with -update:\n%s", golden, got)
			}
			for _, d := range r.Dump().Types {
				if d.NACKs > 0 {
					t.Errorf("refused: %+v", d)
				}
			}
		})
	}
}

// render writes what is not zero.
func render(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	out, err := json.MarshalIndent(strip(tree), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func strip(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if x = strip(x); x == nil || x == "" || x == false || x == float64(0) {
				delete(v, k)
			} else {
				v[k] = x
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = strip(v[i])
		}
		if len(v) == 0 {
			return nil
		}
	}
	return v
}
