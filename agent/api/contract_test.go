package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

const contractDir = "../../sdk-lite/contract"

// pair is one request and what it is answered; sdk-lite/contract/README.md
// describes the format.
type pair struct {
	Name     string      `json:"name"`
	Given    []string    `json:"given,omitempty"`
	Request  pairRequest `json:"request"`
	Response struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers,omitempty"`
		Body    any               `json:"body,omitempty"`
		Lines   []any             `json:"lines,omitempty"`
	} `json:"response"`
}

type pairRequest struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    any               `json:"body,omitempty"`
	Text    *string           `json:"text,omitempty"`
	Padding int               `json:"padding,omitempty"`
}

// TestContract replays every pair of sdk-lite/contract against a real server, and
// holds both sides to the OpenAPI description. With -update it writes what the
// server answers.
func TestContract(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(contractDir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no contract: %v", err)
	}
	router, err := legacy.NewRouter(describedAPI(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var pairs []pair
			d := json.NewDecoder(bytes.NewReader(text))
			d.DisallowUnknownFields()
			if err := d.Decode(&pairs); err != nil {
				t.Fatal(err)
			}
			p := player{router: router, bound: map[string]any{}}
			p.world = start(t, func(o *Options) {
				o.FirstSet = 50 * time.Millisecond
				o.Draining = p.stopping.Load
			})
			for i := range pairs {
				if !t.Run(pairs[i].Name, func(t *testing.T) { p.play(t, &pairs[i]) }) {
					break // what follows builds on it
				}
			}
			if *update {
				writeJSON(t, file, pairs)
			}
		})
	}
}

// player replays the pairs of one file.
type player struct {
	world    *world
	router   routers.Router
	stopping atomic.Bool
	bound    map[string]any // values of placeholders
}

func (p *player) play(t *testing.T, pair *pair) {
	for _, g := range pair.Given {
		p.given(t, g)
	}
	body := ""
	switch q := pair.Request; {
	case q.Text != nil:
		body = *q.Text + strings.Repeat(" ", q.Padding)
	case q.Body != nil:
		body = p.fill(t, marshal(t, q.Body))
	}
	path := p.fill(t, pair.Request.Path)
	var header []string
	for k, v := range pair.Request.Headers {
		header = append(header, k, v)
	}
	var got reply
	if n := len(pair.Response.Lines); n > 0 {
		got = p.stream(t, path, body, n)
	} else {
		got = p.world.call(t, pair.Request.Method, path, body, header...)
	}
	p.describe(t, pair, path, body, got)
	if *update {
		p.record(t, pair, got)
		return
	}
	if got.status != pair.Response.Status {
		t.Fatalf("status %d, want %d: %s", got.status, pair.Response.Status, got.body)
	}
	for k, v := range pair.Response.Headers {
		if got.header.Get(k) != v {
			t.Errorf("%s: %q, want %q", k, got.header.Get(k), v)
		}
	}
	want := []any{pair.Response.Body}
	if pair.Response.Lines != nil {
		want = pair.Response.Lines
	}
	for i, v := range documents(t, got.body) {
		if i >= len(want) {
			t.Fatalf("more than wanted: %s", got.body)
		}
		if diff := p.match("", want[i], v); diff != "" {
			t.Errorf("%s\nin %s", diff, got.body)
		}
	}
}

// given brings the world into a state. The README lists the phrases.
func (p *player) given(t *testing.T, phrase string) {
	t.Helper()
	w := p.world
	words := strings.Fields(phrase)
	urls := func(texts []string) (list []registry.URL) {
		for _, text := range texts {
			list = append(list, mustURL(t, text))
		}
		return list
	}
	const iface = "com.a.Foo"
	switch {
	case phrase == "registry away":
		w.registry.set(true, false)
	case phrase == "registry back", phrase == "registry entries free":
		w.registry.set(false, false)
		loop := w.server.o.Registries()[0].State
		eventually(t, "the registry holds everything", func() bool { return loop.Load().InSync })
	case phrase == "registry entries held by another agent":
		w.registry.set(false, true)
	case words[0] == "port" && words[2] == "closed":
		w.ports.set(":" + words[1])
	case words[0] == "port" && words[2] == "open":
		w.ports.set()
	case words[0] == "user":
		uid, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		p := workload.Publication{URL: mustURL(t, words[3]), Owner: workload.Owner{UID: uid, PID: -1}}
		if _, err := w.store.Publish(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it lives", func() bool {
			return slices.ContainsFunc(w.store.View().Load().Publications, func(o workload.Publication) bool { return o.URL == p.URL && o.Live })
		})
	case phrase == "providers":
		w.say(t, iface, route.Empty, "")
	case words[0] == "providers":
		w.say(t, iface, route.Ready, "", urls(words[1:])...)
	case words[0] == "protected":
		w.say(t, iface, route.Protected, "the registry lists none", urls(words[1:])...)
	case phrase == "all places taken":
		for w.server.working.take() {
			t.Cleanup(w.server.working.give)
		}
	case phrase == "stopping":
		p.stopping.Store(true)
	default:
		t.Fatalf("unknown phrase %q", phrase)
	}
}

// stream reads the first n lines of an answer that does not end.
func (p *player) stream(t *testing.T, path, body string, n int) reply {
	t.Helper()
	res, err := p.world.client.Post(p.world.tcp+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := reply{status: res.StatusCode, header: res.Header}
	lines := bufio.NewScanner(res.Body)
	for range n {
		if !lines.Scan() {
			t.Fatalf("the stream ended: %v", lines.Err())
		}
		r.body += lines.Text() + "\n"
	}
	return r
}

// describe holds request and answer to the OpenAPI description. A refused
// request need not fit it, and what is not described is refused.
func (p *player) describe(t *testing.T, pair *pair, path, body string, got reply) {
	t.Helper()
	// The router of the description looks at the decoded path.
	req, err := http.NewRequestWithContext(t.Context(), pair.Request.Method, "http://127.0.0.1:20883"+strings.ReplaceAll(path, "%2F", "_"), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	found, params, err := p.router.FindRoute(req)
	if err != nil {
		if got.status != http.StatusNotFound && got.status != http.StatusMethodNotAllowed {
			t.Errorf("%s %s is not described: %v", pair.Request.Method, path, err)
		}
		return
	}
	in := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: found,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true},
	}
	if got.status < 400 {
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			t.Errorf("the request is not as described: %v", err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: got.status, Header: got.header, Options: in.Options}
	if len(pair.Response.Lines) > 0 {
		return // a stream is described as text
	}
	out.SetBodyBytes([]byte(got.body))
	if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil {
		t.Errorf("the answer is not as described: %v", err)
	}
}

var placeholder = regexp.MustCompile(`\$\{(\w+)\}`)

// fill puts the bound values in the place of placeholders.
func (p *player) fill(t *testing.T, text string) string {
	t.Helper()
	return placeholder.ReplaceAllStringFunc(text, func(s string) string {
		value, ok := p.bound[s[2:len(s)-1]]
		if !ok {
			t.Fatalf("%s is not bound", s)
		}
		return fmt.Sprint(value)
	})
}

// match compares an answer with what the contract says; it binds placeholders.
// The result names the first difference.
func (p *player) match(at string, want, got any) string {
	switch want := want.(type) {
	case map[string]any:
		have, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s: want an object, got %v", at, got)
		}
		for k := range have {
			if _, ok := want[k]; !ok {
				return fmt.Sprintf("%s.%s: not in the contract", at, k)
			}
		}
		for k, w := range want {
			h, ok := have[k]
			if !ok {
				return fmt.Sprintf("%s.%s: missing", at, k)
			}
			if at == ".error" && (k == "message" || k == "detail") {
				continue // examples: the words may change
			}
			if diff := p.match(at+"."+k, w, h); diff != "" {
				return diff
			}
		}
		return ""
	case []any:
		have, ok := got.([]any)
		if !ok || len(have) != len(want) {
			return fmt.Sprintf("%s: %v, want %v", at, got, want)
		}
		for i := range want {
			if diff := p.match(fmt.Sprintf("%s[%d]", at, i), want[i], have[i]); diff != "" {
				return diff
			}
		}
		return ""
	case string:
		if want == "${*}" {
			return ""
		}
		if name := placeholder.FindStringSubmatch(want); name != nil && name[0] == want {
			if old, ok := p.bound[name[1]]; !ok {
				p.bound[name[1]] = got
			} else if old != got {
				return fmt.Sprintf("%s: %v, want %v (%s)", at, got, old, want)
			}
			return ""
		}
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Sprintf("%s: %v, want %v", at, got, want)
	}
	return ""
}

// record writes an answer into the pair, volatile values as placeholders.
func (p *player) record(t *testing.T, pair *pair, got reply) {
	t.Helper()
	pair.Response.Status = got.status
	pair.Response.Headers = nil
	for _, k := range []string{"Retry-After", "Allow"} {
		if v := got.header.Get(k); v != "" {
			pair.Response.Headers = map[string]string{k: v}
		}
	}
	docs := documents(t, got.body)
	for i := range docs {
		docs[i] = p.volatile("", docs[i])
	}
	if pair.Response.Lines != nil {
		pair.Response.Lines = docs
	} else if pair.Response.Body = nil; len(docs) > 0 {
		pair.Response.Body = docs[0]
	}
}

func (p *player) volatile(key string, v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k := range x {
			x[k] = p.volatile(k, x[k])
		}
		return x
	case []any:
		for i := range x {
			x[i] = p.volatile(key, x[i])
		}
		return x
	}
	switch key {
	case "age":
		return "${*}"
	case "agent":
		p.bound[key] = v
		return "${agent}"
	case "revision", "subscription", "subscriptions":
		key = strings.TrimSuffix(key, "s")
		for n := 1; ; n++ {
			name := key + strconv.Itoa(n)
			if old, ok := p.bound[name]; !ok || old == v {
				p.bound[name] = v
				return "${" + name + "}"
			}
		}
	}
	return v
}

// documents are the JSON values of a body, one after the other.
func documents(t *testing.T, body string) (list []any) {
	t.Helper()
	for d := json.NewDecoder(strings.NewReader(body)); d.More(); {
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		list = append(list, v)
	}
	return list
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func writeJSON(t *testing.T, file string, v any) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
