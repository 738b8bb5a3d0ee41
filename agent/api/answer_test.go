package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

var update = flag.Bool("update", false, "write golden files")

// realURLs are what real Java and dubbo-go applications wrote into a ZooKeeper,
// by name.
func realURLs(t testing.TB) map[string]registry.URL {
	t.Helper()
	text, err := os.ReadFile("testdata/urls.txt")
	if err != nil {
		t.Fatal(err)
	}
	urls := map[string]registry.URL{}
	for line := range strings.Lines(string(text)) {
		name, raw, _ := strings.Cut(strings.TrimSpace(line), " ")
		urls[name] = mustURL(t, raw)
	}
	return urls
}

func mustURL(t testing.TB, text string) registry.URL {
	t.Helper()
	u, err := registry.ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func providers(urls ...registry.URL) []registry.Provider {
	list := make([]registry.Provider, len(urls))
	for i, u := range urls {
		list[i] = registry.Provider{URL: u, Model: registry.ModelInterface}
	}
	return list
}

// asked is the subscription that a consumer URL makes.
func asked(t testing.TB, u registry.URL, client string) workload.Subscription {
	t.Helper()
	sub, err := subscribeRequest{serviceFields: serviceFields{URL: u.String(), Client: client}}.subscription()
	if err != nil {
		t.Fatal(err)
	}
	sub.ID = "s-1"
	return sub
}

func at(u registry.URL, host string, port int) registry.URL {
	u.Host, u.Port = host, port
	return u
}

func TestAnswerGolden(t *testing.T) {
	real := realURLs(t)
	mesh := at(real["java33"], "10.0.0.5", 20882).With("meshferry.origin", "10.0.0.5:20880").With("meshferry.caps", "1")
	goMesh := at(real["go"], "10.0.0.6", 20882).With("meshferry.origin", "10.0.0.6:20000").With("meshferry.caps", "1")
	anyGroup := real["java33-consumer"].With("group", "*").With("version", "*")
	goPlain := real["go-consumer"]
	rest := at(real["java33-tri"], "10.0.0.8", 8080)
	rest.Protocol = "rest"
	timed := real["java33"].With("timeout", "1500").With("sayHello.timeout", "2s").With("retries", "3").With("sayHello.retries", "1").With("sayHello.1.callback", "true")
	for _, test := range []struct {
		name      string
		consumer  registry.URL
		client    string
		state     string
		reason    string
		outbound  string
		providers []registry.URL
	}{
		{name: "java27-mixed", consumer: real["java27-consumer"], providers: []registry.URL{real["java27"], real["java33"], mesh}},
		{name: "java33-same-serialization", consumer: real["java33-consumer"], providers: []registry.URL{real["java33"], mesh}},
		{name: "java33-order-differs", consumer: real["java33-consumer"], providers: []registry.URL{real["java33"], real["java32"]}},
		{name: "java32-keeps-order", consumer: real["java32-consumer"], providers: []registry.URL{real["java32"]}},
		{name: "java-simplified", consumer: real["java33-consumer"].Without(func(k, _ string) bool { return k == "group" }), providers: []registry.URL{real["java33-simplified"]}},
		{name: "java-any-group", consumer: anyGroup, providers: []registry.URL{real["java27"], real["go-group-version"], real["go"], real["java33-tri"]}},
		{name: "go", consumer: goPlain, providers: []registry.URL{real["go"], goMesh}},
		{name: "go-parameters", consumer: goPlain.With("group", "g1").With("version", "1.0.0"), providers: []registry.URL{timed, real["java32"]}},
		{name: "java-parameters", consumer: real["java33-consumer"], providers: []registry.URL{timed, real["java33"].With("timeout", "3s")}},
		{name: "other-client", consumer: real["java33-consumer"], client: "rust", providers: []registry.URL{real["java33"]}},
		{name: "other-loopback", consumer: real["java33-consumer"], outbound: "127.0.0.2:30881", providers: []registry.URL{real["java33"]}},
		{name: "all-interfaces", consumer: goPlain, outbound: "[::]:20881", providers: []registry.URL{real["go"]}},
		{name: "waiting", consumer: real["java33-consumer"], state: StateWaiting, reason: "no registry answered yet"},
		{name: "empty", consumer: real["java33-consumer"], state: StateEmpty},
		{name: "other-group-only", consumer: real["java33-consumer"].With("group", "g2"), providers: []registry.URL{real["java33"]}},
		{name: "other-protocol-only", consumer: real["java33-consumer"].With("protocol", "rest"), providers: []registry.URL{real["java33"]}},
		{name: "protected", consumer: real["java33-consumer"], state: StateProtected, reason: "the registry lists none", providers: []registry.URL{real["java33"]}},
		{name: "broadcast", consumer: real["java33-consumer"].With("cluster", "broadcast"), providers: []registry.URL{real["java33"], mesh}},
		{name: "broadcast-shared-address", consumer: real["java33-consumer"].With("cluster", "broadcast"), providers: []registry.URL{
			mesh, mesh.With("meshferry.origin", "10.0.0.5:20890"), at(mesh, "10.0.0.6", 20882).With("meshferry.origins", "10.0.0.6:20880,10.0.0.6:20890"),
			at(mesh, "10.0.0.7", 20882).With("meshferry.origin", "127.0.0.1:20880"), at(mesh, "10.0.0.7", 20882).With("meshferry.origin", "127.0.0.2:20880")}},
		{name: "rules-only", consumer: real["java33-consumer"].With("category", "configurators"), providers: []registry.URL{real["java33"]}},
		{name: "equal-tokens", consumer: real["java33-consumer"], providers: []registry.URL{real["java33"].With("token", "t1"), mesh.With("token", "t1")}},
		{name: "tokens-differ", consumer: real["java33-consumer"], providers: []registry.URL{real["java33"].With("token", "t1"), mesh.With("token", "t2")}},
		{name: "tokens-differ-unwritable", consumer: real["java33-consumer"], providers: []registry.URL{
			real["java33"].With("token", "t1").With("prefer.serialization", "kryo"), mesh.With("token", "t2").With("prefer.serialization", "kryo")}},
		{name: "disabled", consumer: real["java33-consumer"], providers: []registry.URL{real["java33"], mesh.With("enabled", "false")}},
		{name: "tagged-some", consumer: real["java33-consumer"], providers: []registry.URL{real["java33"].With("dubbo.tag", "gray"), mesh}},
		{name: "two-protocols", consumer: real["java33-consumer"].With("protocol", "dubbo,rest").Without(func(k, _ string) bool { return k == "group" || k == "version" }),
			providers: []registry.URL{real["go"], rest, real["java33-tri"]}},
		{name: "tri-only", consumer: real["java33-consumer"].Without(func(k, _ string) bool { return k == "group" || k == "version" }), providers: []registry.URL{real["java33-tri"]}},
	} {
		t.Run(test.name, func(t *testing.T) {
			outbound, state := "127.0.0.1:20881", StateReady
			if test.outbound != "" {
				outbound = test.outbound
			}
			if test.state != "" {
				state = test.state
			}
			q := Question{
				Subscription: asked(t, test.consumer, test.client), State: state, Reason: test.reason,
				Providers: providers(test.providers...), Outbound: netip.MustParseAddrPort(outbound), Protocols: []string{"dubbo"},
			}
			got := Answer(q)
			compareGolden(t, "answer/"+test.name+".json", got)

			rand.Shuffle(len(q.Providers), func(i, j int) { q.Providers[i], q.Providers[j] = q.Providers[j], q.Providers[i] })
			if again := Answer(q); again.visible() != got.visible() || !slices.Equal(again.Fallback, got.Fallback) {
				t.Errorf("another order of providers gives another answer:\n%+v\n%+v", got, again)
			}
			for _, urls := range got.URLs {
				for _, text := range urls {
					if u := mustURL(t, text); strings.Contains(u.Query, "meshferry.") || strings.Contains(u.Query, "&&") {
						t.Errorf("bad query in %s", text)
					}
				}
			}
		})
	}
}

// compareGolden compares v as indented JSON with a file under testdata.
func compareGolden(t *testing.T, name string, v any) {
	t.Helper()
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s differs:\n%s\nwant\n%s", path, b.String(), want)
	}
}

func TestFallbackIsBoundedAndStable(t *testing.T) {
	var urls []registry.URL
	for i := range 500 {
		urls = append(urls, mustURL(t, fmt.Sprintf("dubbo://10.0.%d.%d:20880/a.B?interface=a.B", i/250, i%250)))
	}
	a, b := fallback("s-1", urls), fallback("s-2", urls)
	if len(a) != maxFallback || !slices.IsSorted(a) {
		t.Fatalf("%d providers, sorted %v", len(a), slices.IsSorted(a))
	}
	if !slices.Equal(a, fallback("s-1", urls)) {
		t.Error("the same subscription gets others")
	}
	if slices.Equal(a, b) {
		t.Error("all subscriptions get the same few")
	}
}

func TestSerializations(t *testing.T) {
	of := func(release, prefer, plain string) registry.URL {
		u := registry.URL{Protocol: "dubbo", Host: "h", Port: 1, Path: "a.B"}
		for k, v := range map[string]string{"release": release, "prefer.serialization": prefer, "serialization": plain} {
			if v != "" {
				u = u.With(k, v)
			}
		}
		return u
	}
	java33, java32 := of("3.3.6", "hessian2,fastjson2", ""), of("3.2.19", "fastjson2,hessian2", "")
	for _, test := range []struct {
		name string
		urls []registry.URL
		want string
	}{
		{"one names its order", []registry.URL{java32}, "fastjson2,hessian2"},
		{"orders differ", []registry.URL{java32, java33}, "hessian2,fastjson2"},
		{"2.7 knows hessian2 only", []registry.URL{java33, of("2.7.23", "", "")}, "hessian2"},
		{"dubbo-go knows hessian2 only", []registry.URL{of("dubbo-golang-3.3.2", "", ""), java32}, "hessian2"},
		{"3.2 without names", []registry.URL{of("3.2.0", "", ""), java33}, "hessian2,fastjson2"},
		{"3.1 without names", []registry.URL{of("3.1.11", "", ""), java33}, "hessian2"},
		{"no release", []registry.URL{of("", "", "")}, "hessian2"},
		{"named by all", []registry.URL{of("2.7.23", "", "kryo"), of("2.7.23", "", "kryo")}, "kryo"},
		{"nothing in common", []registry.URL{of("2.7.23", "", "kryo"), java33}, "hessian2"},
		{"both parameters", []registry.URL{of("3.3.6", "fastjson2", "hessian2")}, "fastjson2,hessian2"},
	} {
		if got := strings.Join(serializations(test.urls), ","); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestRevisionCountsVisibleChangesOnly(t *testing.T) {
	real := realURLs(t)
	q := Question{
		Subscription: asked(t, real["java33-consumer"], ""), State: StateReady, Providers: providers(real["java33"]),
		Outbound: netip.MustParseAddrPort("127.0.0.1:20881"), Protocols: []string{"dubbo"},
	}
	r := newRevisions()
	first := r.of(Answer(q))
	d := Answer(q)
	d.Registries, d.Reason = []RegistryState{{"main", "away", "7s"}}, "held for 3s"
	if got := r.of(d); got != first {
		t.Errorf("an age or a text counts: %d, then %d", first, got)
	}
	q.Providers = append(q.Providers, providers(at(real["java33"], "10.9.9.9", 20880))...)
	if got := r.of(Answer(q)); got != first {
		t.Errorf("an endpoint behind the outbound address counts: %d, then %d", first, got)
	}
	q.Providers = append(q.Providers, providers(real["java27"])...)
	second := r.of(Answer(q))
	if second <= first {
		t.Errorf("another serialization does not count: %d, then %d", first, second)
	}
	q.Subscription.ID = "s-2"
	if got := r.of(Answer(q)); got <= second {
		t.Errorf("another subscription has revision %d after %d", got, second)
	}
	r.keep(func(id string) bool { return id == "s-2" })
	q.Subscription.ID = "s-1"
	if got := r.of(Answer(q)); got <= second {
		t.Errorf("a subscription that came back went back to %d", got)
	}
}

// The agent's own address is of no use while the agent is away: a provider behind
// it is handed out at its own.
func TestFallbackAvoidsThisAgent(t *testing.T) {
	real := realURLs(t)
	consumer := asked(t, real["java33-consumer"], "")
	mesh := func(host string) registry.URL {
		u := at(real["java33"], host, 20882)
		return u.With(registry.MarkOrigin, "127.0.0.1:20880").With(registry.MarkCaps, "1")
	}
	d := Answer(Question{
		Subscription: consumer, State: StateReady, Providers: providers(mesh("10.0.0.5"), mesh("10.0.0.6")),
		Outbound: netip.MustParseAddrPort("127.0.0.1:20881"), Protocols: []string{"dubbo"}, Inbound: []string{"10.0.0.5:20882", "10.0.0.5:20892"},
	})
	if len(d.Fallback) != 2 || !strings.HasPrefix(d.Fallback[0], "dubbo://10.0.0.6:20882/") || !strings.HasPrefix(d.Fallback[1], "dubbo://127.0.0.1:20880/") {
		t.Errorf("fallback %q", d.Fallback)
	}
}
