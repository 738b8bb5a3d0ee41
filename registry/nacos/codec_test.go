package nacos

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nacos-group/nacos-sdk-go/v2/model"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

var update = flag.Bool("update", false, "write the golden files")

// capture is what Dubbo left in a real server.
type capture struct {
	Services []struct {
		Catalog      struct{ Name, GroupName string }
		Name         string
		GroupName    string
		InstanceList json.RawMessage
		Instances    json.RawMessage
	}
	Configs []struct {
		DataID    string `json:"dataId"`
		Group     string
		GroupName string
		Content   string
		Detail    struct {
			DataID    string `json:"dataId"`
			GroupName string
			Content   string
		}
	}
}

// TestVectors decodes everything that Dubbo 2.7.23 and 3.3.6 were seen to leave
// in Nacos 2.3.2 and 3.1.
func TestVectors(t *testing.T) {
	files, err := filepath.Glob("testdata/vectors/*.json")
	if err != nil || len(files) != 11 {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	var b strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var c capture
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		fmt.Fprintf(&b, "== %s\n", filepath.Base(file))
		for _, s := range c.Services {
			name := s.Catalog.Name + s.Name
			for _, i := range hosts(t, s.InstanceList, s.Instances) {
				switch {
				case strings.HasPrefix(name, providers+":") || strings.HasPrefix(name, consumers+":"):
					u, err := decode(i)
					if err != nil {
						t.Fatalf("%s: %s: %v", file, name, err)
					}
					category, _, _ := strings.Cut(name, ":")
					if got := serviceName(category, u); got != name {
						t.Errorf("%s: %s would be written as %s", file, name, got)
					}
					if category == providers && !provides(name, u.Service().Interface) {
						t.Errorf("%s: %s is not found for %s", file, name, u.Service().Interface)
					}
					ours := encode(category, u, "h")
					delete(ours.Metadata, registry.MarkHost)
					if !same(ours, i) {
						t.Errorf("%s: %s: Dubbo wrote\n%v\nwe would write\n%v", file, name, i, ours)
					}
					fmt.Fprintf(&b, "%s\n  %s\n", name, u)
				default:
					of, err := parseApplication(name, i)
					if err != nil {
						t.Fatalf("%s: %s: %v", file, name, err)
					}
					fmt.Fprintf(&b, "%s\n  %s %s %s\n", name, of.ID(), of.Metadata[registry.KeyStorageType], of.Metadata[registry.KeyRevision])
				}
			}
		}
		for _, c := range c.Configs {
			if c.Detail.Content != "" { // as 3.1 lists it
				c.DataID, c.GroupName, c.Content = c.Detail.DataID, c.Detail.GroupName, c.Detail.Content
			}
			group := cmp.Or(c.Group, c.GroupName)
			switch {
			case group == mappingPart:
				fmt.Fprintf(&b, "mapping %s\n  %v\n", c.DataID, backend.Mapped(c.Content))
			case strings.Contains(c.Content, `"revision":"`+group+`"`):
				m, err := backend.ParseMetadata(group, []byte(c.Content))
				if err != nil {
					t.Fatalf("%s: metadata %s: %v", file, group, err)
				}
				fmt.Fprintf(&b, "metadata %s %s\n  %v\n", c.DataID, group, m.Interfaces())
			}
		}
	}
	golden := "testdata/vectors.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("decoded otherwise than in %s:\n%s", golden, b.String())
	}
}

// hosts are the instances of a service as 2.3.2 or 3.1 lists them.
func hosts(t *testing.T, lists ...json.RawMessage) []model.Instance {
	t.Helper()
	for _, text := range lists {
		if len(text) == 0 {
			continue
		}
		var two struct{ Hosts []model.Instance }
		var three []model.Instance
		if json.Unmarshal(text, &two) != nil {
			if err := json.Unmarshal(text, &three); err != nil {
				t.Fatal(err)
			}
		}
		return append(two.Hosts, three...)
	}
	return nil
}

// TestRoundTrip has URLs whose text the metadata alone would not give back.
func TestRoundTrip(t *testing.T) {
	for text, marked := range map[string]bool{
		first: false,
		"dubbo://192.0.2.1:20882/a.B?interface=a.B&timestamp=1&weight=0":                     false,
		"dubbo://192.0.2.1:20882/a.B?weight=0&interface=a.B":                                 true, // another order
		"dubbo://192.0.2.1:20882/a.B?interface=a.B&weight=0&weight=1":                        true,
		"dubbo://192.0.2.1:20882/a.B?interface=a.B&path=x&protocol=y":                        true,
		"dubbo://192.0.2.1:20882/a.B?group=&interface=a.B&version=":                          false,
		"dubbo://192.0.2.1:20882/a.B?empty&interface=a.B":                                    true,
		"dubbo://u:p@192.0.2.1:20882/a.B?interface=a.B":                                      true,
		"dubbo://[2001:db8::1]:20882/a.B?interface=a.B":                                      false,
		"dubbo://192.0.2.1:20882/alias?interface=a.B$Inner":                                  false,
		"dubbo://192.0.2.1:20882/a.B":                                                        false,
		"dubbo://192.0.2.1:20882/a.B?category=providers&interface=a.B":                       true,
		"dubbo://192.0.2.1:20882/a.B?interface=a.B&meshferry.host=x":                         true,
		"consumer://192.0.2.1/a.B?category=consumers&check=false&interface=a.B":              false,
		"dubbo://192.0.2.1:20882/a.B?interface=a.B&meshferry.caps=1&meshferry.origin=x:1":    true,
		"dubbo://192.0.2.1:20882/a.B?interface=a.B&meshferry.origin=x:1&meshferry.caps=1":    false,
		"dubbo://192.0.2.1:20882/a.B?interface=a.B&z=~*'()!$;:@,&owner=Grüße&x=a+b%20%2B%26": true,
	} {
		u := parse(t, text)
		category := providers
		if u.Protocol == "consumer" {
			category = consumers
		}
		i := encode(category, u, "host")
		if _, got := i.Metadata[markText]; got != marked {
			t.Errorf("%s: marked %t, want %t: %v", text, got, marked, i.Metadata)
		}
		if back, err := decode(i); err != nil || back.String() != text {
			t.Errorf("%s comes back as %s, %v", text, back, err)
		}
		if i.Weight != 1 || !i.Enable || !i.Healthy || !i.Ephemeral || i.Metadata[registry.MarkHost] != "host" {
			t.Errorf("%s: %+v", text, i)
		}
	}
}

func TestNames(t *testing.T) {
	for text, want := range map[string]string{
		"dubbo://h:1/a.B?interface=a.B":                           "providers:a.B::",
		"dubbo://h:1/a.B?interface=a.B&version=1.0.0":             "providers:a.B:1.0.0:",
		"dubbo://h:1/a.B?interface=a.B&group=g1":                  "providers:a.B::g1",
		"dubbo://h:1/a.B?interface=a.B$In&version=0.0.0&group=g1": "providers:a.B___In:0.0.0:g1",
	} {
		if got := serviceName(providers, parse(t, text)); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	for name, want := range map[string]bool{"providers:a.B::": true, "providers:a.B:1:g": true, "providers:a.B:1": false,
		"providers:a.BC::": false, "consumers:a.B::": false, "a.B": false, "providers:a.B:1:g:x": false} {
		if got := provides(name, "a.B"); got != want {
			t.Errorf("%s provides a.B: %t", name, got)
		}
	}
}

func TestParseURL(t *testing.T) {
	o, err := ParseURL("nacos://u:p%40%2F@h1,h2:1234,[::1]:8850?namespace=ns-1&group=g&backup=h3&tls=/etc/ca.pem")
	if err != nil || !slices.Equal(o.Servers, []string{"h1:8848", "h2:1234", "[::1]:8850", "h3:8848"}) || o.User != "u" || o.Password != "p@/" ||
		o.Namespace != "ns-1" || o.Group != "g" || o.TLS != (backend.TLS{On: true, CAFile: "/etc/ca.pem"}) || o.ContextPath != "/nacos" {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := ParseURL("nacos://h?namespace=public"); err != nil || o.Namespace != "" || o.Group != DefaultGroup || o.TLS.On {
		t.Errorf("defaults: %+v, %v", o, err)
	}
	for path, want := range map[string]string{"": "/nacos", "mesh": "/mesh", "%2Fa%2Fb%2F": "/a/b", "/": ""} {
		if o, err := ParseURL("nacos://h?contextPath=" + path); err != nil || o.base("h:1") != "http://h:1"+want {
			t.Errorf("context path %q: %q, %v", path, o.base("h:1"), err)
		}
	}
	for _, bad := range []string{"nacos://h?contextPath=a%20b", "", "h:8848", "zookeeper://h", "nacos://", "nacos:///x", "nacos://h,,h2", "nacos://h:0", "nacos://h:64536",
		"nacos://u@h", "nacos://:secret@h", "nacos://u:%zzsecret@h", "nacos://h?root=x", "nacos://h?group=a%40%40b", "nacos://h?namespace=a%2Fb", "nacos://h?tls=maybe", "nacos://h/ns"} {
		if _, err := ParseURL(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// FuzzDecode: what anybody registered never breaks a reader, and what is read can
// be written again.
func FuzzDecode(f *testing.F) {
	f.Add("192.0.2.1", uint64(20882), "protocol=dubbo\npath=a.B\ninterface=a.B")
	f.Add("h", uint64(0), "protocol=consumer\nmeshferry.text=ZHViYm86Ly9oOjE")
	f.Add("::1", uint64(70000), "protocol=a://b?\n=\ncategory=providers")
	f.Fuzz(func(t *testing.T, ip string, port uint64, lines string) {
		m := map[string]string{}
		for line := range strings.SplitSeq(lines, "\n") {
			k, v, _ := strings.Cut(line, "=")
			m[k] = v
		}
		u, err := decode(model.Instance{Ip: ip, Port: port, Metadata: m})
		if err != nil {
			return
		}
		i := encode(providers, u, "h")
		if _, kept := i.Metadata[markText]; !kept && len(u.String()) > maxMetadata/4 {
			return // too long for its text
		}
		if back, err := decode(i); err != nil || back != u {
			t.Errorf("%q comes back as %q, %v", u, back, err)
		}
	})
}

func FuzzParseURL(f *testing.F) {
	f.Add("nacos://u:p@h1,h2:1?namespace=n&group=g")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := ParseURL(text)
		if err == nil && (len(o.Servers) == 0 || o.Group == "") {
			t.Errorf("%q: %+v", text, o)
		}
	})
}

// TestMetadataFits: what would make a server refuse an entry is left out where it
// can be: the order of a provider's parameters, all but the essentials of a consumer.
func TestMetadataFits(t *testing.T) {
	const front = "dubbo://10.0.0.1:20882/a.B?version=1.0.0&application=shop&interface=a.B"
	for _, c := range []struct {
		name, category string
		filler         int
		keepsOrder     bool
	}{
		{"short provider", providers, 100, true},
		{"provider that fits without its text", providers, 700, false},
		{"short consumer", consumers, 100, true},
		{"long consumer", consumers, 3000, false},
	} {
		u, err := registry.ParseURL(front + "&zebra=" + strings.Repeat("x", c.filler) + "&alpha=1")
		if err != nil {
			t.Fatal(err)
		}
		i := encode(c.category, u, "host")
		if n := length(i.Metadata); n > maxMetadata {
			t.Errorf("%s: %d bytes", c.name, n)
		}
		back, err := decode(i)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if (back == u) != c.keepsOrder {
			t.Errorf("%s: comes back as %s", c.name, back)
		}
		if back.Service() != u.Service() || back.Param("application") != "shop" || back.HostPort() != u.HostPort() {
			t.Errorf("%s: comes back as %s", c.name, back)
		}
		if c.category == providers && back.Param("zebra") != u.Param("zebra") {
			t.Errorf("%s: a parameter is lost", c.name)
		}
	}
	// The list of origins goes too, also where nothing else could.
	u, err := registry.ParseURL("dubbo://10.0.0.1:20882/a.B?application=shop&interface=a.B&side=" + strings.Repeat("x", 800) +
		"&meshferry.origins=" + strings.Repeat("10.0.0.1:20880,", 10) + "&meshferry.origin=10.0.0.1:20880&meshferry.caps=1")
	if err != nil {
		t.Fatal(err)
	}
	if i := encode(providers, u, "host"); length(i.Metadata) > maxMetadata || i.Metadata[registry.MarkOrigin] == "" || i.Metadata[registry.MarkOrigins] != "" {
		t.Errorf("%d bytes: %v", length(i.Metadata), i.Metadata)
	}
}
