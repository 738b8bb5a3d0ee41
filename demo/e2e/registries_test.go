package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry/nacos/nacostest"
)

// registriesFile is the part of a configuration that names registries.
func registriesFile(named ...string) string {
	text := "registries:\n"
	for _, one := range named {
		name, url, _ := strings.Cut(one, "=")
		text += fmt.Sprintf("  - {name: %s, url: '%s'}\n", name, url)
	}
	return text
}

// onFile makes an agent take its registries from a file that can change.
func onFile(path string) agentOption {
	return func(a *agent) {
		for i, flag := range a.args {
			if flag == "--registry" {
				a.args[i], a.args[i+1] = "--config", path
			}
		}
	}
}

// A fleet moves from ZooKeeper to Nacos while calls run: by two changes of a file
// and SIGHUP, in all agents. No call fails; at the end ZooKeeper knows nothing of
// them and is gone.
func moveToNacos(t *testing.T, nacos *nacostest.Server) {
	const application, iface = "moving-shop", "org.example.moving.GreetService"
	w := newWorld(t)
	before, after := "old="+w.zk.URL(), "new="+nacos.URL()
	file := w.file("registries.yaml", registriesFile(before))
	a, b := w.agent("a", onFile(file)), w.agent("b", onFile(file))
	p := w.provider(options{agent: a, application: application, iface: iface})
	a.published(1)
	c := w.consumer(options{agent: b, iface: iface})
	if l := c.call(1); len(l.failed()) > 0 {
		t.Fatal(l)
	}
	stop := make(chan struct{})
	done := make(chan ledger, 1)
	go func() {
		var all ledger
		for {
			select {
			case <-stop:
				done <- all
				return
			default:
				all = append(all, c.load(100, time.Second)()...)
			}
		}
	}()

	change := func(registries ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(registriesFile(registries...)), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, one := range []*agent{a, b} {
			one.Signal(syscall.SIGHUP)
		}
		for _, one := range []*agent{a, b} {
			eventually(t, one.name+" to use the registries of its file", func() error {
				s := one.status().Registries
				if len(s) != len(registries) {
					return fmt.Errorf("%+v", s)
				}
				for i, r := range s {
					if !strings.HasPrefix(registries[i], r.Name+"=") || r.State != "connected" || !r.InSync || one == a && r.Published != 1 {
						return fmt.Errorf("%+v", s)
					}
				}
				return nil
			})
		}
	}
	change(before, after)
	w.registered(application, iface, a.inbound()) // still in ZooKeeper, and
	list, err := nacos.Instances(t.Context(), "", "", application)
	if err != nil || len(list) != 1 || fmt.Sprintf("%s:%d", list[0].IP, list[0].Port) != a.inbound() {
		t.Errorf("Nacos lists %+v of %s (%v), want one at %s", list, application, err, a.inbound())
	}
	change(after)
	conn := w.zk.Conn(t)
	eventually(t, "nothing to be left in ZooKeeper", func() error {
		if left := w.ephemerals(conn); len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	conn.Close()
	w.zk.Kill()
	if used := b.used(iface); len(used) != 1 || used[0] != a.inbound() {
		t.Errorf("the agent would call %v", used)
	}
	before20 := len(c.call(20).failed())
	close(stop)
	l := <-done
	if len(l.failed()) > 0 || len(l) < 100 || before20 > 0 {
		t.Errorf("during the move: %v, and %d of 20 after it", l, before20)
	}
	t.Logf("%d calls during the move, %d failed", len(l), len(l.failed()))
	onlyDialledBy(t, p.addr, a.process)
}

// Of two registries one freezes: nothing waits for it but what is meant for it. A
// provider that comes is published in the other at once and called; the caller of
// publish is told what is pending and why.
func oneRegistryFrozen(t *testing.T, nacos *nacostest.Server) {
	const iface = "org.example.frozen.GreetService"
	w := newWorld(t)
	file := w.file("registries.yaml", registriesFile("zookeeper="+w.zk.URL(), "nacos="+nacos.URL()))
	a, b := w.agent("a", onFile(file)), w.agent("b", onFile(file))
	first := w.provider(options{agent: a, application: "frozen-shop", name: "first", iface: iface})
	a.published(1)
	c := w.consumer(options{agent: b, iface: iface})
	if l := c.call(1); len(l.failed()) > 0 {
		t.Fatal(l)
	}
	const length = 10 * time.Second
	for _, freezes := range []struct {
		name          string
		pause, resume func()
	}{{"zookeeper", w.zk.Pause, w.zk.Continue}, {"nacos", nacos.Pause, nacos.Continue}} {
		t.Run(freezes.name, func(t *testing.T) {
			wait := c.load(100, length)
			freezes.pause()
			name := "while " + freezes.name + " is frozen"
			second := w.provider(options{agent: a, application: "frozen-shop-2", name: name, port: freePort(t), group: freezes.name, iface: iface})
			other := w.consumer(options{agent: b, group: freezes.name, iface: iface})
			eventually(t, "a new provider to be called", func() error {
				if e := other.call(1)[0]; !e.OK {
					return errors.New(e.Error)
				}
				return nil
			})
			for _, r := range a.status().Registries {
				if frozen := r.Name == freezes.name; r.InSync == frozen {
					t.Errorf("%+v while %s is frozen", r, freezes.name)
				}
			}
			l := wait()
			if len(l.failed()) > 0 {
				t.Error(l)
			}
			freezes.resume()
			eventually(t, "both to hold everything", func() error {
				for _, r := range a.status().Registries {
					if r.Published != 2 || !r.InSync {
						return fmt.Errorf("%+v", r)
					}
				}
				return nil
			})
			second.stop()
			other.stop()
			eventually(t, "the second provider to go", func() error {
				for _, r := range a.status().Registries {
					if r.Published != 1 || !r.InSync {
						return fmt.Errorf("%+v", r)
					}
				}
				return nil
			})
		})
	}
	if l := c.call(20); len(l.failed()) > 0 || l.answers()[first.name] != 20 {
		t.Error(l)
	}
}
