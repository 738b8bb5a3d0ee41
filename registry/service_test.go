package registry

import (
	"strings"
	"testing"
)

func TestServiceKey(t *testing.T) {
	for key, want := range map[string]Service{
		"com.a.Foo":        {Interface: "com.a.Foo"},
		"g/com.a.Foo":      {Group: "g", Interface: "com.a.Foo"},
		"com.a.Foo:1.0":    {Interface: "com.a.Foo", Version: "1.0"},
		"g/com.a.Foo:1.0":  {Group: "g", Interface: "com.a.Foo", Version: "1.0"},
		"*/com.a.Foo:1,2":  {Group: "*", Interface: "com.a.Foo", Version: "1,2"},
		"g-1/com.a.Foo:*":  {Group: "g-1", Interface: "com.a.Foo", Version: "*"},
		"com.a.Foo:1:2":    {Interface: "com.a.Foo", Version: "1:2"},
		"g/com.a.Foo:v1/2": {Group: "g", Interface: "com.a.Foo", Version: "v1/2"},
	} {
		got, err := ParseService(key)
		if err != nil || got != want {
			t.Errorf("ParseService(%q) = %+v, %v; want %+v", key, got, err, want)
		}
		if got.Key() != key || got.String() != key {
			t.Errorf("Key of %+v is %q, want %q", got, got.Key(), key)
		}
	}
	if got, err := ParseService("com.a.Foo:0.0.0"); err != nil || got != (Service{Interface: "com.a.Foo"}) {
		t.Errorf("version 0.0.0: %+v, %v", got, err)
	}
	for _, key := range []string{"", "g/", ":1.0", "g/:1.0", "/"} {
		if got, err := ParseService(key); err == nil {
			t.Errorf("ParseService(%q) = %+v, want an error", key, got)
		}
	}
}

// TestMatchesLikeJava reads what UrlUtils.isMatch of Dubbo 3.3.6 answered, where
// only the service decides.
func TestMatchesLikeJava(t *testing.T) {
	var cases []struct {
		ConsumerURL, ProviderURL string
		Expect                   bool
	}
	load(t, "testdata/matching-3.3.6.json", &cases)
	compared := 0
	for _, c := range cases {
		if both := c.ConsumerURL + c.ProviderURL; strings.Contains(both, "category=") ||
			strings.Contains(both, "enabled=") || strings.Contains(both, "classifier=") {
			continue
		}
		if strings.HasSuffix(c.ProviderURL, "version=0.0.0") || strings.HasSuffix(c.ProviderURL, "version=") ||
			strings.Contains(c.ConsumerURL, "version=1.0.0,") || strings.HasSuffix(c.ProviderURL, "interface=*") {
			continue // where Matches differs on purpose
		}
		compared++
		asked, provided := mustParse(t, c.ConsumerURL).Service(), mustParse(t, c.ProviderURL).Service()
		if got := asked.Matches(provided); got != c.Expect {
			t.Errorf("%s\n%s\n%v, Java says %v", c.ConsumerURL, c.ProviderURL, got, c.Expect)
		}
	}
	if compared < 40 {
		t.Errorf("only %d cases compared", compared)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		asked, provided string
		want            bool
	}{
		{"com.a.Foo", "com.a.Foo", true},
		{"com.a.Foo", "com.a.Bar", false},
		{"com.a.Foo", "g/com.a.Foo", false},
		{"*/com.a.Foo:*", "g/com.a.Foo:1", true},
		{"*/com.a.Foo:*", "com.a.Foo", true},
		{"a, b/com.a.Foo", "b/com.a.Foo", true},
		{"com.a.Foo:1,0.0.0", "com.a.Foo", true},
		{"com.a.Foo:1,2", "com.a.Foo:2", true},
		{"com.a.Foo:1,2", "com.a.Foo:3", false},
		{"a,*/com.a.Foo", "b/com.a.Foo", false},
	} {
		asked, err := ParseService(c.asked)
		if err != nil {
			t.Fatal(err)
		}
		provided, err := ParseService(c.provided)
		if err != nil {
			t.Fatal(err)
		}
		if got := asked.Matches(provided); got != c.want {
			t.Errorf("%s matches %s: %v", c.asked, c.provided, got)
		}
	}
}

func TestCheckInterface(t *testing.T) {
	for _, good := range []string{"com.a.Foo", "com.a.Foo$Inner", "Foo", "greet.v1-x_y", "com.a.Grüße", "..a"} {
		if err := CheckInterface(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", ".", "..", "a/b", "/", "a b", "a\tb", "a\x00", "a?b", "a&b", "a=b", "a%2F", "*", "a,b", "a:1", "a#b", strings.Repeat("x", 513),
	} {
		if err := CheckInterface(bad); err == nil {
			t.Errorf("%.20q was taken", bad)
		}
	}
}

func TestAccepts(t *testing.T) {
	for _, c := range []struct {
		asked, protocol string
		want            bool
	}{
		{"", "dubbo", true}, {"dubbo", "dubbo", true}, {"tri", "dubbo", false},
		{"dubbo,tri", "tri", true}, {"rest, dubbo", "dubbo", true}, {"rest,tri", "dubbo", false},
	} {
		if got := Accepts(c.asked, c.protocol); got != c.want {
			t.Errorf("Accepts(%q, %q) is %t", c.asked, c.protocol, got)
		}
	}
}
