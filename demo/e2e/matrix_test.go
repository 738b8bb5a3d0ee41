package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshferry/meshferry/demo/e2e/javapeer"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

var wholeMatrix = flag.Bool("matrix", false, "TestMatrix: all of it, and compare it with docs/compatibility.md")

// kind is a way to run Dubbo, on one side.
type kind struct {
	name       string
	line       javapeer.Line // empty: dubbo-go
	level      string        // dubbo-go
	properties map[string]string
}

var (
	providerKinds = []kind{
		{name: "Java 2.7", line: javapeer.V27},
		{name: "Java 3.2", line: javapeer.V32},
		{name: "Java 3.3", line: javapeer.V33},
		{name: "Java 3.3 application-level", line: javapeer.V33, properties: map[string]string{"dubbo.application.register-mode": "instance"}},
		{name: "dubbo-go", level: "all"},
	}
	consumerKinds = []kind{
		{name: "Java 2.7", line: javapeer.V27},
		{name: "Java 3.2", line: javapeer.V32},
		{name: "Java 3.3", line: javapeer.V33},
		{name: "Java 3.3 FORCE_APPLICATION", line: javapeer.V33, properties: map[string]string{"dubbo.application.service-discovery.migration": "FORCE_APPLICATION"}},
		{name: "dubbo-go interface", level: "interface"},
		{name: "dubbo-go application", level: "application"},
	}
	// quick is what an ordinary run does: every line once, each side thin and
	// unmodified, and both levels. TestJavaConsumers has dubbo-go as the provider.
	quick = map[string]bool{
		"thin provider Java 2.7": true, "thin provider Java 3.3": true, "unmodified provider Java 3.3 application-level": true,
		"thin consumer Java 2.7": true, "thin consumer Java 3.2": true, "unmodified consumer Java 3.3 FORCE_APPLICATION": true, "unmodified consumer dubbo-go interface": true,
	}
)

// fastjson2 says whether it can be asked of that kind: 2.7 and dubbo-go have it not.
func (k kind) fastjson2() bool { return k.line == javapeer.V32 || k.line == javapeer.V33 }

// form is a kind, thin or not.
type form struct {
	kind
	thin bool
}

func (f form) String() string {
	if f.thin {
		return f.name + ", thin"
	}
	return f.name
}

// forms are those of the kinds that this run is about.
func forms(role string, kinds []kind) (all []form) {
	for _, thin := range []bool{true, false} {
		for _, k := range kinds {
			if *wholeMatrix || quick[map[bool]string{true: "thin ", false: "unmodified "}[thin]+role+" "+k.name] {
				all = append(all, form{k, thin})
			}
		}
	}
	return all
}

// Versions of the service: a provider of Java 3 exports it once for each
// serialization, the preferred one first, as their own defaults do.
const (
	byHessian2, byFastjson2 = "1.0.0", "2.0.0"
	callsOfCell             = 5
)

// never says that a consumer cannot find a provider by itself: one reads only the
// level that the other does not write.
func (f form) never(o *offer) bool {
	if f.thin || o.thin {
		return false
	}
	switch f.name {
	case "Java 2.7", "dubbo-go interface":
		return o.name == "Java 3.3 application-level"
	case "Java 3.3 FORCE_APPLICATION", "dubbo-go application":
		return o.name == "Java 2.7"
	}
	return false
}

// offer is a provider of the matrix. Its group is its own.
type offer struct {
	form
	group string
	addr  string // thin: where its own port is
	agent *agent // thin
	java  *javapeer.Peer
	app   *app
}

// taken is how many calls it has answered, and by fastjson2 (23).
func (o *offer) taken(t *testing.T) (all, fastjson2 int) {
	t.Helper()
	if o.java == nil {
		return o.app.stats().total(), 0
	}
	s, err := o.java.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Calls {
		all += n
	}
	return all, s.Serializations["23"]
}

// Every kind of provider and every kind of consumer, each as a thin one and as one
// that knows nothing of agents: each consumer calls all of them. Where one side is
// thin, every cell must answer, over the serialization that the provider prefers,
// and a thin provider is reached through its agent's inbound port only. Where no
// side is, the cell says what Dubbo does by itself.
func TestMatrix(t *testing.T) {
	long(t)
	t.Parallel()
	w := newWorld(t)
	begun := time.Now()
	m := &matrix{world: w, providers: forms("provider", providerKinds), consumers: forms("consumer", consumerKinds), cells: map[[2]string]string{}}
	for _, name := range []string{"a", "b"} {
		inbound := w.lanAddress()
		m.hosts = append(m.hosts, w.agent(name, withFlags("--address", inbound.host, "--inbound", inbound.String())))
		m.inbound = append(m.inbound, inbound.String())
	}
	m.far = w.agent("far")
	m.startProviders()
	t.Logf("%d providers are up after %v", len(m.offers), time.Since(begun).Round(time.Second))
	for _, f := range m.consumers {
		m.consume(f)
		t.Logf("%v: done after %v", f, time.Since(begun).Round(time.Second))
	}
	for _, o := range m.offers {
		if o.thin {
			onlyDialledBy(t, o.addr, o.agent.process)
		}
	}
	text := m.String()
	t.Logf("cells: h hessian2, f fastjson2, × no answer\n%s", text)
	if *wholeMatrix {
		m.keep(text)
	}
}

type matrix struct {
	*world
	providers, consumers []form
	hosts                []*agent // of thin providers
	inbound              []string // theirs
	far                  *agent   // of thin consumers
	offers               []*offer
	cells                map[[2]string]string
}

// startProviders starts all, some at a time, and waits until they are registered.
func (m *matrix) startProviders() {
	t := m.t
	t.Helper()
	var (
		all    sync.WaitGroup
		places = make(chan struct{}, 3)
		mu     sync.Mutex
		failed error
	)
	published := make([]int, len(m.hosts))
	for i, f := range m.providers {
		o := &offer{form: f, group: "p" + strconv.Itoa(i)}
		m.offers = append(m.offers, o)
		port := m.lanAddress()
		registry := m.zk.URL()
		if f.thin {
			host := i % len(m.hosts)
			o.agent, o.addr = m.hosts[host], port.String()
			registry = o.agent.mesh()
			published[host]++
			if f.fastjson2() {
				published[host]++
			}
		}
		if f.line == "" {
			args := []string{"provider", "--application", o.group, "--registry", registry, "--group", o.group, "--version", byHessian2, "--name", o.group, "--port", strconv.Itoa(port.port)}
			if f.thin {
				args = append(args, "--ip", port.host)
			} else {
				args = append(args, "--registry-type", f.level)
			}
			o.app = m.app("provider-"+o.group, nil, args)
			continue
		}
		options := javapeer.Options{Line: f.line, Thin: f.thin, Dir: t.TempDir(), Application: o.group, Registry: registry, Properties: f.properties,
			Port: port.port, Name: o.group, Group: o.group, Version: byHessian2}
		if f.fastjson2() {
			options.Params = map[string]string{"prefer.serialization": "hessian2,fastjson2"}
			options.More = []javapeer.Service{{Group: o.group, Version: byFastjson2, Params: map[string]string{"prefer.serialization": "fastjson2,hessian2"}}}
		}
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			p, err := javapeer.Run(t.Context(), options)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%v: %w", f, err))
				return
			}
			o.java = p
			m.watch(o.form.String()+" provider", p)
		})
	}
	all.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	for i, n := range published {
		m.hosts[i].published(n)
	}
	// Java 3 names the application of a service in the background.
	conn := m.zk.Conn(t)
	for _, o := range m.offers {
		if o.name == "Java 2.7" && !o.thin {
			continue
		}
		eventually(t, fmt.Sprintf("the application of %v", o), func() error {
			if names := strings.Split(read(t, conn, "/dubbo/mapping/"+service), ","); !slices.Contains(names, o.group) {
				return fmt.Errorf("%s is not in %v", o.group, names)
			}
			return nil
		})
		m.instances(o.group, 1)
	}
}

// watch ends a peer with the test, and shows its log if that failed.
func (m *matrix) watch(who string, p *javapeer.Peer) {
	m.t.Cleanup(func() {
		p.Kill()
		if m.t.Failed() {
			log := p.Log()
			m.t.Logf("%s logged:\n%s", who, log[:min(len(log), 4000)])
		}
	})
}

// consume starts one process of a kind and calls every provider.
func (m *matrix) consume(f form) {
	t := m.t
	t.Helper()
	var (
		call func(group, version string) (ledger, error)
		pid  int
		end  func()
	)
	if f.line == "" {
		o := options{level: f.level, group: m.offers[0].group, version: byHessian2}
		if f.thin {
			o = options{agent: m.far, group: o.group, version: o.version}
		}
		c := m.consumer(o)
		pid, end = c.PID(), c.stop
		call = func(group, version string) (ledger, error) {
			return c.ledger(callsOfCell, fmt.Sprintf("/call?n=%d&method=sayHello&group=%s&version=%s", callsOfCell, group, version)), nil
		}
	} else {
		o := javapeer.Options{Line: f.line, Thin: f.thin, Dir: t.TempDir(), Application: "consumer", Registry: m.zk.URL(), Properties: f.properties}
		if f.thin {
			o.Registry = m.far.mesh()
		}
		p, err := javapeer.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		m.watch(f.String()+" consumer", p)
		pid, end = p.PID(), p.Kill
		call = func(group, version string) (l ledger, err error) {
			entries, err := p.Call(t.Context(), javapeer.Call{N: callsOfCell, Group: group, Version: version})
			for _, e := range entries {
				l = append(l, entry{N: e.N, At: e.At, MS: e.MS, OK: e.OK, Answer: e.Answer, Error: e.Error})
			}
			return l, err
		}
	}
	for _, o := range m.offers {
		cell := m.cell(f, o, byHessian2, call)
		if f.fastjson2() && o.fastjson2() {
			cell += m.cell(f, o, byFastjson2, call)
		}
		m.cells[[2]string{f.String(), o.String()}] = cell
	}
	m.wantDials(f, pid)
	end()
}

// cell calls one provider over one serialization.
func (m *matrix) cell(f form, o *offer, version string, call func(group, version string) (ledger, error)) string {
	t := m.t
	t.Helper()
	key := o.group + "/" + service + ":" + version
	before, beforeFastjson2 := o.taken(t)
	through := func() (inbound, outbound int) {
		if o.thin {
			inbound = o.agent.calls("inbound", key)
		}
		if f.thin {
			outbound = m.far.calls("outbound", key)
		}
		return inbound, outbound
	}
	inbound, outbound := through()

	// A first call may come before the consumer knows the provider; such a call
	// reaches nobody.
	n := 0
	deadline := time.Now().Add(patience)
	if f.never(o) {
		deadline = time.Now().Add(5 * time.Second)
	}
	for {
		l, err := call(o.group, version)
		if err != nil {
			t.Fatalf("%v calls %v: %v", f, o, err)
		}
		n += l.answers()[o.group]
		if l.answers()[o.group] == callsOfCell {
			break
		}
		if time.Now().After(deadline) {
			if n == 0 && !f.thin && !o.thin {
				return "×"
			}
			t.Errorf("%v calls %v: %v", f, o, l)
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	letter, wantFastjson2 := "h", 0
	if version == byFastjson2 {
		letter, wantFastjson2 = "f", n
	}
	eventually(t, fmt.Sprintf("the counters after %v called %v", f, o), func() error {
		in, out := through()
		all, fastjson2 := o.taken(t)
		switch {
		case all-before != n || fastjson2-beforeFastjson2 != wantFastjson2:
			return fmt.Errorf("the provider counted %d calls, %d by fastjson2; want %d, %d", all-before, fastjson2-beforeFastjson2, n, wantFastjson2)
		case o.thin && in-inbound != n:
			return fmt.Errorf("%d calls came through 20882, want %d", in-inbound, n)
		case f.thin && out-outbound < n:
			return fmt.Errorf("%d calls came through 20881, want %d", out-outbound, n)
		}
		return nil
	})
	return letter
}

// wantDials claims that a consumer has connections where it may, and no others:
// a thin one to its agent only, any other to no thin provider's own port.
func (m *matrix) wantDials(f form, pid int) {
	t := m.t
	t.Helper()
	dials := dials(t, pid)
	if f.thin && dials[m.far.outbound()] == 0 {
		t.Errorf("%v has no connection to %s: %v", f, m.far.outbound(), dials)
	}
	for address := range dials {
		if f.thin && address != m.far.outbound() && address != m.far.control() {
			t.Errorf("%v has a connection to %s, which is not its agent's", f, address)
		}
		for _, o := range m.offers {
			if o.thin && address == o.addr {
				t.Errorf("%v has a connection to %v itself, at %s", f, o, address)
			}
		}
	}
}

// String is the table.
func (m *matrix) String() string {
	var b strings.Builder
	b.WriteString("| consumer \\ provider |")
	for _, o := range m.offers {
		fmt.Fprintf(&b, " %v |", o)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(m.offers)) + "\n")
	for _, f := range m.consumers {
		fmt.Fprintf(&b, "| %v |", f)
		for _, o := range m.offers {
			fmt.Fprintf(&b, " %s |", m.cells[[2]string{f.String(), o.String()}])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// keep compares the table with the one in the documentation, or writes that.
func (m *matrix) keep(table string) {
	t := m.t
	t.Helper()
	file := filepath.Join("..", "..", "docs", "compatibility.md")
	text := strings.NewReplacer("TABLE\n", table, "V27", string(javapeer.V27), "V32", string(javapeer.V32), "V33", string(javapeer.V33),
		"VGO", moduleVersion(t, "dubbo.apache.org/dubbo-go/v3"), "VZK", zooKeeperVersion(t), "CALLS", strconv.Itoa(callsOfCell)).Replace(compatibility)
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if kept, err := os.ReadFile(file); err != nil || string(kept) != text {
		t.Errorf("%s says something else (%v); go test ./demo/e2e -run TestMatrix -matrix -update writes\n%s", file, err, text)
	}
}

// moduleVersion is the version of a module in go.mod.
func moduleVersion(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == path {
			return f[1]
		}
	}
	t.Fatalf("go.mod does not name %s", path)
	return ""
}

// zooKeeperVersion is that of the server's jar.
func zooKeeperVersion(t *testing.T) string {
	t.Helper()
	dir, err := zktest.Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	jars, err := filepath.Glob(filepath.Join(dir, "zookeeper-[0-9]*.jar"))
	if err != nil || len(jars) != 1 {
		t.Fatalf("jars of ZooKeeper: %v, %v", jars, err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(jars[0]), "zookeeper-"), ".jar")
}

// compatibility is docs/compatibility.md.
const compatibility = `# Who calls whom

This page is written by a test with real processes on a real ZooKeeper: ` + "`make test-matrix`" + `.
Every consumer calls every provider, each as a thin application (registry ` + "`mesh://`" + `, it knows only its agent) and as
an unmodified one (registry ` + "`zookeeper://`" + `, it knows nothing of agents). Each pair makes CALLS calls in a row.

| | version |
|---|---|
| Java 2.7 | Dubbo V27 |
| Java 3.2 | Dubbo V32 |
| Java 3.3 | Dubbo V33 |
| dubbo-go | VGO |
| ZooKeeper | VZK |

In the cells: **h** answered over hessian2, **f** answered over fastjson2 (asked only where both sides have it), **×** no answer.

TABLE

What the test claims of every pair with a thin side: all calls are answered, over the serialization that the provider
prefers. A thin provider is reached at its agent's inbound port only: provider and agent count the same calls, and only
the agent has connections to the provider's own port. A thin consumer has connections to its own agent and to nothing else.

The pairs without a thin side are there for comparison. Where they say ×, the consumer reads one level of the registry
and the provider writes only the other; an agent on either side writes and reads both.

Notes:

- "Java 3.3 application-level" provides with ` + "`register-mode=instance`" + `, "FORCE_APPLICATION" consumes with
  ` + "`service-discovery.migration=FORCE_APPLICATION`" + `. Thin, both settings may stay: the agent registers and looks up at both levels.
- The unmodified dubbo-go provider registers at both levels, the thin one with its agent.
- A JVM replaces loopback addresses that it reads in a registry, so hosts of this test that Java must dial are ports of the
  machine's own address, not addresses of their own.
- fastjson2 is in Java 3.2 and later only. A thin consumer is told the serializations that all providers of a service have.
`
