package controlplane

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meshferry/meshferry/controlplane/istio"
)

// What fields of the folder become, where no resource of an istiod at hand has them;
// the forms are those of istiod's source.
func TestFields(t *testing.T) {
	vs := func(http string) string {
		return "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: {hosts: [com.a.foo], http: [{route: [{destination: {host: com.a.foo}}], " + http + "}]}}"
	}
	dr := func(policy string) string {
		return "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a}, spec: {host: com.a.foo, " + policy + "}}"
	}
	const entry = `{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: a}, spec: {hosts: [com.a.foo], resolution: STATIC, ports: [{number: 20882, name: dubbo, targetPort: 2000}], %s}}`
	workload := func(name, spec string) string {
		return "\n---\n{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: " + name + "}, spec: {" + spec + "}}"
	}
	for name, tt := range map[string]struct {
		text      string
		has, lack []string
	}{
		"mirrors": {vs("mirrors: [{destination: {host: com.a.b}}, {destination: {host: com.a.c}, percentage: {value: 5}}, {destination: {host: com.a.d}, percentage: {value: 0}}]"),
			[]string{`"requestMirrorPolicies":[{"cluster":"outbound|20882||com.a.b","runtimeFraction":{"defaultValue":{"numerator":1000000,"denominator":"MILLION"}}},{"cluster":"outbound|20882||com.a.c","runtimeFraction":{"defaultValue":{"numerator":50000,"denominator":"MILLION"}}}]`}, []string{"com.a.d"}},
		"retries": {vs(`retries: {attempts: 3, perTryTimeout: 2s, backoff: 30ms, retryOn: "connect-failure, 503,504", retryIgnorePreviousHosts: false}`),
			[]string{`"retryOn":"connect-failure,retriable-status-codes"`, `"numRetries":3`, `"perTryTimeout":"2s"`, `"retryBackOff":{"baseInterval":"0.030s"}`, `"retriableStatusCodes":[503,504]`}, []string{"retryHostPredicate"}},
		"no retries": {vs("retries: {attempts: 0}"), nil, []string{"retryPolicy"}},
		"port level": {dr("trafficPolicy: {loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 20882}, loadBalancer: {simple: ROUND_ROBIN}}]}, subsets: [{name: s, labels: {a: b}, trafficPolicy: {portLevelSettings: [{port: {number: 20882}, connectionPool: {tcp: {maxConnections: 7}}}]}}]"),
			[]string{`"maxConnections":7`}, []string{"RANDOM"}},
		"subset's own policy": {dr("trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 9}}}, subsets: [{name: s, labels: {a: b}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]"),
			[]string{`"RANDOM"`, `"maxConnections":9`}, nil},
		"hash of a port": {vs("timeout: 1s") + "\n---\n" + dr("trafficPolicy: {portLevelSettings: [{port: {number: 20882}, loadBalancer: {consistentHash: {httpHeaderName: user}}}]}"),
			[]string{`"hashPolicy":[{"header":{"headerName":"user"}}]`, "RING_HASH"}, nil},
		"inline endpoints": {fmt.Sprintf(entry, "endpoints: [{address: 10.0.0.1, weight: 5, ports: {dubbo: 3000}, locality: cn/hz/a}, {address: 10.0.0.2}]"),
			[]string{`{"endpoint":{"address":{"socketAddress":{"address":"10.0.0.1","portValue":3000}}},"loadBalancingWeight":5}`, `"locality":{"region":"cn","zone":"hz","subZone":"a"}`,
				`{"endpoint":{"address":{"socketAddress":{"address":"10.0.0.2","portValue":2000}}},"loadBalancingWeight":1}`}, nil},
		"selected workloads": {fmt.Sprintf(entry, "workloadSelector: {labels: {app: foo}}") + workload("x", "address: 10.0.0.3, labels: {app: foo, v: '1'}, weight: 4, ports: {dubbo: 4000}, locality: cn/sh") +
			workload("y", "address: 10.0.0.4, labels: {app: bar}") + "\n---\n" + dr("subsets: [{name: v1, labels: {v: '1'}}, {name: v2, labels: {v: '2'}}]"),
			[]string{`"clusterName":"outbound|20882|v1|com.a.foo","endpoints":[{"locality":{"region":"cn","zone":"sh"},"lbEndpoints":[{"endpoint":{"address":{"socketAddress":{"address":"10.0.0.3","portValue":4000}}},"loadBalancingWeight":4}]`,
				`{"clusterName":"outbound|20882|v2|com.a.foo"}`}, []string{"10.0.0.4"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := tt.text
			if !strings.Contains(text, "ServiceEntry") { // it has to be known
				text += "\n---\n" + fmt.Sprintf(entry, "endpoints: [{address: 10.0.0.9}]")
			}
			c, problems := istio.Parse(map[string][]byte{"a.yaml": []byte(text)})
			if problems.Err() != nil {
				t.Fatal(problems)
			}
			r := index(c)
			s := r.service("com.a.foo", nil)
			var got strings.Builder
			show := func(m proto.Message) {
				b, err := protojson.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString(strings.ReplaceAll(string(b), " ", "") + "\n")
			}
			show(s.virtualHost(r.virtual["com.a.foo"], r.destination, &profile{}, false))
			for _, m := range s.clusters(r.destination["com.a.foo"]) {
				show(m)
			}
			for _, m := range s.assignments(r.destination["com.a.foo"], &profile{}) {
				show(m)
			}
			for _, want := range tt.has {
				if !strings.Contains(got.String(), strings.ReplaceAll(want, " ", "")) {
					t.Errorf("no %s in\n%s", want, got.String())
				}
			}
			for _, not := range tt.lack {
				if strings.Contains(got.String(), not) {
					t.Errorf("%s in\n%s", not, got.String())
				}
			}
		})
	}
}
