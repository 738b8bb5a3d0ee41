package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

// TestIstiod runs with an istiod that is there already; see docs/xds.md.
var (
	istiodProgram    = flag.String("istiod", "", "TestIstiod: an unmodified pilot-discovery")
	istiodKubernetes = flag.Bool("istiod-kubernetes", false, "TestIstiod: it is 1.30 or later and wants a Kubernetes API server; it gets an empty one")
)

// istiod is a real one without Kubernetes, with the adapter as a source of services.
type istiod struct {
	*world
	address string // of ADS, plain text
	secure  string // with TLS: clients show who they are
	pki     string // folder of ca.pem, istiod.pem, agent.pem and their keys
	admin   string // of the adapter
	folder  string // its rules
	args    []string
	adapter *process
	pilot   *process
}

func newIstiod(w *world) *istiod {
	w.t.Helper()
	ip := w.host("istiod")
	at := func(port string) string { return net.JoinHostPort(ip, port) }
	i := &istiod{world: w, address: at("15010"), secure: at("15012"), pki: pki(w.t), admin: at("15998"), folder: w.t.TempDir()}
	i.startAdapter()
	sources := fmt.Sprintf("- address: fs://%s\n- address: xds://%s\n", i.folder, at("15999"))
	i.args = []string{"discovery", "--networksConfig", "/nonexistent", "--httpAddr", at("18080"), "--grpcAddr", i.address, "--secureGRPCAddr", i.secure,
		"--tlsCertFile", filepath.Join(i.pki, "istiod.pem"), "--tlsKeyFile", filepath.Join(i.pki, "istiod.key"), "--caCertFile", filepath.Join(i.pki, "ca.pem"),
		"--monitoringAddr", at("15014"), "--ctrlz_address", ip, "--ctrlz_port", "19876", "--domain", "cluster.local", "--log_target", "stderr"}
	if *istiodKubernetes {
		sources += "- address: k8s://\n"
		i.args = append(i.args, "--kubeconfig", w.kubernetes(), "--clusterID", "stub", "--httpsAddr", at("15017"))
	} else {
		i.args = append(i.args, "--registries=", "--configDir", i.folder, "--httpsAddr", "")
	}
	mesh := w.file("mesh.yaml", "trustDomain: cluster.local\nrootNamespace: istio-system\nenableAutoMtls: false\ndefaultConfig: {discoveryAddress: '"+i.address+"'}\nconfigSources:\n"+sources)
	i.args = append(i.args, "--meshConfig", mesh)
	return i
}

func (i *istiod) startAdapter() {
	i.t.Helper()
	ip := i.host("istiod")
	i.adapter = i.spawn("adapter", nil, program(i.t, "meshferry"), "adapter", "--registry", i.registry, "--listen", net.JoinHostPort(ip, "15999"), "--admin", i.admin)
	eventually(i.t, "the adapter to be ready", func() error {
		_, err := fetch(i.t.Context(), i.admin, "/readyz")
		return err
	})
}

func (i *istiod) start() {
	i.t.Helper()
	i.pilot = i.spawn("istiod", []string{"ENABLE_CA_SERVER=false", "POD_NAME=istiod-0", "POD_NAMESPACE=istio-system",
		"PILOT_ENABLE_GATEWAY_API=false", "INJECT_ENABLED=false"}, *istiodProgram, i.args...)
}

// rules writes what istiod reads, as one change. The last route has a name of its
// own, which is returned.
func (i *istiod) rules(http string) {
	i.t.Helper()
	host := rewrite.Host(registry.Service{Interface: service})
	text := fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: greet, namespace: dubbo}
spec:
  hosts: [%[1]s]
  http:
%[2]s
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: greet, namespace: dubbo}
spec:
  host: %[1]s
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 100, connectTimeout: 2s, tcpKeepalive: {time: 60s, interval: 10s, probes: 3}}, http: {http1MaxPendingRequests: 1000, http2MaxRequests: 1000, maxRetries: 10}}
    outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 1s, maxEjectionPercent: 50, minHealthPercent: 10}
    loadBalancer: {simple: ROUND_ROBIN}
  subsets:
  - {name: blue, labels: {color: blue}}
  - {name: green, labels: {color: green}, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: user}}}}
`, host, http)
	temporary := filepath.Join(i.dir, "rules")
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		i.t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(i.folder, "rules.yaml")); err != nil {
		i.t.Fatal(err)
	}
}

// split is the rule that everything goes to blue and green by weight.
func split(name string, toBlue, toGreen int) string {
	host := rewrite.Host(registry.Service{Interface: service})
	return fmt.Sprintf("  - name: %[2]s\n    route:\n    - {destination: {host: %[1]s, subset: blue}, weight: %[3]d}\n    - {destination: {host: %[1]s, subset: green}, weight: %[4]d}\n",
		host, name, toBlue, toGreen)
}

// features are routes that calls choose by the attachment kind.
var features = strings.ReplaceAll(`
  - name: labels
    match: [{headers: {kind: {exact: labels}}, sourceLabels: {app: grpc}}]
    route: [{destination: {host: HOST, subset: green}}]
  - name: abort
    match: [{headers: {kind: {exact: abort}}}]
    fault: {abort: {httpStatus: 503, percentage: {value: 100}}}
    route: [{destination: {host: HOST, subset: green}}]
  - name: delay
    match: [{headers: {kind: {exact: delay}}}]
    fault: {delay: {fixedDelay: 0.2s, percentage: {value: 100}}}
    route: [{destination: {host: HOST, subset: green}}]
  - name: direct
    match: [{headers: {kind: {exact: direct}}}]
    directResponse: {status: 503, body: {string: closed for today}}
  - name: mirror
    match: [{headers: {kind: {exact: mirror}}}]
    route: [{destination: {host: HOST, subset: green}}]
    mirror: {host: HOST, subset: blue}
    mirrorPercentage: {value: 100}
  - name: prefix
    match: [{headers: {kind: {prefix: pre}}}]
    timeout: 2s
    retries: {attempts: 3, perTryTimeout: 0.5s, retryOn: 'connect-failure,5xx'}
    headers: {request: {set: {a: '1'}, add: {b: '2'}, remove: [c]}}
    route: [{destination: {host: HOST, subset: green}}]
  - name: regex
    match: [{headers: {kind: {regex: 're.*x'}}, withoutHeaders: {skip: {}}}]
    route: [{destination: {host: HOST, subset: green}, headers: {request: {set: {d: '3'}}}}]
  - name: path
    match: [{uri: {prefix: /org.example.GreetService/Ec}}]
    route: [{destination: {host: HOST, subset: green}}]
  - name: method
    match: [{headers: {dubbo-method: {exact: Slow}}}]
    route: [{destination: {host: HOST, subset: green}}]
  - name: rest
    route: [{destination: {host: HOST, subset: blue}}]`, "HOST", rewrite.Host(registry.Service{Interface: service}))

func (m *mesh) features() {
	t := m.t
	m.decides("rest")
	for query, want := range map[string]string{
		"method=SayHello&attachment=kind=prefer":                   "prefix",
		"method=SayHello&attachment=kind=reflex":                   "regex",
		"method=SayHello&attachment=kind=reflex&attachment=skip=1": "rest",
		"method=Echo":                            "path",
		"method=Slow":                            "method",
		"method=SayHello":                        "rest",
		"method=SayHello&attachment=kind=labels": map[bool]string{true: "labels", false: "rest"}[strings.HasSuffix(m.agent.state, "state-grpc")],
	} {
		var e explanation
		m.agent.get("/v1/explain?service="+service+"&"+query, &e)
		if e.Rules.Route != want {
			t.Errorf("%s: route %s, want %s", query, e.Rules.Route, want)
		}
	}
	if l := m.consumer.loadWith("kind=abort", 20, time.Second)(); len(l) == 0 || len(l.failed()) != len(l) || !strings.Contains(l[0].Error, "fault injected") {
		t.Error("abort:", l)
	}
	if l := m.consumer.loadWith("kind=direct", 20, time.Second)(); len(l) == 0 || len(l.failed()) != len(l) || !strings.Contains(l[0].Error, "closed for today") {
		t.Error("direct:", l)
	}
	for _, e := range clean(t, m.consumer.loadWith("kind=delay", 20, time.Second)()) {
		if e.MS < 200 {
			t.Error("delay:", e)
		}
	}
	l := clean(t, m.consumer.loadWith("kind=mirror", 20, time.Second)())
	share(t, "green", l.answers()["green"], len(l), 1)
	eventually(t, "the mirrored calls", func() error {
		if n := m.events("mirror", "mirror"); n != len(l) {
			return fmt.Errorf("%d of %d", n, len(l))
		}
		return nil
	})
	var said struct{ Warnings []string }
	if m.agent.get("/v1/status", &said); len(said.Warnings) > 0 {
		t.Errorf("istiod sends what is not honoured: %q", said.Warnings)
	}
}

// kubernetes starts an API server that has nothing, and writes how to reach it.
func (w *world) kubernetes() string {
	w.t.Helper()
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Query().Get("sendInitialEvents") != "": // list first, then watch
			rw.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(rw, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
		case r.URL.Query().Get("watch") != "":
			rw.WriteHeader(http.StatusOK)
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
		case r.URL.Path == "/version":
			fmt.Fprint(rw, `{"major":"1","minor":"33","gitVersion":"v1.33.0"}`)
		case r.Method == http.MethodGet && strings.Count(strings.TrimPrefix(r.URL.Path, "/apis"), "/") > 2: // a list
			fmt.Fprint(rw, `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`)
		default:
			http.Error(rw, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`, http.StatusNotFound)
		}
	}))
	w.t.Cleanup(func() { api.CloseClientConnections(); api.Close() })
	return w.file("kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: stub, cluster: {server: '%s'}}]
users: [{name: stub, user: {}}]
contexts: [{name: stub, context: {cluster: stub, user: stub}}]
current-context: stub
`, api.URL))
}

// pki is a folder with an authority and what it signed: istiod, and an agent of
// namespace dubbo.
func pki(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	serial := int64(0)
	var ca *x509.Certificate
	var signer *ecdsa.PrivateKey
	for _, one := range []struct {
		name, dns, uri string
	}{{name: "ca"}, {"istiod", "istiod.istio-system.svc", ""}, {"agent", "", "spiffe://cluster.local/ns/dubbo/sa/agent"}} {
		serial++
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{one.name}}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		switch {
		case one.dns != "":
			c.DNSNames = []string{one.dns}
		case one.uri != "":
			u, err := url.Parse(one.uri)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = []*url.URL{u}
		default:
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
			ca, signer = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{one.name + ".pem": {Type: "CERTIFICATE", Bytes: der}, one.name + ".key": {Type: "EC PRIVATE KEY", Bytes: private}} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// An unmodified istiod learns the providers from the adapter and tells agents, in
// each way of asking, where calls go.
func TestIstiod(t *testing.T) {
	if *istiodProgram == "" {
		t.Skip("NOT TESTED: wants -istiod PATH, an unmodified pilot-discovery")
	}
	program(t, "app")
	w := &world{t: t, dir: t.TempDir(), net: freeNet(t)}
	w.registry = "local://" + w.file("registry", "") + ".d"
	i := newIstiod(w)
	i.rules(split("first", 100, 0))

	blue, green := w.agent("blue"), w.agent("green")
	w.provider(options{agent: blue, name: "blue", application: "shop", flags: []string{"--param", "color=blue"}})
	w.provider(options{agent: green, name: "green", application: "shop", flags: []string{"--param", "color=green"}})
	blue.published(1)
	green.published(1)
	i.start()

	var callers []*mesh
	for _, how := range []string{"sidecar", "sidecar-delta", "grpc", "grpc-delta", "sidecar-tls"} {
		mode, rest, _ := strings.Cut(how, "-")
		server, tls := i.address, ""
		if rest == "tls" {
			server, tls = i.secure, fmt.Sprintf(", tls: {enabled: true, serverName: istiod.istio-system.svc, caFile: '%[1]s/ca.pem', certFile: '%[1]s/agent.pem', keyFile: '%[1]s/agent.key'}", i.pki)
		}
		a := w.agent(how, withFile(fmt.Sprintf("xds: {servers: ['%s'], mode: %s, delta: %v, node: {namespace: dubbo, labels: [app=%s], locality: r1/z1}%s}\nservices: [{match: '*', routing: xds}]\n",
			server, mode, rest == "delta", how, tls)))
		callers = append(callers, &mesh{world: w, agent: a, consumer: w.consumer(options{agent: a, flags: []string{"--retries", "0", "--timeout", "20s"}})})
	}
	each := func(what string, run func(m *mesh)) {
		for _, m := range callers {
			t.Logf("%s, asked as %s", what, strings.TrimPrefix(filepath.Base(m.agent.state), "state-"))
			run(m)
		}
	}
	each("first", func(m *mesh) {
		m.decides("first")
		l := clean(t, m.consumer.call(50))
		share(t, "blue", l.answers()["blue"], len(l), 1)
	})
	var stops []func() ledger
	for _, m := range callers {
		stops = append(stops, m.keepCalling(50))
	}
	i.rules(split("half", 50, 50))
	each("half", func(m *mesh) {
		m.decides("half")
		l := clean(t, m.consumer.load(200, 2*time.Second)())
		share(t, "green", l.answers()["green"], len(l), 0.5)
	})
	i.rules(features)
	each("features", (*mesh).features)
	i.rules(split("half", 50, 50))
	each("half again", func(m *mesh) { m.decides("half") })
	// istiod, then the adapter, is away, and comes back.
	i.pilot.Kill()
	each("away", func(m *mesh) {
		m.connected(false)
		l := clean(t, m.consumer.load(200, 2*time.Second)())
		share(t, "green", l.answers()["green"], len(l), 0.5)
	})
	i.rules(split("after", 0, 100))
	i.start()
	each("back", func(m *mesh) {
		m.decides("after")
		l := clean(t, m.consumer.call(50))
		share(t, "green", l.answers()["green"], len(l), 1)
	})
	i.adapter.Kill()
	i.rules(split("orphan", 50, 50))
	each("no adapter", func(m *mesh) {
		m.decides("orphan")
		l := clean(t, m.consumer.load(200, 2*time.Second)())
		share(t, "green", l.answers()["green"], len(l), 0.5)
	})
	i.startAdapter()
	yellow := w.agent("yellow")
	w.provider(options{agent: yellow, name: "yellow", application: "shop", flags: []string{"--param", "color=blue"}})
	yellow.published(1)
	each("another", func(m *mesh) {
		eventually(t, "the third provider in blue", func() error {
			if l := m.consumer.call(20); l.answers()["yellow"] == 0 {
				return fmt.Errorf("%v", l.answers())
			}
			return nil
		})
	})
	for n, stop := range stops {
		t.Logf("beside it, %s: %v", callers[n].agent.name, clean(t, stop()))
	}
}
