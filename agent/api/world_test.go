package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

const bootID = "boot-1"

// world is a control API on a real store, a real reconcile loop and a real
// router. Only what is outside the agent is small: a registry in memory, local
// ports that are open or closed, and a source that says what it is told.
type world struct {
	server   *Server
	store    *workload.Store
	registry *memory
	source   *source
	ports    *ports
	client   http.Client
	tcp      string // http://127.0.0.1:port
	socket   string
}

// start runs a world for as long as the test. change may alter the options.
func start(t testing.TB, change func(*Options)) *world {
	t.Helper()
	w := &world{registry: newMemory(), source: newSource(), ports: &ports{}}
	var err error
	w.store, err = workload.Open(workload.Options{
		Dir: t.TempDir(), OwnPorts: []int{20881, 20882, 20883}, Dial: w.ports.dial,
		Probe: workload.ProbeSettings{Interval: 20 * time.Millisecond},
		Addresses: func() ([]net.Addr, error) {
			return []net.Addr{&net.IPNet{IP: net.IPv4(10, 0, 0, 5), Mask: net.CIDRMask(24, 32)}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	router := route.New(route.Options{Sources: []route.Source{w.source}})
	loop := reconcile.New(reconcile.Options{
		Name: "main", Registry: w.registry, Workloads: w.store.View(), HostID: "host-1",
		Address: rewrite.Address{Host: "10.0.0.5", Port: 20882, Caps: "1"}, Models: []registry.Model{registry.ModelInterface},
	})
	w.socket = filepath.Join(t.TempDir(), "control.sock")
	tcp, unix := listen(t, "tcp", "127.0.0.1:0"), listen(t, "unix", w.socket)
	w.tcp = "http://" + tcp.Addr().String()
	o := Options{
		Agent: bootID, Version: "test", Address: "10.0.0.5:20882", Listeners: []net.Listener{tcp, unix},
		Workloads: w.store, Routes: router,
		Registries: func() []Registry {
			return []Registry{{Name: "main", Status: w.registry.Status, State: loop.State()}}
		},
		Outbound:   netip.MustParseAddrPort("127.0.0.1:20881"),
		LeaseEvery: 10 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	if w.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{w.store.Run, loop.Run, router.Run, w.server.Run} {
		g.Go(func() error { return run(ctx) })
	}
	t.Cleanup(func() {
		stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		w.client.CloseIdleConnections()
	})
	w.client.Transport = &http.Transport{}
	return w
}

func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

// call sends a request with a JSON body ("" for none).
func (w *world) call(t testing.TB, method, path, body string, header ...string) reply {
	t.Helper()
	return w.callAt(t, w.tcp, method, path, body, header...)
}

func (w *world) callAt(t testing.TB, base, method, path, body string, header ...string) reply {
	t.Helper()
	r, err := w.send(t.Context(), base, method, path, body, header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

func (w *world) send(ctx context.Context, base, method, path, body string, header ...string) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		switch {
		case header[i] == "Host":
			req.Host = header[i+1]
		case header[i+1] == "":
			req.Header.Del(header[i])
		default:
			req.Header.Set(header[i], header[i+1])
		}
	}
	res, err := w.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(text)}, err
}

// into reads the body into v.
func (r reply) into(t testing.TB, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader([]byte(r.body)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("status %d, body %s: %v", r.status, r.body, err)
	}
}

func (r reply) refused(t testing.TB, status int, code string) {
	t.Helper()
	var p Problem
	r.into(t, &p)
	if r.status != status || p.Error.Code != code || p.Error.Message == "" {
		t.Errorf("status %d, body %s; want %d %s", r.status, r.body, status, code)
	}
}

// eventually waits until ok, for at most ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// ports are the local ports that answer: all but the closed ones.
type ports struct {
	mu     sync.Mutex
	closed []string // suffixes of addresses; guarded by mu
}

func (p *ports) set(closed ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = closed
}

func (p *ports) dial(_ context.Context, address string) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.closed {
		if strings.HasSuffix(address, c) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}
	}
	near, far := net.Pipe()
	go answerHeartbeat(far)
	return near, nil
}

// answerHeartbeat answers Dubbo heartbeats until the connection ends.
func answerHeartbeat(c net.Conn) {
	defer c.Close()
	for {
		head := make([]byte, 16)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		length := int64(head[12])<<24 | int64(head[13])<<16 | int64(head[14])<<8 | int64(head[15])
		if _, err := io.CopyN(io.Discard, c, length); err != nil {
			return
		}
		head[2], head[3] = 0x22, 20
		copy(head[12:], []byte{0, 0, 0, 1})
		if _, err := c.Write(append(head, 'N')); err != nil {
			return
		}
	}
}

// memory is a registry that keeps what it is given.
type memory struct {
	lost chan struct{}

	mu       sync.Mutex
	held     []string // guarded by mu, as all below
	away     bool
	conflict bool
	since    time.Time
}

func newMemory() *memory { return &memory{lost: make(chan struct{}, 1), since: time.Now()} }

func (m *memory) set(away, conflict bool) {
	m.mu.Lock()
	m.away, m.conflict, m.since = away, conflict, time.Now()
	m.mu.Unlock()
	select {
	case m.lost <- struct{}{}:
	default:
	}
}

func (m *memory) Apply(_ context.Context, d registry.Desired) (registry.Report, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	state, owner := registry.Held, ""
	switch {
	case m.away:
		state = registry.Pending
	case m.conflict:
		state, owner = registry.Conflict, "meshferry:host-2"
	}
	report := registry.Report{}
	var held []string
	for _, u := range slices.Concat(d.Providers, d.Consumers) {
		report[u.String()] = registry.Item{State: state, Owner: owner}
		if state == registry.Held {
			held = append(held, u.String())
		}
	}
	if m.away {
		return report, registry.ErrAway
	}
	m.held = held
	return report, nil
}

func (m *memory) Lost() <-chan struct{} { return m.lost }

func (m *memory) Status() registry.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return registry.Status{State: "away", Since: m.since, Err: "connection refused"}
	}
	return registry.Status{State: registry.Connected, Since: m.since, Session: "0x1"}
}

func (m *memory) holds(part string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.held, func(u string) bool { return strings.HasPrefix(u, "dubbo://") && strings.Contains(u, part) })
}

// source says of an interface what it is told.
type source struct{ updates chan route.Update }

func newSource() *source { return &source{updates: make(chan route.Update, 16)} }

func (s *source) Run(ctx context.Context, ch chan<- route.Update) error {
	for {
		select {
		case u := <-s.updates:
			select {
			case ch <- u:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *source) Want(string) {}

// say tells the router a set and waits until it is in the snapshot.
func (w *world) say(t testing.TB, iface string, state route.SetState, reason string, urls ...registry.URL) {
	t.Helper()
	w.source.updates <- route.Update{Source: "main", Interface: iface, State: state, Reason: reason, Providers: providers(urls...)}
	eventually(t, "the router knows "+iface, func() bool {
		u, ok := w.server.o.Routes.Snapshot().Interface(iface)
		return ok && u.State == state && len(u.Providers) == len(urls)
	})
}
