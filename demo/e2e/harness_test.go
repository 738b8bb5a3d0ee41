package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

const (
	// patience bounds every wait of a test.
	patience = 2 * time.Minute // much more than anything takes: a busy machine is no mistake
	service  = "org.example.GreetService"

	outboundPort, inboundPort, controlPort = "20881", "20882", "20883"
)

// world is what one test has for itself: a registry, a folder and a range of
// loopback addresses.
type world struct {
	t        *testing.T
	zk       *zktest.Server // nil in a world of another registry
	registry string         // its address
	dir      string
	net      string // "127.3.4."
	hosts    []string
	names    atomic.Int64
}

// newWorld makes one. It skips the test in -short.
func newWorld(t *testing.T, opts ...zktest.Option) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("starts ZooKeeper, agents and applications")
	}
	program(t, "app") // built before any clock runs
	w := &world{t: t, dir: t.TempDir(), net: freeNet(t), zk: zktest.Start(t, opts...)}
	w.registry = w.zk.URL()
	return w
}

var nets atomic.Int64

// freeNet is a range 127.x.y.0/24 that no other test uses. The process id keeps
// several runs on one machine apart.
func freeNet(t *testing.T) string {
	t.Helper()
	for range 200 {
		n := int64(os.Getpid())*31 + nets.Add(1)
		prefix := fmt.Sprintf("127.%d.%d.", 1+n/251%250, 1+n%251)
		l, err := net.Listen("tcp", prefix+"1:"+controlPort)
		if err == nil {
			l.Close()
			return prefix
		}
	}
	t.Fatal("no free range of loopback addresses")
	return ""
}

// host is the address of a host by its name, always the same in one world.
func (w *world) host(name string) string {
	for i, known := range w.hosts {
		if known == name {
			return w.net + strconv.Itoa(i+1)
		}
	}
	w.hosts = append(w.hosts, name)
	return w.net + strconv.Itoa(len(w.hosts))
}

// agent is one agent, on a host of its own with the real ports.
type agent struct {
	*process
	w      *world
	host   string // "127.3.4.1"
	args   []string
	state  string // its state directory
	socket string
}

type agentOption func(*agent)

// withFile gives the agent a YAML file.
func withFile(text string) agentOption {
	return func(a *agent) {
		a.args = append(a.args, "--config", a.w.file("agent.yaml", text))
	}
}

// withFlags adds flags, which win.
func withFlags(flags ...string) agentOption {
	return func(a *agent) { a.args = append(a.args, flags...) }
}

// withSession asks ZooKeeper for a session time-out, instead of the usual 15 s.
func withSession(timeout string) agentOption {
	return func(a *agent) { a.args[slices.Index(a.args, "--registry")+1] += "?sessionTimeout=" + timeout }
}

// file writes a file and gives its path.
func (w *world) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, fmt.Sprintf("%d-%s", w.names.Add(1), name))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// agent starts an agent on a host and waits until it is ready.
func (w *world) agent(host string, opts ...agentOption) *agent {
	w.t.Helper()
	a := w.newAgent(host, opts...)
	a.start()
	a.ready()
	return a
}

// newAgent is an agent that does not run yet.
func (w *world) newAgent(host string, opts ...agentOption) *agent {
	a := &agent{w: w, host: w.host(host), state: filepath.Join(w.dir, "state-"+host)}
	// A socket's path is short: the test's folder may be too long for it.
	a.socket = filepath.Join(built.dir, w.host(host)+".sock")
	a.args = []string{"run", "--registry", w.registry, "--address", a.host, "--outbound", a.outbound(), "--inbound", a.inbound(),
		"--control", a.control(), "--control-socket", a.socket, "--state-dir", a.state, "--log-level", "debug"}
	for _, o := range opts {
		o(a)
	}
	return a
}

func (a *agent) start() {
	a.w.t.Helper()
	a.process = a.w.spawn("agent-"+a.host, nil, program(a.w.t, "meshferry"), a.args...)
}

// ready waits until the agent says that it is.
func (a *agent) ready() {
	a.t.Helper()
	eventually(a.t, a.name+" to be ready", func() error {
		if !a.running() {
			a.t.Fatalf("%s ended before it was ready: %v", a.name, a.Wait())
		}
		_, err := a.fetch("/readyz")
		return err
	})
}

// restart starts it again, after a kill or a stop.
func (a *agent) restart() {
	a.t.Helper()
	if a.running() {
		a.stop()
	}
	a.start()
	a.ready()
}

func (a *agent) outbound() string { return a.host + ":" + outboundPort }
func (a *agent) inbound() string  { return a.host + ":" + inboundPort }
func (a *agent) control() string  { return a.host + ":" + controlPort }

// mesh is the agent as a registry of the thin SDK.
func (a *agent) mesh() string { return "mesh://" + a.control() }

func (a *agent) fetch(path string) ([]byte, error) { return fetch(a.t.Context(), a.control(), path) }

// get decodes an answer of the control API.
func (a *agent) get(path string, into any) {
	a.t.Helper()
	text, err := a.fetch(path)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		a.t.Fatalf("%s: GET %s: %v", a.name, path, err)
	}
}

// post sends a body to the control API and decodes the answer.
func (a *agent) post(path string, body, into any) (status int) {
	a.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, "http://"+a.control()+path, bytes.NewReader(text))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := web.Do(req)
	if err != nil {
		a.t.Fatalf("%s: POST %s: %v", a.name, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && into != nil {
		err = json.Unmarshal(answer, into)
	}
	if err != nil {
		a.t.Fatalf("%s: POST %s: %v: %s", a.name, path, err, answer)
	}
	return resp.StatusCode
}

// status is what the tests read of GET /v1/status.
type status struct {
	Agent      string
	State      string
	Registries []struct {
		Name, State, Session, Error string
		InSync                      bool
		Published, Pending          int
	}
	Workloads []struct {
		Workload, Lease string
		Publications    []publication
		Subscriptions   []struct{ Service, State, Mode string }
	}
}

// publication is what the agent says of one publication.
type publication struct {
	Service, State, Reason string
	Port                   int
	Advertised             []string
}

func (a *agent) status() (s status) {
	a.t.Helper()
	a.get("/v1/status", &s)
	return s
}

// published waits until the registry holds so many publications of the agent and
// misses none.
func (a *agent) published(n int) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("%s to have published %d", a.name, n), func() error {
		r := a.status().Registries[0]
		if r.Published != n || r.Pending != 0 || !r.InSync {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

// metrics are the agent's metrics as lines.
type metrics []string

func (a *agent) metrics() metrics {
	a.t.Helper()
	text, err := a.fetch("/metrics")
	if err != nil {
		a.t.Fatalf("%s: GET /metrics: %v", a.name, err)
	}
	return strings.Split(string(text), "\n")
}

// sum adds the samples of a metric that have all the labels, `direction="inbound"`.
func (m metrics) sum(t *testing.T, metric string, labels ...string) (total int) {
	t.Helper()
lines:
	for _, line := range m {
		name, rest, _ := strings.Cut(line, "{")
		if name != metric {
			continue
		}
		end := strings.LastIndexByte(rest, '}')
		for _, l := range labels {
			if end < 0 || !strings.Contains(rest[:end], l) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[end+1:]), 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		total += int(v)
	}
	return total
}

// calls is how many calls of a service came to the agent, "inbound" or "outbound".
func (a *agent) calls(direction, serviceKey string) int {
	a.t.Helper()
	return a.metrics().sum(a.t, "meshferry_requests_total", `direction="`+direction+`"`, `service="`+serviceKey+`"`)
}

// options describe an application. With an agent it is a thin one; without, it is
// an unmodified one that registers and looks up in the registry at the given level.
type options struct {
	agent *agent
	level string // interface, application or all

	application    string // Dubbo application name
	name           string // provider: in its answers
	host           string // provider: name of the host; default: its agent's
	port           int    // provider; default 20880
	iface          string // default: service
	group, version string
	flags          []string // more of demo/app
	env            []string
}

func (o options) args(w *world) (args []string) {
	add := func(flag, value string) {
		if value != "" {
			args = append(args, "--"+flag, value)
		}
	}
	if o.agent != nil {
		add("registry", o.agent.mesh())
	} else {
		add("registry", w.registry)
		add("registry-type", o.level)
	}
	add("application", o.application)
	add("interface", o.iface)
	add("group", o.group)
	add("version", o.version)
	return append(args, o.flags...)
}

// app is a running demo/app.
type app struct {
	*process
	http string // its remote control
	addr string // provider: host:port
	name string // provider
}

// provider starts a provider and waits until it has registered.
func (w *world) provider(o options) *app {
	w.t.Helper()
	host := ""
	switch {
	case o.host != "":
		host = w.host(o.host)
	case o.agent != nil:
		host = o.agent.host
	}
	if o.port == 0 {
		o.port = 20880
	}
	if o.name == "" {
		o.name = fmt.Sprintf("provider-%d", w.names.Add(1))
	}
	free(w.t, net.JoinHostPort(host, strconv.Itoa(o.port)))
	args := append([]string{"provider", "--name", o.name, "--port", strconv.Itoa(o.port)}, o.args(w)...)
	if host != "" {
		args = append(args, "--ip", host)
	}
	a := w.app("provider", o.env, args)
	a.addr, a.name = net.JoinHostPort(host, strconv.Itoa(o.port)), o.name
	return a
}

// consumer starts a consumer.
func (w *world) consumer(o options) *app {
	w.t.Helper()
	return w.app("consumer", o.env, append([]string{"consumer"}, o.args(w)...))
}

func (w *world) app(role string, env, args []string) *app {
	w.t.Helper()
	return w.launch(role, env, program(w.t, "app"), args)
}

// launch starts an application and waits until it says that it is ready. What else
// it says on its standard output is part of its log.
func (w *world) launch(name string, env []string, path string, args []string) *app {
	w.t.Helper()
	p := w.spawn(fmt.Sprintf("%s-%d", name, w.names.Add(1)), env, path, args...)
	address := make(chan string, 1)
	go func() {
		defer close(address)
		log, err := os.OpenFile(p.log, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return
		}
		defer log.Close()
		for lines := bufio.NewReader(p.out); ; {
			line, err := lines.ReadString('\n')
			var ready struct{ Ready, HTTP string }
			if json.Unmarshal([]byte(line), &ready) == nil && ready.HTTP != "" {
				address <- ready.HTTP
			} else {
				log.WriteString(line)
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case at, ok := <-address:
		if !ok {
			w.t.Fatalf("%s ended before it was ready", p.name)
		}
		return &app{process: p, http: at}
	case <-time.After(patience):
		w.t.Fatalf("%s was not ready within %s", p.name, patience)
	}
	return nil
}

// stats is what a provider counted.
type stats struct {
	Calls       map[string]int
	Connections int      // distinct ones that carried a call
	Peers       []string // their far ends
}

func (s stats) total() (n int) {
	for _, c := range s.Calls {
		n += c
	}
	return n
}

func (a *app) stats() (s stats) {
	a.t.Helper()
	text, err := fetch(a.t.Context(), a.http, "/stats")
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		a.t.Fatalf("%s: %v", a.process.name, err)
	}
	return s
}

// entry is one line of a consumer's ledger. Times are milliseconds.
type entry struct {
	N             int
	At, MS        float64
	OK            bool
	Answer, Error string
}

// ledger is every call of a consumer in the order of their begin.
type ledger []entry

// failed are the calls that failed.
func (l ledger) failed() (bad ledger) {
	for _, e := range l {
		if !e.OK {
			bad = append(bad, e)
		}
	}
	return bad
}

// answers counts the answers by who gave them.
func (l ledger) answers() map[string]int {
	by := map[string]int{}
	for _, e := range l {
		if e.OK {
			_, who, _ := strings.Cut(e.Answer, "this is ")
			by[who]++
		}
	}
	return by
}

// String shows the failures.
func (l ledger) String() string {
	bad := l.failed()
	var b strings.Builder
	fmt.Fprintf(&b, "%d calls, %d failed", len(l), len(bad))
	for i, e := range bad {
		if i == 10 {
			fmt.Fprintf(&b, "\n  …")
			break
		}
		fmt.Fprintf(&b, "\n  call %d at %.0f ms took %.1f ms: %.200s", e.N, e.At, e.MS, e.Error)
	}
	return b.String()
}

// call makes n calls, one after the other.
func (a *app) call(n int) ledger {
	a.t.Helper()
	return a.ledger(n, "/call?n="+strconv.Itoa(n))
}

// invoke makes one call of a method.
func (a *app) invoke(method, arg string) entry {
	a.t.Helper()
	return a.ledger(1, "/call?n=1&method="+url.QueryEscape(method)+"&arg="+url.QueryEscape(arg))[0]
}

// found waits until a first call is answered. An unmodified dubbo-go consumer has
// no provider yet just after its start: its ZooKeeper registry loads them in the
// background. It returns how many calls were answered: one.
func (a *app) found() int {
	a.t.Helper()
	eventually(a.t, a.name+" to find a provider", func() error {
		if e := a.call(1)[0]; !e.OK {
			return errors.New(e.Error)
		}
		return nil
	})
	return 1
}

func (a *app) ledger(n int, path string) ledger {
	a.t.Helper()
	text, err := fetch(a.t.Context(), a.http, path)
	if err != nil {
		a.t.Fatalf("%s: %v", a.process.name, err)
	}
	l, err := parseLedger(text)
	if err != nil || len(l) != n {
		a.t.Fatalf("%s: %d lines of %d, %v", a.process.name, len(l), n, err)
	}
	return l
}

// parseLedger reads the lines that are numbered; the summary at the end is not.
func parseLedger(text []byte) (l ledger, err error) {
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var line json.RawMessage
		if err := d.Decode(&line); err == io.EOF {
			return l, nil
		} else if err != nil {
			return l, err
		}
		var numbered struct{ N int }
		if err := json.Unmarshal(line, &numbered); err != nil {
			return l, err
		}
		if numbered.N == 0 {
			continue
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return l, err
		}
		l = append(l, e)
	}
}

// load begins rate calls a second for a time, whether or not earlier ones have
// been answered. The function waits for all and gives the ledger.
func (a *app) load(rate int, length time.Duration) (wait func() ledger) {
	return a.loadOf("SayHello", "world", rate, length)
}

// loadWith is a load whose calls have an attachment, "key=value".
func (a *app) loadWith(attachment string, rate int, length time.Duration) (wait func() ledger) {
	return a.loadOf("SayHello", "world&attachment="+url.QueryEscape(attachment), rate, length)
}

// loadOf is a load of another method.
func (a *app) loadOf(method, arg string, rate int, length time.Duration) (wait func() ledger) {
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := fetch(a.t.Context(), a.http, fmt.Sprintf("/load?rate=%d&for=%s&method=%s&arg=%s", rate, length, method, arg))
		done <- result{text, err}
	}()
	return func() ledger {
		a.t.Helper()
		r := <-done
		var l ledger
		if r.err == nil {
			l, r.err = parseLedger(r.text)
		}
		if r.err != nil {
			a.t.Fatalf("%s under load: %v", a.process.name, r.err)
		}
		return l
	}
}

// web keeps no connections: a test must leave nothing behind. It uses no proxy of
// the environment.
var web = &http.Client{Timeout: 4 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}

func fetch(ctx context.Context, address, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := web.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.300s", path, resp.Status, text)
	}
	return text, err
}

// eventually waits until ok gives nil.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", patience, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freePort is a port that is free on all addresses, below the range of outgoing
// connections.
func freePort(t *testing.T) int {
	t.Helper()
	for range 200 {
		port := 12000 + rand.IntN(8000)
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func unescape(t *testing.T, s string) string {
	t.Helper()
	text, err := url.QueryUnescape(s)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// free waits until an address can be listened on: somebody else's test may have
// the port on all addresses for a while.
func free(t *testing.T, address string) {
	t.Helper()
	eventually(t, address+" to be free", func() error {
		l, err := net.Listen("tcp", address)
		if err == nil {
			l.Close()
		}
		return err
	})
}

var withJava = flag.Bool("java", false, "the long suites with Java applications and network namespaces too")

// long skips a suite that make test leaves to make test-java: it takes minutes, and
// it wants a network of its own.
func long(t *testing.T) {
	t.Helper()
	if !*withJava && !*wholeMatrix {
		t.Skip("run by make test-java")
	}
	alone(t)
}
