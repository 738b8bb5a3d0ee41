package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/demo/e2e/javapeer"
	"github.com/meshferry/meshferry/registry/nacos/nacostest"
)

// TestNacos has one real Nacos for tests that run one after the other: a server costs
// more than all of them. Each has services of its own.
func TestNacos(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Nacos, agents and applications")
	}
	t.Parallel()
	program(t, "app") // built before any clock runs
	n := nacostest.Start(t)
	t.Run("consumers", func(t *testing.T) { nacosConsumers(t, n) })
	t.Run("processes", func(t *testing.T) { nacosProcesses(t, n) })
	t.Run("providers", func(t *testing.T) { nacosProviders(t, n) })
	t.Run("move", func(t *testing.T) { moveToNacos(t, n) })
	t.Run("frozen", func(t *testing.T) { oneRegistryFrozen(t, n) })
}

func nacosWorld(t *testing.T, n *nacostest.Server) *world {
	return &world{t: t, dir: t.TempDir(), net: freeNet(t), registry: n.URL()}
}

// javaWays are the kinds of Java application that know nothing of agents.
var javaWays = []struct {
	what string
	line javapeer.Line
	// of a consumer
	properties map[string]string
	// of a provider; empty: the line's default, both levels on 3.3
	register string
}{
	{"Java 3.3", javapeer.V33, nil, ""},
	{"Java 3.3, application level", javapeer.V33, map[string]string{"dubbo.application.service-discovery.migration": "FORCE_APPLICATION"}, "?register-mode=instance"},
	{"Java 2.7", javapeer.V27, nil, ""},
}

// A thin provider behind its agent is found through Nacos by everybody: by a thin
// consumer behind another agent, by dubbo-go and by Java Dubbo that know nothing
// of agents, at either level. All come in through 20882, and nobody but the agent
// connects to the provider.
func nacosConsumers(t *testing.T, nacos *nacostest.Server) {
	w := nacosWorld(t, nacos)
	inbound, own := w.lanAddress(), w.lanAddress()
	a, b := w.agent("a", withFlags("--address", inbound.host, "--inbound", inbound.String())), w.agent("b")
	p := w.app("provider", nil, []string{"provider", "--registry", a.mesh(), "--application", "shop", "--name", "go", "--ip", own.host, "--port", strconv.Itoa(own.port)})
	a.published(1)
	for _, name := range []string{"providers:" + service + "::", "shop"} {
		list, err := nacos.Instances(t.Context(), "", "", name)
		if err != nil || len(list) != 1 || fmt.Sprintf("%s:%d", list[0].IP, list[0].Port) != inbound.String() {
			t.Fatalf("Nacos lists %+v of %s (%v), want one at %s", list, name, err, inbound)
		}
	}
	calls := 0
	came := func(what string, l ledger) {
		t.Helper()
		if len(l.failed()) > 0 {
			t.Fatalf("%s: %v", what, l)
		}
		calls += len(l)
		wantCalls(t, calls, p, hop{a, "inbound", service})
		onlyDialledBy(t, own.String(), a.process)
	}
	came("thin", w.consumer(options{agent: b}).call(20))
	wantCalls(t, calls, p, hop{b, "outbound", service})
	for _, level := range []string{"interface", "application"} {
		c := w.consumer(options{level: level, application: "stranger-" + level})
		calls += c.found()
		came("dubbo-go, "+level+" level", c.call(20))
		c.stop()
	}
	java := func(what string, o javapeer.Options) {
		t.Helper()
		peer := javapeer.Start(t, o)
		entries, err := peer.Call(t.Context(), javapeer.Call{N: 20})
		if err != nil {
			t.Fatal(err)
		}
		came(what, ledgerOf(entries))
		peer.Kill()
	}
	for _, line := range []javapeer.Line{javapeer.V33, javapeer.V27} {
		java("thin Java "+string(line), javapeer.Options{Line: line, Thin: true, Registry: b.mesh()})
	}
	for _, way := range javaWays {
		java(way.what, javapeer.Options{Line: way.line, Registry: w.registry, Properties: way.properties})
	}
}

// Two processes of one application behind one agent are one instance in Nacos, at
// either level, with the weight of both; consumers that know agents and those that do not
// reach both, and the one that is left when the other goes.
func nacosProcesses(t *testing.T, nacos *nacostest.Server) {
	w := nacosWorld(t, nacos)
	inbound := w.lanAddress()
	a, b := w.agent("a", withFlags("--address", inbound.host, "--inbound", inbound.String())), w.agent("b")
	var processes []*app
	for _, name := range []string{"one", "two"} {
		own := w.lanAddress()
		processes = append(processes, w.app("provider", nil, []string{"provider", "--registry", a.mesh(), "--application", "shop", "--name", name, "--ip", own.host, "--port", strconv.Itoa(own.port)}))
	}
	a.published(2)
	listed := func(origins int, weight string) {
		t.Helper()
		eventually(t, "one instance at either level", func() error {
			for _, name := range []string{"providers:" + service + "::", "shop"} {
				list, err := nacos.Instances(t.Context(), "", "", name)
				if err != nil || len(list) != 1 || fmt.Sprintf("%s:%d", list[0].IP, list[0].Port) != inbound.String() {
					return fmt.Errorf("Nacos lists %+v of %s (%v), want one at %s", list, name, err, inbound)
				}
				if m := list[0].Metadata; name != "shop" && (m["weight"] != weight || origins > 1 && len(strings.Split(m["meshferry.origins"], ",")) != origins) {
					return fmt.Errorf("%s has metadata %v, want weight %q of %d processes", name, m, weight, origins)
				}
			}
			return nil
		})
	}
	listed(2, "200")
	reach := func(want int) { // processes
		t.Helper()
		came := func(what string, l ledger) {
			t.Helper()
			if len(l.failed()) > 0 || len(l.answers()) != want {
				t.Fatalf("%s: %v, answers %v, want %d processes", what, l, l.answers(), want)
			}
		}
		c := w.consumer(options{agent: b})
		c.found()
		came("thin", c.call(40))
		c.stop()
		c = w.consumer(options{level: "interface", application: "stranger"})
		c.found()
		came("dubbo-go, interface level", c.call(40))
		c.stop()
		if want == 1 {
			return // a JVM costs more than it would show
		}
		java := javapeer.Start(t, javapeer.Options{Line: javapeer.V27, Registry: w.registry})
		entries, err := java.Call(t.Context(), javapeer.Call{N: 40})
		if err != nil {
			t.Fatal(err)
		}
		came("Java 2.7", ledgerOf(entries))
		java.Kill()
	}
	reach(2)
	processes[0].stop()
	a.published(1)
	listed(1, "")
	reach(1)
}

func ledgerOf(entries []javapeer.Entry) (l ledger) {
	for _, e := range entries {
		l = append(l, entry{e.N, e.At, e.MS, e.OK, e.Answer, e.Error + e.Cause})
	}
	return l
}

// A thin consumer reaches through its agent whatever registers in Nacos by itself:
// dubbo-go at either level, Java Dubbo 3.3 at either level, and 2.7.
func nacosProviders(t *testing.T, nacos *nacostest.Server) {
	w := nacosWorld(t, nacos)
	at := w.lanAddress()
	b := w.agent("b", withFlags("--address", at.host, "--inbound", at.String()))
	reached := func(what, group, method string) {
		t.Helper()
		c := w.consumer(options{agent: b, group: group})
		defer c.stop()
		eventually(t, "the consumer to find "+what, func() error {
			if e := c.invoke(method, "world"); !e.OK {
				return errors.New(e.Error)
			}
			return nil
		})
		if l := c.ledger(20, "/call?n=20&method="+method); len(l.failed()) > 0 {
			t.Fatalf("%s: %v", what, l)
		}
		if used := b.used(group + "/" + service); len(used) != 1 {
			t.Errorf("%s: the agent would call %v, want one endpoint", what, used)
		}
	}
	for _, level := range []string{"interface", "application"} {
		p := w.provider(options{level: level, application: "go-" + level, group: "go-" + level, port: freePort(t)})
		reached("dubbo-go, "+level+" level", "go-"+level, "SayHello")
		p.stop()
	}
	behind := w.lanAddress()
	a := w.agent("a", withFlags("--address", behind.host, "--inbound", behind.String()))
	thin := javapeer.Start(t, javapeer.Options{
		Line: javapeer.V33, Thin: true, Registry: a.mesh(), Application: "java-thin", Port: w.lanAddress().port, Name: "java", Group: "java-thin",
	})
	reached("thin Java 3.3 behind another agent", "java-thin", "sayHello")
	if used := b.used("java-thin/" + service); len(used) != 1 || used[0] != behind.String() {
		t.Errorf("the thin provider is called at %v, not at its agent's %s", used, behind)
	}
	thin.Kill()
	for i, way := range javaWays {
		group := "java" + strconv.Itoa(i)
		java := javapeer.Start(t, javapeer.Options{
			Line: way.line, Registry: w.registry + way.register, Application: group, Port: w.lanAddress().port, Name: "java", Group: group,
		})
		reached(way.what, group, "sayHello")
		java.Kill()
	}
}
