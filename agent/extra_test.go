package agent

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/agent/config"
)

// TestExtraInboundPort: two applications offer the same service. One has an inbound
// port of its own: registries tell of it, and what comes in there is for that
// application alone.
func TestExtraInboundPort(t *testing.T) {
	c := settings(t)
	c.Extra = []config.Extra{{Application: "shop"}}
	shop, till := provide(t), provide(t)
	a := run(t, c)
	own := a.listeners.extra[0].port()
	publish := func(application, iface string, port int) {
		t.Helper()
		body, _ := json.Marshal(map[string]string{"wait": "10s", "url": fmt.Sprintf("dubbo://:%d/%s?application=%s&interface=%s&methods=echo", port, iface, application, iface)})
		if status, text := a.ask(t, "POST", "/v1/publish", string(body)); status != 200 {
			t.Fatalf("publish: %d %s", status, text)
		}
	}
	publish("shop", service, shop.port())
	publish("till", service, till.port())
	publish("till", "com.a.Other", till.port())

	entries := strings.Join(strings.Fields(registered(t, c)), "")
	for _, want := range []string{
		fmt.Sprintf("dubbo://127.0.0.1:%d/%s?application=shop", own, service),
		fmt.Sprintf("dubbo://127.0.0.1:%d/%s?application=till", a.inbound, service),
		fmt.Sprintf(`"name":"shop","host":"127.0.0.1","port":%d,`, own),
		fmt.Sprintf(`"name":"till","host":"127.0.0.1","port":%d,`, a.inbound),
		fmt.Sprintf(`{\"port\":%d,\"protocol\":\"dubbo\"}`, own),
	} {
		if !strings.Contains(entries, want) {
			t.Errorf("no %s in the registry:\n%s", want, entries)
		}
	}
	if strings.Contains(entries, fmt.Sprintf("127.0.0.1:%d/%s?application=shop", a.inbound, service)) {
		t.Errorf("shop is advertised at the port of all:\n%s", entries)
	}

	call := func(c *consumer, iface string) string {
		t.Helper()
		id := c.sendTo(iface, "echo")
		got, refusal := c.answer()
		if got != id {
			t.Fatalf("answer to %d, want %d", got, id)
		}
		return refusal
	}
	dial := func(port int) *consumer {
		t.Helper()
		nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return &consumer{t: t, Conn: nc}
	}
	extra, all := dial(own), dial(a.inbound)
	for range 20 {
		if refusal := call(extra, service); refusal != "" {
			t.Fatal(refusal)
		}
	}
	if shop.calls.Load() != 20 || till.calls.Load() != 0 {
		t.Errorf("calls at the port of shop: %d to it, %d to till", shop.calls.Load(), till.calls.Load())
	}
	if refusal := call(extra, "com.a.Other"); !strings.Contains(refusal, "not-executed: no provider of com.a.Other") {
		t.Errorf("a service of till at the port of shop: %q", refusal)
	}
	if refusal := call(all, "com.a.Other"); refusal != "" {
		t.Error(refusal)
	}
	reached := func() bool {
		if refusal := call(all, service); refusal != "" {
			t.Fatal(refusal)
		}
		return shop.calls.Load() > 20 && till.calls.Load() > 1
	}
	eventually(t, "the port of all leads to both", reached)

	// A local consumer finds both, shop at its own port.
	local := consume(t, a)
	eventually(t, "called at its own port", func() bool {
		before := shop.calls.Load()
		if refusal := call(local, service); refusal != "" {
			t.Fatal(refusal)
		}
		_, text := a.ask(t, "GET", "/v1/endpoints?service="+service, "")
		return shop.calls.Load() > before && strings.Contains(text, fmt.Sprintf(`"address":"127.0.0.1:%d"`, own))
	})

	if status, text := a.ask(t, "POST", "/v1/publish", fmt.Sprintf(`{"url":"dubbo://:%d/a.B?application=x&interface=a.B"}`, own)); status != 422 {
		t.Errorf("publish the agent's own port: %d %s", status, text)
	}
	if _, text := a.ask(t, "GET", "/v1/status", ""); !strings.Contains(text, fmt.Sprintf(`"extra":[{"application":"shop","address":"127.0.0.1:%d"}]`, own)) {
		t.Errorf("status %s", text)
	}
	if a.log.count("an application has an inbound port of its own") != 1 {
		t.Error("not announced")
	}
	next := c
	next.Extra = nil
	a.Reload(next)
	if a.log.count("settings=inbound.extra") != 1 {
		t.Errorf("a reload does not say that it needs a restart:\n%s", a.log)
	}
}

// TestExtraOfApplicationThatRegistersItself: an application that is not rebuilt can
// register itself at a port of its own too.
func TestExtraOfApplicationThatRegistersItself(t *testing.T) {
	c := settings(t)
	c.Extra = []config.Extra{{Application: "greeter"}}
	p := provide(t)
	c.Static = []config.Static{{Application: "greeter", Protocol: "dubbo", Port: p.port()}}
	a := run(t, c)
	own := a.listeners.extra[0].port()
	registerItself(t, c, fmt.Sprintf("dubbo://127.0.0.1:%d/%s?application=greeter&interface=%s&methods=echo", own, service, service))
	nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", own))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	consumer := &consumer{t: t, Conn: nc}
	consumer.send("echo")
	if _, refusal := consumer.answer(); refusal != "" {
		t.Error(refusal)
	}
}
