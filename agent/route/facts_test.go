package route

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// vector is one case of what Dubbo 3.3.6 answered.
type vector struct {
	Name, Kind, Error        string
	Uptime, Warmup, Weight   int64
	ProviderURL, RegistryURL string
	Expect                   json.RawMessage
	ExpectShare              []float64
	Providers                []string
	Steps                    []struct{ Providers []string }
	Draws                    int
}

func vectors(t *testing.T, kind string) []vector {
	t.Helper()
	content, err := os.ReadFile("testdata/loadbalance-3.3.6.json")
	if err != nil {
		t.Fatal(err)
	}
	var all, list []vector
	if err := json.Unmarshal(content, &all); err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Kind == kind {
			list = append(list, v)
		}
	}
	if len(list) == 0 {
		t.Fatalf("no vectors of kind %s", kind)
	}
	return list
}

// at replaces ${now-1000} by milliseconds.
func at(t *testing.T, text string, now time.Time) string {
	t.Helper()
	before, rest, ok := strings.Cut(text, "${now")
	if !ok {
		return text
	}
	offset, after, _ := strings.Cut(rest, "}")
	n, err := strconv.ParseInt(offset, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return before + strconv.FormatInt(now.UnixMilli()+n, 10) + after
}

func (v vector) number(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(string(v.Expect))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWarmupIsDubbos(t *testing.T) {
	now := time.Now()
	for _, v := range vectors(t, "warmup") {
		if v.Weight < 0 || v.Weight > mostWeight { // weightOf gives none of these
			continue
		}
		e := &Endpoint{Weight: int(v.Weight), facts: &facts{began: now.Add(-time.Duration(v.Uptime) * time.Millisecond), warmup: time.Duration(v.Warmup) * time.Millisecond}}
		if got, _ := e.effective(now); int(got) != v.number(t) {
			t.Errorf("%s: weight %d, want %d", v.Name, got, v.number(t))
		}
	}
}

func TestWeightIsDubbos(t *testing.T) {
	now := time.Now()
	for _, v := range vectors(t, "weight") {
		switch {
		case v.RegistryURL != "": // weights of registries are not here
			continue
		case strings.Contains(v.Name, "-method"): // weights of methods are not here
			continue
		case v.Name == "weight-ts-bad" || v.Name == "weight-not-a-number": // Dubbo throws; here: no warm-up, 100
			v.Expect = json.RawMessage("100")
		}
		u := mustURL(t, at(t, v.ProviderURL, now))
		e := newEndpoint(newPeer("x"), u, factsOf(u))
		if got, _ := e.effective(now); int(got) != v.number(t) {
			t.Errorf("%s: weight %d, want %d", v.Name, got, v.number(t))
		}
	}
}

func TestWeightOfDubboGo(t *testing.T) {
	for _, c := range []struct {
		text string
		want int
	}{
		{"dubbo://h:1/a.B?release=dubbo-golang-3.3.2&weight=0", 100},
		{"dubbo://h:1/a.B?release=dubbo-golang-3.3.2&weight=7", 7},
		{"dubbo://h:1/a.B?release=3.3.6&weight=0", 0},
		{"dubbo://h:1/a.B?weight=many", 100},
		{"dubbo://h:1/a.B?weight=99999999999", 100},
		{"dubbo://h:1/a.B?weight=2147483647", mostWeight},
	} {
		if got := factsOf(mustURL(t, c.text)).weight; got != c.want {
			t.Errorf("%s: weight %d, want %d", c.text, got, c.want)
		}
	}
	java, golang := beganOf("1795176302000"), beganOf("1795176302")
	if !java.Equal(golang) {
		t.Errorf("milliseconds give %v, seconds %v", java, golang)
	}
}

// A provider that just started gets a growing share without a new snapshot.
func TestWarmupGrowsInTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stamp := strconv.FormatInt(time.Now().UnixMilli(), 10)
		r, stop := running(t, Options{})
		defer stop()
		r.updates <- ready("a.B",
			ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B&timestamp=900000000000"),
			ifaceLevel(t, "dubbo://10.0.0.2:20880/a.B?interface=a.B&timestamp="+stamp))
		synctest.Wait()
		s := r.Snapshot()
		cl := s.Outbound.find("a.B", "", "")
		for _, c := range []struct {
			after time.Duration
			want  uint32
		}{{0, 1}, {time.Minute, 10}, {5 * time.Minute, 50}, {9*time.Minute + 57*time.Second, 99}, {10*time.Minute + 3*time.Second, 100}} {
			time.Sleep(c.after - time.Since(time.UnixMilli(mustInt(t, stamp))))
			synctest.Wait()
			if got := cl.balance.Load().weights; got[0] != 100 || got[1] != c.want {
				t.Errorf("after %v: weights %v, want 100 and %d", c.after, got, c.want)
			}
		}
		if r.Snapshot() != s {
			t.Error("warm-up made a new snapshot")
		}
		if len(r.c.warming) != 0 {
			t.Errorf("%d clusters still warm up", len(r.c.warming))
		}
	})
}

func mustInt(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Whatever a registry holds, the facts are within their bounds.
func FuzzFacts(f *testing.F) {
	f.Add(direct1)
	f.Add(mesh1 + "&weight=-1&warmup=x&timeout=3s&m.timeout=-5&methods.n.timeout=9")
	f.Add("dubbo://[::1]:1/?interface=&version=0.0.0&token=false&a.0.callback=true&category=,providers")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := registry.ParseURL(text)
		if err != nil {
			t.Skip()
		}
		x := factsOf(u)
		if x.weight < 0 || x.weight > mostWeight || x.warmup < 0 || x.timeouts.iface < 0 || x.service.Version == "0.0.0" || x.origin != "" && !x.mesh {
			t.Errorf("%q: %+v", text, x)
		}
		for m, d := range x.timeouts.methods {
			if d <= 0 {
				t.Errorf("%q: method %s has %v", text, m, d)
			}
		}
		w, _ := newEndpoint(nil, u, x).effective(time.Now())
		if (w == 0) != (x.weight == 0) || int(w) > x.weight {
			t.Errorf("%q: effective weight %d of %d", text, w, x.weight)
		}
		all := merge([]Update{{Source: "main", Providers: []registry.Provider{{URL: u}, {URL: u, Model: registry.ModelInterface}}}})
		used := 0
		for _, c := range all {
			if c.excluded == "" {
				used++
			}
		}
		if len(all) != 2 || used > 1 {
			t.Errorf("%q: counts %d times", text, used)
		}
	})
}
