package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/internal/install"
)

// buildJava makes provider and consumer of demo/java, with the SDK's two jars.
func (d *demo) buildJava(ctx context.Context) error {
	begin := time.Now()
	jars, err := install.Project(ctx, "demo-java", "demo/java", "sdk-lite/java")
	if err != nil {
		return err
	}
	d.jars = filepath.Join(jars, "plain", "*")
	d.say("   %-38s %5.1f s", "provider and consumer, with Java Dubbo", time.Since(begin).Seconds())
	return nil
}

// startJava starts a main class of demo/java behind the agent of a host, and waits
// until it says that it is ready.
func (d *demo) startJava(ctx context.Context, role string, h *host, args ...string) (*application, error) {
	class := "org.example." + strings.ToUpper(role[:1]) + role[1:]
	registry := fmt.Sprintf("mesh://%s?register-mode=interface&cache=%s", h.at(h.control), filepath.Join(d.dir, "cache-java"))
	jvm := []string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.math=ALL-UNNAMED",
		"-Duser.home=" + d.dir, "-Ddubbo.application.logger=slf4j", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Ddubbo.application.qos-enable=false", "-Ddubbo.service.shutdown.wait=1000", "-cp", d.jars, class, registry}
	return d.launch(ctx, role, "java", append(jvm, args...)...)
}

// mix adds a consumer in Java to the one in Go, and then a provider in Go to the
// one in Java, which leaves again.
func (d *demo) mix(ctx context.Context, bin string, inGo, provider *application) error {
	d.title("A consumer in Java starts on host B, too. It makes %d calls.", calls)
	inJava, err := d.startJava(ctx, "consumer", d.b)
	if err != nil {
		return err
	}
	before, err := d.count(ctx, provider)
	if err != nil {
		return err
	}
	answers, err := inJava.call(ctx, calls)
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
	d.say("   %s agent B outbound (%d) → %s agent A inbound (%d) → the provider (%d)", d.b.at(d.b.outbound), got.outboundB, d.a.at(d.a.inbound), got.inboundA, got.provider)

	const other = "the provider on host B"
	port, err := d.freePort(d.b.address, 20890)
	if err != nil {
		return err
	}
	d.title("A provider in Go of the same service joins, on host B. Nobody tells the consumers.")
	joined, err := d.startApplication(ctx, bin, "provider", "--registry", "mesh://"+d.b.at(d.b.control), "--ip", d.b.address, "--port", strconv.Itoa(port), "--name", other)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		what string
		*application
	}{{"Go", inGo}, {"Java", inJava}} {
		by := map[string]int{}
		err := d.await(ctx, c.child, "answers of both providers", func() error {
			clear(by)
			answers, err := c.call(ctx, 4*calls)
			for _, a := range answers {
				if a.Error != "" {
					return fmt.Errorf("a call of the consumer in %s failed: %s", c.what, a.Error)
				}
				by[strings.TrimPrefix(a.Answer, "hello world, this is ")]++
			}
			if err == nil && (by[providerName] == 0 || by[other] == 0) {
				err = fmt.Errorf("the consumer in %s was answered by %v", c.what, by)
			}
			return err
		})
		if err != nil {
			return err
		}
		d.say("   The consumer in %-4s made %d calls: %d answered in Java on host A, %d in Go on host B.", c.what, 4*calls, by[providerName], by[other])
	}
	if err := joined.stop(); err != nil {
		return fmt.Errorf("the provider in Go: %w", err)
	}
	return d.await(ctx, nil, "the registry to hold the provider in Java alone", func() error {
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
