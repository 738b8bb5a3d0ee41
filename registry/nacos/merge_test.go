package nacos

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

// TestShare: what stands in one service for the processes behind one address.
func TestShare(t *testing.T) {
	at := func(origin, more string) string {
		return "dubbo://192.0.2.1:20882/a.B?interface=a.B&application=shop" + more + "&meshferry.origin=192.0.2.1:" + origin + "&meshferry.caps=1"
	}
	direct := func(more string) string { return "dubbo://192.0.2.1:20880/a.B?interface=a.B&application=shop" + more }
	sum := func(more, origins, origin string) string {
		return "dubbo://192.0.2.1:20882/a.B?interface=a.B&application=shop" + more + "&meshferry.origins=" + origins + "&meshferry.origin=192.0.2.1:" + origin + "&meshferry.caps=1"
	}
	const two = "192.0.2.1:9000,192.0.2.1:20880"
	for _, c := range []struct {
		name     string
		in, want []string
	}{
		{"one is left as it is", []string{at("20880", "&weight=7&x=%2C")}, []string{at("20880", "&weight=7&x=%2C")}},
		{"default weights add up; ports sort by number", []string{at("20880", ""), at("9000", "")}, []string{sum("&weight=200", two, "9000")}},
		{"weight in its place", []string{at("9000", "&weight=10&y=1"), at("20880", "&weight=30")}, []string{sum("&weight=40&y=1", two, "9000")}},
		{"no calls for one", []string{at("9000", "&weight=0"), at("20880", "")}, []string{sum("&weight=100", two, "9000")}},
		{"weights of methods", []string{at("9000", "&weight=10&m.weight=1"), at("20880", "&weight=20")},
			[]string{sum("&weight=30&m.weight=21", two, "9000")}},
		{"methods that are equal keep their text", []string{at("9000", "&methods=b%2Ca"), at("20880", "&methods=b%2Ca")},
			[]string{sum("&methods=b%2Ca&weight=200", two, "9000")}},
		{"methods of both", []string{at("20880", "&methods=a,c"), at("9000", "&methods=b%2Ca")}, []string{sum("&methods=b,a,c&weight=200", two, "9000")}},
		{"one that takes any method", []string{at("9000", "&methods=a"), at("20880", "&methods=*")}, []string{sum("&methods=*&weight=200", two, "9000")}},
		{"the earliest start, seconds or milliseconds", []string{at("9000", "&timestamp=1700000009000"), at("20880", "&timestamp=1700000001")},
			[]string{sum("&timestamp=1700000001&weight=200", two, "9000")}},
		{"three", []string{at("3", ""), at("2", ""), at("1", "&weight=1")},
			[]string{sum("&weight=201", "192.0.2.1:1,192.0.2.1:2,192.0.2.1:3", "1")}},
		{"two applications", []string{at("20880", "&owner=x"), strings.Replace(at("9000", ""), "shop", "store", 1)},
			[]string{strings.Replace(sum("&weight=200", two, "9000"), "shop", "store", 1)}},
		{"another group, version, protocol, path, port: apart",
			[]string{at("1", ""), at("2", "&group=g"), at("3", "&version=1.0.0"), strings.Replace(at("4", ""), "dubbo:", "tri:", 1),
				strings.Replace(at("5", ""), "/a.B?", "/alias?", 1), strings.Replace(at("6", ""), ":20882", ":20892", 1)},
			[]string{at("1", ""), at("2", "&group=g"), at("3", "&version=1.0.0"), strings.Replace(at("4", ""), "dubbo:", "tri:", 1),
				strings.Replace(at("5", ""), "/a.B?", "/alias?", 1), strings.Replace(at("6", ""), ":20882", ":20892", 1)}},
		{"what has no marks stays", []string{direct(""), direct("&x=1"), at("9000", "")}, []string{direct(""), direct("&x=1"), at("9000", "")}},
	} {
		var urls []registry.URL
		for _, text := range c.in {
			urls = append(urls, parse(t, text))
		}
		for range 2 { // in any order of what comes in
			var got []string
			of := 0
			for _, s := range share(urls) {
				got = append(got, s.url.String())
				of += len(s.of)
				if back, err := decode(encode(providers, s.url, "h")); err != nil || back != s.url {
					t.Errorf("%s: %s comes back as %s, %v", c.name, s.url, back, err)
				}
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(c.want))
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s:\ngot  %s\nwant %s", c.name, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
			}
			if of != len(urls) {
				t.Errorf("%s: they stand for %d URLs, want %d", c.name, of, len(urls))
			}
			slices.Reverse(urls)
		}
	}
}
