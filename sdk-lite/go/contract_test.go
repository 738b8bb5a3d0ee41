package meshferry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pair is one request and its answer, as agent/api answers it. Source:
// sdk-lite/contract/README.md.
type pair struct {
	Name    string
	Request struct {
		Method, Path string
		Body         json.RawMessage
	}
	Response struct {
		Status int
		Body   json.RawMessage
		Lines  []json.RawMessage
	}
}

var placeholders = []struct {
	find *regexp.Regexp
	put  string
}{
	{regexp.MustCompile(`"\$\{revision(\d*)\}"`), "4$1"}, // a number
	{regexp.MustCompile(`\$\{revision(\d*)\}`), "4$1"},
	{regexp.MustCompile(`\$\{subscription(\d*)\}`), "s-$1"},
	{regexp.MustCompile(`\$\{agent\}`), "b1"},
	{regexp.MustCompile(`\$\{[^}]*\}`), "x"},
}

func fill(text []byte) []byte {
	for _, p := range placeholders {
		text = p.find.ReplaceAll(text, []byte(p.put))
	}
	return text
}

// TestContract makes every request of the contract that this client can make,
// compares what is sent, and reads every answer with types that must know each
// field of it.
func TestContract(t *testing.T) {
	files, err := filepath.Glob("../contract/*.json")
	if err != nil || len(files) == 0 {
		t.Skip("the contract is not beside this module")
	}
	replayed := map[string]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var pairs []pair
		if err := json.Unmarshal(fill(text), &pairs); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, p := range pairs {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".json")+"/"+p.Name, func(t *testing.T) {
				if call := replay(t, p); call != "" {
					replayed[call]++
				} else {
					t.Skip("not a request of this client")
				}
			})
		}
	}
	for _, call := range []string{"publish", "unpublish", "subscribe", "unsubscribe", "watch", "lease"} {
		if replayed[call] == 0 {
			t.Errorf("nothing of %s was replayed", call)
		}
	}
}

// replay makes the call of a pair and names it; empty: the client makes none such.
func replay(t *testing.T, p pair) string {
	var sent []byte
	var sentPath *url.URL
	answer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ = io.ReadAll(r.Body)
		sentPath = r.URL
		if r.Method != p.Request.Method {
			t.Errorf("sent %s, want %s", r.Method, p.Request.Method)
		}
		w.WriteHeader(p.Response.Status)
		w.Write(p.Response.Body)
		for _, l := range p.Response.Lines {
			w.Write(append(oneLine(t, l), '\n'))
		}
	}))
	defer answer.Close()
	l, err := newLink(answer.Listener.Addr().String(), "", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var from requester
	strictly := func(into any) bool { return strict(p.Request.Body, into) == nil }
	path, query, _ := strings.Cut(p.Request.Path, "?")
	var got any
	switch call := strings.TrimPrefix(path, "/v1/"); call {
	case "publish", "unpublish":
		var body struct {
			requester
			Publication
		}
		if !strictly(&body) {
			return ""
		}
		from = body.requester
		pub := body.Publication
		from.Wait, pub.Wait = "", waitOf(body.requester.Wait)
		got, err = l.change(t.Context(), path, from, pub)
	case "subscribe", "unsubscribe":
		var body consumerRequest
		if !strictly(&body) {
			return ""
		}
		if from = body.requester; call == "unsubscribe" {
			err = l.unsubscribe(t.Context(), from, body.Consumer)
		} else {
			got, err = l.subscribe(t.Context(), from, body.Consumer)
		}
	case "watch":
		q, _ := url.ParseQuery(query)
		revision, _ := strconv.ParseUint(q.Get("revision"), 10, 64)
		got, err = l.watch(t.Context(), Answer{Subscription: q.Get("subscription"), Agent: q.Get("agent"), Revision: revision}, waitOf(q.Get("wait")))
	case "lease":
		var body struct{ Workload, TTL string }
		if p.Request.Method != http.MethodPost || !strictly(&body) || body.TTL == "" {
			return ""
		}
		var heard []string
		err = l.lease(t.Context(), body.Workload, waitOf(body.TTL), func(boot string) { heard = append(heard, boot) })
		if p.Response.Status == http.StatusOK {
			if len(heard) != len(p.Response.Lines) || heard[0] != "b1" {
				t.Errorf("heard %q", heard)
			}
			err = nil // that the stream ended is the server's doing
		}
		if sameJSON(t, sent, p.Request.Body); p.Response.Status == http.StatusOK {
			return call
		}
	default:
		return ""
	}
	call := strings.TrimPrefix(path, "/v1/")
	if sentPath.Path != path {
		t.Errorf("sent to %s, want %s", sentPath.Path, path)
	}
	if call != "watch" && call != "lease" {
		sameJSON(t, sent, p.Request.Body)
	}
	checkOutcome(t, p, got, err)
	return call
}

// checkOutcome holds what the client made of an answer against the answer.
func checkOutcome(t *testing.T, p pair, got any, err error) {
	t.Helper()
	switch s := p.Response.Status; {
	case s == http.StatusGone:
		if !errors.Is(err, errGone) {
			t.Errorf("410 gave %v", err)
		}
	case s == http.StatusTooManyRequests || s >= 500:
		if !errors.Is(err, errAway) {
			t.Errorf("%d gave %v", s, err)
		}
	case s >= 400:
		var want struct {
			Error struct{ Code, Message string }
		}
		if e := json.Unmarshal(p.Response.Body, &want); e != nil {
			t.Fatal(e)
		}
		var r *Refusal
		if !errors.As(err, &r) || !refused(err) || r.Status != s || r.Code != want.Error.Code || r.Message != want.Error.Message {
			t.Errorf("%d gave %v", s, err)
		}
	case err != nil:
		t.Errorf("%d gave %v", s, err)
	case got != nil && s != http.StatusNotModified:
		fresh := reflect.New(reflect.TypeOf(got))
		if err := strict(p.Response.Body, fresh.Interface()); err != nil {
			t.Errorf("the answer has what %T does not: %v", got, err)
		} else if !reflect.DeepEqual(fresh.Elem().Interface(), got) {
			t.Errorf("read %+v, want %+v", got, fresh.Elem().Interface())
		}
	}
}

func strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

func waitOf(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err == nil && d == 0 {
		return -1
	}
	return d
}

func oneLine(t *testing.T, text []byte) []byte {
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sameJSON compares two objects. An empty name of a workload or client, which a
// Client never has, is none.
func sameJSON(t *testing.T, got, want []byte) {
	t.Helper()
	var g, w map[string]any
	bad := json.Unmarshal(got, &g) != nil || json.Unmarshal(want, &w) != nil
	for _, k := range []string{"workload", "client"} {
		if g[k] == "" {
			delete(g, k)
		}
	}
	if bad || !reflect.DeepEqual(g, w) {
		t.Errorf("sent %s\nwant %s", got, want)
	}
}
