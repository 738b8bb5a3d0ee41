package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

// Every provider that real Java and dubbo-go applications registered.
func TestAdvertisedURLs(t *testing.T) {
	var b bytes.Buffer
	for _, c := range captures(t, "providers.txt") {
		u := parse(t, c.text)
		out, err := Out(u, "192.0.2.2", agent)
		if err != nil {
			t.Fatalf("%s: %v", c.source, err)
		}
		fmt.Fprintf(&b, "%s\ncanonical  %s\nadvertised %s\n\n", c.source, Canonical(u, "192.0.2.2"), out)
		checkOut(t, u, "192.0.2.2")
	}
	golden(t, "providers.golden", b.Bytes())
}

func TestConsumerURLs(t *testing.T) {
	var b bytes.Buffer
	for _, c := range captures(t, "consumers.txt") {
		u := parse(t, c.text)
		got := Consumer(u, "192.0.2.2")
		if strings.HasPrefix(c.source, "java") && got != u {
			t.Errorf("%s: Java's own entry is changed\n got %s\nwant %s", c.source, got, u)
		}
		if got != Consumer(got, "192.0.2.3") {
			t.Errorf("%s: not idempotent", c.source)
		}
		fmt.Fprintf(&b, "%s\n%s\n\n", c.source, got)
	}
	golden(t, "consumers.golden", b.Bytes())
}

func TestConsumer(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"as dubbo-go hands it over", "consumer://:/com.a.Foo?group=&interface=com.a.Foo&retries=&version=", "consumer://10.0.0.1/com.a.Foo?interface=com.a.Foo&retries=&category=consumers&check=false"},
		{"as Java subscribes", "consumer://10.0.0.7/com.a.Foo?category=providers,configurators,routers&check=true&interface=com.a.Foo", "consumer://10.0.0.7/com.a.Foo?category=consumers&check=false&interface=com.a.Foo"},
		{"Java 3.x with a protocol of its own", "tri://10.0.0.7/com.a.Foo?interface=com.a.Foo", "consumer://10.0.0.7/com.a.Foo?interface=com.a.Foo&category=consumers&check=false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Consumer(parse(t, tt.in), "10.0.0.1").String(); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestCanonical(t *testing.T) {
	const golang, java = "release=dubbo-golang-3.3.2", "release=3.3.6"
	for _, tt := range []struct{ name, in, want string }{
		{"empty host", "dubbo://:20880/com.a.Foo?x=1", "dubbo://10.0.0.1:20880/com.a.Foo?x=1"},
		{"any IPv4 address is no host", "dubbo://0.0.0.0:20880/a", "dubbo://10.0.0.1:20880/a"},
		{"any IPv6 address is no host", "dubbo://[::]:20880/a", "dubbo://10.0.0.1:20880/a"},
		{"any address, mapped", "dubbo://[::ffff:0.0.0.0]:20880/a", "dubbo://10.0.0.1:20880/a"},
		{"loopback is a host", "dubbo://127.0.0.1:20880/a", "dubbo://127.0.0.1:20880/a"},
		{"mapped loopback keeps its text", "dubbo://[::ffff:127.0.0.1]:20880/a", "dubbo://[::ffff:127.0.0.1]:20880/a"},
		{"localhost is a host", "dubbo://localhost:20880/a", "dubbo://localhost:20880/a"},
		{"IPv6 keeps its text", "dubbo://[2001:DB8:0::1]:20880/a", "dubbo://[2001:DB8:0::1]:20880/a"},
		{"user stays", "dubbo://me:pw@:1/a?b", "dubbo://me:pw@10.0.0.1:1/a?b"},
		{"empty group and version go", "dubbo://h:1/a?group=&b=&version=&c=1", "dubbo://h:1/a?b=&c=1"},
		{"without a sign of equality too", "dubbo://h:1/a?group&version&c", "dubbo://h:1/a?c"},
		{"nothing is left", "dubbo://h:1/a?group=", "dubbo://h:1/a"},
		{"0.0.0 stays", "dubbo://h:1/a?version=0.0.0", "dubbo://h:1/a?version=0.0.0"},
		{"names that only look alike stay", "dubbo://h:1/a?app.version=&default.group=&groups=", "dubbo://h:1/a?app.version=&default.group=&groups="},
		{"weight 0 of dubbo-go goes", "dubbo://h:1/a?" + golang + "&weight=0", "dubbo://h:1/a?" + golang},
		{"wherever it stands", "dubbo://h:1/a?weight=0&" + golang, "dubbo://h:1/a?" + golang},
		{"weight 0 of Java means it", "dubbo://h:1/a?" + java + "&weight=0", "dubbo://h:1/a?" + java + "&weight=0"},
		{"weight 0 of nobody means it", "dubbo://h:1/a?weight=0", "dubbo://h:1/a?weight=0"},
		{"other weights of dubbo-go stay", "dubbo://h:1/a?" + golang + "&weight=50&x.weight=0", "dubbo://h:1/a?" + golang + "&weight=50&x.weight=0"},
		{"order, doubles and encodings stay", "dubbo://h:1/a?z=%2C+%20&a=1&z=2&&A=é&=&x", "dubbo://h:1/a?z=%2C+%20&a=1&z=2&&A=é&=&x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Canonical(parse(t, tt.in), "10.0.0.1")
			if got.String() != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			if again := Canonical(got, "10.0.0.2"); again != got {
				t.Errorf("not idempotent: %s", again)
			}
		})
	}
}

func TestOut(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"marks last", "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo&x=1", "dubbo://10.0.0.9:20882/com.a.Foo?interface=com.a.Foo&x=1&meshferry.origin=10.0.0.1:20880&meshferry.caps=1"},
		{"no parameters", "tri://10.0.0.1:50051/a", "tri://10.0.0.9:20882/a?meshferry.origin=10.0.0.1:50051&meshferry.caps=1"},
		{"two processes keep apart", "dubbo://10.0.0.1:20881/a", "dubbo://10.0.0.9:20882/a?meshferry.origin=10.0.0.1:20881&meshferry.caps=1"},
		{"IPv6 origin", "dubbo://[::1]:20880/a?b", "dubbo://10.0.0.9:20882/a?b&meshferry.origin=[::1]:20880&meshferry.caps=1"},
		{"empty host", "dubbo://:20880/a?group=", "dubbo://10.0.0.9:20882/a?meshferry.origin=10.0.0.1:20880&meshferry.caps=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := parse(t, tt.in)
			got, err := Out(u, "10.0.0.1", agent)
			if err != nil || got.String() != tt.want {
				t.Errorf("%v\n got %s\nwant %s", err, got, tt.want)
			}
			checkOut(t, u, "10.0.0.1")
		})
	}
	t.Run("IPv6 agent", func(t *testing.T) {
		got, err := Out(parse(t, "dubbo://h:1/a"), "", Address{Host: "2001:db8::9", Port: 20882, Caps: "1,tls"})
		if want := "dubbo://[2001:db8::9]:20882/a?meshferry.origin=h:1&meshferry.caps=1,tls"; err != nil || got.String() != want {
			t.Errorf("%v\n got %s\nwant %s", err, got, want)
		}
	})
}

func TestOutRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, in, host string
		agent          Address
		want           error
	}{
		{"what was read from a registry", "dubbo://10.0.0.9:20882/a?meshferry.origin=10.0.0.1:20880&meshferry.caps=1", "h", agent, ErrMarked},
		{"any mark", "dubbo://h:1/a?meshferry.x", "h", agent, ErrMarked},
		{"no port", "dubbo://h/a", "h", agent, ErrUnfit},
		{"no host", "dubbo://:1/a", "", agent, ErrUnfit},
		{"a host that would split the mark", "dubbo://h&x:1/a", "h", agent, ErrUnfit},
		{"agent without host", "dubbo://h:1/a", "h", Address{Port: 1, Caps: "1"}, ErrUnfit},
		{"agent without port", "dubbo://h:1/a", "h", Address{Host: "h", Caps: "1"}, ErrUnfit},
		{"agent without caps", "dubbo://h:1/a", "h", Address{Host: "h", Port: 1}, ErrUnfit},
		{"longer than readers take", "dubbo://h:1/a?x=" + strings.Repeat("y", registry.MaxURL-20), "h", agent, ErrUnfit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Out(parse(t, tt.in), tt.host, tt.agent); !errors.Is(err, tt.want) {
				t.Errorf("got %s, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestBack(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"marks in the middle, as readers sort them", "dubbo://10.0.0.9:20882/a?interface=a&meshferry.caps=1&meshferry.origin=10.0.0.1:20880&methods=b", "dubbo://10.0.0.1:20880/a?interface=a&methods=b"},
		{"marks of later versions", "dubbo://10.0.0.9:20882/a?meshferry.origin=[::1]:1&meshferry.caps=1,tls&meshferry.zone=b", "dubbo://[::1]:1/a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := Back(parse(t, tt.in)); !ok || got.String() != tt.want {
				t.Errorf("%v\n got %s\nwant %s", ok, got, tt.want)
			}
		})
	}
	for _, in := range []string{
		"dubbo://10.0.0.1:20880/a",
		"dubbo://10.0.0.1:20880/a?meshferry.origin=10.0.0.1:20880",
		"dubbo://10.0.0.1:20880/a?meshferry.caps=1",
		"dubbo://10.0.0.1:20880/a?meshferry.caps=1&meshferry.origin=10.0.0.1",
		"dubbo://10.0.0.1:20880/a?meshferry.caps=1&meshferry.origin=10.0.0.1:0",
		"dubbo://10.0.0.1:20880/a?meshferry.caps=1&meshferry.origin=10.0.0.1:65536",
		"dubbo://10.0.0.1:20880/a?meshferry.caps=1&meshferry.origin=:1",
		"dubbo://10.0.0.1:20880/a?meshferry.caps=1&meshferry.origin=::1:1",
	} {
		if got, ok := Back(parse(t, in)); ok || got != parse(t, in) {
			t.Errorf("%s: not the URL of a mesh endpoint, got %s", in, got)
		}
	}
}

// checkOut holds what must be true of every URL that can be advertised.
func checkOut(t *testing.T, u registry.URL, host string) {
	t.Helper()
	canonical := Canonical(u, host)
	if again := Canonical(canonical, host); again != canonical {
		t.Errorf("Canonical is not idempotent:\nonce  %s\ntwice %s", canonical, again)
	}
	out, err := Out(u, host, agent)
	if err != nil {
		return
	}
	if back, ok := Back(out); !ok || back != canonical {
		t.Errorf("Back(Out(u)) is not Canonical(u):\nback      %s\ncanonical %s", back, canonical)
	}
	if _, ok := Back(canonical); ok {
		t.Errorf("a provider's own URL looks like a mesh endpoint: %s", canonical)
	}
	if reread, err := registry.ParseURL(out.String()); err != nil || reread != out {
		t.Errorf("readers see another URL: %v\nwrote %s\nread  %s", err, out, reread)
	}
	if _, err := Out(out, host, agent); !errors.Is(err, ErrMarked) {
		t.Errorf("advertised twice: %v", err)
	}
	kept := slices.DeleteFunc(strings.Split(u.Query, "&"), func(pair string) bool {
		k, v, _ := strings.Cut(pair, "=")
		return v == "" && (k == "group" || k == "version") || k == "weight" && v == "0"
	})
	got := slices.DeleteFunc(strings.Split(out.Query, "&"), func(pair string) bool {
		return strings.HasPrefix(pair, "meshferry.") || pair == "weight=0"
	})
	if strings.Trim(strings.Join(kept, "&"), "&") != strings.Trim(strings.Join(got, "&"), "&") {
		t.Errorf("parameters changed:\nfrom %s\nto   %s", u.Query, out.Query)
	}
}

func FuzzOut(f *testing.F) {
	for _, c := range captures(f, "providers.txt") {
		f.Add(c.text, "192.0.2.2")
	}
	for _, s := range []string{
		"dubbo://:1/a?group=&version=&weight=0&release=dubbo-golang", "dubbo://[::ffff:127.0.0.1]:1?&&a=&", "dubbo://u@[::]:1/a?b&meshferry.x=",
		"tri://a&b:1/?=", "dubbo://a%25b:1/a?meshferry.origin=x",
	} {
		f.Add(s, "")
	}
	f.Fuzz(func(t *testing.T, text, host string) {
		u, err := registry.ParseURL(text)
		if err != nil {
			return
		}
		if h, err := registry.ParseURL("dubbo://" + host + ":1"); err != nil || h.Host != host {
			host = "192.0.2.2" // the agent's own host comes from its settings
		}
		checkOut(t, u, host)
		Consumer(u, host)
		if back, ok := Back(u); ok {
			if again, twice := Back(back); twice {
				t.Errorf("Back twice: %s", again)
			}
		}
	})
}

func TestHostID(t *testing.T) {
	id := HostID("4c4c4544", "10.0.0.1:20882")
	if len(id) != 12 || id != HostID("4c4c4544", "10.0.0.1:20882") {
		t.Errorf("%q is not short and stable", id)
	}
	if id == HostID("4c4c4544", "10.0.0.2:20882") || id == HostID("4c4c4545", "10.0.0.1:20882") {
		t.Error("two agents share a host id")
	}
}
