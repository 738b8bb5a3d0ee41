package registry

import (
	"maps"
	"slices"
	"testing"
)

func TestIDs(t *testing.T) {
	a := Application{Instance: Instance{Application: "shop", Host: "2001:db8::1", Port: 20882}}
	if got, want := a.ID(), "shop@[2001:db8::1]:20882"; got != want {
		t.Errorf("ID is %q, want %q", got, want)
	}
}

func TestProviderURLs(t *testing.T) {
	instance := Instance{Application: "shop", Host: "192.0.2.1", Port: 20882, Metadata: map[string]string{
		KeyEndpoints: `[{"port":20883,"protocol":"dubbo"},{"port":99999,"protocol":"rest"}]`,
		KeyTimestamp: "17", MarkOrigin: "192.0.2.1:20880", MarkCaps: "1", "weight": "200", "other": "x",
	}}
	metadata := Metadata{Application: "shop", Services: map[string]ServiceInfo{
		"g/com.a.Foo:1.0:dubbo": {Name: "com.a.Foo", Group: "g", Version: "1.0", Protocol: "dubbo", Path: "alias",
			Params: map[string]string{"z": "%2B", "a": "1"}},
		"com.a.Foo:tri":   {Name: "com.a.Foo", Protocol: "tri", Path: "com.a.Foo", Port: 50051},
		"com.a.Foo:rest":  {Name: "com.a.Foo", Protocol: "rest", Port: -1, Params: map[string]string{"application": "own"}},
		"com.a.Bar:dubbo": {Name: "com.a.Bar", Protocol: "dubbo"},
	}}
	const marks = "&interface=com.a.Foo&meshferry.caps=1&meshferry.origin=192.0.2.1:20880&timestamp=17"
	want := []string{
		"rest://192.0.2.1:20882/com.a.Foo?application=own" + marks + "&weight=200", // neither own port nor a valid endpoint
		"tri://192.0.2.1:50051/com.a.Foo?application=shop" + marks + "&weight=200",
		"dubbo://192.0.2.1:20883/alias?a=1&application=shop&group=g" + marks + "&version=1.0&weight=200&z=%2B",
	}
	before := maps.Clone(metadata.Services["g/com.a.Foo:1.0:dubbo"].Params)
	var got []string
	for _, u := range ProviderURLs(instance, metadata, "com.a.Foo") {
		got = append(got, u.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	if !maps.Equal(before, metadata.Services["g/com.a.Foo:1.0:dubbo"].Params) {
		t.Error("the metadata was changed")
	}
	if got, want := metadata.Interfaces(), []string{"com.a.Bar", "com.a.Foo"}; !slices.Equal(got, want) {
		t.Errorf("interfaces %q, want %q", got, want)
	}
	if got := ProviderURLs(instance, metadata, "com.a.None"); got != nil {
		t.Errorf("an interface that is not served: %v", got)
	}
}

// TestProviderURLsStayOneParameter: a value of the metadata cannot become
// another parameter, and the text can be read again.
func TestProviderURLsStayOneParameter(t *testing.T) {
	m := Metadata{Services: map[string]ServiceInfo{"k": {Name: "com.a.Foo", Protocol: "dubbo", Params: map[string]string{
		"x": "1&meshferry.origin=192.0.2.9:1", "a=b&c": "d", "text": "line\nline", "kept": "a+b %20=é",
	}}}}
	u := ProviderURLs(Instance{Application: "shop", Host: "h", Port: 1}, m, "com.a.Foo")[0]
	want := "a%3Db%26c=d&application=shop&interface=com.a.Foo&kept=a+b %20=é&text=line%0Aline&x=1%26meshferry.origin=192.0.2.9:1"
	if u.Query != want {
		t.Errorf("query\n%s\nwant\n%s", u.Query, want)
	}
	if again, err := ParseURL(u.String()); err != nil || again != u {
		t.Errorf("%+v, %v; want %+v", again, err, u)
	}
}

func TestEndpointsUnreadable(t *testing.T) {
	for _, text := range []string{"", "x", "{}", `[{"port":"x"}]`, `[{"port":0,"protocol":"dubbo"}]`} {
		if got := (Instance{Metadata: map[string]string{KeyEndpoints: text}}).endpoints(); len(got) != 0 {
			t.Errorf("%q: %v", text, got)
		}
	}
}
