package compose

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/internal/install"
	"github.com/meshferry/meshferry/registry/nacos/nacostest"
)

var run = flag.Bool("compose", false, "run the docker-compose demo")

const (
	javaImage      = "eclipse-temurin:17.0.13_11-jre-jammy"
	zookeeperImage = "zookeeper:3.9.4"
	nacosImage     = "nacos/nacos-server:v2.3.2"

	agentLimit = 40_000_000 // bytes of the agent's image
)

//go:embed standin/zookeeper.pom.xml
var zookeeperPOM []byte

// demo is the running demo.
type demo struct {
	*engine
	profile string
}

func (d demo) compose(t *testing.T, args ...string) string {
	t.Helper()
	return d.run(t, "docker-compose", append([]string{"--profile", d.profile}, args...)...)
}

// container is that of a service. docker is asked: docker-compose needs ten times
// as long to begin.
func (d demo) container(t *testing.T, service string) string {
	t.Helper()
	return strings.TrimSpace(d.run(t, "docker", "ps", "-aq", "--filter", "label=com.docker.compose.service="+service))
}

// try runs a program in the container of a service.
func (d demo) try(t *testing.T, service string, args ...string) (string, error) {
	t.Helper()
	return output(t.Context(), d.env, "docker", append([]string{"exec", d.container(t, service)}, args...)...)
}

// exec is try for what must not fail.
func (d demo) exec(t *testing.T, service string, args ...string) string {
	t.Helper()
	out, err := d.try(t, service, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompose(t *testing.T) {
	if !*run {
		t.Skip("only with -compose: make test-compose")
	}
	if err := have(t); err != nil {
		t.Skipf("NOT TESTED: the docker-compose demo; no container engine can be had: %v", err)
	}
	root, err := install.Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	done := watch(t)
	// What comes from the network is asked for again.
	if err := again(t, func() error { _, err := output(t.Context(), nil, "demo/compose/binaries.sh"); return err }); err != nil {
		t.Fatal(err)
	}
	done("binaries of our images")
	base, err := javaBase(t.Context())
	if err != nil {
		t.Skipf("NOT TESTED: the docker-compose demo; no base image can be had: %v", err)
	}
	done("base image")
	var e *engine
	if err := again(t, func() (err error) { e, err = startEngine(t); return err }); err != nil {
		t.Skipf("NOT TESTED: the docker-compose demo; no container engine can be had: %v", err)
	}
	done("engine")
	e.insist(t, "docker", "import", base, javaImage)
	zookeeper(t, e)
	nacos(t, e)
	done("stand-ins for images that are pulled")
	e.insist(t, "docker-compose", "--profile", "zookeeper", "--profile", "nacos", "--profile", "xds", "build")
	images(t, e)
	done("our images")

	for _, p := range []struct{ profile, setting string }{
		{"zookeeper", ""}, // what the file says without REGISTRY
		{"nacos", "REGISTRY=nacos://nacos:8848"},
		{"xds", "XDS=control-plane:15010"},
	} {
		t.Run(p.profile, func(t *testing.T) {
			e := *e
			if p.setting != "" {
				e.env = append(slices.Clone(e.env), p.setting)
			}
			play(t, demo{&e, p.profile})
		})
		done("profile " + p.profile)
	}
}

// watch gives a function that says how long it is since it was called last.
func watch(t *testing.T) (done func(what string)) {
	begin := time.Now()
	return func(what string) {
		t.Helper()
		t.Logf("%-40s %5.1f s", what, time.Since(begin).Seconds())
		begin = time.Now()
	}
}

// again calls f up to three times, with a pause.
func again(t *testing.T, f func() error) (err error) {
	t.Helper()
	for try := range 3 {
		time.Sleep(time.Duration(try) * 5 * time.Second)
		if err = f(); err == nil {
			return nil
		}
		t.Logf("attempt %d of 3: %v", try+1, err)
	}
	return err
}

// zookeeper makes the image of the registry.
func zookeeper(t *testing.T, e *engine) {
	var lib string
	if err := again(t, func() (err error) {
		lib, err = install.Jars(t.Context(), "standin-zookeeper", zookeeperPOM)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	if err := os.CopyFS(filepath.Join(work, "lib"), os.DirFS(lib)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(work, os.DirFS("demo/compose/standin")); err != nil {
		t.Fatal(err)
	}
	e.insist(t, "docker", "build", "-q", "-t", zookeeperImage, "-f", filepath.Join(work, "zookeeper.Dockerfile"), work)
}

// nacos makes the image of the other registry.
func nacos(t *testing.T, e *engine) {
	var d nacostest.Distribution
	if err := again(t, func() (err error) {
		d, err = nacostest.Install(t.Context(), nacostest.V2)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	if err := os.CopyFS(filepath.Join(work, "lib"), os.DirFS(d.Lib)); err != nil {
		t.Fatal(err)
	}
	home, inside := filepath.Join(work, "home"), "/home/nacos"
	if err := d.Prepare(home, nacostest.Settings{Port: 8848, Secret: "nothing is signed with it: there are no logins"}); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(home, "conf", "application.properties")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte(strings.ReplaceAll(string(text), home, inside)), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("demo/compose/standin/nacos.Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	d.Lib = "/lib/nacos"
	// A crash of the machine is no matter here: no waiting for the disk.
	entry, err := json.Marshal(append([]string{"java", "-Dderby.system.durability=test"}, d.Args(inside)...))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "Dockerfile"), fmt.Appendf(file, "ENTRYPOINT %s\n", entry), 0o644); err != nil {
		t.Fatal(err)
	}
	e.insist(t, "docker", "build", "-q", "-t", nacosImage, work)
}

// play runs the demo with one registry, from up to down.
func play(t *testing.T, d demo) {
	d.compose(t, "config", "-q")
	if _, err := output(t.Context(), d.env, "docker", "compose", "version"); err == nil {
		d.run(t, "docker", "compose", "--profile", d.profile, "config", "-q")
		t.Log("docker compose takes the file, too")
	}
	t.Cleanup(func() {
		if t.Failed() {
			// t.Context is over.
			states, _ := output(context.Background(), d.env, "docker", "ps", "-a", "--format", "{{.Names}}\t{{.Status}}")
			logs, _ := output(context.Background(), d.env, "docker-compose", "--profile", d.profile, "logs", "--no-color", "--tail", "30")
			t.Logf("%s\n%s", states, logs)
			if _, err := output(context.Background(), d.env, "docker-compose", "--profile", d.profile, "down", "-v", "-t", "1"); err != nil {
				t.Log(err)
			}
		}
	})
	done := watch(t)
	begin := time.Now()
	d.compose(t, "up", "-d")
	done("up")
	for ; ; time.Sleep(100 * time.Millisecond) {
		out, err := d.try(t, "vm3-consumer-go", "/probe", "calls", "-n", "1", goControl)
		if err == nil && strings.Contains(out, "→") && !strings.Contains(out, "failed") {
			t.Logf("first answered call %.1f s after `up`:\n%s", time.Since(begin).Seconds(), out)
			break
		}
		if time.Since(begin) > 5*time.Minute {
			t.Fatalf("no call was answered: %v\n%s", err, out)
		}
	}
	done("first answer after that")
	confined(t, d)
	if d.profile == "xds" {
		script(t, d, "demo/compose/canary.sh")
		done("canary")
	} else {
		for _, c := range consumers {
			settle(t, d, c)
		}
		done("each consumer is answered by each provider")
		counted(t, d)
		done("calls counted")
		closed(t, d)
		done("ports")
		script(t, d, "demo/compose/tour.sh")
		done("tour")
	}

	d.compose(t, "down", "-v", "-t", "5")
	for what, list := range map[string][]string{"containers": {"ps", "-aq"}, "volumes": {"volume", "ls", "-q"}, "networks": {"network", "ls", "-q", "--filter", "type=custom"}} {
		if left := d.run(t, "docker", list...); left != "" {
			t.Errorf("%s after down: %q", what, left)
		}
	}
	done("down")
}

// images shows their sizes and holds the agent's.
func images(t *testing.T, e *engine) {
	t.Helper()
	t.Log("images:\n" + e.run(t, "docker", "images", "--format", "{{.Repository}}:{{.Tag}}\t{{.Size}}"))
	size, err := strconv.Atoi(strings.TrimSpace(e.run(t, "docker", "image", "inspect", "-f", "{{.Size}}", "meshferry/agent:dev")))
	if err != nil || size == 0 || size > agentLimit {
		t.Errorf("the agent's image has %d bytes (%v), want at most %d", size, err, agentLimit)
	}
}

// confined says whether each container of ours runs without root and cannot
// write to its file system.
func confined(t *testing.T, d demo) {
	services := []string{"vm1-agent", "vm2-agent", "vm3-agent", "vm1-provider", "vm2-provider", "vm3-consumer-go", "vm3-consumer-java", "vm4-provider", "vm5-consumer", "vm1"}
	if d.profile == "xds" {
		services = append(services, "control-plane")
	}
	for _, service := range services {
		if got := strings.TrimSpace(d.run(t, "docker", "inspect", "-f", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}", d.container(t, service))); got != "65532:65532 true" {
			t.Errorf("%s: user and read-only: %q", service, got)
		}
	}
}

const (
	goControl   = "127.0.0.1:8080"
	javaControl = "127.0.0.1:8081"
	control     = "127.0.0.1:20883"
)

// consumer is one application that calls.
type consumer struct {
	what, in, control string
	agent             bool
}

var consumers = []consumer{
	{"Go", "vm3-consumer-go", goControl, true},
	{"Java", "vm3-consumer-go", javaControl, true}, // that container shares the host's loopback
	{"unmodified Go", "vm5-consumer", goControl, false},
}

// call is what a consumer says of one.
type call struct {
	OK                      bool
	Answer, Error, To, Hops string
}

// calls makes n of them, one after the other.
func (d demo) calls(t *testing.T, c consumer, n int) []call {
	t.Helper()
	out := d.exec(t, c.in, "/probe", "get", fmt.Sprintf("http://%s/call?n=%d&method=sayHello", c.control, n))
	var all []call
	lines := bufio.NewScanner(strings.NewReader(out))
	for lines.Scan() {
		var one call
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		all = append(all, one)
	}
	if len(all) != n {
		t.Fatalf("%d lines for %d calls: %s", len(all), n, out)
	}
	return all
}

// providers is who answers, as answers say it.
var providers = []string{"vm1 (Java)", "vm2 (Go)", "vm4 (unmodified Java)"}

func who(c call) string {
	_, rest, _ := strings.Cut(c.Answer, "this is ")
	name, _, _ := strings.Cut(rest, ", called from ")
	return name
}

// settle waits until a consumer is there and every provider has answered it.
func settle(t *testing.T, d demo, c consumer) {
	t.Helper()
	seen := map[string]bool{}
	for begin := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		if _, err := d.try(t, c.in, "/probe", "calls", "-n", "1", c.control); err == nil {
			for _, one := range d.calls(t, c, 30) {
				if one.OK {
					seen[who(one)] = true
				}
			}
		}
		if seen[providers[0]] && seen[providers[1]] && seen[providers[2]] {
			return
		}
		if time.Since(begin) > 3*time.Minute {
			t.Fatalf("the consumer in %s was answered by %v alone", c.what, seen)
		}
	}
}

// counted makes calls and compares what consumers say of each with what the
// agents counted.
func counted(t *testing.T, d demo) {
	const n = 60
	for _, c := range consumers {
		before := d.counts(t)
		by := map[string]int{}
		for i, one := range d.calls(t, c, n) {
			if !one.OK {
				t.Fatalf("call %d of the consumer in %s: %s", i+1, c.what, one.Error)
			}
			name := who(one)
			by[name]++
			_, from, _ := strings.Cut(one.Answer, ", called from ")
			if inbound := name != providers[2]; inbound != (from == "this host") {
				t.Errorf("%s says that it was called from %s", name, from)
			}
			if through := strings.Contains(one.To, "127.0.0.1") && strings.HasSuffix(one.To, ":20881"); through != c.agent {
				t.Errorf("the consumer in %s called %s", c.what, one.To)
			}
			if !c.agent && !strings.HasSuffix(one.To, map[bool]string{true: ":20880", false: ":20882"}[name == providers[2]]) {
				t.Errorf("the consumer in %s called %s for %s", c.what, one.To, name)
			}
		}
		want := counts{inbound1: by[providers[0]], inbound2: by[providers[1]]}
		if c.agent {
			want.outbound3 = n
		}
		var got counts
		for begin := time.Now(); time.Since(begin) < 30*time.Second; time.Sleep(200 * time.Millisecond) { // an agent may count just after it answered
			after := d.counts(t)
			got = counts{after.outbound3 - before.outbound3, after.inbound1 - before.inbound1, after.inbound2 - before.inbound2}
			if got == want {
				break
			}
		}
		if got != want {
			t.Errorf("calls of the consumer in %s: the agents counted %+v, want %+v", c.what, got, want)
		}
		t.Logf("%d calls of the consumer in %s: %v; the agents counted: vm3 outbound %d, vm1 inbound %d, vm2 inbound %d", n, c.what, by, got.outbound3, got.inbound1, got.inbound2)
	}
}

// counts is how many calls passed the agents' listeners.
type counts struct{ outbound3, inbound1, inbound2 int }

func (d demo) counts(t *testing.T) counts {
	t.Helper()
	return counts{d.requests(t, "vm3-consumer-go", "outbound"), d.requests(t, "vm1-provider", "inbound"), d.requests(t, "vm2-provider", "inbound")}
}

// requests sums what an agent counted; the service is one on its host.
func (d demo) requests(t *testing.T, service, direction string) (n int) {
	t.Helper()
	for line := range strings.Lines(d.exec(t, service, "/probe", "get", "http://"+control+"/metrics")) {
		if !strings.HasPrefix(line, "meshferry_requests_total{") || !strings.Contains(line, `direction="`+direction+`"`) || !strings.Contains(line, "GreetService") {
			continue
		}
		f := strings.Fields(line)
		v, err := strconv.ParseFloat(f[len(f)-1], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		n += int(v)
	}
	return n
}

// closed asks from every other host for the agents' ports.
func closed(t *testing.T, d demo) {
	for _, from := range []string{"vm1-provider", "vm2-provider", "vm3-consumer-go", "vm5-consumer"} {
		var ask []string
		want := map[string]string{}
		for _, host := range []string{"vm1", "vm2", "vm3"} {
			if strings.HasPrefix(from, host) {
				continue
			}
			for port, how := range map[string]string{"20881": "refused", "20882": "open", "20883": "refused"} {
				ask, want[host+":"+port] = append(ask, host+":"+port), how
			}
		}
		got := map[string]string{}
		for line := range strings.Lines(d.exec(t, from, append([]string{"/probe", "dial"}, ask...)...)) {
			if address, how, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
				got[address] = how
			}
		}
		for address, how := range want {
			if got[address] != how {
				t.Errorf("from %s: %s is %s, want %s", from, address, got[address], how)
			}
		}
		t.Logf("from the host of %s: %v", from, got)
	}
	// They listen: on the host's own loopback.
	if got := d.exec(t, "vm3-consumer-go", "/probe", "dial", "127.0.0.1:20881", control); got != "127.0.0.1:20881 open\n"+control+" open\n" {
		t.Errorf("on the host itself: %s", got)
	}
}

// script moves things in and out; it checks what it shows.
func script(t *testing.T, d demo, path string) {
	begin := time.Now()
	cmd := command(t.Context(), append(d.env, "PROFILE="+d.profile, "TMPDIR="+t.TempDir()), path)
	out, err := cmd.CombinedOutput()
	t.Logf("%s, %.0f s:\n%s", path, time.Since(begin).Seconds(), out)
	if err != nil {
		t.Fatal(err)
	}
}
