package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/demo/e2e/javapeer"
)

// envJava is what `meshferry env java` prints for an application, and tells the
// agent.
func (a *agent) envJava(args ...string) []string {
	a.t.Helper()
	cmd := exec.CommandContext(a.t.Context(), program(a.t, "meshferry"), append([]string{"env", "java", "--control", a.control()}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		a.t.Fatalf("env java %q: %v\n%s", args, err, exit.Stderr)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// zeroCode is a provider of Java Dubbo that knows nothing of agents but two
// variables.
type zeroCode struct {
	what, group, key string
	application      string
	real             address // where it listens, for the agent
	peer             *javapeer.Peer
}

// Providers of unmodified Java Dubbo that were started with the variables of `env
// java` are reached through the agent's 20882, by consumers of every kind that know
// nothing of agents; the agent was told the port, and has learned the rest from
// ZooKeeper. Nobody but the agent has a connection to a provider.
func TestZeroCodeProviders(t *testing.T) {
	long(t)
	t.Parallel()
	w := newWorld(t)
	inbound := w.lanAddress()
	a := w.agent("a", withFlags("--address", inbound.host, "--inbound", inbound.String()))
	var providers []*zeroCode
	for _, o := range []struct {
		what, group, parameters string
		line                    javapeer.Line
	}{
		{"2.7", "g27", "", javapeer.V27},
		{"3.3", "g33", "", javapeer.V33},
		{"3.3 at the application level alone", "instance", "?register-mode=instance", javapeer.V33},
	} {
		p := &zeroCode{what: o.what, group: o.group, key: o.group + "/" + service, application: "legacy-" + o.group}
		port := w.lanAddress().port
		p.real = address{"127.0.0.1", port}
		args := []string{"--application", p.application, "--port", strconv.Itoa(port)}
		switch o.line {
		case javapeer.V27: // it binds the port that it registers
			p.real = address{w.net + "100", inbound.port}
			args = []string{"--application", p.application, "--dubbo", "2.7", "--bind", p.real.host}
		case javapeer.V33:
			if o.parameters != "" {
				p.real.host = w.net + "101"
				args = append(args, "--bind", p.real.host)
			}
		}
		env := a.envJava(args...)
		if want := "DUBBO_IP_TO_REGISTRY=" + inbound.host + " DUBBO_DUBBO_PORT_TO_REGISTRY=" + strconv.Itoa(inbound.port); !strings.HasPrefix(strings.Join(env, " "), want) {
			t.Fatalf("the environment is %q, want %q", env, want)
		}
		p.peer = javapeer.Start(t, javapeer.Options{
			Line: o.line, Registry: w.zk.URL() + o.parameters, Application: p.application, Port: port, Name: p.group, Group: p.group, Env: env,
		})
		providers = append(providers, p)
	}
	for _, u := range children(t, w.zk.Conn(t), "/dubbo/"+service+"/providers") {
		if u.HostPort() != inbound.String() {
			t.Errorf("registered %s, not at %s", u, inbound)
		}
	}

	// dubbo-go at both levels, the thin SDK behind another agent, and Java.
	called := map[string]int{}
	b := w.agent("b")
	for _, c := range []struct {
		what   string
		o      options
		except string // who registers at the other level only
	}{
		{"dubbo-go, interface level", options{level: "interface"}, "instance"},
		{"dubbo-go, application level", options{level: "application"}, "g27"},
		{"thin dubbo-go", options{agent: b}, ""},
	} {
		for _, p := range providers {
			if p.group == c.except {
				continue
			}
			t.Run(c.what+" calls "+p.what, func(t *testing.T) {
				o := c.o
				o.group = p.group
				app := w.consumer(o)
				app.foundJava("the consumer to find the provider")
				l := app.ledger(19, "/call?n=19&method=sayHello")
				if len(l.failed()) > 0 || l.answers()[p.group] != 19 {
					t.Errorf("%v, answers by %v", l, l.answers())
				}
				called[p.key] += 20
				p.through(t, a, called[p.key])
			})
		}
	}
	for _, c := range []struct {
		what, except string
		javapeer.Options
	}{
		{"3.3, both levels", "", javapeer.Options{Line: javapeer.V33}},
		{"3.3, application level only", "g27", javapeer.Options{Line: javapeer.V33, Properties: map[string]string{"dubbo.application.service-discovery.migration": "FORCE_APPLICATION"}}},
		{"2.7, interface level", "instance", javapeer.Options{Line: javapeer.V27}},
	} {
		c.Registry = w.zk.URL()
		java := javapeer.Start(t, c.Options)
		for _, p := range providers {
			if p.group == c.except {
				continue
			}
			t.Run("Java "+c.what+" calls "+p.what, func(t *testing.T) {
				called[p.key] += answered(t, java, p.group, p.group, 20)
				p.through(t, a, called[p.key])
				if dialled(t, inbound.String())[java.PID()] == 0 {
					t.Error("the consumer has no connection to 20882")
				}
			})
		}
		java.Kill()
	}

	// What the agent was told is kept, and what it learned is learned again, also
	// by the first call.
	c := w.consumer(options{level: "interface", group: "g27"})
	c.foundJava("the last consumer to find the provider")
	a.restart()
	c.foundJava("calls after the agent's restart")
	var s struct {
		Static []struct {
			Application, State string
			Services           []string
		}
	}
	a.get("/v1/status", &s)
	if len(s.Static) != 3 || s.Static[0].Application != "legacy-g27" || s.Static[0].State != "serving" || fmt.Sprint(s.Static[0].Services) != "[g27/"+service+"]" {
		t.Errorf("status after the restart: %+v", s.Static)
	}
	for _, p := range providers {
		a.envJava("--application", p.application, "--remove")
	}
	eventually(t, "refusals after the removal", func() error {
		if e := c.invoke("sayHello", "world"); e.OK || !strings.Contains(e.Error, "not-executed") {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
}

// foundJava waits until a call to a Java provider is answered. Java names the
// application of a service some time after it has registered.
func (a *app) foundJava(what string) {
	a.t.Helper()
	eventually(a.t, what, func() error {
		if e := a.invoke("sayHello", "world"); !e.OK {
			return errors.New(e.Error)
		}
		return nil
	})
}

// through claims that a provider has answered so many calls, all of which came
// through the agent, and that nobody else has a connection to it.
func (p *zeroCode) through(t *testing.T, a *agent, calls int) {
	t.Helper()
	eventually(t, "the counters", func() error {
		s, err := p.peer.Stats(t.Context())
		// Those that found nothing yet may have reached the agent too.
		if n := a.calls("inbound", p.key); err != nil || s.Calls["sayHello"] < calls || n != s.Calls["sayHello"] {
			return fmt.Errorf("the provider counted %+v (%v), the agent %d calls, want %d", s.Calls, err, n, calls)
		}
		return nil
	})
	onlyDialledBy(t, p.real.String(), a.process)
}

// answered makes n calls of a group, after a first one that is repeated until it
// is answered: an unmodified consumer may not know the provider yet.
func answered(t *testing.T, java *javapeer.Peer, group, by string, n int) (calls int) {
	t.Helper()
	want := "hello world, this is " + by
	eventually(t, "the consumer to find the provider", func() error {
		e, err := java.Call(t.Context(), javapeer.Call{Group: group})
		if err == nil && !e[0].OK {
			err = errors.New(e[0].Error)
		}
		return err
	})
	entries, err := java.Call(t.Context(), javapeer.Call{Group: group, N: n - 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.OK || e.Answer != want {
			t.Fatalf("%+v", e)
		}
	}
	return n
}

// Unmodified Java consumers that were started with the option of `env java` call
// 20881 of their own host, although they know a registry and nobody has subscribed
// for them. They come back soon after the agent has restarted.
func TestZeroCodeConsumers(t *testing.T) {
	long(t)
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	p := w.provider(options{agent: a, application: "shop", name: "go", group: "g", port: 20880})
	a.published(1)
	env := b.envJava("--service", service)
	if want := "JAVA_TOOL_OPTIONS=-Ddubbo.reference." + service + ".url=dubbo://[::ffff:" + b.host + "]:20881/" + service + "?"; len(env) != 1 || !strings.HasPrefix(env[0], want) {
		t.Fatalf("the environment is %q, want %q…", env, want)
	}
	key, called := "g/"+service, 0
	consumers := map[javapeer.Line]*javapeer.Peer{}
	for _, line := range []javapeer.Line{javapeer.V27, javapeer.V33} {
		java := javapeer.Start(t, javapeer.Options{Line: line, Registry: w.zk.URL(), Env: env})
		called += answered(t, java, "g", "go", 20)
		wantCalls(t, called, p, hop{b, "outbound", key}, hop{a, "inbound", key})
		if dialled(t, b.outbound())[java.PID()] == 0 || dialled(t, a.inbound())[java.PID()] != 0 {
			t.Errorf("%s is not connected to its own 20881 alone", line)
		}
		consumers[line] = java
	}

	// Without the parameters of the URL, 3.3 fails for 50 s after such a gap.
	const most = 25 * time.Second
	loads := map[javapeer.Line]*javaLoad{}
	for line, java := range consumers {
		loads[line] = startLoad(t, java, javapeer.Call{Group: "g"}, 20, 2*time.Second)
	}
	before := b.calls("outbound", key)
	eventually(t, "the load", func() error {
		if n := b.calls("outbound", key) - before; n < 40 {
			return fmt.Errorf("%d calls", n)
		}
		return nil
	})
	gap := b.outage()
	for _, java := range consumers {
		answered(t, java, "g", "go", 5)
	}
	for _, l := range loads {
		l.last()
	}
	for line, l := range loads {
		calls := l.ended(t)
		out, lost, hung := outage(calls)
		t.Logf("%s: %v without answers, the agent was away for %v; %d of %d calls failed at once, %d by time-out", line, out, gap, lost, len(calls), hung)
		if out > gap+most {
			t.Errorf("%s does not come back soon", line)
		}
	}
}
