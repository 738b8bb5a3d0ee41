package workload

import (
	"errors"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

func TestCheckWorkload(t *testing.T) {
	for name, ok := range map[string]bool{
		"demo":                      true,
		"anon/demo/20880":           true,
		"a.b_c:d@e-f/0123":          true,
		strings.Repeat("x", 128):    true,
		"":                          false,
		strings.Repeat("x", 129):    false,
		"two words":                 false,
		"größe":                     false,
		"a%2Fb":                     false,
		"a\x00":                     false,
		"a\n":                       false,
		"3f2c8a4e-demo@10.0.0.5:77": true,
	} {
		err := CheckWorkload(name)
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestAnonymous(t *testing.T) {
	for _, c := range []struct {
		application string
		port        int
		want        string
	}{
		{"demo", 20880, "anon/demo/20880"},
		{"demo", 0, "anon/demo"},
		{"", 20880, "anon/-/20880"},
		{"my app%20x", 1, "anon/my-app-20x/1"},
	} {
		if got := anonymous(c.application, c.port); got != c.want {
			t.Errorf("anonymous(%q, %d) = %q, want %q", c.application, c.port, got, c.want)
		}
	}
}

func FuzzAnonymous(f *testing.F) {
	f.Add("demo", 20880)
	f.Add("größe\xff", 0)
	f.Fuzz(func(t *testing.T, application string, port int) {
		if len(application) > 100 || port < 0 || port > 65535 {
			return
		}
		if name := anonymous(application, port); CheckWorkload(name) != nil {
			t.Fatalf("anonymous(%q) = %q", application, name)
		}
	})
}

// FuzzComplete: whatever is accepted can be written to disk and read back as the
// same identity, and can be published again.
func FuzzComplete(f *testing.F) {
	f.Add("dubbo://127.0.0.1:20880/com.a.Foo?interface=com.a.Foo&group=g&version=1.0.0", "")
	f.Add("tri://:50051/com.a.Foo?application=x", "w")
	f.Add("dubbo://[::1]:1/ctx/com.a.Foo?interface=com.a.Foo&meshferry.caps=1", "w/1")
	f.Add("dubbo://0.0.0.0:65535/?interface=a", "anon/a/1")
	s, err := Open(Options{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text, workload string) {
		u, err := registry.ParseURL(text)
		if err != nil {
			return
		}
		p, err := s.complete(Publication{Identity: Identity{Workload: workload}, URL: u})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		back, err := registry.ParseURL(p.URL.String())
		if err != nil || back != u {
			t.Fatalf("%q became %q: %v", text, p.URL, err)
		}
		again, err := s.complete(p)
		if err != nil || again.Identity != p.Identity || again.Address != p.Address {
			t.Fatalf("again: %+v, %v; want %+v", again, err, p)
		}
	})
}
