package backend

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var form = Form{Name: "Example", Scheme: "example", Port: 99, Most: 60000, Params: []string{"group", "tls"}}

func TestParse(t *testing.T) {
	of := func(user, password, path string, params map[string]string, servers ...string) Address {
		if params == nil {
			params = map[string]string{}
		}
		return Address{Servers: servers, User: user, Password: password, Path: path, Params: params}
	}
	for in, want := range map[string]Address{
		"example://h1":                                          of("", "", "", nil, "h1:99"),
		" example://h1:1/ ":                                     of("", "", "", nil, "h1:1"),
		"example://h1:1,h2,[::1]:3,[::2]/a/b":                   of("", "", "a/b", nil, "h1:1", "h2:99", "[::1]:3", "[::2]:99"),
		"example://h1:1, h2:2 ,h3?backup=h4, h5:5":              of("", "", "", nil, "h1:1", "h2:2", "h3:99", "h4:99", "h5:5"),
		"example://h1?backup=h1:99,h2":                          of("", "", "", nil, "h1:99", "h2:99"),
		"example://u:p%40ss%2F@h1":                              of("u", "p@ss/", "", nil, "h1:99"),
		"example://u:@h1":                                       of("u", "", "", nil, "h1:99"),
		"example://u:a@b:c@h1":                                  of("u", "a@b:c", "", nil, "h1:99"),
		"example://h1?username=u&password=p%26q":                of("u", "p&q", "", nil, "h1:99"),
		"example://u:x@h1?password=p&group=g&tls=/etc/ca%2Bpem": of("u", "p", "", map[string]string{"group": "g", "tls": "/etc/ca+pem"}, "h1:99"),
	} {
		if got, err := form.Parse(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v\nwant %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                                      "bad Example address: it does not begin with example://",
		"h1:99":                                 "it does not begin with example://",
		"other://h1":                            "it does not begin with example://",
		"example://":                            `server "": want host:port, the port at most 60000`,
		"example:///r":                          `server "": want host:port`,
		"example://h1,,h2":                      `server "": want host:port`,
		"example://h1:0":                        `server "h1:0": want host:port`,
		"example://h1:60001":                    `server "h1:60001": want host:port, the port at most 60000`,
		"example://h 1":                         `server "h 1": want host:port`,
		"example://::1":                         `server "::1": want host:port`,
		"example://secret@h1":                   "want user:password, percent-encoded, before the '@'",
		"example://:secret@h1":                  "want user:password, percent-encoded, before the '@'",
		"example://u:%zzsecret@h1":              "want user:password, percent-encoded, before the '@'",
		"example://u:secret@h1?username=v":      `the user is "u" before the '@' and "v" in the parameters`,
		"example://h1?password=secret":          "a password without a user",
		"example://u:secret@h1?password=%zz":    "parameters: a '%' without two hex digits, or a ';'",
		"example://h1:1|h2:1":                   "it has several registries: give each an entry of its own",
		"example://h1:1;example://h2:1":         "it has several registries: give each an entry of its own",
		"example://h1?nonsense=1":               `unknown parameter "nonsense"; known are group, tls, backup, username, password`,
		"example://h1?grup=1":                   `unknown parameter "grup" (did you mean "group"?)`,
		"example://h1?register-mode=instance":   `parameter "register-mode": publish.models says at which levels`,
		"example://h1?session=60000":            `parameter "session": sessionTimeout says it, with a unit: 15s`,
		"example://h1?timeout=5":                `parameter "timeout" is for applications: leave it out here`,
		"example://h1?cluster.availablecheck=x": `parameter "cluster.availablecheck" is for applications`,
	} {
		if got, err := form.Parse(in); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %+v, %v\nwant an error with %q", in, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("example://u:p%40@h1:1, [::1]/root?group=g&backup=h3&password=x")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := form.Parse(text)
		if err == nil && (len(a.Servers) == 0 || a.Password != "" && a.User == "") {
			t.Errorf("%q: %+v", text, a)
		}
	})
}

// TestSubscriptions has one who reads and one who does not: the first sees each set,
// the second the latest, and both none twice.
func TestSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed := make(chan struct{}, 1)
		s := NewSubscriptions(func() { Poke(changed) })
		ctx, cancel := context.WithCancel(t.Context())
		fast, slow, ended := make(chan registry.Endpoints), make(chan registry.Endpoints), make(chan error, 2)
		for _, ch := range []chan registry.Endpoints{fast, slow} {
			go func() { ended <- s.Subscribe(ctx, "a.B", ch) }()
		}
		synctest.Wait()
		<-changed
		if got := s.Interfaces(); !reflect.DeepEqual(got, map[string]bool{"a.B": true}) {
			t.Errorf("interfaces %v", got)
		}
		nothing := func(ch chan registry.Endpoints) {
			t.Helper()
			synctest.Wait()
			select {
			case e := <-ch:
				t.Errorf("delivered %+v", e)
			default:
			}
		}
		nothing(fast)
		for n := range 5 {
			e := &registry.Endpoints{Interface: "a.B", Incomplete: fmt.Sprint(n)}
			s.Offer(e)
			s.Offer(&registry.Endpoints{Interface: "a.Other"})
			if got := <-fast; got.Incomplete != e.Incomplete {
				t.Errorf("%+v, want %+v", got, e)
			}
			s.Offer(e)
			again := *e
			s.Offer(&again)
			nothing(fast)
		}
		if got := <-slow; got.Incomplete != "4" {
			t.Errorf("the slow one got %+v, want the latest", got)
		}
		nothing(slow)
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		<-changed
		if got := s.Interfaces(); len(got) != 0 {
			t.Errorf("interfaces %v after the last one left", got)
		}
	})
}

// TestRounds: the first comes at once, further ones when it is said, at the earliest
// of the times that were asked for.
func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, begin := NewRounds(), time.Now()
		var at []time.Duration
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.Run(ctx, func() {
				at = append(at, time.Since(begin))
				switch len(at) {
				case 1:
					r.By(begin.Add(time.Minute))
					r.By(begin.Add(time.Second))
					r.By(begin.Add(time.Hour))
				case 3:
					r.By(begin) // in the past
				}
			})
		}()
		time.Sleep(10 * time.Second)
		for range 3 { // one round for all
			r.Poke()
		}
		time.Sleep(time.Hour)
		cancel()
		<-ended
		if got, want := fmt.Sprint(at), "[0s 1s 10s 10s]"; got != want {
			t.Errorf("rounds at %s, want %s", got, want)
		}
	})
}

func TestOutcome(t *testing.T) {
	o := NewOutcome()
	o.Set(registry.Item{State: registry.Held}, "a", "b")
	o.Fail(errors.New("it is wrong"), "c") // of this item alone
	report, err := o.Report()
	if want := (registry.Report{"a": {State: registry.Held}, "b": {State: registry.Held}, "c": {State: registry.Pending, Err: "it is wrong"}}); err != nil || !o.OK() || !reflect.DeepEqual(report, want) {
		t.Errorf("%v, %v, want %v", report, err, want)
	}
	o.Fail(errors.New("not withdrawn"))
	if _, err := o.Report(); err == nil || errors.Is(err, registry.ErrAway) || o.OK() {
		t.Errorf("an error of the whole: %v", err)
	}
	o.Fail(fmt.Errorf("%w: cut", registry.ErrAway), "d")
	if report, err := o.Report(); !errors.Is(err, registry.ErrAway) || report["d"].State != registry.Pending {
		t.Errorf("the registry is away: %v, %v", report, err)
	}
}

func TestRevisions(t *testing.T) {
	at := func(n int64) time.Time { return time.Unix(n, 0) }
	r := Revisions{}
	for _, step := range []struct {
		use     []string
		at      int64
		changed bool
	}{{[]string{"shop/r1"}, 100, true}, {[]string{"shop/r1"}, 110, false}, {[]string{"shop/r2"}, 200, true}, {[]string{"shop/r2"}, 300, false}} {
		if got := r.Use(step.use, at(step.at)); got != step.changed {
			t.Errorf("use of %v at %d: changed is %v", step.use, step.at, got)
		}
	}
	for after, want := range map[int64]string{200: "[]", 201: "[shop/r1]"} {
		if got := fmt.Sprint(r.Unused(at(after).Add(KeepRevisions))); got != want {
			t.Errorf("unused a day after %d: %s, want %s", after, got, want)
		}
	}
	r.Use([]string{"shop/r1"}, at(400)) // used again; now r2 is not
	if got := r.Unused(at(500).Add(KeepRevisions)); !slices.Equal(got, []string{"shop/r2"}) {
		t.Errorf("unused %v", got)
	}
}

func TestMapped(t *testing.T) {
	for in, want := range map[string]string{"": "", "a": "a", "a,b": "a|b", " a , b ,,": "a|b", ",": ""} {
		if got := strings.Join(Mapped(in), "|"); got != want {
			t.Errorf("Mapped(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParseMetadata(f *testing.F) {
	f.Add("r1", []byte(`{"app":"a","revision":"r1","services":{"x:dubbo":{"name":"x","protocol":"dubbo","params":{"k":"v"}}}}`))
	f.Add("", []byte("null"))
	f.Fuzz(func(t *testing.T, revision string, text []byte) {
		m, err := ParseMetadata(revision, text)
		if err != nil {
			return
		}
		if m.Revision != revision {
			t.Errorf("revision %q, want %q", m.Revision, revision)
		}
		if b, err := Marshal(m); err != nil || !SameMetadata(text, b) {
			t.Errorf("%s: then %s, %v", text, b, err)
		}
		registry.ProviderURLs(registry.Instance{Host: "h", Port: 1}, m, "x")
	})
}
