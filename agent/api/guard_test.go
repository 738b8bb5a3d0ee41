package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/meshferry/meshferry/agent/workload"
)

func TestGuards(t *testing.T) {
	w := start(t, nil)
	port := w.tcp[strings.LastIndex(w.tcp, ":"):]
	const lease = `{"workload":"x"}`
	for _, test := range []struct {
		name   string
		method string
		path   string
		body   string
		header []string
		status int
		code   string // empty: no refusal
	}{
		{name: "plain", status: 200},
		{name: "by name", header: []string{"Host", "localhost" + port}, status: 200},
		{name: "by IPv6 loopback", header: []string{"Host", "[::1]" + port}, status: 200},
		{name: "foreign name", header: []string{"Host", "evil.example" + port}, status: 403, code: "forbidden"},
		{name: "foreign address", header: []string{"Host", "10.0.0.1" + port}, status: 403, code: "forbidden"},
		{name: "other port", header: []string{"Host", "127.0.0.1:1"}, status: 403, code: "forbidden"},
		{name: "no port", header: []string{"Host", "127.0.0.1"}, status: 403, code: "forbidden"},
		{name: "origin", header: []string{"Origin", "http://127.0.0.1" + port}, status: 403, code: "forbidden"},
		{name: "null origin", header: []string{"Origin", "null"}, status: 403, code: "forbidden"},
		{name: "referer", header: []string{"Referer", "http://evil.example/"}, status: 403, code: "forbidden"},
		{name: "cross-site", header: []string{"Sec-Fetch-Site", "cross-site"}, status: 403, code: "forbidden"},
		{name: "same-site", header: []string{"Sec-Fetch-Site", "same-site"}, status: 403, code: "forbidden"},
		{name: "typed into a browser", header: []string{"Sec-Fetch-Site", "none"}, status: 200},
		{name: "form", method: "PUT", path: "/v1/lease/x", body: lease, header: []string{"Content-Type", "text/plain"}, status: 415, code: "content-type"},
		{name: "no content type", method: "PUT", path: "/v1/lease/x", body: lease, header: []string{"Content-Type", ""}, status: 415, code: "content-type"},
		{name: "with charset", method: "PUT", path: "/v1/lease/x", body: lease, header: []string{"Content-Type", "application/json; charset=utf-8"}, status: 200},
		{name: "long body", method: "POST", path: "/v1/publish", body: strings.Repeat(" ", maxBody+1), status: 413, code: "too-large"},
		{name: "long target", path: "/v1/status?x=" + strings.Repeat("a", maxURI), status: 414, code: "url-too-long"},
		{name: "unknown path", path: "/v2/status", status: 404, code: "not-found"},
		{name: "no admin here", path: "/healthz", status: 404, code: "not-found"},
		{name: "other method", method: "DELETE", path: "/v1/publish", status: 405, code: "method"},
		{name: "preflight", method: "OPTIONS", path: "/v1/publish", header: []string{"Origin", "http://evil.example"}, status: 403, code: "forbidden"},
	} {
		t.Run(test.name, func(t *testing.T) {
			method, path := test.method, test.path
			if method == "" {
				method = "GET"
			}
			if path == "" {
				path = "/v1/status"
			}
			r := w.call(t, method, path, test.body, test.header...)
			if test.code != "" {
				r.refused(t, test.status, test.code)
			} else if r.status != test.status {
				t.Errorf("%d %s", r.status, r.body)
			}
			for _, h := range []string{"Server", "X-Powered-By", "Access-Control-Allow-Origin"} {
				if v, there := r.header[h]; there {
					t.Errorf("header %s: %v", h, v)
				}
			}
			if method == "DELETE" && r.header.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", r.header.Get("Allow"))
			}
		})
	}
}

func TestChunkedBodyIsBoundedToo(t *testing.T) {
	w := start(t, nil)
	body := io.MultiReader(strings.NewReader(`{"interface":"`), strings.NewReader(strings.Repeat("a", maxBody)), strings.NewReader(`"}`))
	res, err := w.client.Post(w.tcp+"/v1/publish", "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	reply{res.StatusCode, res.Header, string(text)}.refused(t, 413, "too-large")
}

func TestUnixSocket(t *testing.T) {
	w := start(t, func(o *Options) { o.TokenFile = tokenFile(t, "secret\n", 0o600) })
	dial := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.socket)
	}}
	defer dial.CloseIdleConnections()
	w.client.Transport = dial
	if r := w.callAt(t, "http://agent", "PUT", "/v1/lease/x", ""); r.status != 200 {
		t.Fatalf("any host and no token on the socket: %d %s", r.status, r.body)
	}
	for _, l := range w.store.View().Load().Leases {
		if l.Owner != (workload.Owner{UID: os.Getuid(), PID: os.Getpid()}) {
			t.Errorf("owner %+v, want uid %d and pid %d", l.Owner, os.Getuid(), os.Getpid())
		}
	}
}

func TestOwnerOnTCP(t *testing.T) {
	w := start(t, nil)
	w.call(t, "PUT", "/v1/lease/x", "")
	leases := w.store.View().Load().Leases
	if len(leases) != 1 || leases[0].Owner != (workload.Owner{UID: os.Getuid(), PID: os.Getpid()}) {
		t.Errorf("%+v, want uid %d and pid %d", leases, os.Getuid(), os.Getpid())
	}
}

func TestToken(t *testing.T) {
	w := start(t, func(o *Options) { o.TokenFile = tokenFile(t, "secret\n", 0o600) })
	for _, test := range []struct {
		given  string
		status int
	}{{"", 401}, {"Bearer wrong", 401}, {"secret", 401}, {"Bearer ", 401}, {"Bearer secret", 200}} {
		r := w.call(t, "GET", "/v1/status", "", "Authorization", test.given)
		if test.status == 401 {
			r.refused(t, 401, "unauthorised")
		} else if r.status != test.status {
			t.Errorf("%q: %d", test.given, r.status)
		}
	}
}

func tokenFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNewRefuses(t *testing.T) {
	w := start(t, nil)
	good := w.server.o
	wide := listen(t, "tcp", "0.0.0.0:0")
	defer wide.Close()
	for _, test := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"no boot id", func(o *Options) { o.Agent = "" }, "no boot id"},
		{"no store", func(o *Options) { o.Workloads = nil }, "no workloads"},
		{"no outbound address", func(o *Options) { o.Outbound = netip.AddrPort{} }, "no outbound"},
		{"not loopback", func(o *Options) { o.Listeners = []net.Listener{wide} }, "not on loopback"},
		{"token readable by others", func(o *Options) { o.TokenFile = tokenFile(t, "x", 0o644) }, "readable by others"},
		{"token empty", func(o *Options) { o.TokenFile = tokenFile(t, "\n", 0o600) }, "empty"},
		{"token missing", func(o *Options) { o.TokenFile = filepath.Join(t.TempDir(), "none") }, "no such file"},
		{"MOSN without a port", func(o *Options) { o.Mosn = &Mosn{} }, "provider port"},
	} {
		o := good
		test.change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	w := start(t, func(o *Options) { o.Limits = Limits{Working: 2, Held: 1, Rate: 0.001, Burst: 6} })
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() {
		_, err := w.send(ctx, w.tcp, "POST", "/v1/lease", `{"workload":"x"}`)
		held <- err
	}()
	eventually(t, "the lease is held", func() bool { return len(w.store.View().Load().Leases) == 1 })
	w.call(t, "POST", "/v1/lease", `{"workload":"y"}`).refused(t, 429, "limit")
	if r := w.call(t, "GET", "/v1/status", ""); r.status != 200 {
		t.Errorf("with all held places taken: %d %s", r.status, r.body)
	}
	if r := w.call(t, "POST", "/v1/publish", `{"interface":"a.B","port":1000}`); r.status != 202 && r.status != 200 {
		t.Errorf("a publish that may not wait: %d %s", r.status, r.body)
	}
	cancel()
	<-held
	eventually(t, "the place is free again", func() bool { return len(w.server.held) == 0 && len(w.server.working) == 0 })
	var last reply
	for range 6 {
		last = w.call(t, "GET", "/v1/status", "")
	}
	last.refused(t, 429, "limit")
	if last.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

func TestWorkingSlots(t *testing.T) {
	s := make(slots, 1)
	if !s.take() || s.take() {
		t.Fatal("one slot is one")
	}
	s.give()
	if !s.take() {
		t.Fatal("a slot that was given back is gone")
	}
	b := newBuckets(1, 1)
	for uid := range 2 * maxBuckets {
		b.take(uid)
	}
	if len(b.byUID) > maxBuckets+1 {
		t.Errorf("%d buckets", len(b.byUID))
	}
}

func TestDraining(t *testing.T) {
	var stopping atomic.Bool
	w := start(t, func(o *Options) { o.Draining = stopping.Load })
	stopping.Store(true)
	r := w.call(t, "POST", "/v1/publish", `{"url":"`+greet+`"}`)
	r.refused(t, 503, "stopping")
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	var st Status
	w.call(t, "GET", "/v1/status", "").into(t, &st)
	if st.State != "stopping" {
		t.Errorf("state %q", st.State)
	}
}
