package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"
	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// req describes a request frame.
type req struct {
	id            uint64
	iface         string
	version       string
	method        string
	arg           string
	attachments   map[string]string
	oneway        bool
	serialization byte
}

func (r req) frame(t testing.TB) []byte {
	t.Helper()
	if r.serialization == 0 {
		r.serialization = dubbo.Hessian2
	}
	if r.method == "" {
		r.method = "echo"
	}
	attachments := map[any]any{"path": r.iface, "interface": r.iface}
	for k, v := range r.attachments {
		attachments[k] = v
	}
	e := hessian.NewEncoder()
	for _, v := range []any{"2.0.2", r.iface, r.version, r.method, "Ljava/lang/String;", r.arg, attachments} {
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	flags := 0xc0 | r.serialization
	if r.oneway {
		flags = 0x80 | r.serialization
	}
	return frame(flags, 0, r.id, e.Buffer())
}

func frame(flags, status byte, id uint64, body []byte) []byte {
	b := append([]byte{0xda, 0xbb, flags, status}, make([]byte, 12)...)
	dubbo.PutID(b, id)
	binary.BigEndian.PutUint32(b[12:], uint32(len(body)))
	return append(b, body...)
}

// readFrame reads one frame from a stream.
func readFrame(r io.Reader) (dubbo.Header, []byte, error) {
	b := make([]byte, dubbo.HeaderSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return dubbo.Header{}, nil, err
	}
	h, err := dubbo.ParseHeader(b)
	if err != nil {
		return h, nil, err
	}
	b = append(b, make([]byte, h.BodyLen)...)
	_, err = io.ReadFull(r, b[dubbo.HeaderSize:])
	return h, b, err
}

// provider is a small dubbo2 server.
type provider struct {
	net.Listener
	calls atomic.Int64
	conns sync.Map // net.Conn → struct{}
	wg    sync.WaitGroup
}

// serve starts a provider; handle gets every frame that is no heartbeat.
func serve(t testing.TB, handle func(c net.Conn, h dubbo.Header, frame []byte)) *provider {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{Listener: l}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.conns.Store(c, struct{}{})
			p.wg.Go(func() {
				defer c.Close()
				for {
					h, b, err := readFrame(c)
					if err != nil {
						return
					}
					if h.IsEvent() {
						if h.IsRequest() {
							c.Write(dubbo.AppendHeartbeatReply(nil, h.Serialization(), h.ID))
						}
						continue
					}
					p.calls.Add(1)
					handle(c, h, b)
				}
			})
		}
	})
	t.Cleanup(func() { p.kill(); p.wg.Wait() })
	return p
}

// echo answers with the body of the request.
func echo(c net.Conn, h dubbo.Header, b []byte) {
	if h.TwoWay() {
		c.Write(frame(h.Serialization(), dubbo.StatusOK, h.ID, b[dubbo.HeaderSize:]))
	}
}

// never does not answer.
func never(net.Conn, dubbo.Header, []byte) {}

func (p *provider) addr() string { return p.Listener.Addr().String() }

func (p *provider) kill() {
	p.Close()
	p.closeConns()
}

func (p *provider) closeConns() {
	p.conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
}

// source feeds a router.
type source struct {
	updates chan route.Update
	wanted  chan string
}

func (s *source) Run(ctx context.Context, ch chan<- route.Update) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-s.updates:
			select {
			case ch <- u:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (s *source) Want(iface string) {
	select {
	case s.wanted <- iface:
	default:
	}
}

// mesh is one agent's data plane under test.
type mesh struct {
	*Proxy
	router            *route.Router
	source            *source
	outbound, inbound string
	stop              context.CancelFunc
	done              chan error
}

func start(t testing.TB, o Options) *mesh { return startWith(t, o, route.Options{}) }

// startWith is start with rules.
func startWith(t testing.TB, o Options, routes route.Options) *mesh {
	t.Helper()
	src := &source{updates: make(chan route.Update), wanted: make(chan string, 16)}
	var applications []string
	for _, x := range o.Extra {
		applications = append(applications, x.Application)
	}
	routes.Sources, routes.Applications = []route.Source{src}, applications
	router := route.New(routes)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	out, in := listen(), listen()
	o.Router, o.Outbound, o.Inbound = router, []net.Listener{out}, []net.Listener{in}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &mesh{Proxy: p, router: router, source: src, outbound: out.Addr().String(), inbound: in.Addr().String(), stop: cancel, done: make(chan error, 2)}
	go func() { m.done <- router.Run(ctx) }()
	go func() { m.done <- p.Run(ctx) }()
	t.Cleanup(m.shutdown)
	return m
}

func (m *mesh) shutdown() {
	m.stop()
	if m.done != nil {
		<-m.done
		<-m.done
		m.done = nil
	}
}

// provide tells the outbound side where a service is: "address?param=value".
func (m *mesh) provide(t testing.TB, service string, endpoints ...string) {
	t.Helper()
	s, err := registry.ParseService(service)
	if err != nil {
		t.Fatal(err)
	}
	u := route.Update{Source: "test", Interface: s.Interface, State: route.Ready}
	for _, e := range endpoints {
		addr, query, _ := strings.Cut(e, "?")
		text := fmt.Sprintf("dubbo://%s/%s?interface=%s&warmup=0", addr, s.Interface, s.Interface)
		if s.Group != "" {
			text += "&group=" + s.Group
		}
		if s.Version != "" {
			text += "&version=" + s.Version
		}
		if query != "" {
			text += "&" + query
		}
		url, err := registry.ParseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		u.Providers = append(u.Providers, registry.Provider{URL: url, Model: registry.ModelInterface})
	}
	m.source.updates <- u
	m.await(t, func(s *route.Snapshot) bool {
		got, ok := s.Interface(u.Interface)
		return ok && len(got.Providers) == len(u.Providers)
	})
}

// local tells the inbound side of local providers.
func (m *mesh) local(t testing.TB, services map[string]string, params string) {
	t.Helper()
	var list []route.Local
	var last registry.Service
	for key, addr := range services {
		s, err := registry.ParseService(key)
		if err != nil {
			t.Fatal(err)
		}
		url, err := registry.ParseURL(fmt.Sprintf("dubbo://%s/%s?interface=%s&group=%s&version=%s&%s", addr, s.Interface, s.Interface, s.Group, s.Version, params))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, route.Local{Address: addr, Application: "app", Workload: "w-" + addr, Protocol: "dubbo", Service: s, Path: s.Interface, URL: url})
		last = s
	}
	m.router.SetLocal(list)
	m.await(t, func(s *route.Snapshot) bool {
		return s.Inbound.Lookup([]byte(last.Interface), []byte(last.Version)) != nil
	})
}

func (m *mesh) await(t testing.TB, ok func(*route.Snapshot) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		snap, changed := m.router.Changes().Watch()
		if ok(snap) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatal("the router never took the change over")
		}
	}
}

// client is a consumer's connection.
type client struct {
	t testing.TB
	net.Conn
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &client{t, c}
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// read gives the next frame, heartbeats left out.
func (c *client) read() (dubbo.Header, []byte) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	for {
		h, b, err := readFrame(c)
		if err != nil {
			c.t.Fatal(err)
		}
		if !h.IsEvent() {
			return h, b
		}
	}
}

// next gives the next frame, whatever it is.
func (c *client) next() (dubbo.Header, []byte) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	h, b, err := readFrame(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return h, b
}

// call sends a request and waits for its answer.
func (c *client) call(r req) (dubbo.Header, []byte) {
	c.t.Helper()
	c.write(r.frame(c.t))
	h, b := c.read()
	if h.ID != r.id {
		c.t.Fatalf("answer has id %d, want %d", h.ID, r.id)
	}
	return h, b
}

// wantEcho checks that the answer is the body of the request.
func (c *client) wantEcho(r req) {
	c.t.Helper()
	want := r.frame(c.t)
	c.write(want)
	h, b := c.read()
	if h.ID != r.id || h.Status != dubbo.StatusOK || !bytes.Equal(b[dubbo.HeaderSize:], want[dubbo.HeaderSize:]) {
		c.t.Fatalf("answer id %d status %d %q, want the request back", h.ID, h.Status, b[dubbo.HeaderSize:])
	}
}

// wantRefusal checks a refusal: status 20 with an RpcException of that code on the
// outbound side, status 80 on the inbound side (code 0). It returns the text.
func (c *client) wantRefusal(r req, code int, words ...string) string {
	c.t.Helper()
	h, b := c.call(r)
	return wantRefusal(c.t, h, b, code, words...)
}

func wantRefusal(t testing.TB, h dubbo.Header, b []byte, code int, words ...string) string {
	t.Helper()
	text := ""
	if code == 0 {
		got, ok := dubbo.ErrorText(h.Serialization(), b[dubbo.HeaderSize:])
		if h.Status != dubbo.StatusServerError || !ok {
			t.Fatalf("status %d %q, want 80 with a text", h.Status, b[dubbo.HeaderSize:])
		}
		text = string(got)
	} else {
		kind, ok := dubbo.ResponseType(h.Serialization(), b[dubbo.HeaderSize:])
		if h.Status != dubbo.StatusOK || !ok || kind != 0 {
			t.Fatalf("status %d type %d %q, want an exception", h.Status, kind, b[dubbo.HeaderSize:])
		}
		text = string(b[dubbo.HeaderSize:])
		if want := byte(0x90 + code); !bytes.Contains(b, []byte("org.apache.dubbo.rpc.RpcException")) || bytes.IndexByte(b, want) < 0 {
			t.Fatalf("%q is no RpcException with code %d", text, code)
		}
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Fatalf("refusal %q does not say %q", text, w)
		}
	}
	return text
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
