package registry

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustParse(t testing.TB, text string) URL {
	t.Helper()
	u, err := ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestParseURL(t *testing.T) {
	for text, want := range map[string]URL{
		"dubbo://192.0.2.1:20880/com.a.Foo?a=1":       {Protocol: "dubbo", Host: "192.0.2.1", Port: 20880, Path: "com.a.Foo", Query: "a=1"},
		"dubbo://:20880/com.a.Foo?a=1":                {Protocol: "dubbo", Port: 20880, Path: "com.a.Foo", Query: "a=1"},
		"consumer://192.0.2.1/com.a.Foo":              {Protocol: "consumer", Host: "192.0.2.1", Path: "com.a.Foo"},
		"empty://0.0.0.0/com.a.Foo?category=routers":  {Protocol: "empty", Host: "0.0.0.0", Path: "com.a.Foo", Query: "category=routers"},
		"tri://[2001:db8::1]:50051/com.a.Foo":         {Protocol: "tri", Host: "2001:db8::1", Port: 50051, Path: "com.a.Foo"},
		"tri://[2001:db8::1]":                         {Protocol: "tri", Host: "2001:db8::1"},
		"dubbo://fe80::1:20880/x":                     {Protocol: "dubbo", Host: "fe80::1", Port: 20880, Path: "x"},
		"zookeeper://u:p@h1:2181,h2:2181/root":        {Protocol: "zookeeper", User: "u:p", Host: "h1:2181,h2", Port: 2181, Path: "root"},
		"local:///var/lib/reg":                        {Protocol: "local", Path: "var/lib/reg"},
		"dubbo://h:1/x?url=http://a:2/c?d=e&z=@&y=[]": {Protocol: "dubbo", Host: "h", Port: 1, Path: "x", Query: "url=http://a:2/c?d=e&z=@&y=[]"},
		"dubbo://h:1/x?owner=Jane Doe&灰=度":            {Protocol: "dubbo", Host: "h", Port: 1, Path: "x", Query: "owner=Jane Doe&灰=度"},
		"dubbo://h:1/a/b@c":                           {Protocol: "dubbo", Host: "h", Port: 1, Path: "a/b@c"},
		"dubbo://h:65535":                             {Protocol: "dubbo", Host: "h", Port: 65535},
	} {
		got, err := ParseURL(text)
		if err != nil || got != want {
			t.Errorf("ParseURL(%q) = %+v, %v; want %+v", text, got, err, want)
		}
		if strings.HasPrefix(text, "dubbo://fe80") {
			text = "dubbo://[fe80::1]:20880/x" // brackets are added
		}
		if strings.HasPrefix(text, "zookeeper") {
			continue // a list of hosts is the backend's own reading
		}
		if got.String() != text {
			t.Errorf("String is %q, want %q", got.String(), text)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	for _, text := range []string{
		"", "dubbo", "/x", "h:1/x", "://h", "a/b://h", "a?b://h", "a@b://h",
		"dubbo://h:99999/x", "dubbo://h:-1/x", "dubbo://h:+1/x", "dubbo://h:a/x",
		"dubbo://[::1/x", "dubbo://[::1]1/x", "dubbo://[[::1]]:1/x", "dubbo://a[b]:1",
		"dubbo://h:1/x\n?a=1", "dubbo://h:1/x?a=\x00", "dubbo://h:1/x?a=\x7f", "dubbo://h:1/x?a=\r\nb",
		"dubbo://h h:1/x", "dubbo://h:1/x y", " dubbo://h:1/x",
		"dubbo://h:1/x?a=" + strings.Repeat("b", MaxURL),
	} {
		u, err := ParseURL(text)
		if !errors.Is(err, ErrURL) {
			t.Errorf("ParseURL(%.60q) = %+v, %v; want ErrURL", text, u, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
}

// TestParseLikeJava reads what org.apache.dubbo.common.URL.valueOf of Dubbo
// 3.3.6 answered, where both take the text.
func TestParseLikeJava(t *testing.T) {
	var cases []struct {
		URL    string
		Expect *struct {
			Protocol, Username, Password, Host, Path *string
			Port                                     int
			Parameters                               map[string]string
		}
	}
	load(t, "testdata/urls-3.3.6.json", &cases)
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	compared := 0
	for _, c := range cases {
		u, err := ParseURL(c.URL)
		switch {
		case err != nil || c.Expect == nil:
			continue // we demand a protocol, Java does not; Java refuses [::1]/ without a port
		case strings.ContainsAny(c.URL, ";#"):
			continue // Java takes ';' as '&' and drops a fragment; what it writes has neither
		case strings.Contains(c.URL, "?=") || strings.Contains(c.URL, "//a") || c.URL == "dubbo://2001:db8::1/com.foo.Bar":
			continue // no name; more slashes than needed; IPv6 without brackets and port
		}
		compared++
		e := c.Expect
		user := text(e.Username)
		if e.Password != nil {
			user += ":" + *e.Password
		}
		if u.Protocol != text(e.Protocol) || u.User != user || u.Host != strings.Trim(text(e.Host), "[]") ||
			u.Port != e.Port || u.Path != text(e.Path) {
			t.Errorf("%q is %+v, Java has %+v", c.URL, u, e)
		}
		params := maps.Collect(u.Params)
		for k, v := range e.Parameters {
			if got, ok := u.Lookup(k); ok && got != v {
				t.Errorf("%q: %s is %q, Java has %q", c.URL, k, got, v)
			}
			delete(params, k)
		}
		if len(params) > 0 {
			t.Errorf("%q: Java does not have %v", c.URL, params)
		}
	}
	if compared < 80 {
		t.Errorf("only %d cases compared", compared)
	}
}

func load(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestParams(t *testing.T) {
	u := mustParse(t, "dubbo://h:1/x?a=1&&b&c=&a=2&d==x&=e")
	var got []string
	for k, v := range u.Params {
		got = append(got, k+"="+v)
	}
	if want := []string{"a=1", "b=", "c=", "a=2", "d==x", "=e"}; !slices.Equal(got, want) {
		t.Errorf("Params: %q, want %q", got, want)
	}
	for range u.Params {
		break // does not go on
	}
	for key, want := range map[string]string{"a": "2", "b": "", "c": "", "d": "=x"} {
		if v, ok := u.Lookup(key); !ok || v != want || u.Param(key) != want {
			t.Errorf("Lookup(%q) = %q, %v; want %q", key, v, ok, want)
		}
	}
	if v, ok := u.Lookup("z"); ok || v != "" {
		t.Errorf("Lookup of what is not there: %q, %v", v, ok)
	}
}

func TestWith(t *testing.T) {
	for _, c := range []struct{ query, key, value, want string }{
		{"", "a", "1", "a=1"},
		{"b=2", "a", "1", "b=2&a=1"},
		{"a=0&b=2", "a", "1", "a=1&b=2"},
		{"b=%2B&&a=0&c", "a", "1", "b=%2B&&a=1&c"},
		{"&a=0", "a", "1", "&a=1"},
		{"&b", "a", "1", "&b&a=1"},
		{"a=0&b=2&a=3", "a", "1", "a=1&b=2"}, // Java would read the second one
		{"aa=0", "a", "1", "aa=0&a=1"},
		{"a", "a", "", "a="},
	} {
		before := URL{Protocol: "dubbo", Query: c.query}
		after := before.With(c.key, c.value)
		if after.Query != c.want || after.Param(c.key) != c.value {
			t.Errorf("%q With(%q, %q): %q, want %q", c.query, c.key, c.value, after.Query, c.want)
		}
		if before.Query != c.query {
			t.Errorf("%q was changed to %q", c.query, before.Query)
		}
	}
}

func TestWithout(t *testing.T) {
	for query, want := range map[string]string{
		"":                  "",
		"x=1":               "",
		"a=1&x=2&b=%20&x":   "a=1&b=%20",
		"a=1&&b":            "a=1&&b",
		"&a":                "&a",
		"x=1&a&x=2&xx=3&x=": "a&xx=3",
	} {
		got := URL{Query: query}.Without(func(k, _ string) bool { return k == "x" }).Query
		if got != want {
			t.Errorf("%q Without x: %q, want %q", query, got, want)
		}
	}
}

func TestURLService(t *testing.T) {
	for text, want := range map[string]Service{
		"dubbo://h:1/com.a.Foo": {Interface: "com.a.Foo"},
		"dubbo://h:1/alias?interface=com.a.Foo&group=g&version=1.0":       {Group: "g", Interface: "com.a.Foo", Version: "1.0"},
		"dubbo://h:1/com.a.Foo?interface=&group=&version=0.0.0":           {Interface: "com.a.Foo"},
		"consumer://h/com.a.Foo?interface=com.a.Foo&group=*&version=1,2":  {Group: "*", Interface: "com.a.Foo", Version: "1,2"},
		"dubbo://h:1?side=provider":                                       {},
		"dubbo://h:1/com.a.Foo?interface=com.a.Foo&version=1&version=2.0": {Interface: "com.a.Foo", Version: "2.0"},
	} {
		if got := mustParse(t, text).Service(); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
}

// FuzzParseURL: what is taken can be written and read again without a change,
// and setting and dropping parameters touches nothing else.
func FuzzParseURL(f *testing.F) {
	for _, s := range []string{
		"dubbo://192.0.2.1:20880/com.a.Foo?a=1&b=%2B", "tri://[2001:db8::1]:1/x", "a://u:p@h?x", "a://:1", "a:///p//q?&&=", "a://b:c:",
		"a://@h:0/?", "a://[]:1/x", "a://x%y/z", "dubbo://h:1/x?owner=Jane Doe",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURL(text)
		if err != nil {
			if !errors.Is(err, ErrURL) || u != (URL{}) {
				t.Fatalf("ParseURL(%q) = %+v, %v", text, u, err)
			}
			return
		}
		again, err := ParseURL(u.String())
		if err != nil && len(u.String()) <= MaxURL {
			t.Fatalf("%q became %q: %v", text, u.String(), err)
		}
		if err == nil && again != u {
			t.Fatalf("%q: %+v became %+v", text, u, again)
		}
		const mark = "meshferry.fuzz"
		if _, ok := u.Lookup(mark); ok {
			return
		}
		marked := u.With(mark, "1")
		if marked.Param(mark) != "1" {
			t.Fatalf("%q: mark not set in %q", text, marked)
		}
		if back := marked.Without(func(k, _ string) bool { return k == mark }); back != u {
			t.Fatalf("%q: %+v became %+v", text, u, back)
		}
	})
}
