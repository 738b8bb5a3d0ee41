package api

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

func TestDecode(t *testing.T) {
	for _, test := range []struct {
		body    string
		code    string // empty: fine
		message string
		detail  string
	}{
		{body: `{"url":"a","workload":"b"}`},
		{body: ` {"publications":[{"interface":"a"}]} `},
		{body: `{"interfaces":"a.B"}`, code: "unknown-field", message: `did you mean "interface"?`, detail: "application"},
		{body: `{"publications":[{"verson":"1"}]}`, code: "unknown-field", message: `did you mean "version"?`},
		{body: `{"qqqqqqqqqqqqqqq":1}`, code: "unknown-field", message: `unknown field "qqqqqqqqqqqqqqq"`, detail: "known fields"},
		{body: `{"port":"20880"}`, code: "malformed", message: "port: want a number, found string"},
		{body: `{"methods":"a,b"}`, code: "malformed", message: "want a list"},
		{body: `[]`, code: "malformed", message: "want an object"},
		{body: `{"url":`, code: "malformed", message: "bad JSON"},
		{body: `{"url":}`, code: "malformed", message: "at byte 8"},
		{body: ``, code: "malformed", message: "empty"},
		{body: `{} {}`, code: "malformed", message: "text after"},
		{body: `{}x`, code: "malformed", message: "text after"},
	} {
		err := decode(strings.NewReader(test.body), &publishRequest{})
		var r *refusal
		switch {
		case test.code == "" && err == nil:
		case test.code == "" || !errors.As(err, &r) || r.code != test.code || !strings.Contains(r.message, test.message) || !strings.Contains(r.detail, test.detail):
			t.Errorf("%s: %v (%+v); want %s %q", test.body, err, r, test.code, test.message)
		}
	}
}

func TestPublicationRequests(t *testing.T) {
	for _, test := range []struct {
		body string
		url  string // of the publication
		code string // of the refusal
	}{
		{body: `{"url":"dubbo://10.0.0.5:20880/a.B?interface=a.B&z=1&b=2"}`, url: "dubbo://10.0.0.5:20880/a.B?interface=a.B&z=1&b=2"},
		{body: `{"interface":"a.B","port":1}`, url: "dubbo://:1/a.B?interface=a.B&side=provider"},
		{body: `{"interface":"a.B","port":1,"path":"x/y","host":"10.0.0.5","protocol":"tri","params":{"b":"1","a":"2"}}`,
			url: "tri://10.0.0.5:1/x/y?a=2&b=1&interface=a.B&side=provider"},
		{body: `{"interface":"a.B","port":1,"group":"","version":""}`, url: "dubbo://:1/a.B?interface=a.B&side=provider"},
		{body: `{"url":"dubbo//x"}`, code: "bad-url"},
		{body: `{"url":"dubbo://h:1/` + strings.Repeat("a", registry.MaxURL) + `"}`, code: "bad-url"},
		{body: `{"url":"dubbo://h:1/a.B","port":2}`, code: "invalid"},
		{body: `{"url":"dubbo://h:1/a.B","interface":"a.C"}`, code: "invalid"},
		{body: `{}`, code: "invalid"},
		{body: `{"interface":"*","port":1}`, code: "invalid"},
		{body: `{"interface":"a/B","port":1}`, code: "invalid"},
		{body: `{"interface":"a.B","port":1,"group":"a/b"}`, code: "invalid"},
		{body: `{"interface":"a.B","port":1,"params":{"a":"1&b=2"}}`, code: "invalid"},
		{body: `{"interface":"a.B","port":1,"params":{"a=b":"1"}}`, code: "invalid"},
		{body: `{"interface":"a.B","port":1,"group":"g","params":{"group":"h"}}`, code: "invalid"},
		{body: `{"interface":"a.B","port":1,"registries":["other"]}`, code: "invalid"},
	} {
		var r publishRequest
		if err := decode(strings.NewReader(test.body), &r); err != nil {
			t.Fatal(err)
		}
		items, _, err := r.items()
		if err != nil {
			t.Fatal(err)
		}
		p, err := items[0].publication([]string{"main"})
		switch {
		case test.code == "" && (err != nil || p.URL.String() != test.url):
			t.Errorf("%s: %s, %v; want %s", test.body, p.URL, err, test.url)
		case test.code != "" && (err == nil || refusalOf(err).code != test.code):
			t.Errorf("%s: %v, want %s", test.body, err, test.code)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	w := start(t, nil)
	for _, test := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"POST", "/v1/publish", `{"url":"` + greet + `","wait":"1h"}`, 422, "invalid"},
		{"POST", "/v1/publish", `{"url":"` + greet + `","wait":"soon"}`, 422, "invalid"},
		{"POST", "/v1/publish", `{"url":"` + greet + `","workload":"a b"}`, 422, "invalid"},
		{"POST", "/v1/publish", `{"url":"dubbo://10.0.0.5:20882/a.B"}`, 422, "invalid"},
		{"POST", "/v1/publish", `{"url":"dubbo://10.0.0.5:20880/a.B?meshferry.caps=1"}`, 422, "invalid"},
		{"POST", "/v1/publish", `{"url":"injvm://10.0.0.5:80/a.B"}`, 422, "invalid"},
		{"POST", "/v1/publish", `{"publications":[]}`, 422, "invalid"},
		{"POST", "/v1/publish", `{"publications":[{"url":"` + greet + `"}],"url":"` + greet + `"}`, 422, "invalid"},
		{"POST", "/v1/unpublish", `{}`, 422, "invalid"},
		{"POST", "/v1/subscribe", `{"url":"dubbo://10.0.0.5:20880/a.B"}`, 422, "invalid"},
		{"POST", "/v1/subscribe", `{"interface":"*"}`, 422, "invalid"},
		{"POST", "/v1/subscribe", `{"port":1}`, 400, "unknown-field"},
		{"POST", "/v1/unsubscribe", `{}`, 422, "invalid"},
		{"POST", "/v1/lease", `{}`, 422, "invalid"},
		{"POST", "/v1/lease", `{"workload":"x","ttl":"1ms"}`, 422, "invalid"},
		{"PUT", "/v1/lease/x", `{"workload":"y"}`, 422, "invalid"},
		{"PUT", "/v1/lease/a%20b", "", 422, "invalid"},
		{"GET", "/v1/watch", "", 422, "invalid"},
		{"GET", "/v1/watch?subscription=s&revision=x", "", 422, "invalid"},
		{"GET", "/v1/watch?subscription=s&wait=1h", "", 422, "invalid"},
		{"GET", "/v1/watch?subscribtion=s", "", 400, "unknown-field"},
		{"GET", "/v1/explain?service=a.B&attachment=x", "", 422, "invalid"},
		{"GET", "/v1/explain?service=a.B&argument=x=1", "", 422, "invalid"},
		{"GET", "/v1/explain?service=a.B&argument=0", "", 422, "invalid"},
		{"GET", "/v1/explain?service=a.B&direction=up", "", 422, "invalid"},
	} {
		r := w.call(t, test.method, test.path, test.body)
		t.Run(test.method+" "+test.path+" "+test.body, func(t *testing.T) { r.refused(t, test.status, test.code) })
	}
}

// TestStop: when the agent stops, what is held ends at once and says why.
func TestStop(t *testing.T) {
	w := start(t, nil)
	var d Document
	w.call(t, "POST", "/v1/subscribe", `{"interface":"a.B","application":"x","categories":["configurators"]}`).into(t, &d)
	tcp := listen(t, "tcp", "127.0.0.1:0")
	o := w.server.o
	o.Listeners = o.Listeners[:0:0]
	o.Listeners = append(o.Listeners, tcp)
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	base := "http://" + tcp.Addr().String()
	res, err := w.client.Post(base+"/v1/lease", "application/json", strings.NewReader(`{"workload":"shop@9"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Scan()
	watched := make(chan reply, 1)
	r := w.callAt(t, base, "GET", "/v1/watch?wait=0s&subscription="+d.Subscription, "")
	r.into(t, &d)
	go func() {
		r, err := w.send(t.Context(), base, http.MethodGet, "/v1/watch?wait=60s&subscription="+d.Subscription+"&revision="+strconv.FormatUint(d.Revision, 10), "")
		if err != nil {
			t.Error(err)
		}
		watched <- r
	}()
	eventually(t, "both are held", func() bool { return len(s.held) == 2 })
	begin := time.Now()
	stop()
	for lines.Scan() {
		continue
	}
	(<-watched).refused(t, 503, "stopping")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("stopping took %v", d)
	}
}

func FuzzPublishRequest(f *testing.F) {
	f.Add(`{"url":"dubbo://10.0.0.5:20880/a.B?interface=a.B"}`)
	f.Add(`{"interface":"a.B","port":1,"params":{"a":"b"},"group":"g","version":"0.0.0"}`)
	f.Add(`{"publications":[{"interface":"a.B"}],"workload":"x"}`)
	f.Fuzz(func(t *testing.T, body string) {
		var r publishRequest
		if decode(strings.NewReader(body), &r) != nil {
			return
		}
		items, _, err := r.items()
		if err != nil {
			return
		}
		for _, item := range items {
			if _, err := item.match(); err != nil && statuses[refusalOf(err).code] >= 500 {
				t.Errorf("match: %v", err)
			}
			p, err := item.publication([]string{"main"})
			if err != nil {
				if statuses[refusalOf(err).code] >= 500 {
					t.Errorf("publication: %v", err)
				}
				continue
			}
			if err := registry.CheckInterface(p.Service.Interface); err != nil {
				t.Errorf("%s: %v", body, err)
			}
		}
	})
}

func FuzzSubscribeRequest(f *testing.F) {
	f.Add(`{"url":"consumer://10.0.0.5/a.B?interface=a.B&category=providers,routers"}`)
	f.Add(`{"interface":"a.B","group":"*","version":"1,2","categories":["providers"]}`)
	f.Fuzz(func(t *testing.T, body string) {
		var r subscribeRequest
		if decode(strings.NewReader(body), &r) != nil {
			return
		}
		sub, err := r.subscription()
		if err != nil {
			if statuses[refusalOf(err).code] >= 500 {
				t.Error(err)
			}
			return
		}
		q := Question{Subscription: sub, State: StateReady, Protocols: []string{"dubbo"}}
		if u, err := registry.ParseURL("dubbo://10.0.0.5:1/a.B?interface=" + sub.Service.Interface); err == nil {
			q.Providers = providers(u)
		}
		Answer(q)
	})
}
