package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dubbo.apache.org/dubbo-go/v3/common/constant"
	"dubbo.apache.org/dubbo-go/v3/global"
	"dubbo.apache.org/dubbo-go/v3/registry"
)

func TestParse(t *testing.T) {
	s, err := parse(strings.Fields("provider --registry mesh://h:1 --port 1 --group g --param a=b --param c=d=e"), io.Discard)
	if err != nil || s.role != "provider" || s.port != 1 || s.group != "g" || s.params["a"] != "b" || s.params["c"] != "d=e" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "neither", "provider", "consumer --registry x more", "provider --registry x --param a", "provider --registry x --calls 1"} {
		if _, err := parse(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := parse([]string{"consumer", "--help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("%v", err)
	}
}

func TestBadRegistryType(t *testing.T) {
	if _, err := instance(settings{registry: "mesh://h:1", registryType: "both"}); err == nil || !strings.Contains(err.Error(), "registry-type") {
		t.Errorf("%v", err)
	}
}

func TestRegistryAddress(t *testing.T) {
	for in, want := range map[string]registry.Options{
		"mesh://127.0.0.1:20883":          {Registry: &global.RegistryConfig{Protocol: "mesh", Address: "mesh://127.0.0.1:20883"}},
		"zookeeper://h1:2181,h2:2181":     {Registry: &global.RegistryConfig{Protocol: "zookeeper", Address: "zookeeper://h1:2181,h2:2181"}},
		"zookeeper://u:p@ss@h1:2181/prod": {Registry: &global.RegistryConfig{Protocol: "zookeeper", Address: "zookeeper://h1:2181", Username: "u", Password: "p@ss", Group: "prod"}},
	} {
		o, err := registryOptions(settings{registry: in, registryType: "all"})
		if err != nil {
			t.Fatal(err)
		}
		got, w := registry.NewOptions(o...).Registry, want.Registry
		if got.Protocol != w.Protocol || got.Address != w.Address || got.Username != w.Username || got.Password != w.Password || got.Group != w.Group {
			t.Errorf("%s: %+v", in, got)
		}
	}
	if _, err := registryOptions(settings{registry: "127.0.0.1:2181", registryType: "all"}); err == nil {
		t.Error("an address without a scheme was taken")
	}
}

func TestSummary(t *testing.T) {
	ledger := []call{
		{N: 1, At: 0, MS: 1, OK: true, Answer: "a"},
		{N: 2, At: 10, MS: 2, Error: "x"},
		{N: 3, At: 20, MS: 5, Error: "y"},
		{N: 4, At: 30, MS: 1, OK: true, Answer: "a"},
		{N: 5, At: 40, MS: 3, Error: "x"},
	}
	s := summarise(ledger)
	if s.Calls != 5 || s.OK != 2 || s.Failed != 3 || s.Errors["x"] != 2 || s.Answers["a"] != 2 || s.Max != 5 || s.P50 != 2 || s.LongestFailure != 15 {
		t.Errorf("%+v", s)
	}
	if s := summarise(nil); s.Calls != 0 {
		t.Errorf("%+v", s)
	}
}

// decode reads the ledger back: lines, then the summary.
func decode(t *testing.T, text *bytes.Buffer) (lines []call, s summary) {
	t.Helper()
	all := strings.Split(strings.TrimSpace(text.String()), "\n")
	for _, l := range all[:len(all)-1] {
		var c call
		if err := json.Unmarshal([]byte(l), &c); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, c)
	}
	if err := json.Unmarshal([]byte(all[len(all)-1]), &s); err != nil {
		t.Fatal(err)
	}
	return lines, s
}

// A load is open: slow answers do not slow it down.
func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		begin := time.Now()
		load(t.Context(), 100, 2*time.Second, json.NewEncoder(&out), func(context.Context) (string, error) {
			if time.Since(begin) >= time.Second {
				return "", errors.New("late")
			}
			time.Sleep(500 * time.Millisecond)
			return "ok", nil
		})
		lines, s := decode(t, &out)
		if len(lines) != 200 || s.Calls != 200 || s.OK != 100 || s.Failed != 100 || s.Skipped != 0 || s.Max != 500 {
			t.Errorf("%d lines, %+v", len(lines), s)
		}
		if last := lines[199]; last.N != 200 || last.At != 1990 {
			t.Errorf("%+v", last)
		}
		if s.LongestFailure != 990 {
			t.Errorf("longest failure %v ms, want 990", s.LongestFailure)
		}
	})
}

func TestLoadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		load(t.Context(), 10000, time.Second, json.NewEncoder(&out), func(context.Context) (string, error) {
			time.Sleep(time.Minute)
			return "", nil
		})
		if _, s := decode(t, &out); s.Calls != maxUnderWay || s.Skipped != 10000-maxUnderWay {
			t.Errorf("%+v", s)
		}
	})
}

func TestLoadEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var out bytes.Buffer
		begin := time.Now()
		load(ctx, 10, time.Hour, json.NewEncoder(&out), func(context.Context) (string, error) { return "", nil })
		if _, s := decode(t, &out); s.Calls < 9 || s.Calls > 11 || time.Since(begin) != time.Second {
			t.Errorf("%+v after %v", s, time.Since(begin))
		}
	})
}

func TestGreeterCounts(t *testing.T) {
	g := &Greeter{"one", &counts{calls: map[string]int{}, peers: map[string]int{}}, false}
	for _, peer := range []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"} {
		ctx := context.WithValue(t.Context(), constant.AttachmentKey, map[string]any{constant.RemoteAddr: peer})
		if text, err := g.SayHello(ctx, "x"); err != nil || text != "hello x, this is one" {
			t.Errorf("%q, %v", text, err)
		}
	}
	if data, err := g.Echo(t.Context(), []byte{1}); err != nil || len(data) != 1 {
		t.Errorf("%v, %v", data, err)
	}
	if _, err := g.Fail(t.Context(), "no"); err == nil || err.Error() != "no" {
		t.Errorf("%v", err)
	}
	s := g.count.stats("one")
	if s.Calls["SayHello"] != 3 || s.Calls["Echo"] != 1 || s.Connections != 2 {
		t.Errorf("%+v", s)
	}
}

func TestCallArguments(t *testing.T) {
	for method, arg := range map[string]string{"Slow": "x", "Echo": "-1"} {
		if _, err := (caller{}).call(t.Context(), method, arg); err == nil {
			t.Errorf("%s(%s) was called", method, arg)
		}
	}
}

func TestAttaching(t *testing.T) {
	for query, want := range map[string]map[string]any{
		"n=1": nil, "attachment=user=jason": {"user": "jason"}, "attachment=a=b%3Dc&attachment=d=": {"a": "b=c", "d": ""},
	} {
		ctx, err := attaching(httptest.NewRequest("GET", "/call?"+query, nil))
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if got, _ := ctx.Value(constant.AttachmentKey).(map[string]any); !maps.Equal(got, want) {
			t.Errorf("%s: %v", query, got)
		}
	}
	for _, bad := range []string{"attachment=user", "attachment==x"} {
		if _, err := attaching(httptest.NewRequest("GET", "/call?"+bad, nil)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestHops(t *testing.T) {
	for _, c := range []struct{ to, answer, want string }{
		{"127.0.0.1:20881", "hello world, this is vm1, called from this host", "consumer → 127.0.0.1:20881 (its agent) → the provider's agent → vm1"},
		{"127.0.0.1:20881", "hello world, this is vm4, called from 10.0.0.3", "consumer → 127.0.0.1:20881 (its agent) → vm4"},
		{"10.0.0.1:20882", "hello world, this is vm1, called from this host", "consumer → 10.0.0.1:20882 (the provider's agent) → vm1"},
		{"10.0.0.4:20880", "hello world, this is vm4, called from 10.0.0.5", "consumer → 10.0.0.4:20880 → vm4"},
		{"127.0.0.1:20881", "hello world, this is vm1", "consumer → 127.0.0.1:20881 → vm1"},
		{"127.0.0.1:20881", "", ""},
	} {
		if got := hops(c.to, c.answer); got != c.want {
			t.Errorf("%s, %q: %q, want %q", c.to, c.answer, got, c.want)
		}
	}
}

func TestGreeterTellsCaller(t *testing.T) {
	g := &Greeter{"one", &counts{calls: map[string]int{}, peers: map[string]int{}}, true}
	for _, c := range [][3]string{{"10.0.0.1:5", "10.0.0.2:20880", "10.0.0.1"}, {"10.0.0.2:5", "10.0.0.2:20880", "this host"}, {"[::1]:5", "[::1]:20880", "this host"}} {
		ctx := context.WithValue(t.Context(), constant.AttachmentKey, map[string]any{constant.RemoteAddr: c[0], constant.LocalAddr: c[1]})
		if text, err := g.SayHello(ctx, "x"); err != nil || text != "hello x, this is one, called from "+c[2] {
			t.Errorf("%q, %v", text, err)
		}
	}
}
