package meshferry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// agent is a small real agent: a control API by CONTRACT §1-§3 over HTTP, and a
// listener that answers Dubbo heartbeats. It can be killed and started again at
// the same addresses.
type agent struct {
	t                *testing.T
	network, control string
	outbound         string
	mu               sync.Mutex
	boot             string
	token            string // asked of every request but /healthz; empty: none
	revision         int
	registryAway     bool
	refuse           map[string]Refusal // by path
	published        map[string]map[string]any
	subscribed       map[string]map[string]any
	state            string
	fallback         []string
	leases           int
	hasty            bool // a watch ends at once
	watches          int
	changed          chan struct{}
	stop             context.CancelFunc
	stopped          sync.WaitGroup
	server           *http.Server
	conns            map[net.Conn]bool
	outboundListener net.Listener
}

func newAgent(t *testing.T) *agent {
	a := &agent{t: t, network: "tcp", control: "127.0.0.1:0", outbound: "127.0.0.1:0", state: StateReady,
		fallback: []string{"dubbo://10.0.0.5:20882/com.a.Foo?interface=com.a.Foo"}, changed: make(chan struct{}), refuse: map[string]Refusal{}}
	t.Cleanup(a.kill)
	return a
}

// start begins a new life: another boot id, nothing known.
func (a *agent) start(boot string) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.boot, a.published, a.subscribed, a.conns = boot, map[string]map[string]any{}, map[string]map[string]any{}, map[net.Conn]bool{}
	control := a.listen(a.network, a.control)
	if a.network == "tcp" {
		a.control = control.Addr().String()
	}
	a.outboundListener = a.listen("tcp", a.outbound)
	a.outbound = a.outboundListener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/publish", a.change(func(key string, body map[string]any) any {
		a.published[key] = body
		if a.registryAway {
			return map[string]any{"agent": a.boot, "state": "pending", "reason": "registry-away"}
		}
		return map[string]any{"agent": a.boot, "state": "published", "publications": []any{map[string]any{"service": key, "advertised": []string{"dubbo://x:20882/" + key}}}}
	}))
	mux.HandleFunc("POST /v1/unpublish", a.change(func(key string, _ map[string]any) any {
		delete(a.published, key)
		return map[string]any{"agent": a.boot, "state": "unpublished"}
	}))
	mux.HandleFunc("POST /v1/subscribe", a.change(func(key string, body map[string]any) any {
		a.subscribed[key] = body
		return a.answer(key)
	}))
	mux.HandleFunc("POST /v1/unsubscribe", a.change(func(key string, _ map[string]any) any {
		delete(a.subscribed, key)
		return map[string]any{"agent": a.boot}
	}))
	mux.HandleFunc("GET /v1/watch", a.watch)
	mux.HandleFunc("POST /v1/lease", a.lease)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	a.server = &http.Server{Handler: a.guard(mux), BaseContext: func(net.Listener) context.Context { return ctx }}
	server, outbound := a.server, a.outboundListener
	a.stopped.Go(func() { server.Serve(control) })
	a.stopped.Go(func() { a.heartbeats(outbound) })
}

// guard answers as an agent with a control token does (CONTRACT §11).
func (a *agent) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.token != "" && r.URL.Path != "/healthz" && r.Header.Get("Authorization") != "Bearer "+a.token {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"error":{"code":"unauthorised","message":"the token is missing or wrong"}}`)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *agent) listen(network, address string) net.Listener {
	a.t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		a.t.Fatal(err)
	}
	return l
}

// kill ends everything at once, as kill -9 would.
func (a *agent) kill() {
	a.mu.Lock()
	if a.server == nil {
		a.mu.Unlock()
		return
	}
	a.stop()
	a.server.Close()
	a.outboundListener.Close()
	for c := range a.conns {
		c.Close()
	}
	a.server = nil
	a.mu.Unlock()
	a.stopped.Wait()
}

func (a *agent) heartbeats(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		a.conns[conn] = true
		a.mu.Unlock()
		a.stopped.Go(func() {
			defer conn.Close()
			got := make([]byte, len(heartbeat))
			if _, err := io.ReadFull(conn, got); err == nil && string(got) == string(heartbeat[:]) {
				conn.Write([]byte{0xda, 0xbb, 0x22, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 'N'})
			}
		})
	}
}

func (a *agent) change(do func(key string, body map[string]any) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		var body map[string]any
		if r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&body) != nil {
			http.Error(w, "bad", http.StatusBadRequest)
			return
		}
		if body["workload"] == "" || body["client"] != "go" {
			http.Error(w, "no workload", http.StatusBadRequest)
			return
		}
		if no, ok := a.refuse[r.URL.Path]; ok {
			w.WriteHeader(no.Status)
			json.NewEncoder(w).Encode(map[string]any{"error": no})
			return
		}
		key, _ := body["interface"].(string)
		if raw, ok := body["url"].(string); ok {
			key = raw
		}
		json.NewEncoder(w).Encode(do(key, body))
		a.announce()
	}
}

func (a *agent) announce() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// say changes what every subscription is answered.
func (a *agent) say(state string, fallback ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.fallback = state, fallback
	a.revision++
	a.announce()
}

func (a *agent) answer(key string) Answer {
	ans := Answer{Subscription: "s-" + key, Agent: a.boot, Revision: uint64(a.revision), State: a.state, Mode: "mesh", Fallback: a.fallback,
		URLs: map[string][]string{"configurators": {"empty://127.0.0.1/" + key + "?category=configurators"}}}
	if a.state != StateWaiting {
		ans.URLs["providers"] = []string{fmt.Sprintf("dubbo://%s/%s?interface=%s&retries=0", a.outbound, key, key)}
	}
	return ans
}

func (a *agent) watch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	key := strings.TrimPrefix(q.Get("subscription"), "s-")
	wait, _ := time.ParseDuration(q.Get("wait"))
	end := time.After(wait)
	for {
		a.mu.Lock()
		if a.hasty {
			a.watches++
			a.announce()
			a.mu.Unlock()
			w.WriteHeader(http.StatusNotModified)
			return
		}
		changed, ans, known := a.changed, a.answer(key), a.subscribed[key] != nil
		a.mu.Unlock()
		switch {
		case q.Get("agent") != ans.Agent || !known:
			w.WriteHeader(http.StatusGone)
			return
		case q.Get("revision") != fmt.Sprint(ans.Revision):
			json.NewEncoder(w).Encode(ans)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-end:
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
}

func (a *agent) lease(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.leases++
	boot := a.boot
	a.announce()
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.leases--
		a.announce()
		a.mu.Unlock()
	}()
	fmt.Fprintf(w, "{\"agent\":%q,\"revision\":1}\n", boot)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// until waits for a condition on what the agent knows.
func (a *agent) until(what string, ok func() bool) {
	a.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		a.mu.Lock()
		changed, met := a.changed, ok()
		a.mu.Unlock()
		if met {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			a.t.Fatalf("never: %s", what)
		}
	}
}
