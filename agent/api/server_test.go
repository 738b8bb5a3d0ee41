package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/xdsclient"
)

const greet = "dubbo://10.0.0.5:20880/org.example.Greet?application=shop&group=g1&interface=org.example.Greet&methods=hello&version=1.0.0"

func TestPublishUnpublish(t *testing.T) {
	w := start(t, nil)
	r := w.call(t, "POST", "/v1/publish", `{"url":"`+greet+`","workload":"shop@1"}`)
	var got PublishReply
	r.into(t, &got)
	if r.status != 200 || got.State != "published" || len(got.Publications) != 1 {
		t.Fatalf("status %d, body %s", r.status, r.body)
	}
	p := got.Publications[0]
	want := strings.Replace(greet, "20880", "20882", 1) + "&meshferry.origin=10.0.0.5:20880&meshferry.caps=1"
	if p.Service != "g1/org.example.Greet:1.0.0" || !slices.Equal(p.Advertised, []string{want}) || p.Workload != "shop@1" {
		t.Errorf("%+v; want advertised %s", p, want)
	}
	if len(p.Registries) != 1 || p.Registries[0] != (PublicationState{Name: "main", State: "published"}) {
		t.Errorf("registries %+v", p.Registries)
	}
	if !w.registry.holds("20882") {
		t.Error("answered before the registry held it")
	}

	again := w.call(t, "POST", "/v1/publish", `{"url":"`+greet+`","workload":"shop@1"}`)
	if again.status != 200 || again.body != r.body {
		t.Errorf("not idempotent: %d %s, then %d %s", r.status, r.body, again.status, again.body)
	}
	changed := strings.Replace(greet, "methods=hello", "methods=hello,bye", 1)
	if r := w.call(t, "POST", "/v1/publish", `{"url":"`+changed+`","workload":"shop@1"}`); r.status != 200 || !w.registry.holds("methods=hello,bye") {
		t.Errorf("update: %d %s", r.status, r.body)
	}
	late := w.call(t, "POST", "/v1/unpublish", `{"url":"`+greet+`","workload":"shop@1"}`)
	late.into(t, &got)
	if late.status != 200 || got.State != "superseded" || !w.registry.holds("20882") {
		t.Errorf("late unpublish: %d %s", late.status, late.body)
	}
	for range 2 {
		r = w.call(t, "POST", "/v1/unpublish", `{"interface":"org.example.Greet","workload":"shop@1"}`)
		r.into(t, &got)
		if r.status != 200 || got.State != "unpublished" || w.registry.holds("20882") {
			t.Errorf("unpublish: %d %s", r.status, r.body)
		}
	}
}

func TestPublishByFields(t *testing.T) {
	w := start(t, nil)
	r := w.call(t, "POST", "/v1/publish",
		`{"application":"shop","interface":"a.B","group":"g","version":"1.0","port":20880,"methods":["m1","m2"],"params":{"timeout":"500"}}`)
	var got PublishReply
	r.into(t, &got)
	if r.status != 200 || got.Publications[0].Workload != "anon/shop/20880" || got.Publications[0].Service != "g/a.B:1.0" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	want := "dubbo://10.0.0.5:20882/a.B?application=shop&group=g&interface=a.B&methods=m1,m2&timeout=500&version=1.0&side=provider"
	if !strings.HasPrefix(got.Publications[0].Advertised[0], want) {
		t.Errorf("advertised %s, want %s…", got.Publications[0].Advertised[0], want)
	}
}

func TestPublishPending(t *testing.T) {
	w := start(t, nil)
	publish := func(body string) PublishReply {
		t.Helper()
		r := w.call(t, "POST", "/v1/publish", body)
		var got PublishReply
		r.into(t, &got)
		if r.status != 202 || got.State != "pending" || got.Publications[0].State != "pending" {
			t.Errorf("%d %s", r.status, r.body)
		}
		return got
	}
	w.ports.set(":20880")
	if got := publish(`{"url":"` + greet + `","wait":"300ms"}`); got.Reason != "port-closed" {
		t.Errorf("reason %q, want port-closed", got.Reason)
	}
	w.registry.set(true, false)
	w.ports.set()
	if got := publish(`{"interface":"a.B","application":"x","port":20890,"wait":"300ms"}`); got.Reason != "registry-away" {
		t.Errorf("reason %q, want registry-away", got.Reason)
	}
	w.registry.set(false, true)
	begin := time.Now()
	if got := publish(`{"interface":"a.B","application":"x","port":20890,"wait":"20s"}`); got.Reason != "conflict" {
		t.Errorf("reason %q, want conflict", got.Reason)
	}
	if d := time.Since(begin); d > 15*time.Second {
		t.Errorf("a conflict was waited for %v", d)
	}
	w.registry.set(false, false)
	eventually(t, "both are published", func() bool { return w.registry.holds("Greet") && w.registry.holds("a.B") })
}

func TestPublishBatch(t *testing.T) {
	w := start(t, nil)
	r := w.call(t, "POST", "/v1/publish", `{"workload":"shop@1","application":"shop","publications":[{"interface":"a.B","port":20880},{"interface":"a.C","port":20880}]}`)
	var got PublishReply
	r.into(t, &got)
	if r.status != 200 || got.State != "published" || len(got.Publications) != 2 || got.Publications[1].Workload != "shop@1" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	r = w.call(t, "POST", "/v1/publish", `{"publications":[{"interface":"a.D","application":"shop","port":20880},{"interface":"a.E","port":20882}]}`)
	r.into(t, &got)
	if r.status != 207 || got.Publications[0].State != "published" || got.Publications[1].State != "refused" || got.Publications[1].Error.Code != "invalid" {
		t.Errorf("%d %s", r.status, r.body)
	}
	r = w.call(t, "POST", "/v1/unpublish", `{"publications":[{"interface":"a.B"},{"interface":"a.C"},{"interface":"a.D"}]}`)
	r.into(t, &got)
	if r.status != 200 || got.State != "unpublished" || len(got.Publications) != 3 {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestSubscribeAndWatch(t *testing.T) {
	w := start(t, nil)
	real := realURLs(t)
	iface := "org.example.GreetService"
	body, err := json.Marshal(map[string]string{"url": real["java33-consumer"].String(), "workload": "shop@1"})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	var first Document
	r := w.call(t, "POST", "/v1/subscribe", string(body))
	r.into(t, &first)
	if r.status != 200 || first.State != "waiting" || first.Agent != bootID || first.Subscription == "" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if _, there := first.URLs["providers"]; there {
		t.Errorf("waiting carries providers: %s", r.body)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("the first set was waited for %v", d)
	}

	path := fmt.Sprintf("/v1/watch?subscription=%s&agent=%s&revision=%d", first.Subscription, bootID, first.Revision)
	if r := w.call(t, "GET", path+"&wait=50ms", ""); r.status != 304 || r.body != "" {
		t.Errorf("unchanged: %d %s", r.status, r.body)
	}
	answer := make(chan reply, 1)
	go func() {
		r, err := w.send(t.Context(), w.tcp, "GET", path+"&wait=15s", "")
		if err != nil {
			t.Error(err)
		}
		answer <- r
	}()
	w.say(t, iface, route.Ready, "", real["java33"])
	var second Document
	r = <-answer
	r.into(t, &second)
	if r.status != 200 || second.State != "ready" || second.Revision <= first.Revision {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if u := second.URLs["providers"]; len(u) != 1 || !strings.HasPrefix(u[0], "dubbo://[::ffff:127.0.0.1]:20881/"+iface) {
		t.Errorf("providers %v", u)
	}
	if second.Registries[0].Name != "main" || second.Registries[0].State != "connected" {
		t.Errorf("registries %+v", second.Registries)
	}
	var again Document
	w.call(t, "POST", "/v1/subscribe", string(body)).into(t, &again)
	if again.Subscription != first.Subscription || again.Revision != second.Revision {
		t.Errorf("not idempotent: %+v, then %+v", second, again)
	}

	path = fmt.Sprintf("/v1/watch?subscription=%s&revision=%d", first.Subscription, second.Revision)
	w.say(t, iface, route.Ready, "", real["java33"], at(real["java33"], "10.0.0.9", 20880))
	if r := w.call(t, "GET", path+"&wait=50ms", ""); r.status != 304 {
		t.Errorf("an endpoint behind the outbound address is told: %d %s", r.status, r.body)
	}
	w.call(t, "GET", path+"&agent=boot-0", "").refused(t, 410, "gone")
	w.call(t, "GET", "/v1/watch?subscription=s-none", "").refused(t, 410, "gone")

	go func() {
		r, err := w.send(t.Context(), w.tcp, "GET", path+"&wait=15s", "")
		if err != nil {
			t.Error(err)
		}
		answer <- r
	}()
	var gone UnsubscribeReply
	w.call(t, "POST", "/v1/unsubscribe", string(body)).into(t, &gone)
	if !slices.Equal(gone.Subscriptions, []string{first.Subscription}) || gone.State != "unsubscribed" {
		t.Errorf("unsubscribe: %+v", gone)
	}
	(<-answer).refused(t, 410, "gone")
	if r := w.call(t, "POST", "/v1/unsubscribe", string(body)); r.status != 200 {
		t.Errorf("not idempotent: %d %s", r.status, r.body)
	}
}

func TestWatchEvents(t *testing.T) {
	w := start(t, nil)
	real := realURLs(t)
	w.say(t, "org.example.GreetService", route.Ready, "", real["java33"])
	var d Document
	w.call(t, "POST", "/v1/subscribe", `{"interface":"org.example.GreetService","group":"g1","version":"1.0.0","application":"x"}`).into(t, &d)

	req, err := http.NewRequestWithContext(t.Context(), "GET", w.tcp+"/v1/watch?subscription="+d.Subscription, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	res, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%s, %v", res.Status, res.Header)
	}
	lines := bufio.NewScanner(res.Body)
	event := func() (name, data string) {
		for lines.Scan() {
			switch k, v, _ := strings.Cut(lines.Text(), ":"); k {
			case "event":
				name = v
			case "data":
				return name, v
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return "", ""
	}
	var got Document
	name, data := event()
	if err := json.Unmarshal([]byte(data), &got); err != nil || name != "update" || got.Revision != d.Revision || got.State != "ready" {
		t.Fatalf("%s %s: %v", name, data, err)
	}
	w.say(t, "org.example.GreetService", route.Empty, "")
	name, data = event()
	if err := json.Unmarshal([]byte(data), &got); err != nil || name != "update" || got.Revision <= d.Revision || got.State != "empty" {
		t.Fatalf("%s %s: %v", name, data, err)
	}
	w.call(t, "POST", "/v1/unsubscribe", `{"application":"x","interface":"org.example.GreetService"}`)
	if name, data = event(); name != "error" || !strings.Contains(data, `"gone"`) {
		t.Errorf("%s %s", name, data)
	}
}

func TestLease(t *testing.T) {
	w := start(t, nil)
	lease := func(name string) string {
		for _, l := range w.store.View().Load().Leases {
			if l.Workload == name {
				return string(l.State)
			}
		}
		return "none"
	}
	r := w.call(t, "PUT", "/v1/lease/shop%2Fone@1", "")
	var line LeaseLine
	r.into(t, &line)
	if r.status != 200 || line.Agent != bootID || lease("shop/one@1") != "renewed" {
		t.Fatalf("%d %s, lease %s", r.status, r.body, lease("shop/one@1"))
	}
	res, err := w.client.Post(w.tcp+"/v1/lease", "application/json", strings.NewReader(`{"workload":"shop@2","ttl":"15s"}`))
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(res.Body)
	for range 3 {
		if !lines.Scan() {
			t.Fatalf("the lease ended: %v", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Agent != bootID {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
	}
	if lease("shop@2") != "held" {
		t.Errorf("lease %s, want held", lease("shop@2"))
	}
	res.Body.Close()
	eventually(t, "the broken stream is noticed", func() bool { return lease("shop@2") != "held" })
}

func TestViews(t *testing.T) {
	w := start(t, func(o *Options) {
		o.XDS = func() xdsclient.Status {
			return xdsclient.Status{Servers: []xdsclient.ServerState{
				{Address: "a:15010", Asked: true, Since: time.Now(), Err: "refused"}, {Address: "b:15010", Asked: true, Connected: true, Serving: true}, {Address: "c:15010"},
			}}
		}
	})
	described, err := legacy.NewRouter(describedAPI(t))
	if err != nil {
		t.Fatal(err)
	}
	view := func(path string) reply {
		t.Helper()
		r := w.call(t, "GET", path, "")
		(&player{world: w, router: described}).describe(t, &pair{Request: pairRequest{Method: "GET"}}, path, "", r)
		return r
	}
	real := realURLs(t)
	w.call(t, "POST", "/v1/publish", `{"url":"`+greet+`","workload":"shop@1"}`)
	w.say(t, "org.example.GreetService", route.Protected, "the registry lists none", real["java33"])
	w.call(t, "POST", "/v1/subscribe", `{"interface":"org.example.GreetService","group":"g1","version":"1.0.0","workload":"shop@1"}`)

	var st Status
	view("/v1/status").into(t, &st)
	if st.Agent != bootID || len(st.Registries) != 1 || st.Registries[0].Published != 1 || len(st.Workloads) != 1 {
		t.Errorf("%+v", st)
	}
	if x := st.XDS; len(x) != 3 || x[0].State != XDSAway || x[0].Error != "refused" || x[1].State != XDSServing || x[2].State != XDSUnused {
		t.Errorf("xds %+v", x)
	}
	if len(st.Protected) != 1 || !strings.Contains(st.Protected[0].Reason, "the registry lists none") {
		t.Errorf("protected %+v", st.Protected)
	}
	var services Services
	view("/v1/services").into(t, &services)
	if len(services.Inbound) != 1 || len(services.Outbound) != 1 || services.Outbound[0].Providers != 1 {
		t.Errorf("%+v", services)
	}
	var endpoints Endpoints
	view("/v1/endpoints?service=g1/org.example.GreetService:1.0.0").into(t, &endpoints)
	if len(endpoints.Endpoints) != 1 || endpoints.Endpoints[0].Address != "192.0.2.2:20987" {
		t.Errorf("%+v", endpoints)
	}
	var why Explanation
	view("/v1/explain?service=g1/org.example.GreetService:1.0.0&method=sayHello&attachment=dubbo.tag=gray&argument=0=a=b").into(t, &why)
	if !why.Routed || why.State != route.Protected || len(why.Candidates) != 1 {
		t.Errorf("%+v", why)
	}
	w.call(t, "GET", "/v1/explain", "").refused(t, 422, "invalid")
	w.call(t, "GET", "/v1/explain?service=a.B&methods=x", "").refused(t, 400, "unknown-field")
	w.call(t, "GET", "/v1/status?verbose=1", "").refused(t, 400, "unknown-field")
}

// lookedFor is routes in which every interface is found when somebody looks for it.
type lookedFor struct {
	Routes
	found func(iface string)
}

func (l lookedFor) Await(_ context.Context, iface string) bool {
	l.found(iface)
	return true
}

func (l lookedFor) AwaitService(ctx context.Context, s registry.Service) bool {
	return l.Await(ctx, s.Interface)
}

// TestViewsLookForIt: what nobody asked for yet is looked for, as for a call; the
// inbound side is known without looking.
func TestViewsLookForIt(t *testing.T) {
	var w *world
	w = start(t, func(o *Options) {
		o.Routes = lookedFor{o.Routes, func(iface string) { w.say(t, iface, route.Empty, "") }}
	})
	for _, path := range []string{"/v1/explain?service=a.One", "/v1/endpoints?service=g/a.Two:1.0"} {
		r := w.call(t, "GET", path, "")
		if !strings.Contains(r.body, `"state":"empty"`) || !strings.Contains(r.body, `"registries":[{"name":"main","state":"connected"`) {
			t.Errorf("%s: %s", path, r.body)
		}
	}
	var in Explanation
	w.call(t, "GET", "/v1/explain?service=a.Three&direction=inbound", "").into(t, &in)
	if _, known := w.server.o.Routes.Snapshot().Interface("a.Three"); known || in.Registries != nil {
		t.Errorf("inbound looks into registries: %+v", in)
	}
}

// ruledRoutes are routes whose rules lead somewhere.
type ruledRoutes struct {
	Routes
	router *route.Router
}

func (r ruledRoutes) Snapshot() *route.Snapshot             { return r.router.Snapshot() }
func (r ruledRoutes) Changes() *watch.Value[route.Snapshot] { return r.router.Changes() }

// rulesOnce is a source of rules that says one thing.
type rulesOnce route.RuleUpdate

func (r rulesOnce) Run(ctx context.Context, ch chan<- route.RuleUpdate) error {
	ch <- route.RuleUpdate(r)
	<-ctx.Done()
	return nil
}

func (rulesOnce) SetServices([]registry.Service) {}

// TestSubscribeRuled: a consumer of a service that rules alone know is sent to the
// outbound listener, and gets the endpoints for the time without an agent.
func TestSubscribeRuled(t *testing.T) {
	router := route.New(route.Options{
		Rules: rulesOnce{Source: "xds", Synced: true,
			Routes:    map[string]*route.RouteSpec{"r": {Name: "r", Hosts: []string{"*"}, Routes: []route.RouteRule{{Clusters: []route.WeightedCluster{{Cluster: "c", Weight: 1}}}}}},
			Clusters:  map[string]*route.ClusterSpec{"c": {Name: "c"}},
			Endpoints: map[string]*route.EndpointSet{"c": {Localities: []route.LocalitySpec{{Endpoints: []route.EndpointSpec{{Address: "10.0.0.7:20882"}}}}}}},
		Host:    func(s registry.Service) string { return strings.ToLower(s.Interface) },
		Routing: func(registry.Service) route.Routing { return route.FromXDS },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { router.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	s := registry.Service{Interface: "a.Ruled", Version: "1.0"}
	if !router.AwaitService(t.Context(), s) {
		t.Fatal("no rules")
	}
	w := start(t, func(o *Options) { o.Routes = ruledRoutes{o.Routes, router} })
	var d Document
	w.call(t, "POST", "/v1/subscribe", `{"interface":"a.Ruled","version":"1.0","application":"x"}`).into(t, &d)
	if d.State != StateReady || len(d.URLs["providers"]) != 1 || !strings.HasPrefix(d.URLs["providers"][0], "dubbo://127.0.0.1:20881/a.Ruled?") ||
		len(d.Fallback) != 1 || !strings.HasPrefix(d.Fallback[0], "dubbo://10.0.0.7:20882/a.Ruled?") {
		t.Errorf("%+v", d)
	}
}
