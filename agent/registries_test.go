package agent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/agent/config"
)

// TestRegistriesChange moves a running agent from one registry to another, in two
// steps, while calls go on: none fails, and what leaves the old registry is in the
// new one before.
func TestRegistriesChange(t *testing.T) {
	dir := t.TempDir()
	const rest = "stop: {notifyWait: 0s, drain: 5s}\nprobe: {interval: 20ms}\n"
	registries := func(names ...string) config.Config {
		var list []string
		for _, n := range names {
			list = append(list, fmt.Sprintf("{name: %s, url: 'local://%s/%s'}", n, dir, n))
		}
		return load(t, dir, "registries: ["+strings.Join(list, ", ")+"]\n"+rest)
	}
	old, both, young := registries("old"), registries("old", "young"), registries("young")
	p := provide(t)
	a := run(t, old)
	a.publish(t, p.port())

	consumer := consume(t, a)
	calls, stop, stopped := 0, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			consumer.send("echo")
			if _, refusal := consumer.answer(); refusal != "" {
				t.Errorf("call %d: %q", calls, refusal)
				return
			}
			calls++
		}
	}()

	entry := fmt.Sprintf("127.0.0.1:%d/%s", a.inbound, service)
	a.Reload(both)
	eventually(t, "in the new registry too", func() bool { return strings.Contains(registered(t, young), entry) })
	if !strings.Contains(registered(t, old), entry) {
		t.Error("not in the old registry any more")
	}
	a.Reload(young)
	eventually(t, "gone from the old registry", func() bool { return !strings.Contains(registered(t, old), service) })
	if !strings.Contains(registered(t, young), entry) {
		t.Error("not in the new registry")
	}
	eventually(t, "forgotten", func() bool {
		_, status := a.ask(t, "GET", "/v1/status", "")
		_, endpoints := a.ask(t, "GET", "/v1/endpoints?service="+service, "")
		return !strings.Contains(status, `"old"`) && !strings.Contains(endpoints, `"old"`) && strings.Contains(endpoints, `"young"`)
	})
	close(stop)
	<-stopped
	if calls == 0 {
		t.Error("no call was made")
	}
	if got := a.log.count("registry added"); got != 1 {
		t.Errorf("added: said %d times", got)
	}
	eventually(t, "said that it left", func() bool { return a.log.count("registry left") == 1 })
	a.stop(t)
	if s := registered(t, young); strings.Contains(s, service) {
		t.Errorf("left behind: %s", s)
	}
}

// TestRegistryNamedByPublications: one that publications name by itself can go;
// they say so and come back with it.
func TestRegistryNamedByPublications(t *testing.T) {
	dir := t.TempDir()
	one := fmt.Sprintf("{name: one, url: 'local://%s/one'}", dir)
	two := fmt.Sprintf("{name: two, url: 'local://%s/two'}", dir)
	first := load(t, dir, "registries: ["+one+", "+two+"]\nprobe: {interval: 20ms}\nstop: {notifyWait: 0s}\n")
	second := load(t, dir, "registries: ["+one+"]\nprobe: {interval: 20ms}\nstop: {notifyWait: 0s}\n")
	p := provide(t)
	a := run(t, first)
	body := fmt.Sprintf(`{"wait":"10s","registries":["two"],"url":"dubbo://:%d/%s?application=greeter&interface=%[2]s"}`, p.port(), service)
	if status, text := a.ask(t, "POST", "/v1/publish", body); status != 200 || strings.Contains(text, `"one"`) {
		t.Fatalf("publish to one of two: %d %s", status, text)
	}
	a.Reload(second)
	eventually(t, "pending", func() bool {
		_, text := a.ask(t, "GET", "/v1/services", "")
		return strings.Contains(text, "no-registry")
	})
	eventually(t, "left", func() bool { return a.log.count("registry left") == 1 })
	a.Reload(first)
	eventually(t, "published again", func() bool {
		_, text := a.ask(t, "GET", "/v1/services", "")
		return strings.Contains(text, `"published"`) && !strings.Contains(text, "no-registry")
	})
	a.stop(t)
}

// TestRegistryAddedWithAnAddress: what a registry that came with a reload lists at an
// address of its own is known to be behind this agent, which callers are told.
func TestRegistryAddedWithAnAddress(t *testing.T) {
	dir := t.TempDir()
	one := fmt.Sprintf("{name: one, url: 'local://%s/one'}", dir)
	two := fmt.Sprintf("{name: two, url: 'local://%s/two'}", dir)
	const rest = "probe: {interval: 20ms}\nstop: {notifyWait: 0s}\n"
	p := provide(t)
	a := run(t, load(t, dir, "registries: ["+one+"]\n"+rest))
	a.publish(t, p.port())
	fallback := func(want string) func() bool {
		return func() bool {
			_, text := a.ask(t, "POST", "/v1/subscribe", fmt.Sprintf(`{"url":"consumer://127.0.0.1/%s?application=caller&interface=%[1]s"}`, service))
			_, list, _ := strings.Cut(text, `"fallback":[`)
			return strings.Contains(list, "dubbo://"+want+"/"+service+"?")
		}
	}
	eventually(t, "the provider's own port", fallback(fmt.Sprintf("127.0.0.1:%d", p.port())))
	a.Reload(load(t, dir, "registries: ["+one+", "+two+"]\naddresses: {two: 127.0.0.2}\n"+rest))
	eventually(t, "the provider's own port, of what the second registry lists", fallback(fmt.Sprintf("127.0.0.2:%d", p.port())))
	a.stop(t)
}

// TestRegistryThatCannotBeAdded leaves the others alone.
func TestRegistryThatCannotBeAdded(t *testing.T) {
	c := settings(t)
	a := run(t, c)
	p := provide(t)
	a.publish(t, p.port())
	next := c
	next.Registries = append([]config.Registry{{Name: "bad", Backend: "zookeeper", URL: "zookeeper://127.0.0.1:1", Username: "u", PasswordFile: c.StateDir + "/none"}}, c.Registries...)
	a.Reload(next)
	if a.log.count("registry cannot be added") != 1 {
		t.Errorf("not said:\n%s", a.log)
	}
	if got := a.config.Load().Registries; len(got) != 1 || got[0].Name != "main" {
		t.Errorf("registries %+v", got)
	}
	if !strings.Contains(registered(t, c), service) {
		t.Error("withdrawn from the other registry")
	}
}
