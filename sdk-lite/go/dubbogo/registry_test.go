package dubbogo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"dubbo.apache.org/dubbo-go/v3/common"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
	"dubbo.apache.org/dubbo-go/v3/common/extension"
	"dubbo.apache.org/dubbo-go/v3/registry"
	"github.com/dubbogo/gost/log/logger"
	"go.uber.org/zap"
)

// TestMain looks for goroutines of ours alone: dubbo-go starts some at import
// and ends none.
func TestMain(m *testing.M) {
	logger.SetLogger(zap.NewNop().Sugar())
	code := m.Run()
	for deadline := time.Now().Add(5 * time.Second); code == 0; time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		_, others, _ := strings.Cut(stacks, "\n\n")
		if !strings.Contains(others, "meshferry/sdk-lite/go") {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, "goroutines are left:\n"+others)
			code = 1
		}
	}
	os.Exit(code)
}

// agentServer is a control API that notes what it is told, and an outbound
// listener that answers heartbeats.
type agentServer struct {
	*httptest.Server
	outbound net.Listener
	mu       sync.Mutex
	told     []string // "publish dubbo://…"
	state    string
	stop     context.CancelFunc
}

func newAgentServer(t *testing.T) *agentServer {
	outbound, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &agentServer{outbound: outbound, state: "ready", stop: stop}
	mux := http.NewServeMux()
	for _, call := range []string{"publish", "unpublish", "subscribe", "unsubscribe"} {
		mux.HandleFunc("POST /v1/"+call, func(w http.ResponseWriter, r *http.Request) {
			var body struct{ URL, Wait string }
			json.NewDecoder(r.Body).Decode(&body)
			a.mu.Lock()
			defer a.mu.Unlock()
			a.told = append(a.told, call+" "+body.URL)
			switch {
			case strings.Contains(body.URL, "com.a.Forbidden"):
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, `{"error":{"code":"forbidden","message":"no"}}`)
			case call == "subscribe":
				fmt.Fprintf(w, `{"agent":"b1","subscription":"s","revision":1,"state":%q,"mode":"mesh",
					"urls":{"providers":["dubbo://%s/com.a.Foo?interface=com.a.Foo&methods=Hi,Ho&retries=0&note=a%%2Bb"],"configurators":["empty://h/com.a.Foo"]},
					"fallback":["dubbo://10.0.0.5:20882/com.a.Foo?interface=com.a.Foo"]}`, a.state, outbound.Addr())
			default:
				fmt.Fprintf(w, `{"agent":"b1","state":"published"}`)
			}
		})
	}
	mux.HandleFunc("POST /v1/lease", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "{\"agent\":\"b1\"}\n")
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-ctx.Done():
		}
	})
	mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-ctx.Done():
		}
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.kill)
	return a
}

func (a *agentServer) kill() {
	a.stop()
	a.outbound.Close()
	a.Server.Close()
}

func (a *agentServer) has(what string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.told {
		if t == what {
			return true
		}
	}
	return false
}

// listener keeps the last set that it was told.
type listener struct {
	sets chan []string
}

func (l listener) Notify(*registry.ServiceEvent) { panic("whole sets only") }
func (l listener) NotifyAll(events []*registry.ServiceEvent, done func()) {
	var urls []string
	for _, e := range events {
		urls = append(urls, e.Service.Location)
	}
	l.sets <- urls
	done()
}
func (l listener) IsAvailable() bool { return true }

func (l listener) next(t *testing.T) []string {
	t.Helper()
	select {
	case set := <-l.sets:
		return set
	case <-time.After(10 * time.Second):
		t.Fatal("never told")
		return nil
	}
}

// look does what dubbo-go does for a look-up: it constructs a registry.
func look(t *testing.T, a *agentServer, dir string) registry.Registry {
	t.Helper()
	u, err := common.NewURL("registry://"+a.Listener.Addr().String(), common.WithParamsValue(constant.RegistryTimeoutKey, "2s"),
		common.WithParamsValue("cache", dir), common.WithLocation("mesh://"+a.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := extension.GetRegistry(Protocol, u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Destroy)
	return r
}

func service(iface string, role common.RoleType) *common.URL {
	return common.NewURLWithOptions(common.WithProtocol("dubbo"), common.WithPort("20880"), common.WithPath(iface), common.WithMethods([]string{"Hi", "Ho"}),
		common.WithParamsValue("interface", iface), common.WithParamsValue("application", "shop"), common.WithParamsValue("group", ""),
		common.WithParamsValue(constant.RegistryRoleKey, fmt.Sprint(int(role))), common.WithParamsValue("owner", "a b"), common.WithParamsValue("z.list", "a,b=%2F"))
}

func TestRegister(t *testing.T) {
	a := newAgentServer(t)
	r := look(t, a, "off")
	const url = "dubbo://:20880/com.a.Foo?anyhost=true&application=shop&interface=com.a.Foo&methods=Hi,Ho&owner=a%20b&registry.role=3&z.list=a,b=%2F"
	if err := r.Register(service("com.a.Foo", common.PROVIDER)); err != nil {
		t.Fatal(err)
	}
	if !a.has("publish " + url) {
		t.Errorf("told %q, want %s", a.told, url)
	}
	if err := look(t, a, "off").UnRegister(service("com.a.Foo", common.PROVIDER)); err != nil || !a.has("unpublish "+url) {
		t.Errorf("%v, told %q", err, a.told)
	}
	if err := r.Register(service("com.a.Foo", common.CONSUMER)); err != nil || len(a.told) != 2 {
		t.Errorf("a consumer was registered: %q, %v", a.told, err)
	}
	if err := r.Register(service("com.a.Forbidden", common.PROVIDER)); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("%v", err)
	}
	if !r.IsAvailable() {
		t.Error("not available")
	}
	r.Destroy()
	if err := r.Register(service("com.a.Foo", common.PROVIDER)); !errors.Is(err, context.Canceled) || r.IsAvailable() {
		t.Errorf("after Destroy: %v", err)
	}
}

func TestSubscribe(t *testing.T) {
	a := newAgentServer(t)
	dir := t.TempDir()
	r := look(t, a, dir)
	l := listener{make(chan []string, 100)}
	u := service("com.a.Foo", common.CONSUMER)
	if err := r.LoadSubscribeInstances(u, l); err != nil {
		t.Fatal(err)
	}
	outbound := a.outbound.Addr().String()
	select {
	case set := <-l.sets:
		if len(set) != 1 || set[0] != outbound {
			t.Errorf("%q, want %s", set, outbound)
		}
	default:
		t.Fatal("LoadSubscribeInstances returned before the first set was told")
	}
	const url = "consumer:///com.a.Foo?application=shop&interface=com.a.Foo&owner=a%20b&protocol=dubbo&registry.role=0&z.list=a,b=%2F"
	if !a.has("subscribe " + url) {
		t.Errorf("told %q, want %s", a.told, url)
	}
	var subscribe sync.WaitGroup
	subscribe.Go(func() { r.Subscribe(u, l) })
	a.kill()
	if set := l.next(t); len(set) != 1 || set[0] != "10.0.0.5:20882" {
		t.Errorf("agent away: %q", set)
	}
	if set := l.next(t); set[0] != "10.0.0.5:20882" {
		t.Errorf("direct providers are told again: %q", set)
	}
	if err := r.UnSubscribe(u, l); err != nil {
		t.Error(err)
	}
	subscribe.Wait()
	if err := r.UnSubscribe(u, l); err != nil {
		t.Errorf("twice: %v", err)
	}
	r.Destroy()

	// The next start finds the direct providers on disk.
	again := look(t, a, dir)
	if err := again.Register(service("com.a.Foo", common.PROVIDER)); err != nil {
		t.Errorf("a provider starts without agent: %v", err)
	}
	if err := again.LoadSubscribeInstances(u, l); err != nil {
		t.Fatal(err)
	}
	for len(l.sets) > 1 {
		<-l.sets
	}
	if set := l.next(t); len(set) != 1 || set[0] != "10.0.0.5:20882" {
		t.Errorf("from disk: %q", set)
	}
}

func TestProviderSideSubscriptionEndsAtOnce(t *testing.T) {
	r := look(t, newAgentServer(t), "off")
	u := service("com.a.Foo", common.PROVIDER)
	u.Protocol = constant.ProviderProtocol
	if err := r.Subscribe(u, listener{}); err != nil {
		t.Error(err)
	}
	if err := r.UnSubscribe(u, listener{}); err != nil {
		t.Error(err)
	}
}

func TestDubboURL(t *testing.T) {
	consumer := common.NewURLWithOptions(common.WithMethods([]string{"Ha"}))
	u, err := dubboURL("dubbo://127.0.0.1:20881/com.a.Foo?methods=Hi,Ho&retries=0&methods.Ho.retries=1&note=a+b%2Bc&list=x,y", consumer)
	if err != nil {
		t.Fatal(err)
	}
	if u.Location != "127.0.0.1:20881" || u.Path != "/com.a.Foo" || u.GetParam("list", "") != "x,y" {
		t.Errorf("%s", u)
	}
	for method, want := range map[string]string{"Hi": "0", "Ho": "1", "Ha": "0"} {
		if got := u.GetParam("methods."+method+".retries", ""); got != want {
			t.Errorf("%s: retries %q, want %q", method, got, want)
		}
	}
	reference := common.NewURLWithOptions(common.WithProtocol("dubbo"), common.WithMethods([]string{"Ha", "Hi"}), common.WithParamsValue("retries", "2"))
	if got := u.MergeURL(reference).GetMethodParamIntValue("Hi", "retries", 9); got != 0 {
		t.Errorf("the reference's default retries won: %d", got)
	}
	if _, err := dubboURL("dubbo://127.0.0.1:x/", consumer); err == nil {
		t.Error("a bad port was taken")
	}
}

func TestServiceLevelIsExplained(t *testing.T) {
	u, _ := common.NewURL("service-discovery-registry://127.0.0.1:20883", common.WithParamsValue(constant.RegistryKey, Protocol))
	if _, err := extension.GetServiceDiscovery(u); err == nil || !strings.Contains(err.Error(), "WithRegisterInterface") {
		t.Errorf("%v", err)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct{ url, location, want string }{
		{"registry://127.0.0.1:20883", "127.0.0.1:20883", "127.0.0.1:20883"},
		{"registry://127.0.0.1:20883", "mesh://127.0.0.1:20883?x=y", "127.0.0.1:20883"},
		{"registry:///run/meshferry/control.sock", "mesh:///run/meshferry/control.sock", "/run/meshferry/control.sock"},
		{"registry:///run/meshferry/control.sock", "", "/run/meshferry/control.sock"},
	} {
		u, err := common.NewURL(c.url, common.WithLocation(c.location), common.WithPassword("secret"))
		if err != nil {
			t.Fatal(err)
		}
		o, err := options(u)
		if err != nil || o.Address != c.want || o.Token != "secret" {
			t.Errorf("%+v: %+v, %v", c, o, err)
		}
	}
	if _, err := options(&common.URL{}); err == nil {
		t.Error("no address was taken")
	}
}
