package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// ZooKeeper is killed for 10 s under load, and then killed again with all its data
// lost: no call fails, neither to a thin provider nor to one that knows nothing of
// agents. After the first time every node is the same one as before; after the
// second all levels are written again, as they were.
func TestZooKeeperAwayAndWiped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	w.provider(options{agent: a, name: "thin", application: "shop"})
	a.published(1)
	c := w.consumer(options{agent: b})
	if l := c.call(1); len(l.failed()) > 0 {
		t.Fatal(l)
	}
	conn := w.zk.Conn(t)
	var before map[string]node
	eventually(t, "leaf, instance and consumer in ZooKeeper", func() error {
		if before = w.ephemerals(conn); len(before) != 3 {
			return fmt.Errorf("%v", before)
		}
		return nil
	})
	content := w.content()

	const length = 30 * time.Second
	started := time.Now()
	wait := c.load(100, length)
	w.zk.Kill()
	time.Sleep(10 * time.Second) // the length of the outage is what is claimed
	if s := a.status().Registries[0]; s.State == "connected" {
		t.Errorf("the registry is away and the status says %+v", s)
	}
	if err := w.zk.Restart(); err != nil {
		t.Fatal(err)
	}
	a.published(1)
	eventually(t, "the reader to be back", func() error {
		if s := b.status().Registries[0]; s.State != "connected" {
			return errors.New(s.State)
		}
		return nil
	})
	if after := w.ephemerals(w.zk.Conn(t)); !maps.Equal(after, before) {
		t.Errorf("after an outage the nodes are %v, want %v", after, before)
	}

	w.zk.Kill()
	if err := w.zk.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := w.zk.Restart(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	eventually(t, "everything to come back", func() error {
		if got := w.content(); got != content {
			return errors.New("ZooKeeper holds\n" + got + "and not\n" + content)
		}
		return nil
	})
	t.Logf("all levels were back %v after ZooKeeper", time.Since(begin).Round(time.Millisecond))
	if time.Since(started) > length {
		t.Logf("this machine is slow: the load had ended before")
	}
	if l := wait(); len(l.failed()) > 0 || len(l) < 2900 {
		t.Error(l)
	}
	if l := c.call(20); len(l.failed()) > 0 {
		t.Error(l)
	}
}

// A provider that is killed disappears from ZooKeeper, at both levels, within 3 s.
func TestProviderKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.agent("a")
	p := w.provider(options{agent: a, application: "shop"})
	a.published(1)
	conn := w.zk.Conn(t)
	killed := time.Now()
	p.Kill()
	w.gone(conn, p.addr)
	leaf := within(t, killed, 3*time.Second)
	w.instances("shop", 0)
	t.Logf("withdrawn at interface level %v, at application level %v after the kill", leaf, within(t, killed, 3*time.Second))
}

// An agent that is killed and started again within its session touches no node:
// nobody who watches ZooKeeper can tell. Its providers are published without
// being asked, and calls go on.
func TestAgentKilledAndRestarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	p := w.provider(options{agent: a, application: "shop"})
	a.published(1)
	c := w.consumer(options{agent: b})
	if l := c.call(10); len(l.failed()) > 0 {
		t.Fatal(l)
	}
	conn := w.zk.Conn(t)
	before := w.ephemerals(conn)
	for _, killed := range []*agent{a, b} {
		killed.Kill()
		begin := time.Now()
		killed.restart()
		if killed == a {
			a.published(1)
		}
		// In between calls fail, at once: there is no second host, and nobody listens.
		eventually(t, "calls to go on", func() error {
			if l := c.call(100); len(l.failed()) > 0 {
				return errors.New(l.String())
			}
			return nil
		})
		t.Logf("%s: calls go on %v after its start", killed.name, within(t, begin, 15*time.Second))
		onlyDialledBy(t, p.addr, a.process)
		if after := w.ephemerals(conn); !maps.Equal(after, before) {
			t.Errorf("after the restart of %s the nodes are %v, want %v", killed.name, after, before)
		}
	}
}

// An agent stops in order under load, while another host has a provider of the
// same service: no call of a thin or of an unmodified consumer fails.
func TestAgentStopsUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b, other := w.agent("a"), w.agent("b"), w.agent("other")
	p := w.provider(options{agent: a, name: "stopping", application: "shop"})
	w.provider(options{agent: other, name: "staying", application: "shop"})
	a.published(1)
	other.published(1)
	consumers := map[string]*app{
		"thin":              w.consumer(options{agent: b}),
		"interface level":   w.consumer(options{level: "interface"}),
		"application level": w.consumer(options{level: "application"}),
	}
	waits := map[string]func() ledger{}
	for who, c := range consumers {
		c.found()
		c.knows(who, "stopping", "staying")
		waits[who] = c.load(100, 8*time.Second)
	}
	eventually(t, "the load", func() error {
		if n := a.calls("inbound", service); n < 150 {
			return fmt.Errorf("%d calls", n)
		}
		return nil
	})
	begin := time.Now()
	a.stop()
	t.Logf("the agent stopped within %v", time.Since(begin).Round(time.Millisecond))
	for who, wait := range waits {
		l := wait()
		if by := l.answers(); len(l.failed()) > 0 || by["stopping"] == 0 || by["staying"] == 0 {
			t.Errorf("%s consumer: %v; answers by %v", who, l, by)
		}
		if by := consumers[who].call(20).answers(); by["staying"] != 20 {
			t.Errorf("%s consumer after the stop: answers by %v", who, by)
		}
	}
	if !p.running() {
		t.Error("the provider ended with its agent")
	}
}

// ZooKeeper freezes for longer than a session lives, under load: everything is
// written again in a new session, and no call fails.
func TestSessionExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a", withSession("2s")), w.agent("b", withSession("2s"))
	p := w.provider(options{agent: a, application: "shop"})
	a.published(1)
	c := w.consumer(options{agent: b})
	if l := c.call(1); len(l.failed()) > 0 {
		t.Fatal(l)
	}
	session := a.status().Registries[0].Session
	content := w.content()
	wait := c.load(100, 9*time.Second)
	w.zk.Pause()
	time.Sleep(4 * time.Second) // longer than the session, that is the point
	w.zk.Continue()
	begin := time.Now()
	eventually(t, "a new session", func() error {
		if s := a.status().Registries[0]; s.State != "connected" || s.Session == session {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	there := time.Now()
	eventually(t, "everything to come back", func() error {
		if got := w.content(); got != content {
			return errors.New("ZooKeeper holds\n" + got + "and not\n" + content)
		}
		return nil
	})
	t.Logf("a new session %v after the freeze, everything in it %v later", there.Sub(begin).Round(time.Millisecond), time.Since(there).Round(time.Millisecond))
	w.registered("shop", service, a.inbound())
	a.published(1)
	if l := wait(); len(l.failed()) > 0 || p.stats().total() < 800 {
		t.Error(l)
	}
}

// A provider stops in order under load, and starts again, while its agent goes on
// and another host has a provider of the same service: no call of a thin or of an
// unmodified consumer fails.
func TestProviderStopsUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b, other := w.agent("a"), w.agent("b"), w.agent("other")
	o := options{agent: a, name: "stopping", application: "shop"}
	p := w.provider(o)
	w.provider(options{agent: other, name: "staying", application: "shop"})
	a.published(1)
	other.published(1)
	consumers := map[string]*app{
		"thin":              w.consumer(options{agent: b}),
		"interface level":   w.consumer(options{level: "interface"}),
		"application level": w.consumer(options{level: "application"}),
	}
	waits := map[string]func() ledger{}
	for who, c := range consumers {
		c.found()
		c.knows(who, "stopping", "staying")
		waits[who] = c.load(100, 6*time.Second)
	}
	eventually(t, "the load", func() error {
		if n := a.calls("inbound", service); n < 150 {
			return fmt.Errorf("%d calls", n)
		}
		return nil
	})
	p.stop()
	w.gone(w.zk.Conn(t), p.addr)
	o.name = "again"
	w.provider(o)
	a.published(1)
	for who, wait := range waits {
		l := wait()
		if by := l.answers(); len(l.failed()) > 0 || by["stopping"] == 0 || by["staying"] == 0 {
			t.Errorf("%s consumer: %v; answers by %v", who, l, by)
		}
		consumers[who].knows(who, "again", "staying")
	}
}

// knows waits until a consumer is answered by exactly these providers.
func (a *app) knows(who string, providers ...string) {
	a.t.Helper()
	slices.Sort(providers)
	eventually(a.t, who+" consumer to know "+strings.Join(providers, " and "), func() error {
		l := a.call(20)
		if by := slices.Sorted(maps.Keys(l.answers())); !slices.Equal(by, providers) {
			return fmt.Errorf("%v; %v", by, l)
		}
		return nil
	})
}

// The agent starts although ZooKeeper cannot be reached, says so, and keeps what
// is published: 202 now, 200 when ZooKeeper is there.
func TestRegistryAwayAtStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.zk.Kill()
	a := w.newAgent("a")
	a.start()
	eventually(t, "the control API", func() error { _, err := a.fetch("/v1/status"); return err })
	if s := a.status().Registries[0]; s.State == "connected" || s.InSync {
		t.Errorf("the status says %+v of a registry that is away", s)
	}
	p := w.provider(options{agent: a}) // it starts, too
	body := map[string]any{
		"url":      fmt.Sprintf("dubbo://%s/org.example.Other?application=other&interface=org.example.Other&methods=hi", p.addr),
		"workload": "other", "wait": "100ms",
	}
	var reply struct{ State, Reason string }
	if code := a.post("/v1/publish", body, &reply); code != http.StatusAccepted || reply.State != "pending" || reply.Reason != "registry-away" {
		t.Errorf("publish without a registry: %d %+v", code, reply)
	}
	if err := w.zk.Restart(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	body["wait"] = "30s"
	if code := a.post("/v1/publish", body, &reply); code != http.StatusOK || reply.State != "published" {
		t.Errorf("publish when the registry is there: %d %+v", code, reply)
	}
	t.Logf("published %v after ZooKeeper was there", time.Since(begin).Round(time.Millisecond))
	a.published(2)
	a.ready()
}

// A second agent on the same state directory, and one whose ports are taken, end
// at once and say what is the matter and who is in the way.
func TestStartErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.agent("a")
	for what, c := range map[string]struct {
		host  string
		flags []string
		want  []string
	}{
		"state directory": {"b", []string{"--state-dir", a.state}, []string{"state directory " + a.state + " is in use", fmt.Sprintf("pid %d", a.PID()), "--state-dir"}},
		"outbound":        {"b", []string{"--outbound", a.outbound()}, []string{"outbound listener: " + a.outbound() + " is taken", fmt.Sprintf("meshferry (pid %d)", a.PID()), "--outbound"}},
		"inbound":         {"b", []string{"--inbound", a.inbound()}, []string{"inbound listener: " + a.inbound() + " is taken", fmt.Sprintf("meshferry (pid %d)", a.PID()), "--inbound"}},
		"control":         {"b", []string{"--control", a.control()}, []string{"control listener: " + a.control() + " is taken", fmt.Sprintf("meshferry (pid %d)", a.PID()), "--control"}},
		"socket":          {"b", []string{"--control-socket", a.socket}, []string{a.socket + ": another process listens there", "--control-socket"}},
		"key":             {"b", []string{"--config", w.file("bad.yaml", "listeners:\n  inbund: 0.0.0.0:1\n")}, []string{"bad.yaml:2", "inbund", "inbound"}},
	} {
		second := w.newAgent(c.host, withFlags(c.flags...))
		second.start()
		if err := second.wait(); err == nil {
			t.Errorf("%s: the second agent ended without an error", what)
		}
		text := second.logged()
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the error does not say %q:\n%s", what, want, text)
			}
		}
		if lines := strings.Count(strings.TrimSpace(text), "\n") + 1; lines > 3 {
			t.Errorf("%s: %d lines for one error:\n%s", what, lines, text)
		}
	}
	if !a.running() {
		t.Error("the first agent ended")
	}
}
