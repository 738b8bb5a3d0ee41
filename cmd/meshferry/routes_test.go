package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const demoRoutes = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: greet}
spec:
  hosts: [com.example.greetservice-g1-1-0]
  http:
  - name: canary
    match: [{headers: {user: {exact: jason}, dubbo-method: {prefix: say}}}]
    route: [{destination: {host: com.example.greetservice-g1-1-0, subset: green}}]
    timeout: 2s
  - name: rest
    route:
    - {destination: {host: com.example.greetservice-g1-1-0, subset: blue}, weight: 75}
    - {destination: {host: com.example.greetservice-g1-1-0, subset: green}, weight: 25}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: greet}
spec:
  host: com.example.greetservice-g1-1-0
  subsets:
  - {name: blue, labels: {color: blue}}
  - {name: green, labels: {color: green}}
`

func TestRoutesCheck(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "greet.yaml")
	for _, tt := range []struct {
		name, text, stdout, stderr string
		code                       int
	}{
		{"good", demoRoutes, "", "", 0},
		{"warning", strings.Replace(demoRoutes, "  http:", "  exportTo: [.]\n  http:", 1), file + ":6: warning: spec.exportTo: no effect: it holds for every node\n", "", 0},
		{"mistake", strings.Replace(demoRoutes, "weight: 75", "wieght: 75", 1), file + `:13: spec.http[1].route[0].wieght: unknown field (did you mean "weight"?)` + "\n", "meshferry: the folder would be refused; mistakes: 1\n", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if code, out, err := command("routes", "check", dir); code != tt.code || out != tt.stdout || err != tt.stderr {
				t.Errorf("%d\n%s\n%s", code, out, err)
			}
		})
	}
	if code, _, err := command("routes", "check", filepath.Join(dir, "none")); code != exitFailed || !strings.Contains(err, "no such file") {
		t.Errorf("%d %s", code, err)
	}
}

func TestRoutesExplain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "greet.yaml"), []byte(demoRoutes), 0o600); err != nil {
		t.Fatal(err)
	}
	const service = "g1/com.example.GreetService:1.0"
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{service, "--method", "sayHello", "--attachment", "user=jason"}, []string{
			"host     com.example.greetservice-g1-1-0", "canary  taken", "outbound|20882|green|com.example.greetservice-g1-1-0  100 %  color=green", "time-out  2s"}},
		{[]string{service, "--method", "sayHello", "--attachment", "user=joe"}, []string{
			"canary  attachment user is joe", "rest    taken", "75 %", "25 %"}},
		{[]string{service, "--method", "greet"}, []string{"canary  attachment dubbo-method is greet", "rest    taken"}},
		{[]string{service, "--source-namespace", "shop", "--source-label", "app=a"}, []string{"canary"}},
		{[]string{"com.example.Other"}, []string{"none for this host: every service has a default route", "outbound|20882||com.example.other"}},
	} {
		code, out, err := command(append([]string{"routes", "explain", "--folder", dir}, tt.args...)...)
		if code != exitDone {
			t.Fatalf("%v: %s", tt.args, err)
		}
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q in\n%s", tt.args, want, out)
			}
		}
	}
}

func TestControlPlaneUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"control-plane"}, "no registry: give --registry zookeeper://host:2181, MESHFERRY_REGISTRY, or --config"},
		{[]string{"control-plane", "--config", "/none.yaml"}, "/none.yaml"},
		{[]string{"control-plane", "--registry", "local:///tmp/x", "--folder", "/none"}, "read /none"},
		{[]string{"control-plane", "--registry", "local:///tmp/x", "--listen", "127.0.0.1:99999"}, "--listen"},
		{[]string{"routes", "explain", "a.B", "--source-label", "x"}, "--source-label wants key=value"},
		{[]string{"adapter", "--registry", "local:///tmp/x", "--tls-cert", "a"}, "--tls-cert and --tls-key belong together"},
		{[]string{"control-plane", "--registry", "local:///tmp/x", "--log-level", "loud"}, "--log-level"},
	} {
		if code, _, err := command(tt.args...); code == exitDone || !strings.Contains(err, tt.want) {
			t.Errorf("%v: %d %s", tt.args, code, err)
		}
	}
}
