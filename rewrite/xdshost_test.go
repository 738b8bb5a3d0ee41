package rewrite

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

func TestHost(t *testing.T) {
	long := strings.Repeat("abcdefgh.", 27) // 243 characters with the last dot
	for _, tt := range []struct {
		service registry.Service
		want    string
	}{
		{registry.Service{Interface: "org.apache.dubbo.samples.api.DemoService"}, "org.apache.dubbo.samples.api.demoservice"},
		// dubbo2istio's own example.
		{registry.Service{Group: "testgroup", Interface: "org.apache.dubbo.samples.basic.api.DemoService", Version: "1.0.0"}, "org.apache.dubbo.samples.basic.api.demoservice-testgroup-1-0-0"},
		{registry.Service{Interface: "com.a.Foo", Version: "2"}, "com.a.foo-2"},
		{registry.Service{Group: "g1", Interface: "com.a.Foo"}, "com.a.foo-g1"},
		{registry.Service{Interface: "Greeter"}, "greeter"},
		{registry.Service{Interface: "com.a." + strings.Repeat("F", 63)}, "com.a." + strings.Repeat("f", 63)},

		// Another group, version or interface could have the same plain name.
		{registry.Service{Group: "1", Interface: "com.a.Foo"}, "com.a.foo-1-x585eafd0"},
		{registry.Service{Group: "g-1", Interface: "com.a.Foo"}, "com.a.foo-g-1-x6fdb14f5"},
		{registry.Service{Group: "G1", Interface: "com.a.Foo"}, "com.a.foo-g1-x854a6a0b"},
		{registry.Service{Group: "a.b", Interface: "com.a.Foo"}, ""},
		{registry.Service{Interface: "com.a.Foo", Version: "1.0-SNAPSHOT"}, ""},
		{registry.Service{Interface: "com.a.Foo", Version: "1..0"}, ""},
		{registry.Service{Interface: "com.a.Foo-g1"}, ""},
		// No DNS name.
		{registry.Service{Interface: "com.a.Outer$Inner"}, ""},
		{registry.Service{Interface: "com.a.foo_bar", Version: "1.0"}, ""},
		{registry.Service{Interface: "com.a." + strings.Repeat("F", 64)}, ""},
		{registry.Service{Interface: "com." + strings.Repeat("p", 70) + ".Foo"}, ""},
		{registry.Service{Interface: "com.a.123"}, ""},
		{registry.Service{Interface: "com..Foo"}, ""},
		{registry.Service{Interface: "._"}, ""},
		{registry.Service{Interface: "com.灰.Foo"}, ""},
		{registry.Service{Interface: long + "Foooooooooooo"}, ""},
	} {
		got := Host(tt.service)
		if isHashed := regexp.MustCompile(`-x[0-9a-f]{8}$`).MatchString(got); isHashed != (tt.want == "" || strings.Contains(tt.want, "-x")) {
			t.Errorf("%s: %s", tt.service, got)
		}
		if tt.want != "" && got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.service, got, tt.want)
		}
		if why := notDNS(got); why != "" {
			t.Errorf("%s: %s is no host: %s", tt.service, got, why)
		}
	}
}

// notDNS says why istiod would not take a host (pkg/config/validation:
// ValidateFQDN).
func notDNS(host string) string {
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if !regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`).MatchString(l) {
			return "label " + l
		}
	}
	switch {
	case len(host) > 253:
		return "too long"
	case regexp.MustCompile(`^[0-9]+$`).MatchString(labels[len(labels)-1]):
		return "top level domain is all-numeric"
	}
	return ""
}

func TestHosts(t *testing.T) {
	upper, lower := registry.Service{Interface: "com.a.Foo"}, registry.Service{Interface: "com.a.foo"}
	grouped := registry.Service{Group: "g1", Interface: "com.a.Foo", Version: "1.0"}
	for _, in := range [][]registry.Service{{upper, lower, grouped, upper}, {lower, grouped, upper}} {
		table, refused := Hosts(in)
		if len(table) != 2 || table["com.a.foo"] != upper || table["com.a.foo-g1-1-0"] != grouped {
			t.Errorf("%v: %v", in, table)
		}
		if !slices.Equal(refused, []Collision{{"com.a.foo", upper, lower}}) {
			t.Errorf("%v: refused %v", in, refused)
		}
		if text := refused[0].Error(); text != `service com.a.foo has no host in xDS: "com.a.foo" is that of com.a.Foo` {
			t.Error(text)
		}
	}
}

// FuzzHost: every service has a DNS name, and two services share one only if
// their interfaces differ in capitals alone.
func FuzzHost(f *testing.F) {
	f.Add("", "com.a.Foo", "", "g", "com.a.Foo", "")
	f.Add("g", "com.a.Foo", "1.0", "", "com.a.Foo-g", "1.0")
	f.Add("", "com.a.Foo", "1.0", "", "com.a.Foo", "1-0")
	f.Add("1", "com.a.Foo", "", "", "com.a.Foo", "1")
	f.Add("a\xff", "a..b$", "-", "-", "K.ı", "0.0.0")
	f.Fuzz(func(t *testing.T, g1, i1, v1, g2, i2, v2 string) {
		a := registry.Service{Group: g1, Interface: i1, Version: registry.NormalVersion(v1)}
		b := registry.Service{Group: g2, Interface: i2, Version: registry.NormalVersion(v2)}
		for _, s := range []registry.Service{a, b} {
			if why := notDNS(Host(s)); why != "" && s.Interface != "" {
				t.Fatalf("%q: %q is no host: %s", s.Key(), Host(s), why)
			}
		}
		plainly := func(s registry.Service) bool { return !strings.Contains(Host(s), "-x") }
		if Host(a) == Host(b) && a != b && (plainly(a) || plainly(b)) &&
			(!strings.EqualFold(a.Interface, b.Interface) || a.Group != b.Group || a.Version != b.Version) {
			t.Fatalf("%q and %q are both %s", a.Key(), b.Key(), Host(a))
		}
	})
}
