package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/internal/install"
)

// buildJava makes providers and consumers of demo/java, with the SDK's two jars.
func (d *demo) buildJava(ctx context.Context) error {
	begin := time.Now()
	var err error
	if d.jars, err = install.Project(ctx, "demo-java", "demo/java", "sdk-lite/java"); err != nil {
		return err
	}
	d.say("   %-38s %5.1f s", "providers and consumers in Java", time.Since(begin).Seconds())
	return nil
}

// jvm is what all applications in Java are started with.
func (d *demo) jvm() []string {
	return []string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.math=ALL-UNNAMED",
		"-Duser.home=" + d.dir, "-Ddubbo.application.qos-enable=false", "-Ddubbo.service.shutdown.wait=1000"}
}

// startPlain starts a main class of demo/java/plain, which is written with Dubbo's
// own API, behind the agent of a host, and waits until it says that it is ready.
func (d *demo) startPlain(ctx context.Context, role string, h *host, args ...string) (*application, error) {
	class := "org.example." + strings.ToUpper(role[:1]) + role[1:]
	jvm := append(d.jvm(), "-Ddubbo.application.logger=slf4j", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(d.jars, "plain", "*"), class, "mesh://"+h.at(h.control))
	return d.launch(ctx, role, "java", append(jvm, args...)...)
}

// startSpring starts an application with Spring Boot.
func (d *demo) startSpring(ctx context.Context, role string, h *host, settings ...string) (*application, error) {
	jars, err := filepath.Glob(filepath.Join(d.jars, "spring-boot-"+role, "*.jar"))
	if err != nil || len(jars) != 1 {
		return nil, fmt.Errorf("jars of the %s with Spring Boot: %v, %w", role, jars, err)
	}
	jvm := append(d.jvm(), "-jar", jars[0], "--dubbo.registry.address=mesh://"+h.at(h.control), "--logging.level.root=warn")
	return d.launch(ctx, role, "java", append(jvm, settings...)...)
}

// mix adds consumers in Java to the one in Go, and then providers in Go and Java to
// the one in Java, which leave again.
func (d *demo) mix(ctx context.Context, bin string, inGo, provider *application) error {
	d.title("Two consumers in Java start on host B, too. Each makes %d calls.", calls)
	consumers := []consumer{{"Go", inGo}, {what: "Java, Spring Boot"}, {what: "Java, Dubbo's API"}}
	for i, start := range []func() (*application, error){
		func() (*application, error) { return d.startSpring(ctx, "consumer", d.b) },
		func() (*application, error) { return d.startPlain(ctx, "consumer", d.b) },
	} {
		c := &consumers[i+1]
		var err error
		if c.application, err = start(); err != nil {
			return err
		}
		before, err := d.count(ctx, provider)
		if err != nil {
			return err
		}
		answers, err := c.call(ctx, calls)
		if err != nil {
			return err
		}
		d.say("   %s:", c.what)
		if err := d.asTold(answers); err != nil {
			return err
		}
		got, err := d.counted(ctx, provider, before, counts{outboundB: calls, inboundA: calls, provider: calls})
		if err != nil {
			return err
		}
		d.say("   %s agent B outbound (%d) → %s agent A inbound (%d) → the provider (%d)", d.b.at(d.b.outbound), got.outboundB, d.a.at(d.a.inbound), got.inboundA, got.provider)
	}
	return d.join(ctx, bin, consumers)
}

// consumer is one of those of the demo.
type consumer struct {
	what string
	*application
}

// join starts two more providers of the service, shows that every consumer calls all
// of them, and stops them.
func (d *demo) join(ctx context.Context, bin string, consumers []consumer) error {
	const other, third = "the one in Go on host B", "the one in Java on host B"
	d.title("Two more providers of the same service join, on host B: one in Go, one in Java with Dubbo's API. Nobody tells the consumers.")
	port, err := d.freePort(d.b.address, 20890)
	if err != nil {
		return err
	}
	joined, err := d.startApplication(ctx, bin, "provider", "--registry", "mesh://"+d.b.at(d.b.control), "--ip", d.b.address, "--port", strconv.Itoa(port), "--name", other)
	if err != nil {
		return err
	}
	if port, err = d.freePort("0.0.0.0", 20891); err != nil {
		return err
	}
	plain, err := d.startPlain(ctx, "provider", d.b, strconv.Itoa(port), third)
	if err != nil {
		return err
	}
	for _, c := range consumers {
		by := map[string]int{}
		err := d.await(ctx, c.child, "answers of all providers", func() error {
			clear(by)
			answers, err := c.call(ctx, 6*calls)
			for _, a := range answers {
				if a.Error != "" {
					return fmt.Errorf("a call of the consumer (%s) failed: %s", c.what, a.Error)
				}
				by[strings.TrimPrefix(a.Answer, "hello world, this is ")]++
			}
			if err == nil && len(by) < 3 {
				err = fmt.Errorf("the consumer (%s) was answered by %v", c.what, by)
			}
			return err
		})
		if err != nil {
			return err
		}
		var shares []string
		for _, who := range slices.Sorted(maps.Keys(by)) {
			shares = append(shares, fmt.Sprintf("%d by %s", by[who], who))
		}
		d.say("   %-17s %d calls, answered: %s", c.what, 6*calls, strings.Join(shares, ", "))
	}
	for _, p := range []*application{joined, plain} {
		if err := p.stop(); err != nil {
			return fmt.Errorf("a provider on host B: %w", err)
		}
	}
	return d.await(ctx, nil, "the registry to hold the provider on host A alone", func() error {
		set, err := d.providers(ctx)
		if err != nil {
			return err
		}
		for _, p := range set.Providers {
			if p.URL.HostPort() != d.a.at(d.a.inbound) {
				return fmt.Errorf("%s is registered", p.URL.HostPort())
			}
		}
		return nil
	})
}
