package agent

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/config"
)

// TestLife: a call goes through both sides of one agent; then the agent stops and
// nothing is left but its state.
func TestLife(t *testing.T) {
	c := settings(t)
	p := provide(t)
	a := run(t, c)
	eventually(t, "ready", func() bool { status, _ := a.ask(t, "GET", "/readyz", ""); return status == 200 })
	a.publish(t, p.port())
	consumer := consume(t, a)
	consumer.send("echo")
	if _, refusal := consumer.answer(); refusal != "" {
		t.Fatalf("not answered by the provider: %q", refusal)
	}
	if s := registered(t, c); !strings.Contains(s, fmt.Sprintf("127.0.0.1:%d/%s", a.inbound, service)) || strings.Contains(s, fmt.Sprintf("127.0.0.1:%d/%s", p.port(), service)) {
		t.Errorf("registered %s", s)
	}
	_, metrics := a.ask(t, "GET", "/metrics", "")
	for _, line := range []string{`meshferry_requests_total{direction="outbound",service="` + service + `"} 1`, `meshferry_requests_total{direction="inbound",service="` + service + `"} 1`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("no %s", line)
		}
	}
	a.stop(t)
	if s := registered(t, c); strings.Contains(s, service) {
		t.Errorf("still registered: %s", s)
	}
	for _, l := range a.listeners.all() {
		if conn, err := net.Dial(l.Addr().Network(), l.Addr().String()); err == nil {
			conn.Close()
			t.Errorf("%s still listens", l.Addr())
		}
	}
	// That the only provider goes is held, and said, by the agent that follows it.
	if a.log.count("level=ERROR")+a.log.count("level=WARN") > a.log.count("providers are held") {
		t.Errorf("an orderly life warns:\n%s", a.log)
	}
}

// TestResume: what applications asked for outlives the process.
func TestResume(t *testing.T) {
	c := settings(t)
	p := provide(t)
	first := run(t, c)
	first.publish(t, p.port())
	first.stop(t)
	second := run(t, c)
	eventually(t, "published without being asked", func() bool {
		return strings.Contains(registered(t, c), fmt.Sprintf("127.0.0.1:%d/%s", second.inbound, service))
	})
	if _, text := second.ask(t, "GET", "/v1/services", ""); !strings.Contains(text, "anon/greeter/") {
		t.Errorf("services %s", text)
	}
}

// TestStop: the registry is empty before the calls in flight end, new work is
// refused, and every call in flight is answered: by its provider while there is
// time, else by the agent.
func TestStop(t *testing.T) {
	for _, answered := range []bool{true, false} {
		t.Run(fmt.Sprintf("answered=%v", answered), func(t *testing.T) {
			c := settings(t)
			if !answered {
				c.Stop.Drain = 50 * time.Millisecond
			}
			p := provide(t)
			a := run(t, c)
			a.publish(t, p.port())
			consumer := consume(t, a)
			id := consumer.send("hold")
			<-p.held
			a.cancel()
			if answered {
				eventually(t, "withdrawn", func() bool { return !strings.Contains(registered(t, c), service) })
				if status, text := a.ask(t, "GET", "/readyz", ""); status != 503 || !strings.Contains(text, "stopping") {
					t.Errorf("readyz while stopping: %d %s", status, text)
				}
				if status, text := a.ask(t, "POST", "/v1/publish", `{"url":"dubbo://:1/a.B?application=x&interface=a.B"}`); status != 503 {
					t.Errorf("publish while stopping: %d %s", status, text)
				}
				p.letGo()
			}
			got, refusal := consumer.answer()
			if got != id || (refusal == "") != answered || !answered && !strings.Contains(refusal, "meshferry: "+service) {
				t.Errorf("answer to call %d: %d, %q", id, got, refusal)
			}
			a.stop(t)
			if cut := a.log.count("calls are cut"); (cut == 0) != answered {
				t.Errorf("calls are cut: logged %d times", cut)
			}
			if answered && a.log.count("level=WARN") > 0 {
				t.Errorf("an orderly stop warns:\n%s", a.log)
			}
		})
	}
}

// TestStartErrors: each says what is wrong and what to do, and leaves nothing
// open.
func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	me := fmt.Sprintf("is taken by %s (pid %d)", strings.TrimSpace(string(name)), os.Getpid())
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*config.Config)
		want   []string
	}{
		{"outbound taken", func(c *config.Config) { c.Listeners.Outbound = taken.Addr().String() }, []string{"outbound listener", me, "--outbound"}},
		{"inbound taken", func(c *config.Config) { c.Listeners.Inbound = taken.Addr().String() }, []string{"inbound listener", me, "--inbound"}},
		{"control taken", func(c *config.Config) { c.Listeners.Control = taken.Addr().String() }, []string{"control listener", me, "--control"}},
		{"every address taken", func(c *config.Config) {
			_, port, _ := net.SplitHostPort(taken.Addr().String())
			c.Listeners.Inbound = ":" + port
		}, []string{me}},
		{"foreign address", func(c *config.Config) { c.Listeners.Inbound = "192.0.2.1:0" }, []string{"192.0.2.1:0 is at no address of this machine", "--inbound"}},
		{"MOSN", func(c *config.Config) { c.Compat.Mosn = config.Mosn{Listen: taken.Addr().String(), ProviderPort: 1} }, []string{me, "compat.mosn.listen"}},
		{"state directory under a file", func(c *config.Config) { c.StateDir = file + "/x" }, []string{file + "/x cannot be used", "--state-dir"}},
		{"state directory is a file", func(c *config.Config) { c.StateDir = file }, []string{file + " cannot be used", "--state-dir"}},
		{"socket is a file", func(c *config.Config) { c.Listeners.ControlSocket = file }, []string{file, "no socket", "--control-socket"}},
		{"socket too long", func(c *config.Config) { c.Listeners.ControlSocket = file + strings.Repeat("x", 100) }, []string{"invalid argument", "--control-socket"}},
		{"password file", func(c *config.Config) {
			c.Registries[0] = config.Registry{Name: "main", Backend: "zookeeper", URL: "zookeeper://127.0.0.1:1", Username: "u", PasswordFile: file + "x"}
		}, []string{"registry main", "password file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := settings(t)
			good := cfg
			good.Registries = append([]config.Registry(nil), cfg.Registries...)
			c.change(&cfg)
			_, err := New(cfg, "test", slog.New(slog.DiscardHandler))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
			run(t, good).stop(t) // neither the lock nor the socket was left behind
		})
	}
}

// TestSecondAgent: one agent at a time uses a state directory, and one a socket.
func TestSecondAgent(t *testing.T) {
	c := settings(t)
	run(t, c)
	_, err := New(c, "test", slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by another agent (pid %d)", os.Getpid())) {
		t.Errorf("same state directory: %v", err)
	}
	c.StateDir = t.TempDir()
	_, err = New(c, "test", slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("same socket: %v", err)
	}
}

// TestDeadSocket: what a killed agent left is replaced.
func TestDeadSocket(t *testing.T) {
	c := settings(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.Listeners.ControlSocket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	run(t, c)
}

// TestRegistryAway: the agent starts, says once what it cannot reach and once
// that it is back, and stops without waiting for what was never there.
func TestRegistryAway(t *testing.T) {
	t.Run("zookeeper", func(t *testing.T) {
		dir := t.TempDir()
		a := run(t, load(t, dir, "registries: [{url: 'zookeeper://127.0.0.1:1'}]"))
		eventually(t, "said", func() bool { return a.log.count("ZooKeeper cannot be reached") == 1 })
		eventually(t, "ready all the same", func() bool { status, _ := a.ask(t, "GET", "/readyz", ""); return status == 200 })
		if _, text := a.ask(t, "GET", "/v1/status", ""); !strings.Contains(text, "connection refused") {
			t.Errorf("status %s", text)
		}
		a.stop(t)
		if n := a.log.count("level=WARN"); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, a.log)
		}
	})
	t.Run("local", func(t *testing.T) {
		dir := t.TempDir()
		blocked := filepath.Join(dir, "blocked")
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		a := run(t, load(t, dir, "registries: [{url: 'local://"+blocked+"/registry'}]"))
		eventually(t, "said", func() bool { return a.log.count("local registry away") == 1 })
		if err := os.Remove(blocked); err != nil {
			t.Fatal(err)
		}
		eventually(t, "back", func() bool { return a.log.count("local registry connected") == 1 })
		if n := a.log.count("level=WARN"); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, a.log)
		}
	})
}

func TestWarnsOfAForeignAddress(t *testing.T) {
	c := settings(t)
	c.Address = "192.0.2.7"
	c.Warnings = []string{"one more"}
	a := run(t, c)
	eventually(t, "warned", func() bool { return a.log.count("is none of this machine's") == 1 && a.log.count("one more") == 1 })
}

// TestReload: publish modes and load balancing change in the registry and the
// routes; what needs a restart is named, again each time, and stays as it was.
func TestReload(t *testing.T) {
	c := settings(t)
	p := provide(t)
	a := run(t, c)
	a.publish(t, p.port())
	own := fmt.Sprintf("dubbo://127.0.0.1:%d/%s", p.port(), service)
	mesh := fmt.Sprintf("dubbo://127.0.0.1:%d/%s", a.inbound, service)

	next := c
	next.Services = []config.Service{{Match: "com.a.*", Publish: "direct", LoadBalance: "roundrobin"}}
	next.Stop.Drain = time.Second
	next.Limits.Frame = 1 << 20
	next.Address = "192.0.2.7"
	next.Warnings = []string{"look here"}
	a.Reload(next)
	eventually(t, "direct", func() bool {
		s := registered(t, c)
		return strings.Contains(s, own) && !strings.Contains(s, mesh)
	})
	eventually(t, "round robin", func() bool {
		_, text := a.ask(t, "GET", "/v1/explain?direction=inbound&service="+service, "")
		return strings.Contains(text, `"policy":"roundrobin","policyWhy":"configuration"`)
	})
	if got := a.config.Load(); got.Address != c.Address || got.Limits.Frame != c.Limits.Frame || got.Stop.Drain != time.Second {
		t.Errorf("runs with %+v", got)
	}
	for _, want := range []string{`changed="services, stop.drain"`, `settings="address, limits.frame"`, "look here"} {
		if a.log.count(want) != 1 {
			t.Errorf("no %s in\n%s", want, a.log)
		}
	}
	a.Reload(next)
	if a.log.count("changed=nothing") != 1 || a.log.count(`settings="address, limits.frame"`) != 2 || a.log.count("look here") != 1 {
		t.Errorf("the second time:\n%s", a.log)
	}

	back := c
	back.Services = []config.Service{{Match: service, Publish: "off"}}
	a.Reload(back)
	eventually(t, "off", func() bool { return !strings.Contains(registered(t, c), service) })
	a.Reload(c)
	eventually(t, "mesh again", func() bool {
		s := registered(t, c)
		return strings.Contains(s, mesh) && !strings.Contains(s, own)
	})
}

func TestProtection(t *testing.T) {
	if p := protection(config.Protection{Enabled: true, ShrinkHold: time.Second}); p.EmptyHold >= 0 || p.ShrinkHold != time.Second || p.Disabled {
		t.Errorf("%+v: a hold of 0 is none, not the default", p)
	}
}

// TestProjection: the inbound side dials local providers as long as they answer.
func TestProjection(t *testing.T) {
	c := settings(t)
	p := provide(t)
	a := run(t, c)
	a.publish(t, p.port())
	dialled := func() bool { return a.router.Snapshot().Inbound.Lookup([]byte(service), nil) != nil }
	eventually(t, "dialled", dialled)
	p.kill()
	eventually(t, "not dialled any more", func() bool { return !dialled() })
	eventually(t, "withdrawn", func() bool { return !strings.Contains(registered(t, c), service) })
}
