package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"
	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 20 * time.Second
	service  = "com.a.Greeter"
)

// settings is the configuration of an agent on loopback with free ports and a
// registry in a directory of its own.
func settings(t *testing.T) config.Config {
	t.Helper()
	dir := t.TempDir()
	return load(t, dir, "registries: [{url: 'local://"+dir+"/registry'}]\nstop: {notifyWait: 0s, drain: 5s}\nprobe: {interval: 20ms}\n")
}

func load(t *testing.T, dir, text string) config.Config {
	t.Helper()
	text += "\naddress: 127.0.0.1\nstateDir: " + dir + "/state\nlisteners: {outbound: '127.0.0.1:0', inbound: '127.0.0.1:0', control: '127.0.0.1:0', controlSocket: " + dir + "/c.sock}\n"
	c, err := config.Load(config.Input{File: "m.yaml", Text: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// agentUnderTest is an agent that works until stop or the end of the test.
type agentUnderTest struct {
	*Agent
	log    *logged
	cancel func()
	ended  chan struct{}
	err    error // of Run; after ended
}

func run(t *testing.T, c config.Config) *agentUnderTest {
	t.Helper()
	log := &logged{}
	a, err := New(c, "test", slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	u := &agentUnderTest{Agent: a, log: log, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(u.ended)
		u.err = a.Run(ctx)
	}()
	t.Cleanup(func() { u.stop(t) })
	return u
}

func (u *agentUnderTest) stop(t *testing.T) {
	t.Helper()
	u.cancel()
	select {
	case <-u.ended:
	case <-time.After(patience):
		t.Fatal("the agent does not end")
	}
	if u.err != nil {
		t.Errorf("Run: %v", u.err)
	}
}

// ask calls the control API and gives status and body.
func (u *agentUnderTest) ask(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+u.listeners.control.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// publish offers the service of a local provider and waits until it is in the
// registry, at both levels.
func (u *agentUnderTest) publish(t *testing.T, port int) {
	t.Helper()
	body, _ := json.Marshal(map[string]string{"wait": "10s", "url": fmt.Sprintf("dubbo://:%d/%s?application=greeter&interface=%s&methods=echo,hold", port, service, service)})
	if status, text := u.ask(t, "POST", "/v1/publish", string(body)); status != http.StatusOK {
		t.Fatalf("publish: %d %s", status, text)
	}
}

// eventually waits for a state that no event tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// registered is what the directory of the local registry holds.
func registered(t *testing.T, c config.Config) string {
	t.Helper()
	dir := strings.TrimPrefix(c.Registries[0].URL, "local://")
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range files {
		text, _ := os.ReadFile(f) // an entry may go meanwhile
		b.Write(text)
	}
	return b.String()
}

// logged collects what an agent logs.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) count(text string) int { return strings.Count(l.String(), text) }

// provider is a small dubbo2 server: "echo" is answered at once, "hold" when
// somebody lets it.
type provider struct {
	net.Listener
	held    chan struct{} // a value for each call that came to be held
	release chan struct{} // closed: held calls are answered
	calls   atomic.Int64
	wg      sync.WaitGroup
	mu      sync.Mutex
	conns   []net.Conn // guarded by mu
}

func provide(t *testing.T) *provider {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{Listener: l, held: make(chan struct{}, 10), release: make(chan struct{})}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, c)
			p.mu.Unlock()
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		p.kill()
		p.letGo()
		p.wg.Wait()
	})
	return p
}

// kill closes everything, as the kernel does for a killed process.
func (p *provider) kill() {
	p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
}

func (p *provider) port() int { return p.Addr().(*net.TCPAddr).Port }

// letGo answers what is held; only the first call counts.
func (p *provider) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.release:
	default:
		close(p.release)
	}
}

func (p *provider) serve(c net.Conn) {
	defer c.Close()
	for {
		h, b, err := readFrame(c)
		if err == nil && !h.IsEvent() {
			p.calls.Add(1)
		}
		switch {
		case err != nil:
			return
		case h.IsEvent() && h.IsRequest():
			c.Write(dubbo.AppendHeartbeatReply(nil, h.Serialization(), h.ID))
		case h.IsEvent():
		case bytes.Contains(b, []byte("hold")):
			p.wg.Go(func() {
				p.held <- struct{}{}
				<-p.release
				c.Write(frame(dubbo.Hessian2, dubbo.StatusOK, h.ID, b[dubbo.HeaderSize:]))
			})
		default:
			c.Write(frame(dubbo.Hessian2, dubbo.StatusOK, h.ID, b[dubbo.HeaderSize:]))
		}
	}
}

// consumer is a connection to the outbound listener.
type consumer struct {
	t *testing.T
	net.Conn
	last uint64
}

func consume(t *testing.T, a *agentUnderTest) *consumer {
	t.Helper()
	c, err := net.Dial("tcp", a.listeners.outbound.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &consumer{t: t, Conn: c}
}

// send sends a call of a method of the service.
func (c *consumer) send(method string) (id uint64) {
	c.t.Helper()
	return c.sendTo(service, method)
}

func (c *consumer) sendTo(iface, method string) (id uint64) {
	c.t.Helper()
	e := hessian.NewEncoder()
	for _, v := range []any{"2.0.2", iface, "", method, "Ljava/lang/String;", "x", map[any]any{"path": iface, "interface": iface, "timeout": "60000"}} {
		if err := e.Encode(v); err != nil {
			c.t.Fatal(err)
		}
	}
	c.last++
	if _, err := c.Write(frame(0xc0|dubbo.Hessian2, 0, c.last, e.Buffer())); err != nil {
		c.t.Fatal(err)
	}
	return c.last
}

// answer reads the next answer: "" when it is the echo of a call, else its body.
func (c *consumer) answer() (id uint64, refusal string) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	for {
		h, b, err := readFrame(c)
		if err != nil {
			c.t.Fatal(err)
		}
		if h.IsEvent() {
			continue
		}
		if body := string(b[dubbo.HeaderSize:]); !strings.HasPrefix(body, "\x052.0.2") {
			return h.ID, body
		}
		return h.ID, ""
	}
}

func frame(flags, status byte, id uint64, body []byte) []byte {
	b := append([]byte{0xda, 0xbb, flags, status}, make([]byte, 12)...)
	dubbo.PutID(b, id)
	binary.BigEndian.PutUint32(b[12:], uint32(len(body)))
	return append(b, body...)
}

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
