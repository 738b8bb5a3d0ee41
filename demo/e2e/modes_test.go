package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a service is published as is set in the agent's file, service by service.
// Consumers that know nothing of agents see an ordinary provider at its own port
// (direct), the agent's port (mesh), two entries that are one provider (both), or
// nothing (off).
func TestPublishModes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.agent("a", withFile(`
services:
- {match: org.example.Direct, publish: direct}
- {match: org.example.Both, publish: both}
- {match: "org.example.O*", publish: off}
`))
	b := w.agent("b")
	conn := w.zk.Conn(t)
	modes := []string{"Mesh", "Direct", "Both", "Off"}
	providers := map[string]*app{}
	for i, mode := range modes {
		port := 20880
		if i > 0 {
			port = 20890 + i
		}
		providers[mode] = w.provider(options{agent: a, application: "app-" + mode, iface: "org.example." + mode, port: port})
	}
	a.published(len(modes))
	for _, mode := range modes {
		p, iface := providers[mode], "org.example."+mode
		want := map[string][]string{"Mesh": {a.inbound()}, "Direct": {p.addr}, "Both": {a.inbound(), p.addr}}[mode]
		slices.Sort(want)
		var addresses []string
		for _, u := range children(t, conn, "/dubbo/"+iface+"/providers") {
			addresses = append(addresses, u.HostPort())
			if own := u.HostPort() == p.addr; own == strings.Contains(u.String(), "meshferry") {
				t.Errorf("%s: marks of %s", mode, u)
			}
		}
		slices.Sort(addresses)
		if !slices.Equal(addresses, want) {
			t.Errorf("%s: the interface level lists %v, want %v", mode, addresses, want)
		}
		instances, _, _ := conn.Children("/services/app-" + mode) // an application without instances has no node
		slices.Sort(instances)
		if !slices.Equal(instances, want) {
			t.Errorf("%s: the application level lists %v, want %v", mode, instances, want)
		}
	}

	const calls = 40
	for _, mode := range []string{"Mesh", "Direct", "Both"} {
		p, iface := providers[mode], "org.example."+mode
		total, through := 0, 0
		for _, level := range []string{"interface", "application"} {
			c := w.consumer(options{level: level, iface: iface})
			n := c.found()
			l := c.call(calls)
			if len(l.failed()) > 0 {
				t.Errorf("%s, %s level: %v", mode, level, l)
			}
			total += n + len(l)
			now := a.calls("inbound", iface)
			switch share := now - through; mode {
			case "Mesh":
				if share != n+calls {
					t.Errorf("%s, %s level: %d of %d calls came through 20882", mode, level, share, n+calls)
				}
				onlyDialledBy(t, p.addr, a.process)
			case "Direct":
				if share != 0 {
					t.Errorf("%s, %s level: %d calls came through 20882", mode, level, share)
				}
				if by := dialled(t, p.addr); by[c.PID()] == 0 { // the agent is there too, to see that it lives
					t.Errorf("%s, %s level: the consumer is not connected to the provider: %v", mode, level, by)
				}
			case "Both":
				t.Logf("%s, %s level: %d of %d calls came through 20882", mode, level, share, n+calls)
			}
			through = now
			c.stop()
		}
		// A thin consumer knows marks: of both entries it uses the agent's alone.
		c := w.consumer(options{agent: b, iface: iface})
		if l := c.call(calls); len(l.failed()) > 0 {
			t.Errorf("%s, thin: %v", mode, l)
		}
		total += calls
		if share, want := a.calls("inbound", iface)-through, map[bool]int{true: 0, false: calls}[mode == "Direct"]; share != want {
			t.Errorf("%s, thin: %d calls came through 20882, want %d", mode, share, want)
		}
		wantCalls(t, total, p)
		c.stop()
	}
	c := w.consumer(options{agent: b, iface: "org.example.Off"})
	if e := c.call(1)[0]; e.OK {
		t.Errorf("a service that is off was found: %+v", e)
	}
}

// The way back: an agent is started again with "direct" under load. Consumers that
// know nothing of agents go on at the provider's own port, and no call fails, for
// there is a second provider on another host.
func TestBackToDirect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	p := w.provider(options{agent: a, application: "shop"})
	w.provider(options{agent: b, application: "shop"})
	a.published(1)
	b.published(1)
	c := w.consumer(options{level: "interface"})
	c.found()
	eventually(t, "the consumer to know both", func() error {
		if by := c.call(20).answers(); len(by) != 2 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	wait := c.load(100, 5*time.Second)
	a.stop()
	withFile("services: [{match: \"*\", publish: direct}]")(a)
	a.restart()
	a.published(1)
	w.at(service, p.addr, b.inbound())
	if l := wait(); len(l.failed()) > 0 {
		t.Error(l)
	}
	eventually(t, "the consumer to call the provider again", func() error {
		if by := c.call(20).answers(); len(by) != 2 {
			return fmt.Errorf("%v", by)
		}
		return nil
	})
	if n := a.calls("inbound", service); n != 0 {
		t.Errorf("%d calls came through 20882", n)
	}
	if by := dialled(t, p.addr); by[c.PID()] == 0 {
		t.Errorf("the consumer is not connected to the provider: %v", by)
	}
}

// at waits until the interface level lists exactly these addresses.
func (w *world) at(iface string, want ...string) {
	w.t.Helper()
	conn := w.zk.Conn(w.t)
	defer conn.Close()
	slices.Sort(want)
	eventually(w.t, "the interface level", func() error {
		var have []string
		for _, u := range children(w.t, conn, "/dubbo/"+iface+"/providers") {
			have = append(have, u.HostPort())
		}
		slices.Sort(have)
		if !slices.Equal(have, want) {
			return fmt.Errorf("%v, want %v", have, want)
		}
		return nil
	})
}
