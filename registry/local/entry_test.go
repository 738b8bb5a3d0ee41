package local

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

func desired(t testing.TB, urls ...string) registry.Desired {
	t.Helper()
	var d registry.Desired
	for _, text := range urls {
		u, err := registry.ParseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		d.Providers = append(d.Providers, u)
	}
	return d
}

func shop() registry.Application {
	return registry.Application{
		Instance: registry.Instance{
			Application: "shop", Host: "192.0.2.1", Port: 20882,
			Metadata: map[string]string{registry.KeyRevision: "r1", registry.KeyEndpoints: `[{"port":20882,"protocol":"dubbo"}]`},
		},
		Metadata: registry.Metadata{Application: "shop", Revision: "r1", Services: map[string]registry.ServiceInfo{
			"com.a.Foo:dubbo": {Name: "com.a.Foo", Protocol: "dubbo", Path: "com.a.Foo", Params: map[string]string{"x": "<&>"}},
		}},
	}
}

func TestEncodeDecode(t *testing.T) {
	d := desired(t, "dubbo://192.0.2.1:20882/com.a.Foo?interface=com.a.Foo&x=%2B&&y=ü")
	d.Applications = []registry.Application{shop()}
	text, err := encode("host-a", 7, d)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"dubbo://192.0.2.1:20882/com.a.Foo?interface=com.a.Foo&x=%2B&&y=ü"`; !bytes.Contains(text, []byte(want)) {
		t.Errorf("the URL is not readable in\n%s", text)
	}
	got, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	want := newEntry("host-a", 7, d)
	if got.host != want.host || got.pid != want.pid || !maps.Equal(got.providers, want.providers) ||
		!maps.Equal(got.applications, want.applications) || !slices.Equal(got.byInterface["com.a.Foo"], want.byInterface["com.a.Foo"]) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if n := len(got.byInterface["com.a.Foo"]); n != 2 {
		t.Errorf("%d providers, want one of each model", n)
	}
}

func TestDecodeErrors(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           ``,
		"no JSON":         `hello`,
		"cut":             `{"meshferry-entry":1,"host":"a","pid":1,"providers":["dubbo`,
		"two documents":   `{"meshferry-entry":1,"host":"a","pid":1}{}`,
		"another program": `{"name":"x"}`,
		"later format":    `{"meshferry-entry":2,"host":"a","pid":1}`,
		"no owner":        `{"meshferry-entry":1,"pid":1}`,
		"no pid":          `{"meshferry-entry":1,"host":"a"}`,
		"bad URL":         `{"meshferry-entry":1,"host":"a","pid":1,"providers":["x"]}`,
		"no interface":    `{"meshferry-entry":1,"host":"a","pid":1,"providers":["dubbo://h:1"]}`,
		"bad interface":   `{"meshferry-entry":1,"host":"a","pid":1,"providers":["dubbo://h:1/a/b"]}`,
		"no name":         `{"meshferry-entry":1,"host":"a","pid":1,"applications":[{"host":"h","port":1}]}`,
		"no port":         `{"meshferry-entry":1,"host":"a","pid":1,"applications":[{"name":"x","host":"h"}]}`,
		"two revisions":   `{"meshferry-entry":1,"host":"a","pid":1,"applications":[{"name":"x","host":"h","port":1,"services":{"revision":"r"}}]}`,
	} {
		if e, err := decode([]byte(text)); err == nil {
			t.Errorf("%s: decoded to %+v, want an error", name, e)
		}
	}
	if _, err := decode([]byte(`{"meshferry-entry":1,"host":"a","pid":1,"later":true}`)); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestNotUTF8(t *testing.T) {
	d := desired(t, "dubbo://192.0.2.1:20882/com.a.Foo?interface=com.a.Foo&x=\xff")
	if err := checkURL(d.Providers[0]); err == nil {
		t.Error("a URL that JSON cannot carry was accepted")
	}
	app := shop()
	app.Metadata.Services["com.a.Foo:dubbo"].Params["x"] = "\xff"
	if err := checkApplication(app); err == nil {
		t.Error("an application that JSON cannot carry was accepted")
	}
}

// FuzzDecode: whatever decodes was whole, and says the same when it is written
// and read again.
func FuzzDecode(f *testing.F) {
	d := desired(f, "dubbo://192.0.2.1:20882/com.a.Foo?interface=com.a.Foo&x=%2B")
	d.Applications = []registry.Application{shop()}
	text, err := encode("host-a", 7, d)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"meshferry-entry":1,"host":"a","pid":1,"consumers":["consumer://h/com.a.Foo"]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := decode(text)
		if err != nil {
			return
		}
		if e.host == "" || e.pid <= 0 {
			t.Fatalf("no owner in %q", text)
		}
		var doc document
		if err := json.Unmarshal(text, &doc); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		e2, err := decode(again)
		if err != nil {
			t.Fatalf("%q, written again as %q: %v", text, again, err)
		}
		if !maps.Equal(e.providers, e2.providers) || !maps.EqualFunc(e.byInterface, e2.byInterface, slices.Equal) {
			t.Fatalf("%q and %q differ", text, again)
		}
	})
}

func TestParseURL(t *testing.T) {
	for text, want := range map[string]string{
		"local:///var/lib/reg":   "/var/lib/reg",
		"local:///tmp/a%20b/":    "/tmp/a b",
		"local:///tmp/../x":      "/x",
		"local:///":              "",
		"local://":               "",
		"local://relative/dir":   "",
		"local:///dir?x=1":       "",
		"local:///tmp/%zz":       "",
		"local:///tmp/%00":       "",
		"local://u:p@/dir":       "",
		"zookeeper://h:2181/dir": "",
		"/dir":                   "",
		"":                       "",
	} {
		got, err := ParseURL(text)
		if (err != nil) != (want == "") || got != want {
			t.Errorf("ParseURL(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestFileName(t *testing.T) {
	for host, want := range map[string]string{
		"host-a":                 "host-a.R.entry.json",
		"../../etc/passwd":       "______etc_passwd.R.entry.json",
		".lock":                  "_lock.R.entry.json",
		".new-":                  "_new-.R.entry.json",
		strings.Repeat("x", 300): strings.Repeat("x", 64) + ".R.entry.json",
	} {
		if got := fileName(host, "R"); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}
