package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/local"
	"github.com/meshferry/meshferry/registry/registrytest"
)

// registerItself writes to the registry what an application does that was told to
// register the agent's address.
func registerItself(t *testing.T, c config.Config, urls ...string) {
	t.Helper()
	r, err := local.New(local.Options{Dir: strings.TrimPrefix(c.Registries[0].URL, "local://"), HostID: "itself"})
	if err != nil {
		t.Fatal(err)
	}
	var d registry.Desired
	for _, text := range urls {
		u, err := registry.ParseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		d.Providers = append(d.Providers, u)
	}
	registrytest.Start(t, r, 10*time.Second).Hold(d)
}

// stranger is a consumer of another host.
func stranger(t *testing.T, a *agentUnderTest) *consumer {
	t.Helper()
	conn, err := net.Dial("tcp", a.listeners.inbound.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &consumer{t: t, Conn: conn}
}

// TestStatic: an application that asks the agent for nothing is served as soon as
// it has registered itself at the agent's address, also after a restart, until it
// is removed.
func TestStatic(t *testing.T) {
	c := settings(t)
	fixed, err := net.Listen("tcp", "127.0.0.1:0") // the address must outlive a restart
	if err != nil {
		t.Fatal(err)
	}
	c.Listeners.Inbound = fixed.Addr().String()
	fixed.Close()
	p := provide(t)
	a := run(t, c)
	caller := stranger(t, a)
	caller.send("echo")
	if _, refusal := caller.answer(); !strings.Contains(refusal, "no provider of "+service) {
		t.Fatalf("before anything is known: %q", refusal)
	}
	if status, text := a.ask(t, "POST", "/v1/static", fmt.Sprintf(`{"application":"greeter","port":%d}`, p.port())); status != 200 || !strings.Contains(text, `"serving"`) {
		t.Fatalf("%d %s", status, text)
	}
	registerItself(t, c, fmt.Sprintf("dubbo://127.0.0.1:%d/%s?application=greeter&interface=%s&methods=echo", a.inbound, service, service))
	answered := func(a *agentUnderTest, caller *consumer) {
		t.Helper()
		caller.send("echo")
		if _, refusal := caller.answer(); refusal != "" {
			t.Fatalf("not answered by the application: %q", refusal)
		}
		if _, text := a.ask(t, "GET", "/v1/status", ""); !strings.Contains(text, `"services":["`+service+`"]`) {
			t.Errorf("status %s", text)
		}
	}
	answered(a, caller)
	_, before := a.ask(t, "GET", "/v1/services", "")
	if strings.Contains(before, "pending") || strings.Contains(before, `"inbound":[{`) {
		t.Errorf("it is published: %s", before)
	}

	// Its MetadataService is behind the agent too, under the application's name.
	e := hessian.NewEncoder()
	for _, v := range []any{"2.0.2", "org.apache.dubbo.metadata.MetadataService", "1.0.0", "getMetadataInfo", "Ljava/lang/String;", "r", map[any]any{"group": "greeter"}} {
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := caller.Write(frame(0xc0|dubbo.Hessian2, 0, 99, e.Buffer())); err != nil {
		t.Fatal(err)
	}
	if _, refusal := caller.answer(); refusal != "" {
		t.Errorf("MetadataService: %q", refusal)
	}
	// Consumers here reach it as anybody does: nobody has subscribed.
	answered(a, consume(t, a))

	a.stop(t)
	a = run(t, c)
	caller = stranger(t, a)
	answered(a, caller)
	if status, text := a.ask(t, "POST", "/v1/static/remove", `{"application":"greeter"}`); status != 200 || !strings.Contains(text, "greeter") {
		t.Fatalf("%d %s", status, text)
	}
	eventually(t, "the removal", func() bool { return !a.router.Snapshot().Adopts() })
	caller.send("echo")
	if _, refusal := caller.answer(); !strings.Contains(refusal, "no provider of "+service) {
		t.Errorf("after the removal: %q", refusal)
	}
}

// TestStaticOfTheFile: the configuration can name applications, with their
// services or without, and SIGHUP changes that.
func TestStaticOfTheFile(t *testing.T) {
	dir := t.TempDir()
	p := provide(t)
	text := "registries: [{url: 'local://" + dir + "/registry'}]\nstop: {notifyWait: 0s}\nprobe: {interval: 20ms}\n"
	named := fmt.Sprintf("inbound: {static: [{application: greeter, port: %d, services: [%s]}]}\n", p.port(), service)
	a := run(t, load(t, dir, text+named))
	caller := stranger(t, a)
	eventually(t, "the route", func() bool { return len(a.router.Snapshot().Local()) == 1 })
	caller.send("echo")
	if _, refusal := caller.answer(); refusal != "" {
		t.Errorf("a named service: %q", refusal)
	}
	a.Reload(load(t, dir, text))
	if a.log.count(`changed=inbound.static`) != 1 {
		t.Errorf("log:\n%s", a.log)
	}
	eventually(t, "the route is gone", func() bool { return len(a.router.Snapshot().Local()) == 0 })
	a.Reload(load(t, dir, text+fmt.Sprintf("inbound: {static: [{application: greeter, port: %d}]}\n", a.inbound)))
	if a.log.count("inbound.static not changed") != 1 {
		t.Errorf("log:\n%s", a.log)
	}
	a.stop(t)

	c := load(t, dir, text)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.Listeners.Inbound = l.Addr().String()
	c.Static = []config.Static{{Application: "greeter", Protocol: "dubbo", Port: l.Addr().(*net.TCPAddr).Port}}
	l.Close()
	if _, err := New(c, "test", a.Agent.log); err == nil || !strings.Contains(err.Error(), "own listeners") {
		t.Errorf("the agent's own port: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "state", "workloads.state")); err != nil {
		t.Error(err)
	}
}
