package agent_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/meshferry/meshferry/"

// rules hold the direction of imports: packages below `from` must not reach any
// of `never`, directly or through others.
var rules = []struct{ from, never, because string }{
	{"registry", "agent/ rewrite demo/ cmd/", "backends and words are below everything else"},
	{"registry$", "github.com/ golang.org/ go.uber.org/", "the shared words need the standard library only"},
	{"registry/nacos", "registry/zookeeper registry/local github.com/nacos-group/nacos-sdk-go/v2/clients", "the SDK's clients hide refusals and share state; its protocol is what is needed"},
	{"registry/internal", "registry/zookeeper registry/nacos registry/local github.com/go-zookeeper/ github.com/nacos-group/", "what backends have alike knows none of them"},
	{"rewrite", "agent/ demo/ cmd/ net/http$ os/exec$ github.com/go-zookeeper/", "rewriting is pure: no I/O"},
	{"xdsclient", "agent/ registry rewrite demo/ cmd/ github.com/gin-gonic/ dubbo.apache.org/", "an xDS client knows Envoy's types and no application protocol"},
	{"agent/proxy", "registry/ agent/reconcile agent/api agent/workload agent/discovery agent/admin rewrite github.com/gin-gonic/", "the data plane never waits for the control side"},
	{"agent/proxy/dubbo", "agent/route agent/proxy$ net$ github.com/", "frames are bytes: no sockets, no routing"},
	{"agent/route", "agent/proxy agent/workload agent/reconcile agent/api registry/", "routing is compiled from sets, whoever delivers them"},
	{"agent/route", "xdsclient agent/xds google.golang.org/grpc github.com/envoyproxy/", "rules come in a neutral form, whoever wrote them"},
	{"agent/resolve", "agent/xds agent/proxy agent/workload agent/reconcile agent/api agent/discovery registry/ xdsclient google.golang.org/grpc github.com/envoyproxy/", "names are looked up in the neutral form of rules, whoever wrote them"},
	{"agent/xds", "agent/proxy agent/workload agent/reconcile agent/api agent/discovery registry/", "xDS is translated to rules and nothing else"},
	{"agent/workload", "agent/route agent/proxy agent/reconcile agent/api registry/ rewrite", "what applications ask for does not depend on what is done with it"},
	{"agent/reconcile", "agent/api agent/proxy agent/route registry/", "the loop knows the interface of a registry, not a backend"},
	{"agent/api", "registry/ agent/proxy", "the control API knows no backend and no frame"},
	{"agent/discovery", "registry/ agent/proxy agent/api agent/workload", "a source knows the interface of a registry, not a backend"},
	{"agent/peercred", "agent/route agent/proxy agent/workload agent/api github.com/", "it asks the kernel, and knows nothing of who asks"},
	{"controlplane", "agent/ agent$ registry/ demo/ cmd/ dubbo.apache.org/", "a control plane and an agent meet on the wire alone; backends are handed in"},
	{"controlplane/istio", "registry rewrite controlplane/catalog google.golang.org/grpc$", "files are checked without a registry and without a server"},
	{"agent", "controlplane dubbo.apache.org/ demo/ cmd/", "dubbo-go hijacks signals and logs; it is for applications and tests"},
	{"cmd", "dubbo.apache.org/ demo/", "the agent's binary stays small"},
}

func TestImportDirection(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Deps \" \"}}", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	checked := map[string]bool{}
	for line := range bytes.Lines(out) {
		words := strings.Fields(string(line))
		pkg, isOurs := strings.CutPrefix(words[0], module)
		if !isOurs {
			continue
		}
		for _, r := range rules {
			if !below(pkg, r.from) {
				continue
			}
			checked[r.from] = true
			for _, dep := range words[1:] {
				dep = strings.TrimPrefix(dep, module)
				for never := range strings.FieldsSeq(r.never) {
					if below(dep, never) {
						t.Errorf("%s reaches %s: %s", pkg, dep, r.because)
					}
				}
			}
		}
	}
	for _, r := range rules {
		if !checked[r.from] {
			t.Errorf("rule %q matches no package", r.from)
		}
	}
}

// below tells whether a package is the named one or lies under it. A name ending
// in '$' is that package alone, one ending in '/' only what lies under it.
func below(pkg, name string) bool {
	if exact, ok := strings.CutSuffix(name, "$"); ok {
		return pkg == exact
	}
	if strings.HasSuffix(name, "/") {
		return strings.HasPrefix(pkg, name)
	}
	return pkg == name || strings.HasPrefix(pkg, name+"/")
}
