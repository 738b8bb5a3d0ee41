package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/nacos/nacostest"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

const moveRate = 100 // calls a second while registries change

// move is the demo of a move from ZooKeeper to Nacos.
type move struct {
	*demo
	zookeeper *zktest.Server
	nacos     *nacostest.Server
	listed    map[string]registry.Registry // to look into each registry
	load      *tally
}

// runMove moves two agents and their applications from a real ZooKeeper to a real
// Nacos while calls run, by nothing but a changed file and SIGHUP.
func (d *demo) runMove(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "meshferry-demo-"); err != nil {
		return err
	}
	m := &move{demo: d, listed: map[string]registry.Registry{}}
	d.say("Meshferry: from ZooKeeper to Nacos while calls run.")
	bin, err := d.build(ctx)
	if err != nil {
		return err
	}
	d.begun = time.Now()
	if err := m.startServers(ctx); err != nil {
		return err
	}
	defer m.zookeeper.Kill()
	defer m.nacos.Kill()
	if err := m.startAgents(ctx, bin, m.configured("zookeeper")); err != nil {
		return err
	}
	provider, err := d.startProvider(ctx, bin)
	if err != nil {
		return err
	}
	if err := m.shows(ctx, "zookeeper", true); err != nil {
		return err
	}
	consumer, err := d.startConsumer(ctx, bin)
	if err != nil {
		return err
	}
	d.title("The consumer makes %d calls a second from now on. Each is counted.", moveRate)
	m.load = keepCalling(ctx, consumer, moveRate)
	defer m.load.stop()
	if err := m.progress(ctx, m.load, 2*moveRate); err != nil {
		return err
	}
	if err := m.strangers(ctx, bin, provider, "zookeeper"); err != nil {
		return err
	}
	if err := m.both(ctx); err != nil {
		return err
	}
	if err := m.strangers(ctx, bin, provider, "zookeeper", "nacos"); err != nil {
		return err
	}
	if err := m.drop(ctx); err != nil {
		return err
	}
	if err := m.strangers(ctx, bin, provider, "nacos"); err != nil {
		return err
	}
	d.title("What the consumer counted from the first to the last step:")
	made, failed := m.load.stop()
	d.say("   %d calls, %d failed", made, len(failed))
	if len(failed) > 0 {
		return fmt.Errorf("calls failed: %s", strings.Join(slices.Sorted(maps.Keys(failed)), "; "))
	}
	d.shown = true
	return d.stopProvider(ctx, provider)
}

func (m *move) startServers(ctx context.Context) (err error) {
	m.title("Two registries start, both real: ZooKeeper, which is in use, and Nacos, which is empty.")
	if m.zookeeper, err = zktest.Run(ctx, filepath.Join(m.dir, "zookeeper")); err != nil {
		return err
	}
	if m.nacos, err = nacostest.Run(ctx, filepath.Join(m.dir, "nacos")); err != nil {
		m.zookeeper.Kill()
		return err
	}
	for name, url := range map[string]string{"zookeeper": m.zookeeper.URL(), "nacos": m.nacos.URL()} {
		r, err := open(url)
		if err != nil {
			return err
		}
		go r.Run(ctx)
		m.listed[name] = r
		m.say("   %-9s %s", name, url)
	}
	m.reader = m.listed["zookeeper"]
	return m.await(ctx, nil, "both registries", func() error {
		for name, r := range m.listed {
			if s := r.Status(); s.State != registry.Connected {
				return fmt.Errorf("%s is %s %s", name, s.State, s.Err)
			}
		}
		return nil
	})
}

// configured writes the configuration of a host's agent, which names registries.
func (m *move) configured(registries ...string) func(h *host) ([]string, error) {
	return func(h *host) ([]string, error) {
		url := map[string]string{"zookeeper": m.zookeeper.URL(), "nacos": m.nacos.URL()}
		text := "registries:\n"
		for _, name := range registries {
			text += fmt.Sprintf("  - {name: %s, url: '%s'}\n", name, url[name])
		}
		file := m.file(h)
		return []string{"--config", file}, os.WriteFile(file, []byte(text), 0o600)
	}
}

func (m *move) file(h *host) string { return filepath.Join(m.dir, "agent-"+h.name+".yaml") }

// reload writes the configuration of both agents anew and waits until they have it.
func (m *move) reload(ctx context.Context, registries ...string) error {
	for _, h := range []*host{m.a, m.b} {
		if _, err := m.configured(registries...)(h); err != nil {
			return err
		}
		if err := h.agent.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			return fmt.Errorf("SIGHUP to agent %s: %w", h.name, err)
		}
	}
	for _, h := range []*host{m.a, m.b} {
		err := m.await(ctx, h.agent, fmt.Sprintf("agent %s to use %s", h.name, strings.Join(registries, " and ")), func() error {
			var status struct {
				Registries []struct {
					Name, State, Error string
					InSync             bool
				}
			}
			if err := get(ctx, h.at(h.control), "/v1/status", &status); err != nil {
				return err
			}
			var names []string
			for _, r := range status.Registries {
				if names = append(names, r.Name); r.State != registry.Connected || !r.InSync {
					return fmt.Errorf("%s is %s, in sync: %v %s", r.Name, r.State, r.InSync, r.Error)
				}
			}
			if !slices.Equal(names, registries) {
				return fmt.Errorf("it has %v", names)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// both adds Nacos beside ZooKeeper.
func (m *move) both(ctx context.Context) error {
	m.title("Nacos is added to the agents' files, and they are sent SIGHUP. They publish to both and read both.")
	if err := m.reload(ctx, "zookeeper", "nacos"); err != nil {
		return err
	}
	for _, name := range []string{"zookeeper", "nacos"} {
		if err := m.shows(ctx, name, true); err != nil {
			return err
		}
	}
	return m.progress(ctx, m.load, 2*moveRate)
}

// drop takes ZooKeeper out, and ends it.
func (m *move) drop(ctx context.Context) error {
	m.title("ZooKeeper is taken out of the files, and the agents are sent SIGHUP. They leave it in order.")
	if err := m.reload(ctx, "nacos"); err != nil {
		return err
	}
	m.reader = m.listed["nacos"]
	if err := m.shows(ctx, "zookeeper", false); err != nil {
		return err
	}
	if err := m.shows(ctx, "nacos", true); err != nil {
		return err
	}
	m.zookeeper.Kill()
	m.say("   ZooKeeper has been killed. Nobody needs it any more.")
	return m.progress(ctx, m.load, 2*moveRate)
}

// shows waits until a registry lists the agent's inbound port at both levels, or
// nothing of the service.
func (m *move) shows(ctx context.Context, name string, there bool) error {
	var found []string
	err := m.await(ctx, nil, name+" to list what it should", func() error {
		set, err := current(ctx, m.listed[name])
		if err != nil {
			return err
		}
		found = found[:0]
		models := map[registry.Model]bool{}
		for _, p := range set.Providers {
			if p.URL.HostPort() != m.a.at(m.a.inbound) {
				return fmt.Errorf("it lists %s, not %s", p.URL.HostPort(), m.a.at(m.a.inbound))
			}
			models[p.Model] = true
			found = append(found, fmt.Sprintf("%s (%s level)", p.URL.HostPort(), p.Model))
		}
		if want := map[bool]int{true: 2}[there]; len(models) != want {
			return fmt.Errorf("it lists it at %d levels, want %d", len(models), want)
		}
		return nil
	})
	if err == nil && there {
		m.say("   %-9s lists %s", name, strings.Join(found, " and "))
	} else if err == nil {
		m.say("   %-9s lists nothing of these agents", name)
	}
	return err
}

// strangers are consumers that know nothing of agents, each on one registry alone.
func (m *move) strangers(ctx context.Context, bin string, provider *application, registries ...string) error {
	for _, name := range registries {
		url := map[string]string{"zookeeper": m.zookeeper.URL(), "nacos": m.nacos.URL()}[name]
		c, err := m.startApplication(ctx, bin, "consumer", "--registry", url, "--registry-type", "interface", "--application", "demo-stranger")
		if err != nil {
			return err
		}
		answers, err := c.callWhenReady(ctx, calls)
		if err != nil {
			return err
		}
		for i, a := range answers {
			if a.Answer != greeting {
				return fmt.Errorf("call %d of the consumer on %s came back with %q %q", i+1, name, a.Answer, a.Error)
			}
		}
		m.say("   An unmodified consumer on %s alone: %d calls answered, through %s", name, calls, m.a.at(m.a.inbound))
		if err := c.stop(); err != nil {
			return err
		}
	}
	return nil
}
