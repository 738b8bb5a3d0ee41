package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

const (
	xdsRate = 250 // calls a second while rules change

	blue, green = "blue", "green"
)

// xdsHost is the service by its name in rules.
var xdsHost = rewrite.Host(registry.Service{Interface: service})

// canary is the demo of a canary: rules from a folder, served by the control plane.
type canary struct {
	*demo
	bin, folder   string
	listen, admin string // of the control plane
	plane         *child
	c             *host // beside a and b
	load          *tally
}

// runXDS moves calls from one provider to the other by editing one file, with a
// control plane that is given mistakes and killed meanwhile.
func (d *demo) runXDS(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "meshferry-demo-"); err != nil {
		return err
	}
	x := &canary{demo: d, folder: filepath.Join(d.dir, "routes")}
	d.say("Meshferry: a canary, moved by editing one file while calls run.")
	if x.bin, err = d.build(ctx); err != nil {
		return err
	}
	d.begun = time.Now()
	if err := d.openRegistry(ctx); err != nil {
		return err
	}
	if err := x.startPlane(ctx); err != nil {
		return err
	}
	if err := x.startHosts(ctx); err != nil {
		return err
	}
	for _, p := range []struct {
		h     *host
		color string
	}{{d.a, blue}, {x.c, green}} {
		if err := x.startColor(ctx, p.h, p.color); err != nil {
			return err
		}
	}
	consumer, err := d.startConsumer(ctx, x.bin)
	if err != nil {
		return err
	}
	if _, err := x.inEffect(ctx, 0); err != nil {
		return err
	}
	d.title("The consumer makes %d calls a second from now on. Each is counted.", xdsRate)
	x.load = keepCalling(ctx, consumer, xdsRate)
	defer x.load.stop()
	if err := x.shares(ctx, 0, 2); err != nil {
		return err
	}

	d.title("The file is edited: 50 to blue, 50 to green. Nobody is restarted, nobody is told.")
	if err := x.edit(ctx, 50); err != nil {
		return err
	}
	if err := x.shares(ctx, 50, 4); err != nil {
		return err
	}
	if err := x.mistakes(ctx); err != nil {
		return err
	}
	if err := x.outage(ctx); err != nil {
		return err
	}

	d.title("What the consumer counted from the first to the last step:")
	x.load.stop()
	all := x.load.now()
	d.say("   %d calls, %d failed", all.made, len(all.failed))
	if len(all.failed) > 0 {
		return fmt.Errorf("calls failed: %s", strings.Join(slices.Sorted(maps.Keys(all.failed)), "; "))
	}
	d.shown = true
	return nil
}

// rules send so many of a hundred calls to green.
func rules(percent int) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: greet}
spec:
  hosts: [%[1]s]
  http:
  - name: canary
    route:
    - {destination: {host: %[1]s, subset: blue}, weight: %[2]d}
    - {destination: {host: %[1]s, subset: green}, weight: %[3]d}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: greet}
spec:
  host: %[1]s
  subsets:
  - {name: blue, labels: {color: blue}}
  - {name: green, labels: {color: green}}
`, xdsHost, 100-percent, percent)
}

// write replaces a file of the folder as editors do: by a rename.
func (x *canary) write(name, text string) error {
	temporary := filepath.Join(x.folder, "."+name)
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(x.folder, name))
}

func (x *canary) startPlane(ctx context.Context) error {
	for _, p := range []struct {
		at    *string
		usual int
	}{{&x.listen, 15010}, {&x.admin, 15014}} {
		port, err := x.freePort("127.0.0.1", p.usual)
		if err != nil {
			return err
		}
		*p.at = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	if err := os.Mkdir(x.folder, 0o700); err != nil {
		return err
	}
	if err := x.write("greet.yaml", rules(0)); err != nil {
		return err
	}
	x.title("The control plane starts on %s. It reads the registry, and a folder with one file:", x.listen)
	for line := range strings.Lines(rules(0)) {
		x.say("      %s", strings.TrimSuffix(line, "\n"))
	}
	return x.runPlane(ctx)
}

// runPlane starts the control plane, the first time or again.
func (x *canary) runPlane(ctx context.Context) (err error) {
	x.plane, err = x.family.start(fmt.Sprintf("control-plane-%d", len(x.family.all())), x.dir, filepath.Join(x.bin, "meshferry"),
		"control-plane", "--registry", x.registryURL(), "--folder", x.folder, "--listen", x.listen, "--admin", x.admin)
	if err != nil {
		return err
	}
	return x.await(ctx, x.plane, "the control plane to be ready", func() error {
		resp, err := fetch(ctx, x.admin, "/readyz")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
}

func (x *canary) startHosts(ctx context.Context) error {
	x.a, x.b, x.c = &host{name: "A", address: "127.0.0.1"}, &host{name: "B", address: "127.0.0.2"}, &host{name: "C", address: "127.0.0.3"}
	x.title("Three hosts, each with an agent. That of host B asks the control plane, too: its calls go where rules say, and nowhere else.")
	for _, h := range []*host{x.a, x.c, x.b} {
		err := x.startAgent(ctx, x.bin, h, func(h *host) ([]string, error) {
			flags, _ := x.onRegistry(h)
			if h != x.b {
				return flags, nil
			}
			file := filepath.Join(x.dir, "agent-B.yaml")
			text := fmt.Sprintf("xds: {servers: ['%s']}\nservices: [{match: '*', routing: xds}]\n", x.listen)
			return append(flags, "--config", file), os.WriteFile(file, []byte(text), 0o600)
		})
		if err != nil {
			return err
		}
		x.say("   host %s  %s", h.name, h.address)
	}
	return nil
}

// startColor starts a provider and waits until the control plane serves it to
// nodes, in the subset of its color.
func (x *canary) startColor(ctx context.Context, h *host, color string) error {
	port, err := x.freePort(h.address, 20880)
	if err != nil {
		return err
	}
	x.title("A provider starts on host %s, with the parameter color=%s.", h.name, color)
	p, err := x.startApplication(ctx, x.bin, "provider", "--registry", "mesh://"+h.at(h.control), "--ip", h.address, "--port", strconv.Itoa(port),
		"--name", color, "--param", "color="+color)
	if err != nil {
		return err
	}
	cluster := fmt.Sprintf("outbound|20882|%s|%s", color, xdsHost)
	var served struct {
		Endpoints struct {
			Endpoints []struct {
				LbEndpoints []struct {
					Endpoint struct {
						Address struct {
							SocketAddress struct {
								Address   string
								PortValue int
							}
						}
					}
				}
			}
		}
	}
	err = x.await(ctx, p.child, "the control plane to serve it", func() error {
		if err := get(ctx, x.admin, "/debug/resources?name="+strings.ReplaceAll(cluster, "|", "%7C"), &served); err != nil {
			return err
		}
		var found []string
		for _, l := range served.Endpoints.Endpoints {
			for _, e := range l.LbEndpoints {
				a := e.Endpoint.Address.SocketAddress
				found = append(found, net.JoinHostPort(a.Address, strconv.Itoa(a.PortValue)))
			}
		}
		if !slices.Equal(found, []string{h.at(h.inbound)}) {
			return fmt.Errorf("cluster %s has %v, want %s", cluster, found, h.at(h.inbound))
		}
		return nil
	})
	if err == nil {
		x.say("   The control plane learnt of it from the registry: %s is %s, the agent.", cluster, h.at(h.inbound))
	}
	return err
}

// edit changes the shares in the file and waits until the agent decides by them.
func (x *canary) edit(ctx context.Context, percent int) error {
	begin := time.Now()
	if err := x.write("greet.yaml", rules(percent)); err != nil {
		return err
	}
	rule, err := x.inEffect(ctx, percent)
	if err != nil {
		return err
	}
	x.say("   After %d ms the agent decides by it, and names it: %s.", time.Since(begin).Milliseconds(), rule)
	return nil
}

// inEffect waits until the agent of the consumer says that so many of a hundred
// calls go to green, and gives the rule that it names.
func (x *canary) inEffect(ctx context.Context, percent int) (rule string, err error) {
	var why struct {
		Source, Reason string
		Rules          struct {
			Route, Origin string
			Clusters      []struct {
				Cluster, Reason string
				Share           float64
			}
		}
	}
	err = x.await(ctx, x.b.agent, "agent B to have the rule", func() error {
		why.Rules.Clusters = nil
		if err := get(ctx, x.b.at(x.b.control), "/v1/explain?service="+service+"&method=sayHello", &why); err != nil {
			return err
		}
		var share, usable float64
		for _, c := range why.Rules.Clusters {
			if c.Reason == "" {
				usable += c.Share
			}
			if strings.Contains(c.Cluster, "|"+green+"|") {
				share = c.Share
			}
		}
		if why.Source != "rules" || math.Abs(usable-1) > 1e-9 || math.Abs(share-float64(percent)/100) > 1e-9 {
			return fmt.Errorf("it says %+v", why)
		}
		return nil
	})
	return fmt.Sprintf("route %s of %s", why.Rules.Route, why.Rules.Origin), err
}

// shares counts the answers of some pieces of the load that began after now, and
// compares them with what the rule says. A count that is further off than 4.5
// standard deviations (once in 150 000 times by chance) is not as told.
func (x *canary) shares(ctx context.Context, percent, pieces int) error {
	from, err := x.pass(ctx, 1) // its calls may have begun before
	if err != nil {
		return err
	}
	to, err := x.pass(ctx, pieces)
	if err != nil {
		return err
	}
	return x.compare(from, to, percent)
}

// pass waits until some more pieces of the load have ended.
func (x *canary) pass(ctx context.Context, pieces int) (c counted, err error) {
	goal := x.load.now().pieces + pieces
	err = x.await(ctx, nil, "the calls", func() error {
		if c = x.load.now(); len(c.failed) == 0 && c.pieces < goal {
			return fmt.Errorf("%d of %d pieces of the load have ended", c.pieces, goal)
		}
		return nil
	})
	if err == nil && len(c.failed) > 0 {
		err = fmt.Errorf("calls failed: %s", strings.Join(slices.Sorted(maps.Keys(c.failed)), "; "))
	}
	return c, err
}

func (x *canary) compare(from, to counted, percent int) error {
	const answer = "hello world, this is "
	n := to.made - from.made
	b, g := to.by[answer+blue]-from.by[answer+blue], to.by[answer+green]-from.by[answer+green]
	if n == 0 || b+g != n {
		return fmt.Errorf("%d calls: %d answers of blue, %d of green", n, b, g)
	}
	p := float64(percent) / 100
	allowed := 4.5 * math.Sqrt(float64(n)*p*(1-p))
	x.say("   %4d calls: blue %4d (%5.1f %%), green %4d (%5.1f %%), 0 failed", n, b, 100*float64(b)/float64(n), g, 100*float64(g)/float64(n))
	if off := math.Abs(float64(g) - p*float64(n)); off > allowed {
		return fmt.Errorf("green answered %d of %d calls: %.0f more or less than %d %%, and chance explains %.0f", g, n, off, percent, allowed)
	}
	return nil
}

// mistakes are made in the folder. Each is refused with its place, and the last
// good rules go on.
func (x *canary) mistakes(ctx context.Context) error {
	x.title("Somebody makes mistakes. Each is refused by file and line, and what was served before goes on:")
	from, good := x.load.now(), rules(50)
	const greenRoute = "subset: green}, weight: 50}"
	for _, m := range []struct{ what, file, text, marked, want string }{
		{"an unknown field", "greet.yaml", strings.Replace(good, greenRoute, "subset: green}, wieght: 50}", 1), "wieght", "unknown field"},
		{"weights over 100", "greet.yaml", strings.Replace(good, greenRoute, "subset: green}, weight: 60}", 1), "    route:", "sum up to 110"},
		{"a missing subset", "greet.yaml", strings.Replace(good, greenRoute, "subset: red}, weight: 50}", 1), "subset: red", `no subset "red"`},
		{"two files for one host", "other.yaml", strings.ReplaceAll(good, "name: greet", "name: other"), "hosts: [", "already"},
	} {
		if err := x.write(m.file, m.text); err != nil {
			return err
		}
		before, _, _ := strings.Cut(m.text, m.marked)
		place := fmt.Sprintf("%s:%d: ", filepath.Join(x.folder, m.file), 1+strings.Count(before, "\n"))
		var said string
		err := x.await(ctx, x.plane, "the control plane to refuse "+m.what, func() error {
			refused, err := x.refused(ctx)
			if err != nil {
				return err
			}
			for line := range strings.Lines(refused) {
				if i := strings.Index(line, place); i >= 0 && strings.Contains(line, m.want) {
					said = strings.TrimSpace(line[i:])
					return nil
				}
			}
			return fmt.Errorf("it says %q, want %s… %s", refused, place, m.want)
		})
		if err != nil {
			return err
		}
		x.say("   %-23s %s", m.what, strings.ReplaceAll(said, x.folder+string(filepath.Separator), ""))
		if m.file == "greet.yaml" {
			err = x.write(m.file, good)
		} else {
			err = os.Remove(filepath.Join(x.folder, m.file))
		}
		if err != nil {
			return err
		}
		err = x.await(ctx, x.plane, "the control plane to take the folder", func() error {
			refused, err := x.refused(ctx)
			if err == nil && refused != "" {
				err = fmt.Errorf("it says %q", refused)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	to, err := x.pass(ctx, 1)
	if err != nil {
		return err
	}
	return x.compare(from, to, 50)
}

// refused is why the control plane does not serve what is in the folder now.
func (x *canary) refused(ctx context.Context) (string, error) {
	var status struct{ Folder struct{ Refused string } }
	err := get(ctx, x.admin, "/debug/status", &status)
	return status.Folder.Refused, err
}

// outage kills the control plane, and starts it again with another file.
func (x *canary) outage(ctx context.Context) error {
	x.title("The control plane is killed. The agent goes on by the last good rules.")
	if err := x.plane.cmd.Process.Kill(); err != nil {
		return err
	}
	<-x.plane.ended
	if err := x.connectedTo(ctx, false); err != nil {
		return err
	}
	if err := x.shares(ctx, 50, 4); err != nil {
		return err
	}
	x.title("It is started again. Meanwhile the file was edited: everything to green.")
	if err := x.write("greet.yaml", rules(100)); err != nil {
		return err
	}
	begin := time.Now()
	if err := x.runPlane(ctx); err != nil {
		return err
	}
	if err := x.connectedTo(ctx, true); err != nil {
		return err
	}
	if _, err := x.inEffect(ctx, 100); err != nil {
		return err
	}
	x.say("   The agent decides by it %d ms after the start.", time.Since(begin).Milliseconds())
	return x.shares(ctx, 100, 2)
}

// connectedTo waits until the agent of the consumer has, or has not, a stream to
// the control plane.
func (x *canary) connectedTo(ctx context.Context, want bool) error {
	return x.await(ctx, x.b.agent, "agent B to notice", func() error {
		var state struct {
			Servers []struct {
				Address, Err string
				Connected    bool
			}
		}
		if err := get(ctx, x.b.at(x.b.control), "/debug/xds", &state); err != nil {
			return err
		}
		if len(state.Servers) != 1 || state.Servers[0].Connected != want {
			return fmt.Errorf("it says %+v", state.Servers)
		}
		return nil
	})
}
