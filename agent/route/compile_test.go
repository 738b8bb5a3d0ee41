package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

func TestOutboundTable(t *testing.T) {
	_, s := compiled(t, Options{}, nil,
		ready("a.B",
			ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B&group=g1&version=1.0.0"),
			ifaceLevel(t, "dubbo://10.0.0.2:20880/a.B?interface=a.B&group=g2&version=1.0.0"),
			ifaceLevel(t, "dubbo://10.0.0.3:20880/a.B?interface=a.B&group=g1&version=2.0.0"),
			ifaceLevel(t, "dubbo://10.0.0.4:20880/a.B?interface=a.B"),
			ifaceLevel(t, "tri://10.0.0.5:20880/a.B?interface=a.B"),
			appLevel(t, "dubbo://10.0.0.4:20880/a.B?interface=a.B")),
		ready("a.C", ifaceLevel(t, "dubbo://10.0.0.6:20880/path/c?interface=a.C")),
		ready("a.D", ifaceLevel(t, "dubbo://10.0.0.7:20880/a.C?interface=a.D"), ifaceLevel(t, "dubbo://10.0.0.8:20880/a.C?interface=a.D&version=9")),
		ready("a.E", ifaceLevel(t, "dubbo://10.0.0.1:20880/p1?interface=a.E"), ifaceLevel(t, "dubbo://10.0.0.1:20880/p2?interface=a.E"), ifaceLevel(t, "dubbo://10.0.0.2:20880/p1?interface=a.E")))
	for _, c := range []struct {
		path, version, group string
		want                 string // addresses; "-" no host, "?" no group
		only                 bool
	}{
		{"a.B", "1.0.0", "g1", "10.0.0.1:20880", false},
		{"a.B", "1.0.0", "g2", "10.0.0.2:20880", false},
		{"a.B", "1.0.0", "g3", "?", false},
		{"a.B", "1.0.0", "", "?", false},
		{"a.B", "2.0.0", "g1", "10.0.0.3:20880", true},
		{"a.B", "0.0.0", "", "10.0.0.4:20880", true},
		{"a.B", "", "", "10.0.0.4:20880", true},
		{"a.B", "3.0.0", "", "-", false},
		{"a.X", "", "", "-", false},
		{"a.C", "", "", "10.0.0.6:20880", true},    // the interface hides the alias of a.D
		{"path/c", "", "", "10.0.0.6:20880", true}, // alias
		{"a.D", "", "", "10.0.0.7:20880", true},
		{"a.C", "9", "", "10.0.0.8:20880", true}, // a version that only the alias has
		{"a.E", "", "", "10.0.0.1:20880 10.0.0.2:20880", false},
		{"p1", "", "", "10.0.0.1:20880 10.0.0.2:20880", true},
		{"p2", "", "", "10.0.0.1:20880", true},
	} {
		v := s.Outbound.Lookup([]byte(c.path), []byte(c.version))
		got := "-"
		if v != nil {
			got = "?"
			if cl := v.Group([]byte(c.group)); cl != nil {
				got = strings.Join(addresses(cl), " ")
			}
			if (v.Only() != nil) != c.only {
				t.Errorf("%s:%s: only one: %v", c.path, c.version, !c.only)
			}
		}
		if got != c.want {
			t.Errorf("%s/%s:%s: %s, want %s", c.group, c.path, c.version, got, c.want)
		}
	}
	if v := s.Outbound.Lookup([]byte("a.B"), []byte("1.0.0")); !slices.Equal(v.Groups(), []string{"g1", "g2"}) || v.Service().Key() != "a.B:1.0.0" {
		t.Errorf("groups %v of %v", v.Groups(), v.Service())
	}
	var keys []string
	for _, service := range s.Services() {
		keys = append(keys, service.Key())
	}
	if got, want := strings.Join(keys, " "), "a.B g1/a.B:1.0.0 g1/a.B:2.0.0 g2/a.B:1.0.0 a.C a.D a.D:9 a.E"; got != want {
		t.Errorf("services: %s, want %s", got, want)
	}
	u, ok := s.Interface("a.B")
	if !ok || len(u.Providers) != 5 || u.State != Ready {
		t.Errorf("a.B: %+v", u)
	}
	if u, ok := s.Interface("a.X"); ok || u.State != Waiting {
		t.Errorf("a.X: %+v", u)
	}
}

// One change leaves everything else as it was: same hosts, same peers, same
// statistics.
func TestCompileTouchesOnlyWhatChanged(t *testing.T) {
	c, before := compiled(t, Options{}, nil,
		ready("a.B", ifaceLevel(t, "dubbo://10.0.0.1:20880/b?interface=a.B"), ifaceLevel(t, "dubbo://10.0.0.2:20880/b?interface=a.B")),
		ready("a.C", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.C?interface=a.C")))
	stats := before.Outbound.find("a.B", "", "").Stats
	peer := before.Outbound.find("a.B", "", "").Endpoints[0].Peer
	c.update(ready("a.B", ifaceLevel(t, "dubbo://10.0.0.1:20880/b2?interface=a.B")))
	after, _ := c.compile(time.Now())
	if before.Outbound.Lookup([]byte("a.C"), nil) != after.Outbound.Lookup([]byte("a.C"), nil) {
		t.Error("a.C was compiled again")
	}
	if got := addresses(before.Outbound.find("b", "", "")); len(got) != 2 {
		t.Errorf("the old snapshot changed: %v", got)
	}
	cl := after.Outbound.find("a.B", "", "")
	if cl.Stats != stats || cl.Endpoints[0].Peer != peer || len(cl.Endpoints) != 1 {
		t.Error("statistics or peer did not survive")
	}
	if after.Outbound.find("b", "", "") != nil || after.Outbound.find("b2", "", "") == nil {
		t.Error("the alias did not move")
	}
	if s, _ := c.compile(time.Now()); s != nil {
		t.Error("a snapshot without a change")
	}

	gone := c.peers[peerKey{Outbound, "10.0.0.2:20880"}]
	if gone.Used() || !peer.Used() {
		t.Error("used peers are not counted")
	}
	c.sweep(time.Now().Add(peerIdle / 2))
	if len(c.peers) != 2 {
		t.Error("a peer was forgotten at once")
	}
	c.sweep(time.Now().Add(2 * peerIdle))
	if len(c.peers) != 1 {
		t.Errorf("%d peers kept", len(c.peers))
	}
	for _, iface := range []string{"a.B", "a.C"} {
		c.update(Update{Source: "main", Interface: iface, State: Dropped})
	}
	s, _ := c.compile(time.Now())
	if len(s.Services()) != 0 || len(c.updates)+len(c.claims) != 0 || peer.Used() {
		t.Errorf("left: %v, %v, %v", s.Services(), c.updates, c.claims)
	}
}

// Two interfaces claim one path, and let go of it one after the other.
func TestAliasOfTwoInterfaces(t *testing.T) {
	one := ready("a.B", ifaceLevel(t, "dubbo://10.0.0.1:20880/p?interface=a.B"))
	two := ready("a.C", ifaceLevel(t, "dubbo://10.0.0.2:20880/p?interface=a.C"))
	c, s := compiled(t, Options{}, nil, one, two)
	if got := addresses(s.Outbound.find("p", "", "")); len(got) != 2 {
		t.Errorf("both: %v", got)
	}
	c.update(ready("a.B"))
	s, _ = c.compile(time.Now())
	if got := addresses(s.Outbound.find("p", "", "")); !slices.Equal(got, []string{"10.0.0.2:20880"}) {
		t.Errorf("one left: %v", got)
	}
	c.update(ready("a.C"))
	if s, _ = c.compile(time.Now()); s.Outbound.find("p", "", "") != nil || len(c.claims) != 0 {
		t.Error("the alias stayed")
	}
}

func TestSourcesTogether(t *testing.T) {
	p := ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B")
	q := ifaceLevel(t, "dubbo://10.0.0.2:20880/a.B?interface=a.B")
	c, s := compiled(t, Options{}, nil,
		Update{Source: "one", Interface: "a.B", State: Ready, Providers: []registry.Provider{p}},
		Update{Source: "two", Interface: "a.B", State: Ready, Providers: []registry.Provider{p, q}})
	if got := addresses(s.Outbound.find("a.B", "", "")); len(got) != 2 {
		t.Errorf("two registries: %v", got)
	}
	c.update(Update{Source: "two", Interface: "a.B", State: Empty})
	s, _ = c.compile(time.Now())
	if got := addresses(s.Outbound.find("a.B", "", "")); len(got) != 1 {
		t.Errorf("one of them is empty now: %v", got)
	}
}

func TestClusterTraits(t *testing.T) {
	const base = "dubbo://10.0.0.%d:20880/a.B?interface=a.B"
	for params, want := range map[string]struct{ dedicated, tokens bool }{
		"":                               {},
		"&sayHello.1.callback=true":      {dedicated: true},
		"&sayHello.1.callback=false":     {},
		"&onconnect=opened":              {dedicated: true},
		"&ondisconnect=closed":           {dedicated: true},
		"&callbacks=1000":                {dedicated: true},
		"&token=6f6d":                    {tokens: true},
		"&token=false":                   {},
		"&methods=callback&callback=yes": {},
	} {
		_, s := compiled(t, Options{}, nil, ready("a.B",
			ifaceLevel(t, fmt.Sprintf(base, 1)), ifaceLevel(t, fmt.Sprintf(base, 2)+params)))
		cl := s.Outbound.find("a.B", "", "")
		if cl.Dedicated != want.dedicated || cl.TokenPerEndpoint != want.tokens {
			t.Errorf("%q: dedicated %v, token for each %v", params, cl.Dedicated, cl.TokenPerEndpoint)
		}
	}
	_, s := compiled(t, Options{}, nil, ready("a.B",
		ifaceLevel(t, fmt.Sprintf(base, 1)+"&token=x"), ifaceLevel(t, fmt.Sprintf(base, 2)+"&token=x")))
	if cl := s.Outbound.find("a.B", "", ""); cl.TokenPerEndpoint || cl.Endpoints[0].Token != "x" {
		t.Error("equal tokens need not be written")
	}
}

func TestPolicy(t *testing.T) {
	caller := func(params string) []Caller {
		return []Caller{{Application: "c", Service: registry.Service{Interface: "a.B", Group: "*"}, URL: mustURL(t, "consumer://h/a.B?"+params)}}
	}
	provider := func(params ...string) (list []registry.Provider) {
		for i, p := range params {
			list = append(list, ifaceLevel(t, fmt.Sprintf("dubbo://10.0.0.%d:20880/a.B?interface=a.B&%s", i, p)))
		}
		return list
	}
	for name, c := range map[string]struct {
		configured string
		callers    []Caller
		providers  []registry.Provider
		want       Policy
		why        string
	}{
		"default":       {"", nil, provider(""), Random, "default"},
		"provider":      {"", nil, provider("loadbalance=roundrobin"), RoundRobin, "provider"},
		"subscription":  {"", caller("loadbalance=leastactive"), provider("loadbalance=roundrobin"), LeastRequest, "subscription"},
		"configuration": {"random", caller("loadbalance=leastactive"), provider("loadbalance=roundrobin"), Random, "configuration"},
		"unknown":       {"", caller("loadbalance=consistenthash"), provider(""), Random, "subscription wants consistenthash, which is not known"},
		"providers disagree": {"", nil, provider("loadbalance=roundrobin", "loadbalance=leastactive"), Random,
			"providers disagree: leastactive, roundrobin; default"},
		"one provider says nothing": {"", nil, provider("loadbalance=roundrobin", ""), RoundRobin, "provider"},
	} {
		_, s := compiled(t, Options{Policy: func(registry.Service) string { return c.configured }}, c.callers, ready("a.B", c.providers...))
		if cl := s.Outbound.find("a.B", "", ""); cl.Policy != c.want || cl.policyWhy != c.why {
			t.Errorf("%s: %v, %q; want %v, %q", name, cl.Policy, cl.policyWhy, c.want, c.why)
		}
	}
}

// A subscription to a group that is not there must not end in another group.
func TestOnlyKnowsWhatIsAsked(t *testing.T) {
	u := ready("a.B", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B&group=g1"))
	for group, only := range map[string]bool{"g1": true, "g2": false, "*": true, "g2,g1": true, "": false} {
		_, s := compiled(t, Options{}, []Caller{{Service: registry.Service{Interface: "a.B", Group: group}}}, u)
		if v := s.Outbound.Lookup([]byte("a.B"), nil); (v.Only() != nil) != only {
			t.Errorf("subscribed to %q: only one: %v", group, !only)
		}
	}
	_, s := compiled(t, Options{}, []Caller{{Service: registry.Service{Interface: "a.B", Group: "g2", Version: "7"}}}, u)
	if s.Outbound.Lookup([]byte("a.B"), nil).Only() == nil {
		t.Error("a subscription to another version matters")
	}
}

func TestTimeout(t *testing.T) {
	caller := func(app, service, params string) Caller {
		s, err := registry.ParseService(service)
		if err != nil {
			t.Fatal(err)
		}
		return Caller{Application: app, Service: s, URL: mustURL(t, "consumer://h/a.B?"+params)}
	}
	const sec = time.Second
	for name, c := range map[string]struct {
		callers     []Caller
		provider    string
		needs       bool
		application string
		method      string
		want        time.Duration
	}{
		"nothing said":                        {want: 0},
		"provider":                            {provider: "timeout=1000", want: sec},
		"provider's method":                   {provider: "timeout=1000&slow.timeout=5000", method: "slow", want: 5 * sec},
		"other method":                        {provider: "timeout=1000&slow.timeout=5000", method: "fast", want: sec},
		"subscription":                        {callers: []Caller{caller("x", "a.B", "timeout=2000")}, provider: "timeout=1000", want: 2 * sec},
		"dubbo-go's form":                     {callers: []Caller{caller("x", "a.B", "timeout=3s&methods.slow.timeout=7s")}, method: "slow", want: 7 * sec},
		"subscription's method":               {callers: []Caller{caller("x", "a.B", "timeout=2000&slow.timeout=4000")}, method: "slow", want: 4 * sec},
		"a subscription without":              {callers: []Caller{caller("x", "a.B", "")}, provider: "timeout=1000", want: sec},
		"subscriptions agree":                 {callers: []Caller{caller("x", "a.B", "timeout=2000"), caller("y", "a.B", "timeout=2000")}, want: 2 * sec},
		"they disagree, known":                {callers: []Caller{caller("x", "a.B", "timeout=2000"), caller("y", "a.B", "timeout=3000")}, application: "x", needs: true, want: 2 * sec},
		"they disagree, unknown: the longest": {callers: []Caller{caller("x", "a.B", "timeout=2000"), caller("y", "a.B", "timeout=3000")}, application: "z", needs: true, want: 3 * sec},
		"they disagree, nobody named":         {callers: []Caller{caller("", "a.B", "timeout=2000"), caller("y", "a.B", "timeout=3000")}, needs: true, want: 3 * sec},
		"none is the longest":                 {callers: []Caller{caller("x", "a.B", ""), caller("y", "a.B", "timeout=3000")}, needs: true, want: 0},
		"one falls to the provider":           {callers: []Caller{caller("x", "a.B", ""), caller("y", "a.B", "timeout=3000")}, provider: "timeout=9000", application: "x", needs: true, want: 9 * sec},
		"of another service":                  {callers: []Caller{caller("x", "g/a.B", "timeout=2000")}, provider: "timeout=1000", want: sec},
		"of all groups":                       {callers: []Caller{caller("x", "*/a.B", "timeout=2000")}, provider: "timeout=1000", want: 2 * sec},
		"one application twice":               {callers: []Caller{caller("x", "a.B", "timeout=2000"), caller("x", "*/a.B", "timeout=4000")}, want: 4 * sec},
		"not a number":                        {provider: "timeout=timeout", want: 0},
		"negative":                            {provider: "timeout=-1", want: 0},
		"looks alike":                         {provider: "heartbeat.timeouts=5&mytimeout=6", want: 0},
	} {
		_, s := compiled(t, Options{}, c.callers, ready("a.B", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B&"+c.provider)))
		cl := s.Outbound.find("a.B", "", "")
		if got := cl.Timeout(c.application, []byte(c.method)); got != c.want || cl.NeedsCaller() != c.needs {
			t.Errorf("%s: %v, needs caller %v; want %v, %v", name, got, cl.NeedsCaller(), c.want, c.needs)
		}
	}
}

// Callers come and go: only their interface is compiled again.
func TestSetCallers(t *testing.T) {
	c, before := compiled(t, Options{}, nil,
		ready("a.B", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B")),
		ready("a.C", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.C?interface=a.C")))
	set := []Caller{
		{Service: registry.Service{Interface: "a.B"}, URL: mustURL(t, "consumer://h/a.B?timeout=5000")},
		{Service: registry.Service{Interface: "a.C"}, Protocol: "tri", URL: mustURL(t, "consumer://h/a.C?timeout=5000")},
	}
	c.setCallers(set)
	s, _ := c.compile(time.Now())
	if got := s.Outbound.find("a.B", "", "").Timeout("", nil); got != 5*time.Second {
		t.Errorf("timeout %v", got)
	}
	if before.Outbound.Lookup([]byte("a.C"), nil) != s.Outbound.Lookup([]byte("a.C"), nil) {
		t.Error("a.C was compiled for a caller of another protocol")
	}
	c.setCallers(slices.Clone(set))
	if next, _ := c.compile(time.Now()); next != nil {
		t.Error("the same callers made a snapshot")
	}
	c.setCallers(nil)
	s, _ = c.compile(time.Now())
	if got := s.Outbound.find("a.B", "", "").Timeout("", nil); got != 0 {
		t.Errorf("timeout %v without a caller", got)
	}
}
