package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/meshferry/meshferry/internal/install"
)

// spring is a provider and a consumer of demo/java, built with one pair of versions.
type spring struct {
	dubbo, boot string
}

// springs are the pairs: the newest of each line of Dubbo, on the Spring Boot that
// its users have.
var springs = []spring{
	{"3.3.6", "3.5.16"},
	{"3.2.19", "2.7.18"},
	{"2.7.23", "2.7.18"},
}

// install builds the applications and gives the folder with their jars.
func (s spring) install(ctx context.Context) (string, error) {
	return install.ProjectWith(ctx, "spring-"+s.dubbo, []string{"-Pxml", "-Ddubbo.version=" + s.dubbo, "-Dspring-boot.version=" + s.boot,
		"-pl", "spring-boot-provider,spring-boot-consumer,spring-xml", "-am"}, "demo/java", "sdk-lite/java")
}

// start starts an application of a module and waits until it is ready. Its settings
// are what an operator can give: no code is other than for any registry.
func (w *world) start(s spring, jars, module, role string, settings map[string]string) *app {
	w.t.Helper()
	args := []string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.home=" + w.dir, "-Ddubbo.application.qos-enable=false", "-Ddubbo.service.shutdown.wait=1000",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Ddubbo.application.logger=slf4j"}
	for _, pkg := range []string{"lang", "util", "math", "time"} {
		args = append(args, "--add-opens=java.base/java."+pkg+"=ALL-UNNAMED")
	}
	if module == "spring-xml" {
		for k, v := range settings {
			args = append(args, "-D"+k+"="+v)
		}
		args = append(args, "-cp", filepath.Join(jars, module, "*"), "org.example.Xml"+strings.ToUpper(role[:1])+role[1:])
	} else {
		jar, err := filepath.Glob(filepath.Join(jars, module+"-"+role, "demo-*.jar"))
		if err != nil || len(jar) != 1 {
			w.t.Fatalf("jars of %s-%s: %v, %v", module, role, jar, err)
		}
		args = append(args, "-jar", jar[0])
		for k, v := range settings {
			args = append(args, "--"+k+"="+v)
		}
	}
	return w.launch(fmt.Sprintf("%s-%s-%s", module, s.dubbo, role), nil, "java", args)
}

// end asks a JVM to end and waits until it has, in the way that it ends then.
func (a *app) end() {
	a.t.Helper()
	a.Signal(syscall.SIGTERM)
	var exit *exec.ExitError
	if err := a.wait(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 128+int(syscall.SIGTERM)) {
		a.t.Errorf("%s did not stop in order: %v", a.process.name, err)
	}
}

// Applications as Spring users write them, on each line of Dubbo: with Spring Boot,
// and with Spring configured in XML. All that makes them thin is one dependency and
// the address of the registry, which is mesh:// and an agent's, without parameters.
// They log no error; when the agent is away they say so once, go on, and come back.
func TestJavaSpring(t *testing.T) {
	long(t)
	t.Parallel()
	for _, s := range springs {
		for _, form := range []struct{ what, module, registry, port, name string }{
			{"Spring Boot " + s.boot, "spring-boot", "dubbo.registry.address", "dubbo.protocol.port", "greeter.name"},
			{"XML", "spring-xml", "registry", "port", "name"},
		} {
			t.Run("Dubbo "+s.dubbo+" "+form.what, func(t *testing.T) {
				t.Parallel()
				jars, err := s.install(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				w := newWorld(t)
				inbound, at := w.lanAddress(), w.lanAddress() // Java dials the first one itself when the agent is away
				a, b := w.agent("a", withFlags("--address", inbound.host, "--inbound", inbound.String())), w.agent("b")
				p := w.start(s, jars, form.module, "provider", map[string]string{form.registry: a.mesh(), form.port: strconv.Itoa(at.port), form.name: form.module})
				a.published(1)
				c := w.start(s, jars, form.module, "consumer", map[string]string{form.registry: b.mesh()})

				l := c.call(20)
				if by := l.answers(); by[form.module] != 20 {
					t.Fatalf("answers by %v: %v", by, l)
				}
				wantCalls(t, 20, p, hop{a, "inbound", service}, hop{b, "outbound", service})
				onlyDialledBy(t, at.String(), a.process)
				for _, who := range []*app{p, c} {
					if log := who.logged(); strings.Contains(log, "ERROR") {
						t.Errorf("%s logged an error:\n%s", who.process.name, log)
					}
				}

				b.Kill()
				eventually(t, "answers without agent", func() error { return firstError(c.call(5)) })
				eventually(t, "the log to say so", func() error {
					if !strings.Contains(c.logged(), "agent "+b.control()+" is away") {
						return errors.New(c.logged())
					}
					return nil
				})
				b.restart()
				eventually(t, "calls through the agent that is back", func() error {
					if err := firstError(c.call(5)); err != nil {
						return err
					}
					if b.calls("outbound", service) == 0 {
						return errors.New("none")
					}
					return nil
				})
				if n := strings.Count(c.logged(), " is away"); n != 1 {
					t.Errorf("it said %d times that the agent is away:\n%s", n, c.logged())
				}
				p.end()
				a.published(0)
				c.end()
			})
		}
	}
}

func firstError(l ledger) error {
	for _, e := range l.failed() {
		return errors.New(e.Error)
	}
	return nil
}
