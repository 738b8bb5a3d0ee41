package istio

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/reflect/protoreflect"
	networking "istio.io/api/networking/v1alpha3"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const good = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: demo, namespace: dubbo}
spec:
  hosts: [org.apache.dubbo.samples.api.DemoService]
  http:
  - name: by-header
    match:
    - uri: {prefix: /org.apache.dubbo.samples.api.DemoService/sayHello}
      headers: {x-user: {exact: jason}, dubbo-method: {regex: say.*}}
    - headers: {gray: {}}
      withoutHeaders: {nogray: {exact: "1"}}
    route: [{destination: {host: org.apache.dubbo.samples.api.demoservice, subset: blue, port: {number: 20882}}}]
    timeout: 3s
    retries: {attempts: 2, perTryTimeout: 500ms, retryOn: connect-failure}
    fault: {delay: {fixedDelay: 1s, percentage: {value: 10}}}
  - name: rest
    route:
    - destination: {host: org.apache.dubbo.samples.api.demoservice, subset: blue}
      weight: 90
    - destination: {host: org.apache.dubbo.samples.api.demoservice, subset: green}
      weight: 10
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: demo, namespace: dubbo}
spec:
  host: org.apache.dubbo.samples.api.demoservice
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 5, interval: 10s}
    connectionPool: {tcp: {maxConnections: 10, connectTimeout: 1s}}
  subsets:
  - name: blue
    labels: {version: v1}
  - name: green
    labels: {version: v2}
    trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
`

func TestGood(t *testing.T) {
	c, problems := Parse(map[string][]byte{"demo.yaml": []byte(good)})
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	vs := c.VirtualServices[0]
	if vs.Ref() != "/apis/networking.istio.io/v1/namespaces/dubbo/virtual-service/demo" {
		t.Error(vs.Ref())
	}
	r := vs.Spec.Http[0]
	if r.Timeout.Seconds != 3 || r.Retries.PerTryTimeout.Nanos != 5e8 || r.Match[0].Headers["x-user"].GetExact() != "jason" ||
		r.Match[1].Headers["gray"] == nil || r.Route[0].Destination.Port.Number != 20882 || r.Fault.Delay.Percentage.Value != 10 {
		t.Errorf("%v", r)
	}
	if vs.Spec.Http[1].Route[1].Weight != 10 || c.DestinationRules[0].Spec.Subsets[1].Labels["version"] != "v2" ||
		c.DestinationRules[0].Spec.TrafficPolicy.OutlierDetection.Consecutive_5XxErrors.GetValue() != 5 {
		t.Errorf("%v %v", vs, c.DestinationRules)
	}
	if p := vs.at("http[1].route[1].weight"); p.Line != 23 {
		t.Errorf("the weight is at %s", p)
	}
}

// one is a VirtualService with that text below spec, from line 6 on.
func one(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [com.a.foo]\n  " +
		strings.ReplaceAll(spec, "\n", "\n  ") + "\n"
}

func rule(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: com.a.foo\n  " +
		strings.ReplaceAll(spec, "\n", "\n  ") + "\n"
}

func entry(spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [com.a.foo]\n  " +
		strings.ReplaceAll(spec, "\n", "\n  ") + "\n"
}

func TestProblems(t *testing.T) {
	const to = "route: [{destination: {host: com.a.foo}}]"
	for name, tt := range map[string]struct{ text, want string }{
		"no YAML":             {"a: [", "a.yaml:1: no YAML: did not find expected node content"},
		"unknown field":       {one("http:\n- rout: []"), `a.yaml:7: spec.http[0].rout: unknown field (did you mean "route"?)`},
		"unknown at the top":  {one("http: [{"+to+"}]") + "spce: {}\n", `a.yaml:7: spce: unknown field (did you mean "spec"?)`},
		"not for Dubbo":       {one("http:\n- " + to + "\n  redirect: {uri: /x}"), "a.yaml:8: spec.http[0].redirect: not possible: a Dubbo call is no HTTP request"},
		"tcp":                 {one("tcp: []"), "a.yaml:6: spec.tcp: not possible: a route by connection cannot see calls: use http"},
		"weights over 100":    {one("http:\n- route:\n  - {destination: {host: com.a.foo}, weight: 60}\n  - {destination: {host: com.a.bar}, weight: 60}"), "a.yaml:7: spec.http[0].route: the weights sum up to 120: want 100"},
		"one weight over 100": {one("http:\n- route:\n  - {destination: {host: com.a.foo},\n     weight: 101}"), "a.yaml:9: spec.http[0].route[0].weight: 101: want 0 to 100"},
		"weights all 0":       {one("http:\n- route:\n  - {destination: {host: com.a.foo}}\n  - {destination: {host: com.a.bar}}"), "a.yaml:7: spec.http[0].route: all weights are 0: nothing could be chosen"},
		"missing subset":      {one("http:\n- route:\n  - destination:\n      host: com.a.foo\n      subset: blue"), `a.yaml:10: spec.http[0].route[0].destination.subset: there is no subset "blue": com.a.foo has no DestinationRule`},
		"wildcard":            {one("http: [{" + to + "}]")[:0] + strings.Replace(one("http: [{"+to+"}]"), "[com.a.foo]", `["*.a.foo"]`, 1), `a.yaml:5: spec.hosts[0]: "*.a.foo": want the host of one service, without *`},
		"service key":         {strings.Replace(one("http: [{"+to+"}]"), "[com.a.foo]", `["g/com.a.Foo:1"]`, 1), `a.yaml:5: spec.hosts[0]: "g/com.a.Foo:1": want a host, not a service key: 'meshferry routes explain g/com.a.Foo:1' tells it`},
		"number as a text":    {one("http:\n- " + to + "\n  match: [{headers: {x: {exact: 1}}}]"), `a.yaml:8: spec.http[0].match[0].headers[x].exact: want a text: write it in quotes, not "1"`},
		"text as a number":    {one("http:\n- " + to + "\n  retries: {attempts: two}"), `a.yaml:8: spec.http[0].retries.attempts: want a whole number, not "two"`},
		"bad duration":        {one("http:\n- " + to + "\n  timeout: 3"), `a.yaml:8: spec.http[0].timeout: want a duration like 1.5s or 300ms, not "3"`},
		"bad regex":           {one("http:\n- " + to + "\n  match: [{headers: {x: {regex: '('}}}]"), "a.yaml:8: spec.http[0].match[0].headers[x]: no regular expression (RE2): error parsing regexp: missing closing ): `(`"},
		"two of a oneof":      {one("http:\n- " + to + "\n  match: [{headers: {x: {exact: a, prefix: b}}}]"), "a.yaml:8: spec.http[0].match[0].headers[x].prefix: only one of exact and prefix is possible"},
		"key twice":           {one("http: [{" + to + "}]\nhttp: []"), "a.yaml:7: spec.http: it is there twice"},
		"list as a mapping":   {one("http: {" + to + "}"), "a.yaml:6: spec.http: want a list, not keys and values"},
		"percent":             {one("http:\n- " + to + "\n  fault: {abort: {httpStatus: 503, percentage: {value: 200}}}"), "a.yaml:8: spec.http[0].fault.abort.percentage: 200: want 0 to 100"},
		"no status":           {one("http:\n- " + to + "\n  fault: {abort: {percentage: {value: 20}}}"), "a.yaml:8: spec.http[0].fault.abort.httpStatus: 0: want 200 to 599"},
		"nowhere":             {one("http: [{name: x}]"), "a.yaml:6: spec.http[0].route: it is missing: where calls go"},
		"gateway":             {one("http: [{" + to + "}]\ngateways: [mesh, ingress]"), `a.yaml:7: spec.gateways[1]: "ingress": calls come from inside the mesh only: leave it out`},
		"not reached":         {one("http:\n- " + to + "\n- " + to), "a.yaml:8: warning: spec.http[1]: never reached: spec.http[0] takes every call"},
		"no effect":           {one("http: [{" + to + "}]\nexportTo: ['.']"), "a.yaml:7: warning: spec.exportTo: no effect: it holds for every node"},
		"weights below 100":   {one("http:\n- route:\n  - {destination: {host: com.a.foo}, weight: 1}\n  - {destination: {host: com.a.bar}, weight: 1}"), "a.yaml:7: warning: spec.http[0].route: the weights sum up to 2, not 100: shares are in proportion"},
		"kind":                {"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}", `a.yaml:1: kind: Service of "v1" is none of Istio's: want networking.istio.io/v1 and one of VirtualService, DestinationRule, ServiceEntry, WorkloadEntry`},
		"another of Istio's":  {"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {}", "a.yaml:1: warning: kind: AuthorizationPolicy has no effect on Dubbo calls here"},
		"no name":             {"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nspec: {}", "a.yaml:1: metadata.name: it is missing"},
		"locality":            {rule("trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}"), "a.yaml:6: warning: spec.trafficPolicy.loadBalancer.localityLbSetting: no effect without outlierDetection: nobody would notice that endpoints fail"},
		"distribute":          {rule("trafficPolicy:\n  loadBalancer:\n    localityLbSetting:\n      distribute:\n      - {from: a, to: {a: 80, b: 30}}"), "a.yaml:10: spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: the shares sum up to 110: want 100"},
		"failover":            {rule("trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}}"), "a.yaml:6: spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0]: from and to are the same region"},
		"port level":          {rule("trafficPolicy:\n  portLevelSettings:\n  - port: {number: 80}"), "a.yaml:8: warning: spec.trafficPolicy.portLevelSettings[0].port.number: no effect: services have port 20882"},
		"in a port level":     {rule("trafficPolicy:\n  portLevelSettings:\n  - port: {number: 20882}\n    connectionPool: {tcp: {maxConnections: -1}}"), "a.yaml:9: spec.trafficPolicy.portLevelSettings[0].connectionPool.tcp.maxConnections: -1: want 0 to 2147483647"},
		"warm-up":             {rule("trafficPolicy: {loadBalancer: {warmupDurationSecs: 10s}}"), "a.yaml:6: warning: spec.trafficPolicy.loadBalancer.warmupDurationSecs: no effect: warm-up is Dubbo's own, from the provider's timestamp and warmup"},
		"mirrors":             {one("http:\n- " + to + "\n  mirror: {host: com.a.bar}\n  mirrors: [{destination: {host: com.a.bar}}]"), "a.yaml:9: spec.http[0].mirrors: it cannot stand beside mirror"},
		"tls":                 {rule("trafficPolicy: {tls: {mode: SIMPLE}}"), "a.yaml:6: warning: spec.trafficPolicy.tls: no effect: agents do not speak TLS to endpoints yet: calls go in plain text"},
		"cookie":              {rule("subsets:\n- name: a\n  labels: {a: b}\n  trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}"), "a.yaml:9: spec.subsets[0].trafficPolicy.loadBalancer.consistentHash.useSourceIp: not possible: the agent's consumers are all on its own host: use httpHeaderName with an attachment"},
		"enum":                {rule("trafficPolicy: {loadBalancer: {simple: FASTEST}}"), `a.yaml:6: spec.trafficPolicy.loadBalancer.simple: want one of UNSPECIFIED, LEAST_CONN, RANDOM, PASSTHROUGH, ROUND_ROBIN, LEAST_REQUEST, not "FASTEST"`},
		"subset twice":        {rule("subsets:\n- {name: a, labels: {a: b}}\n- {name: a, labels: {a: c}}"), `a.yaml:8: spec.subsets[1].name: subset "a" is there twice`},
		"negative":            {rule("trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}"), "a.yaml:6: spec.trafficPolicy.connectionPool.tcp.maxConnections: -1: want 0 to 2147483647"},
		"protocol":            {entry("ports: [{number: 20882, name: tcp-dubbo, protocol: TCP}]\nresolution: STATIC"), "a.yaml:6: spec.ports[0].protocol: TCP: routes are not possible with it: leave it out"},
		"no ports":            {entry("resolution: STATIC"), "a.yaml:5: spec.ports: 0 ports: want one, like {number: 20882, name: dubbo}"},
		"resolution":          {entry("ports: [{number: 20882, name: dubbo}]"), "a.yaml:5: spec.resolution: NONE: want STATIC or DNS"},
		"no address":          {entry("ports: [{number: 20882, name: dubbo}]\nresolution: STATIC\nendpoints: [{address: here}]"), `a.yaml:8: spec.endpoints[0].address: "here": want an IP address`},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := Parse(map[string][]byte{"a.yaml": []byte(tt.text)})
			if len(problems) != 1 || problems[0].String() != tt.want {
				t.Errorf("got  %v\nwant %s", problems, tt.want)
			}
		})
	}
}

// Every field of Istio's API is used, or said to have no effect, or refused, with a
// reason: one that a new version of the API adds fails here.
func TestEveryField(t *testing.T) {
	for kind, m := range map[string]protoreflect.ProtoMessage{"VirtualService": &networking.VirtualService{}, "DestinationRule": &networking.DestinationRule{},
		"ServiceEntry": &networking.ServiceEntry{}, "WorkloadEntry": &networking.WorkloadEntry{}} {
		f := kinds[kind]
		var walk func(d protoreflect.MessageDescriptor, path string)
		walk = func(d protoreflect.MessageDescriptor, path string) {
			for i := range d.Fields().Len() {
				fd := d.Fields().Get(i)
				p := join(path, fd.JSONName())
				_, ignored := f.ignored[p]
				_, refused := f.refused[p]
				switch {
				case ignored || refused:
				case !f.isUsed(p):
					t.Errorf("%s: nothing is said about %s", kind, p)
				case fd.Kind() == protoreflect.MessageKind && !fd.IsMap() && fd.Message().FullName().Parent() != "google.protobuf":
					walk(fd.Message(), p)
				}
			}
		}
		walk(m.ProtoReflect().Descriptor(), "")
	}
}

func TestTwoFilesForOneHost(t *testing.T) {
	a := one("http: [{route: [{destination: {host: com.a.foo}}]}]")
	_, problems := Parse(map[string][]byte{"a.yaml": []byte(a), "b.yaml": []byte(strings.NewReplacer("name: a}", "name: b}", "com.a.foo]", "COM.a.Foo.]").Replace(a))})
	const want = "b.yaml:5: spec.hosts[0]: com.a.foo has a VirtualService at a.yaml:5 already: which one counts would depend on their order"
	if len(problems) != 1 || problems[0].String() != want || problems.Err() == nil || problems.Err().Error() != want {
		t.Errorf("got %v", problems)
	}
	_, problems = Parse(map[string][]byte{"a.yaml": []byte(a), "b.yaml": []byte(a)})
	if len(problems) != 1 || problems[0].String() != "b.yaml:1: metadata.name: VirtualService default/a is at a.yaml:1 already" {
		t.Errorf("got %v", problems)
	}
}

// FuzzParse: whatever the text is, it is read or refused with its place.
func FuzzParse(f *testing.F) {
	f.Add(good)
	f.Add(one("http: [{route: [{destination: {host: com.a.foo}}]}]"))
	f.Add(rule("subsets: [{name: a, labels: {a: b}}]"))
	f.Add(entry("ports: [{number: 20882, name: dubbo}]\nresolution: STATIC\nendpoints: [{address: 10.0.0.1, weight: 3, ports: {dubbo: 1}}]"))
	f.Add("a: &a [*a]")
	f.Add("x: &x {apiVersion: networking.istio.io/v1, kind: ServiceEntry}\n<<: *x")
	f.Fuzz(func(t *testing.T, text string) {
		_, problems := Parse(map[string][]byte{"a.yaml": []byte(text)})
		for _, p := range problems {
			if p.Place.File != "a.yaml" || p.Place.Line < 1 || p.Text == "" {
				t.Errorf("%q: %+v", text, p)
			}
		}
	})
}
