package agent

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

func TestNode(t *testing.T) {
	cfg := config.Config{Address: "10.0.0.5", XDS: config.XDS{Mode: "sidecar", Node: config.XDSNode{
		Name: "shop-1", Namespace: "dubbo", Labels: []string{"app=shop"}, Locality: "cn/hz",
	}}}
	n, err := nodeOf(cfg, 20881)
	if err != nil {
		t.Fatal(err)
	}
	if n.GetId() != "sidecar~10.0.0.5~shop-1.dubbo~dubbo.svc.cluster.local" || n.GetLocality().GetRegion() != "cn" || n.GetLocality().GetZone() != "hz" {
		t.Errorf("%v", n)
	}
	want := map[string]any{"ISTIO_VERSION": istioVersion, "NAMESPACE": "dubbo", "LABELS": map[string]any{"app": "shop"}, "INSTANCE_IPS": "10.0.0.5", "HTTP_PROXY_PORT": "20881", "INTERCEPTION_MODE": "NONE"}
	if got := n.GetMetadata().AsMap(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	cfg.Address, cfg.XDS.Mode, cfg.XDS.Node.ID = "shop-1.example", "grpc", "mine"
	n, err = nodeOf(cfg, 20881)
	if err != nil {
		t.Fatal(err)
	}
	if m := n.GetMetadata().AsMap(); n.GetId() != "mine" || m["GENERATOR"] != "grpc" || m["INSTANCE_IPS"] != "127.0.0.1" || m["HTTP_PROXY_PORT"] != nil {
		t.Errorf("%v", n)
	}
}

func TestOpenXDS(t *testing.T) {
	cfg := config.Config{Address: "10.0.0.5", StateDir: t.TempDir(), MeshPorts: []int{20882}, XDS: config.XDS{Mode: "sidecar", Port: 20882}}
	if s, err := openXDS(cfg, 20881, slog.New(slog.DiscardHandler)); s != nil || err != nil {
		t.Errorf("without a server: %v %v", s, err)
	}
	cfg.XDS.Servers = []string{"127.0.0.1:1"}
	if s, err := openXDS(cfg, 20881, slog.New(slog.DiscardHandler)); s == nil || err != nil {
		t.Errorf("with one: %v %v", s, err)
	}
	cfg.XDS.TLS = config.XDSTLS{Enabled: true, CAFile: "/nowhere"}
	if _, err := openXDS(cfg, 20881, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that is not there was accepted")
	}
}

// Rules of an ADS server decide where calls go: they move from one subset to the
// other, the server goes away and comes back, and the agent starts without it; no
// call fails.
func TestRulesFromADS(t *testing.T) {
	for _, mode := range []string{"sidecar", "grpc"} {
		t.Run(mode, func(t *testing.T) {
			blue, green := provide(t), provide(t)
			s, err := xdstest.New(xdstest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Stop)
			const host = "com.a.greeter"
			address := func(p *provider) string { return fmt.Sprintf("127.0.0.1:%d", p.port()) }
			s.Set(xdstest.Cluster("blue"), xdstest.Cluster("green"), xdstest.Endpoints("blue", address(blue)), xdstest.Endpoints("green", address(green)),
				xdstest.APIListener(host+":20882", "http_proxy"), xdstest.Routes("http_proxy", xdstest.VirtualHost(host, "blue")))

			dir := t.TempDir()
			c := load(t, dir, fmt.Sprintf("registries: [{url: 'local://%s/registry'}]\nstop: {notifyWait: 0s, drain: 5s}\n"+
				"services: [{match: '*', routing: xds}]\nxds: {servers: ['%s'], mode: %s, listeners: ['*']}\n", dir, s.Address(), mode))
			a := run(t, c)
			local := consume(t, a)
			call := func() {
				t.Helper()
				id := local.send("echo")
				if got, refusal := local.answer(); got != id || refusal != "" {
					t.Fatalf("answer to %d: %q", got, refusal)
				}
			}
			// The first call may come before the first answer of the server.
			eventually(t, "the first call", func() bool {
				local.send("echo")
				_, refusal := local.answer()
				return refusal == ""
			})
			for range 50 {
				call()
			}
			if green.calls.Load() != 0 {
				t.Errorf("%d calls went to green", green.calls.Load())
			}

			s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost(host, "blue", "green")))
			moved := func() bool { call(); return green.calls.Load() > 0 }
			eventually(t, "half of the calls go to green", moved)
			b, g := blue.calls.Load(), green.calls.Load()
			for range 400 {
				call()
			}
			if b, g = blue.calls.Load()-b, green.calls.Load()-g; b < 140 || g < 140 { // 200 ± 6 standard deviations
				t.Errorf("1:1 became %d:%d", b, g)
			}
			s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost(host, "green")))
			eventually(t, "all calls go to green", func() bool {
				before := blue.calls.Load()
				for range 20 {
					call()
				}
				return blue.calls.Load() == before
			})

			if status, text := a.ask(t, "GET", "/debug/xds?name=green", ""); status != 200 || !strings.Contains(text, `"state":"ACKED"`) || !strings.Contains(text, `"clusterName":`) || strings.Contains(text, `"name":"blue"`) {
				t.Errorf("/debug/xds: %d %s", status, text)
			}
			says := func(state string) func() bool {
				return func() bool {
					call()
					_, text := a.ask(t, "GET", "/v1/status", "")
					return strings.Contains(text, `"xds":[{"server":"`+s.Address()+`","state":"`+state+`"`)
				}
			}
			eventually(t, "the server in the status", says("serving"))
			s.Stop()
			eventually(t, "the agent has noticed", says("away"))
			for range 50 {
				call()
			}
			// A start without the server.
			a.stop(t)
			a = run(t, c)
			local = consume(t, a)
			eventually(t, "the first call", func() bool {
				local.send("echo")
				_, refusal := local.answer()
				return refusal == ""
			})
			before := green.calls.Load()
			for range 50 {
				call()
			}
			if green.calls.Load() != before+50 {
				t.Error("the rules on disk are not in effect")
			}

			// It is back with a fault that cannot be limited as its author wanted: said.
			v := xdstest.VirtualHost(host, "blue")
			v.Routes[0].Match.Headers = []*routev3.HeaderMatcher{{Name: ":authority", HeaderMatchSpecifier: xdstest.Regex(".*")}}
			s.Set(xdstest.Routes("http_proxy", v))
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "said in the log", func() bool { return a.log.count("a rule cannot be honoured") == 1 })
			eventually(t, "said in status", func() bool {
				_, text := a.ask(t, "GET", "/v1/status", "")
				return strings.Contains(text, ":authority cannot be checked")
			})
		})
	}
}

// The endpoints of a STRICT_DNS cluster are names: they are looked up.
func TestNamesFromADS(t *testing.T) {
	p := provide(t)
	s, err := xdstest.New(xdstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	const host = "com.a.greeter"
	named := &clusterv3.Cluster{
		Name: "named", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}, DnsLookupFamily: clusterv3.Cluster_V4_ONLY,
		LoadAssignment: xdstest.Endpoints("named", fmt.Sprintf("localhost:%d", p.port()), "nobody.invalid:1"),
	}
	s.Set(named, xdstest.APIListener(host+":20882", "http_proxy"), xdstest.Routes("http_proxy", xdstest.VirtualHost(host, "named")))
	dir := t.TempDir()
	a := run(t, load(t, dir, fmt.Sprintf("registries: [{url: 'local://%s/registry'}]\nstop: {notifyWait: 0s, drain: 5s}\n"+
		"services: [{match: '*', routing: xds}]\nxds: {servers: ['%s'], mode: grpc}\n", dir, s.Address())))
	local := consume(t, a)
	eventually(t, "a call", func() bool {
		local.send("echo")
		_, refusal := local.answer()
		return refusal == ""
	})
	if p.calls.Load() == 0 {
		t.Error("the provider was not called")
	}
	if _, text := a.ask(t, "GET", "/v1/explain?service=com.a.Greeter", ""); !strings.Contains(text, `"host":"localhost"`) || !strings.Contains(text, "host nobody.invalid cannot be looked up") {
		t.Errorf("explain: %s", text)
	}
}

// Who decides is set by service pattern, and changes while the agent runs.
func TestRoutingByPattern(t *testing.T) {
	old, young := provide(t), provide(t) // what the registry lists, and where the rules lead
	s, err := xdstest.New(xdstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	var hosts []*routev3.VirtualHost
	for _, name := range []string{"byregistry", "byrules", "both"} {
		hosts = append(hosts, xdstest.VirtualHost("com.a."+name+":20882", "young"))
	}
	s.Set(xdstest.Cluster("young"), xdstest.Endpoints("young", fmt.Sprintf("127.0.0.1:%d", young.port())), xdstest.Listener("out", "http_proxy"), xdstest.Routes("http_proxy", hosts...))
	dir := t.TempDir()
	c := load(t, dir, fmt.Sprintf("registries: [{url: 'local://%s/registry'}]\nstop: {notifyWait: 0s, drain: 5s}\nxds: {servers: ['%s'], listeners: ['*']}\n"+
		"services: [{match: com.a.ByRegistry, routing: registry}, {match: com.a.ByRules, routing: xds}, {match: com.a.Unruled, routing: xds}, {match: 'com.a.*', routing: xds-then-registry}]\n", dir, s.Address()))
	a := run(t, c)
	for _, name := range []string{"ByRegistry", "ByRules", "Unruled", "Both", "Other"} {
		body := fmt.Sprintf(`{"wait":"10s","url":"dubbo://:%d/com.a.%s?application=greeter&interface=com.a.%[2]s&methods=echo"}`, old.port(), name)
		if status, text := a.ask(t, "POST", "/v1/publish", body); status != 200 {
			t.Fatalf("publish: %d %s", status, text)
		}
	}
	local := consume(t, a)
	const refused = -1
	goes := func(service string, want any, says string) {
		t.Helper()
		last := ""
		eventually(t, "calls of "+service+" and what is said about them", func() bool {
			o, y := old.calls.Load(), young.calls.Load()
			local.sendTo("com.a."+service, "echo")
			_, refusal := local.answer()
			var got any = refused
			switch {
			case old.calls.Load() > o:
				got = old
			case young.calls.Load() > y:
				got = young
			}
			_, last = a.ask(t, "GET", "/v1/explain?service=com.a."+service, "")
			if refusal != "" && want != refused {
				return false
			}
			return got == want && strings.Contains(last, says)
		})
		t.Logf("%s: %s", service, last)
	}
	goes("ByRegistry", old, `"routed":true`)
	goes("ByRules", young, `"routing":"xds","source":"rules"`)
	goes("Both", young, `"routing":"xds-then-registry","source":"rules"`)
	goes("Other", old, `"routing":"xds-then-registry","source":"registry"`)
	goes("Unruled", refused, `"routing":"xds","source":"rules"`)

	next := c
	next.Services = []config.Service{{Match: "com.a.ByRegistry", Routing: "xds"}, {Match: "com.a.Both", Routing: "registry"}}
	a.Reload(next)
	goes("ByRegistry", young, `"routing":"xds","source":"rules"`)
	goes("Both", old, `"routed":true`)
	goes("Unruled", old, `"routing":"xds-then-registry","source":"registry"`) // the default
}
