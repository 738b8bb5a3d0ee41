package rewrite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

const hostID = "0123456789ab"

func providers(t testing.TB, texts ...string) []registry.URL {
	t.Helper()
	var all []registry.URL
	for _, text := range texts {
		all = append(all, Canonical(parse(t, text), "10.0.0.1"))
	}
	return all
}

func application(t testing.TB, texts ...string) registry.Application {
	t.Helper()
	app, err := Application("shop", hostID, providers(t, texts...), agent)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

// Every application that real providers registered, as the agent registers it:
// from the provider URLs of each capture, and from the instance and metadata of
// those that kept their metadata in the registry.
func TestApplications(t *testing.T) {
	bySource := map[string][]registry.URL{}
	for _, c := range captures(t, "providers.txt") {
		u := Canonical(parse(t, c.text), "192.0.2.2")
		bySource[c.source] = append(bySource[c.source], u)
	}
	for source, app := range foreign(t) {
		for _, iface := range app.Metadata.Interfaces() {
			for _, u := range registry.ProviderURLs(app.Instance, app.Metadata, iface) {
				bySource["instance of "+source] = append(bySource["instance of "+source], Canonical(u, ""))
			}
		}
	}
	var b bytes.Buffer
	for _, source := range slices.Sorted(maps.Keys(bySource)) {
		urls := bySource[source]
		app, err := Application(urls[0].Param("application"), hostID, urls, agent)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		checkApplication(t, app, urls)
		text, err := json.MarshalIndent(app, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n%s\n\n", source, text)
	}
	golden(t, "applications.golden", b.Bytes())
}

// foreign are the captured instances whose metadata was captured too.
func foreign(t *testing.T) map[string]registry.Application {
	t.Helper()
	apps := map[string]registry.Application{}
	for _, c := range captures(t, "applications.txt") {
		app := apps[c.source]
		var instance struct {
			Name, Address string
			Port          int
			Payload       struct{ Metadata map[string]string }
		}
		if err := json.Unmarshal([]byte(c.text), &instance); err != nil {
			t.Fatalf("%s: %v", c.source, err)
		}
		if instance.Name != "" {
			app.Instance = registry.Instance{Application: instance.Name, Host: instance.Address, Port: instance.Port, Metadata: instance.Payload.Metadata}
		} else if err := json.Unmarshal([]byte(c.text), &app.Metadata); err != nil {
			t.Fatalf("%s: %v", c.source, err)
		}
		apps[c.source] = app
	}
	maps.DeleteFunc(apps, func(_ string, a registry.Application) bool {
		return a.Metadata.Application == "" || a.Instance.Port == 0
	})
	if len(apps) != 4 {
		t.Fatalf("%d applications with metadata captured, want 4", len(apps))
	}
	return apps
}

// Our metadata of a provider is what Java itself writes for it.
func TestMetadataLikeJava(t *testing.T) {
	const source = "java33-remote-metadata-provider-only"
	theirs := foreign(t)[source].Metadata
	var urls []registry.URL
	for _, c := range captures(t, "providers.txt") {
		if c.source == source {
			urls = append(urls, parse(t, c.text))
		}
	}
	app, err := Application(theirs.Application, hostID, urls, agent)
	if err != nil {
		t.Fatal(err)
	}
	ours := app.Metadata
	if !slices.Equal(slices.Sorted(maps.Keys(ours.Services)), slices.Sorted(maps.Keys(theirs.Services))) {
		t.Fatalf("services %v, Java has %v", ours.Services, theirs.Services)
	}
	for key, want := range theirs.Services {
		delete(want.Params, "REGISTRY_CLUSTER") // internal to the process that wrote it
		want.Port = agent.Port
		if got := ours.Services[key]; !maps.Equal(got.Params, want.Params) || got.Name != want.Name || got.Path != want.Path || got.Port != want.Port || got.Protocol != want.Protocol {
			t.Errorf("%s\n got %+v\nwant %+v", key, got, want)
		}
	}
}

// checkApplication holds what must be true of every instance of ours.
func checkApplication(t *testing.T, app registry.Application, urls []registry.URL) {
	t.Helper()
	m := app.Instance.Metadata
	if app.Instance.ID() != agent.String() || m[registry.KeyStorageType] != "remote" || m[registry.MarkCaps] != agent.Caps || m[registry.MarkHost] != hostID {
		t.Errorf("bad instance %+v", app.Instance)
	}
	if m[registry.KeyRevision] == "" || m[registry.KeyRevision] != app.Metadata.Revision {
		t.Errorf("revision %q of the instance, %q of its metadata", m[registry.KeyRevision], app.Metadata.Revision)
	}
	for key, s := range app.Metadata.Services {
		if s.Port != agent.Port {
			t.Errorf("%s bypasses the agent: port %d", key, s.Port)
		}
		for k := range s.Params {
			if k == "pid" || k == "timestamp" || k == "host" || strings.HasPrefix(k, "bind.") || strings.HasPrefix(k, "meshferry.") {
				t.Errorf("%s: parameter %s differs between equal hosts", key, k)
			}
		}
	}
	for _, u := range urls {
		if _, ok := app.Metadata.Services[ProtocolKey(u)]; !ok {
			t.Errorf("%s is missing", ProtocolKey(u))
		}
		found := false
		for _, read := range registry.ProviderURLs(app.Instance, app.Metadata, u.Service().Interface) {
			found = found || read.Protocol == u.Protocol && read.Service() == u.Service() && read.HostPort() == agent.String()
		}
		if !found {
			t.Errorf("a reader does not find %s at %s", u.Service(), agent)
		}
	}
}

const foo = "dubbo://10.0.0.1:20880/com.a.Foo?application=shop&interface=com.a.Foo&side=provider&timestamp=1700000000000"

func TestApplicationInstance(t *testing.T) {
	app := application(t, foo+"&group=g1&version=1.0.0", "tri://10.0.0.1:50051/com.a.Bar?interface=com.a.Bar&timestamp=1700000000500")
	want := map[string]string{
		"dubbo.endpoints":             `[{"port":20882,"protocol":"dubbo"},{"port":20882,"protocol":"tri"}]`,
		"dubbo.metadata.storage-type": "remote",
		"dubbo.metadata.revision":     app.Metadata.Revision,
		"timestamp":                   "1700000000000",
		"meshferry.origin":            "10.0.0.1:20880",
		"meshferry.caps":              "1",
		"meshferry.host":              hostID,
	}
	if !maps.Equal(app.Instance.Metadata, want) {
		t.Errorf("\n got %v\nwant %v", app.Instance.Metadata, want)
	}
	if keys := slices.Sorted(maps.Keys(app.Metadata.Services)); !slices.Equal(keys, []string{"com.a.Bar:tri", "g1/com.a.Foo:1.0.0:dubbo"}) {
		t.Errorf("services %v", keys)
	}
	bar := app.Metadata.Services["com.a.Bar:tri"].Params
	if want := map[string]string{"application": "shop", "interface": "com.a.Bar", "side": "provider"}; !maps.Equal(bar, want) {
		t.Errorf("parameters %v, want %v", bar, want)
	}
}

func TestLastValueCounts(t *testing.T) {
	app := application(t, "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo&methods=a&weight=10&weight=20&methods=b")
	if p := app.Metadata.Services["com.a.Foo:dubbo"].Params; p["methods"] != "b" || p["weight"] != "20" {
		t.Errorf("got %v, want what readers of the URL see", p)
	}
}

func TestTimestamp(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []string
		want string
	}{
		{"Java's milliseconds", []string{"1795177776835"}, "1795177776835"},
		{"dubbo-go's seconds", []string{"1795176302"}, "1795176302000"},
		{"the process that started first", []string{"1795177776835", "1795176302"}, "1795176302000"},
		{"one does not say", []string{"", "1795177776835"}, "1795177776835"},
		{"nobody says", []string{""}, ""},
		{"no number", []string{"soon"}, ""},
		{"not a time", []string{"0"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var in []string
			for i, ts := range tt.in {
				in = append(in, fmt.Sprintf("dubbo://10.0.0.1:%d/com.a.Foo?timestamp=%s", 20880+i, ts))
			}
			if got := application(t, in...).Instance.Metadata["timestamp"]; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWeights(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []string // further parameters of each process
		want map[string]string
	}{
		{"default is left out", []string{""}, nil},
		{"default by name is left out", []string{"&weight=100"}, nil},
		{"one", []string{"&weight=50"}, map[string]string{"weight": "50"}},
		{"none", []string{"&weight=0"}, map[string]string{"weight": "0"}},
		{"dubbo-go's none is the default", []string{"&weight=0&release=dubbo-golang-3.3.2"}, nil},
		{"sum of defaults", []string{"", ""}, map[string]string{"weight": "200"}},
		{"sum", []string{"&weight=30", "&weight=0", ""}, map[string]string{"weight": "130"}},
		{"sum that is the default", []string{"&weight=60", "&weight=40"}, nil},
		{"no number counts as the default, negative as none", []string{"&weight=x", "&weight=-5"}, nil},
		{"of one method, alone", []string{"&hi.weight=10"}, map[string]string{"hi.weight": "10"}},
		{"of one method, in one process", []string{"&hi.weight=10", "&weight=50"}, map[string]string{"hi.weight": "60", "weight": "150"}},
		{"no weight at all, only named so", []string{"&net.weight=heavy"}, map[string]string{"net.weight": "heavy"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var in []string
			for i, more := range tt.in {
				in = append(in, fmt.Sprintf("dubbo://10.0.0.1:%d/com.a.Foo?interface=com.a.Foo%s", 20880+i, more))
			}
			got := map[string]string{}
			for k, v := range application(t, in...).Metadata.Services["com.a.Foo:dubbo"].Params {
				if strings.HasSuffix(k, "weight") {
					got[k] = v
				}
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSeveralProcesses(t *testing.T) {
	a := "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo&methods=a"
	b := "dubbo://10.0.0.1:20881/com.a.Foo?interface=com.a.Foo&methods=b"
	bar := "dubbo://10.0.0.1:20881/com.a.Bar?interface=com.a.Bar"
	app := application(t, b, bar, a)
	if again := application(t, a, b, bar); !maps.Equal(app.Instance.Metadata, again.Instance.Metadata) {
		t.Errorf("order counts:\n%v\n%v", app.Instance.Metadata, again.Instance.Metadata)
	}
	if len(app.Metadata.Services) != 2 || app.Metadata.Services["com.a.Foo:dubbo"].Params["methods"] != "a" || app.Instance.Metadata["meshferry.origin"] != "10.0.0.1:20880" {
		t.Errorf("want the union, and the first process where they differ: %+v", app)
	}
}

// Two paths of one service have one key: the path that is the interface wins.
func TestTwoPathsOfOneService(t *testing.T) {
	app := application(t,
		"dubbo://10.0.0.1:20880/a/com.a.Foo?interface=com.a.Foo&weight=30",
		"dubbo://10.0.0.1:20881/com.a.Foo?interface=com.a.Foo&weight=40")
	if s := app.Metadata.Services["com.a.Foo:dubbo"]; s.Path != "com.a.Foo" || s.Params["weight"] != "40" {
		t.Errorf("got %+v", s)
	}
}

func TestRevision(t *testing.T) {
	base := application(t, foo+"&methods=hi&pid=1").Metadata.Revision
	for name, same := range map[string]string{
		"another host":       "dubbo://10.0.0.2:20880/com.a.Foo?application=shop&interface=com.a.Foo&side=provider&methods=hi",
		"another local port": "dubbo://10.0.0.1:20999/com.a.Foo?application=shop&interface=com.a.Foo&side=provider&methods=hi",
		"another order":      "dubbo://10.0.0.1:20880/com.a.Foo?methods=hi&side=provider&interface=com.a.Foo&application=shop",
		"another process":    foo + "&methods=hi&pid=2&timestamp=1&bind.ip=10.0.0.2&bind.port=1",
		"default weight":     foo + "&methods=hi&weight=100",
	} {
		if got := application(t, same).Metadata.Revision; got != base {
			t.Errorf("%s: equal content has revisions %s and %s", name, base, got)
		}
	}
	seen := map[string]string{base: "base"}
	for name, other := range map[string]string{
		"token":           foo + "&methods=hi&token=t1",
		"another token":   foo + "&methods=hi&token=t2",
		"weight":          foo + "&methods=hi&weight=50",
		"tag":             foo + "&methods=hi&dubbo.tag=gray",
		"methods":         foo + "&methods=hi,there",
		"unknown":         foo + "&methods=hi&x",
		"path":            "dubbo://10.0.0.1:20880/ctx/com.a.Foo?application=shop&interface=com.a.Foo&side=provider&methods=hi",
		"group":           foo + "&methods=hi&group=g",
		"version":         foo + "&methods=hi&version=1",
		"another version": foo + "&methods=hi&version=0.0.0",
	} {
		got := application(t, other).Metadata.Revision
		if twin, taken := seen[got]; taken {
			t.Errorf("%s and %s share a revision", name, twin)
		}
		seen[got] = name
	}
	app, err := Application("shop", hostID, providers(t, foo+"&methods=hi"), Address{Host: "10.0.0.9", Port: 30882, Caps: "1"})
	if err != nil || app.Metadata.Revision == base {
		t.Errorf("another inbound port stands in the metadata but not in its revision (%v)", err)
	}
	app, err = Application("shop", "ffff", providers(t, foo+"&methods=hi"), Address{Host: "10.0.0.8", Port: 20882, Caps: "1,tls"})
	if err != nil || app.Metadata.Revision != base {
		t.Errorf("another agent has another revision (%v)", err)
	}
}

func TestDirect(t *testing.T) {
	apps, err := Direct("shop", hostID, providers(t, foo, "dubbo://10.0.0.1:20881/com.a.Foo?interface=com.a.Foo", "dubbo://10.0.0.1:20880/com.a.Bar?interface=com.a.Bar"))
	if err != nil || len(apps) != 2 {
		t.Fatalf("%v: %+v", err, apps)
	}
	for i, want := range []struct {
		id       string
		port     int
		services []string
	}{
		{"shop@10.0.0.1:20880", 20880, []string{"com.a.Bar:dubbo", "com.a.Foo:dubbo"}},
		{"shop@10.0.0.1:20881", 20881, []string{"com.a.Foo:dubbo"}},
	} {
		app := apps[i]
		if app.ID() != want.id || !slices.Equal(slices.Sorted(maps.Keys(app.Metadata.Services)), want.services) {
			t.Errorf("got %s %v, want %+v", app.ID(), app.Metadata.Services, want)
		}
		for key, s := range app.Metadata.Services {
			if s.Port != want.port {
				t.Errorf("%s: port %d, want %d", key, s.Port, want.port)
			}
		}
		m := app.Instance.Metadata
		if m[registry.KeyStorageType] != "remote" || m[registry.MarkHost] != hostID || m[registry.MarkCaps] != "" || m[registry.MarkOrigin] != "" {
			t.Errorf("%s: %v", want.id, m)
		}
	}
}

func TestApplicationRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, app string
		in        []string
		want      error
	}{
		{"no name", "", []string{foo}, ErrUnfit},
		{"no provider", "shop", nil, ErrUnfit},
		{"no port", "shop", []string{foo, "dubbo://h/com.a.Foo"}, ErrUnfit},
		{"marks", "shop", []string{foo + "&meshferry.caps=1"}, ErrMarked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Application(tt.app, hostID, providers(t, tt.in...), agent); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, err := Direct(tt.app, hostID, providers(t, tt.in...)); len(tt.in) > 0 && !errors.Is(err, tt.want) {
				t.Errorf("direct: got %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzApplication(f *testing.F) {
	for _, c := range captures(f, "providers.txt") {
		f.Add(c.text, foo)
	}
	f.Fuzz(func(t *testing.T, one, other string) {
		var urls []registry.URL
		for _, text := range []string{one, other} {
			u, err := registry.ParseURL(text)
			if err != nil {
				return
			}
			urls = append(urls, Canonical(u, "10.0.0.1"))
		}
		app, err := Application("shop", hostID, urls, agent)
		if err != nil {
			return
		}
		slices.Reverse(urls)
		again, err := Application("shop", hostID, urls, agent)
		if err != nil || !maps.Equal(app.Instance.Metadata, again.Instance.Metadata) {
			t.Errorf("order counts (%v):\n%v\n%v", err, app.Instance.Metadata, again.Instance.Metadata)
		}
		for _, u := range urls {
			if s, ok := app.Metadata.Services[ProtocolKey(u)]; !ok || s.Port != agent.Port {
				t.Errorf("%s is missing or bypasses the agent: %+v", ProtocolKey(u), app.Metadata)
			}
		}
	})
}
