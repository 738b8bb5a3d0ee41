package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
)

const (
	service = "org.example.GreetService"

	providerName = "the provider on host A"
	greeting     = "hello world, this is " + providerName

	calls    = 10
	deadline = 40 * time.Second // of each step; a JVM takes some seconds to start
)

// host is one of the two "hosts": a loopback address with an agent.
type host struct {
	name                       string // "A"
	address                    string // "127.0.0.1"
	outbound, inbound, control int
	agent                      *child
}

func (h *host) at(port int) string { return net.JoinHostPort(h.address, strconv.Itoa(port)) }

// demo is one run.
type demo struct {
	// immutable after construction
	out      io.Writer
	registry string
	java     bool
	keep     bool

	jars   string // class path of the applications in Java
	dir    string // logs, state, embedded registry
	begun  time.Time
	shown  bool // every step was as told
	step   int
	family family
	a, b   *host
	reader registry.Registry
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) title(format string, args ...any) {
	d.step++
	d.say("\n%d. %s", d.step, fmt.Sprintf(format, args...))
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "meshferry-demo-"); err != nil {
		return err
	}
	d.say("Meshferry: one call from a consumer to a provider, through two agents.")
	bin, err := d.build(ctx)
	if err != nil {
		return err
	}
	d.begun = time.Now()
	if err := d.openRegistry(ctx); err != nil {
		return err
	}
	if err := d.startAgents(ctx, bin, d.onRegistry); err != nil {
		return err
	}
	provider, err := d.startProvider(ctx, bin)
	if err != nil {
		return err
	}
	if err := d.showRegistry(ctx); err != nil {
		return err
	}
	consumer, err := d.startConsumer(ctx, bin)
	if err != nil {
		return err
	}
	if err := d.callThroughMesh(ctx, consumer, provider); err != nil {
		return err
	}
	if d.java {
		if err := d.mix(ctx, bin, consumer, provider); err != nil {
			return err
		}
	}
	if d.registry != "" {
		if err := d.callWithoutAgent(ctx, bin, provider); err != nil {
			return err
		}
	}
	d.shown = true
	if d.keep {
		d.invite(consumer, provider)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return d.stopProvider(ctx, provider)
}

// onRegistry are the flags of an agent that uses the one registry of the demo.
func (d *demo) onRegistry(*host) ([]string, error) {
	return []string{"--registry", d.registryURL()}, nil
}

// startAgents starts two agents. registries gives the flags that name theirs.
func (d *demo) startAgents(ctx context.Context, bin string, registries func(*host) ([]string, error)) error {
	d.a, d.b = &host{name: "A", address: "127.0.0.1"}, &host{name: "B", address: "127.0.0.2"}
	d.title("Two hosts, each with an agent. They know the registry, and nothing of each other.")
	for _, h := range []*host{d.a, d.b} {
		if err := d.startAgent(ctx, bin, h, registries); err != nil {
			return err
		}
		d.say("   host %s  %s   %d outbound: its own applications call it", h.name, h.address, h.outbound)
		d.say("                       %d inbound: the rest of the world calls it", h.inbound)
		d.say("                       %d control: its own applications tell it what they offer and need", h.control)
	}
	return nil
}

// startAgent starts the agent of a host and waits until it is ready.
func (d *demo) startAgent(ctx context.Context, bin string, h *host, more func(*host) ([]string, error)) error {
	for _, p := range []struct {
		port  *int
		usual int
	}{{&h.outbound, 20881}, {&h.inbound, 20882}, {&h.control, 20883}} {
		var err error
		if *p.port, err = d.freePort(h.address, p.usual); err != nil {
			return err
		}
	}
	state := filepath.Join(d.dir, "state-"+h.name)
	if err := os.Mkdir(state, 0o700); err != nil {
		return err
	}
	flags, err := more(h)
	if err != nil {
		return err
	}
	h.agent, err = d.family.start("agent-"+h.name, d.dir, filepath.Join(bin, "meshferry"), append([]string{"run", "--address", h.address,
		"--outbound", h.at(h.outbound), "--inbound", h.at(h.inbound), "--control", h.at(h.control),
		"--control-socket", filepath.Join(state, "control.sock"), "--state-dir", state}, flags...)...)
	if err != nil {
		return err
	}
	return d.await(ctx, h.agent, "agent "+h.name+" to be ready", func() error { return d.connected(ctx, h) })
}

// freePort is the usual port if it is free on an address, else another one, and
// says so.
func (d *demo) freePort(address string, usual int) (int, error) {
	for _, port := range []int{usual, 0} {
		l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close()
		free := l.Addr().(*net.TCPAddr).Port
		if port == 0 {
			d.say("   (port %d is taken on %s: %d instead)", usual, address, free)
		}
		return free, nil
	}
	return 0, fmt.Errorf("no port can be opened on %s: the demo needs two loopback addresses (on macOS: sudo ifconfig lo0 alias %s)", address, address)
}

func (d *demo) startProvider(ctx context.Context, bin string) (*application, error) {
	listen := d.a.address
	if d.java {
		listen = "0.0.0.0" // Java Dubbo takes the port of every address
	}
	port, err := d.freePort(listen, 20880)
	if err != nil {
		return nil, err
	}
	d.title("A provider%s starts on host A, on port %d. Its registry is mesh://%s: the agent.", d.in("Java (Spring Boot)"), port, d.a.at(d.a.control))
	var p *application
	if d.java {
		p, err = d.startSpring(ctx, "provider", d.a, "--dubbo.protocol.port="+strconv.Itoa(port), "--greeter.name="+providerName)
	} else {
		p, err = d.startApplication(ctx, bin, "provider", "--registry", "mesh://"+d.a.at(d.a.control), "--ip", d.a.address, "--port", strconv.Itoa(port), "--name", providerName)
	}
	if err != nil {
		return nil, err
	}
	p.port = port
	var services struct {
		Inbound []struct {
			Service, Protocol, State, Reason string
			Port                             int
			Advertised                       []string
		}
	}
	err = d.await(ctx, p.child, "agent A to have published the provider", func() error {
		if err := get(ctx, d.a.at(d.a.control), "/v1/services", &services); err != nil {
			return err
		}
		for _, s := range services.Inbound {
			if s.Service == service && s.Port == port && s.State == "published" {
				services.Inbound = services.Inbound[:0]
				services.Inbound = append(services.Inbound, s)
				return nil
			}
		}
		return fmt.Errorf("GET /v1/services of agent A says %+v", services.Inbound)
	})
	if err != nil {
		return nil, err
	}
	s := services.Inbound[0]
	d.say("   It told the agent: %s, protocol %s, port %d.", s.Service, s.Protocol, s.Port)
	d.say("   The agent saw the port answer and published it.")
	return p, nil
}

func (d *demo) showRegistry(ctx context.Context) error {
	d.title("The registry holds the agent's inbound port, not the provider's.")
	var found [2]string // by model
	err := d.await(ctx, nil, "the registry to hold both models", func() error {
		set, err := d.providers(ctx)
		if err != nil {
			return err
		}
		found = [2]string{}
		for _, p := range set.Providers {
			if p.URL.HostPort() != d.a.at(d.a.inbound) {
				return fmt.Errorf("%s is registered, not %s", p.URL.HostPort(), d.a.at(d.a.inbound))
			}
			i := 0
			if p.Model == registry.ModelApplication {
				i = 1
			}
			found[i] = p.URL.String()
		}
		if found[0] == "" || found[1] == "" {
			return fmt.Errorf("%d entries, want one for each model", len(set.Providers))
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.say("   interface level, read by Dubbo 2.7:\n      %s", short(found[0]))
	d.say("   application level, read by Dubbo 3:\n      %s", short(found[1]))
	return nil
}

func (d *demo) startConsumer(ctx context.Context, bin string) (*application, error) {
	d.title("A consumer%s starts on host B. Its registry is mesh://%s: the other agent.", d.in("Go"), d.b.at(d.b.control))
	c, err := d.startApplication(ctx, bin, "consumer", "--registry", "mesh://"+d.b.at(d.b.control))
	if err != nil {
		return nil, err
	}
	var status struct {
		Outbound  string
		Workloads []struct {
			Subscriptions []struct{ Service, State, Mode string }
		}
	}
	err = d.await(ctx, c.child, "agent B to have answered the consumer", func() error {
		if err := get(ctx, d.b.at(d.b.control), "/v1/status", &status); err != nil {
			return err
		}
		for _, w := range status.Workloads {
			for _, s := range w.Subscriptions {
				if s.Service == service && s.State == "ready" && s.Mode == "mesh" {
					return nil
				}
			}
		}
		return fmt.Errorf("GET /v1/status of agent B says %+v", status.Workloads)
	})
	if err != nil {
		return nil, err
	}
	if status.Outbound != d.b.at(d.b.outbound) {
		return nil, fmt.Errorf("agent B hands out %s, not its own %s", status.Outbound, d.b.at(d.b.outbound))
	}
	d.say("   It asked what to call for %s, and was told: %s, its own agent.", service, status.Outbound)
	return c, nil
}

func (d *demo) callThroughMesh(ctx context.Context, consumer, provider *application) error {
	before, err := d.count(ctx, provider)
	if err != nil {
		return err
	}
	d.title("The consumer%s makes %d calls.", d.in("Go"), calls)
	answers, err := consumer.call(ctx, calls)
	if err != nil {
		return err
	}
	if err := d.asTold(answers); err != nil {
		return err
	}
	got, err := d.counted(ctx, provider, before, counts{outboundB: calls, inboundA: calls, provider: calls})
	if err != nil {
		return err
	}
	d.title("Where they went, as agents and provider counted:")
	d.say("   consumer → %-15s agent B outbound   %d calls", d.b.at(d.b.outbound), got.outboundB)
	d.say("            → %-15s agent A inbound    %d calls", d.a.at(d.a.inbound), got.inboundA)
	d.say("            → %-15s the provider       %d calls over %d connection(s)", d.a.at(provider.port), got.provider, got.connections)
	return nil
}

// asTold says whether every answer is the provider's.
func (d *demo) asTold(answers []line) error {
	for i, a := range answers {
		if a.Error != "" || a.Answer != greeting {
			return fmt.Errorf("call %d of %d came back with %q %q, want %q", i+1, len(answers), a.Answer, a.Error, greeting)
		}
	}
	d.say("   All %d came back with: %q (first %.1f ms, last %.1f ms)", len(answers), greeting, answers[0].MS, answers[len(answers)-1].MS)
	return nil
}

// in names a language, where more than one is spoken.
func (d *demo) in(language string) string {
	if !d.java {
		return ""
	}
	return " in " + language
}

func (d *demo) callWithoutAgent(ctx context.Context, bin string, provider *application) error {
	d.title("Consumers that know nothing of agents: unmodified dubbo-go, straight from %s.", redacted(d.registry))
	levels := []string{"interface", "application"}
	if rooted(d.registry) {
		d.say("   (interface level only: below a root of its own dubbo-go looks for applications elsewhere than agent and Java)")
		levels = levels[:1]
	}
	for _, level := range levels {
		before, err := d.count(ctx, provider)
		if err != nil {
			return err
		}
		c, err := d.startApplication(ctx, bin, "consumer", "--registry", d.registry, "--registry-type", level, "--application", "demo-stranger-"+level)
		if err != nil {
			return err
		}
		answers, err := c.callWhenReady(ctx, calls)
		if err != nil {
			return err
		}
		for i, a := range answers {
			if a.Error != "" {
				return fmt.Errorf("call %d of the %s-level consumer failed: %s", i+1, level, a.Error)
			}
		}
		// Calls until the first answer are part of callWhenReady; none reached the provider.
		got, err := d.counted(ctx, provider, before, counts{inboundA: calls, provider: calls})
		if err != nil {
			return err
		}
		d.say("   %-11s level: %d calls → %s agent A inbound (%d) → the provider (%d)", level, calls, d.a.at(d.a.inbound), got.inboundA, got.provider)
		if err := c.stop(); err != nil {
			return fmt.Errorf("the %s-level consumer: %w", level, err)
		}
	}
	return nil
}

func (d *demo) stopProvider(ctx context.Context, provider *application) error {
	d.title("The provider%s stops.", d.in("Java"))
	begin := time.Now()
	if err := provider.interrupt(); err != nil {
		return err
	}
	err := d.await(ctx, nil, "the registry to hold nothing of it", func() error {
		set, err := d.providers(ctx)
		if err == nil && len(set.Providers) > 0 {
			err = fmt.Errorf("it still holds %s", short(set.Providers[0].URL.String()))
		}
		return err
	})
	if err != nil {
		return err
	}
	d.say("   Its registration is gone after %d ms.", time.Since(begin).Milliseconds())
	return provider.wait()
}

func (d *demo) invite(consumer, provider *application) {
	d.title("Everything keeps running until Ctrl-C. Things to try:")
	agent := filepath.Join(".cache", "bin", "meshferry")
	for _, line := range []string{
		fmt.Sprintf("%s status --control %s", agent, d.a.at(d.a.control)),
		fmt.Sprintf("%s explain %s --control %s", agent, service, d.b.at(d.b.control)),
		fmt.Sprintf("curl -s http://%s/v1/services", d.a.at(d.a.control)),
		fmt.Sprintf("curl -s http://%s/metrics | grep ^meshferry", d.b.at(d.b.control)),
		fmt.Sprintf("curl -s 'http://%s/call?n=3'", consumer.http),
		fmt.Sprintf("curl -s 'http://%s/load?rate=200&for=5s' | tail -1", consumer.http),
		fmt.Sprintf("curl -s http://%s/stats", provider.http),
		fmt.Sprintf("kill %d     # the provider dies: GET /v1/services again", provider.pid()),
		fmt.Sprintf("kill -9 %d  # agent B dies: the consumer calls on, directly", d.b.agent.pid()),
		fmt.Sprintf("ls %s       # logs and state", d.dir),
	} {
		d.say("   %s", line)
	}
}

// await tries until ok gives nil, within the deadline of a step, and as long as
// the process (if any) lives.
func (d *demo) await(ctx context.Context, c *child, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		var ended <-chan struct{}
		if c != nil {
			ended = c.ended
		}
		select {
		case <-again.C:
		case <-ended:
			return fmt.Errorf("waited for %s, but %s ended: %w", what, c.name, c.result())
		case <-ctx.Done():
			if parent := context.Cause(ctx); parent == context.Canceled {
				return parent
			}
			return fmt.Errorf("waited %s for %s: %w", deadline, what, err)
		}
	}
}

// short leaves out what a reader does not look for.
func short(url string) string {
	u, err := registry.ParseURL(url)
	if err != nil {
		return url
	}
	shown := map[string]bool{"application": true, "interface": true, "methods": true, registry.MarkOrigin: true, registry.MarkCaps: true}
	left := 0
	u = u.Without(func(k, _ string) bool {
		if !shown[k] {
			left++
		}
		return !shown[k]
	})
	return fmt.Sprintf("%s  (and %d more)", u, left)
}

// rooted says whether a registry address names a root, as in zookeeper://h:2181/root.
func rooted(address string) bool {
	_, rest, _ := strings.Cut(address, "://")
	_, root, _ := strings.Cut(rest[strings.LastIndexByte(rest, '@')+1:], "/")
	return root != ""
}

// redacted hides a password in a registry address.
func redacted(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = "***@" + rest[i+1:]
	}
	return scheme + "://" + rest
}

// explain shows the end of each log.
func (d *demo) explain() {
	for _, c := range d.family.all() {
		if tail := c.tail(12); tail != "" {
			d.say("\n--- the end of %s", c.log)
			d.say("%s", tail)
		}
	}
}

// close ends every process and, unless something went wrong, removes the files.
func (d *demo) close() {
	d.family.close()
	if d.shown {
		os.RemoveAll(d.dir)
	}
}
