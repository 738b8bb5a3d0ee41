package route

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

const (
	direct1  = "dubbo://10.0.0.1:20880/a.B?interface=a.B&timestamp=1700000000000"
	mesh1    = "dubbo://10.0.0.1:20882/a.B?interface=a.B&timestamp=1700000000000&meshferry.origin=10.0.0.1:20880&meshferry.caps=1"
	mesh1b   = "dubbo://10.0.0.1:20882/a.B?interface=a.B&timestamp=1700000000000&meshferry.origin=10.0.0.1:20890&meshferry.caps=1"
	sum1     = "dubbo://10.0.0.1:20882/a.B?interface=a.B&weight=200&timestamp=1700000000000&meshferry.origin=10.0.0.1:20880&meshferry.caps=1"
	both1    = "dubbo://10.0.0.1:20882/a.B?interface=a.B&weight=200&timestamp=1700000000000&meshferry.origins=10.0.0.1:20880,10.0.0.1:20890&meshferry.origin=10.0.0.1:20880&meshferry.caps=1"
	direct1b = "dubbo://10.0.0.1:20890/a.B?interface=a.B&timestamp=1700000000000"
	noStamp1 = "dubbo://10.0.0.1:20880/a.B?interface=a.B&weight=7"
)

func TestMerge(t *testing.T) {
	i := func(texts ...string) (list []registry.Provider) {
		for _, text := range texts {
			list = append(list, ifaceLevel(t, text))
		}
		return list
	}
	a := func(texts ...string) (list []registry.Provider) {
		for _, text := range texts {
			list = append(list, appLevel(t, text))
		}
		return list
	}
	for name, c := range map[string]struct {
		main, other []registry.Provider
		want        []string // "host:port model registries reason", sorted as merge does
	}{
		"one": {main: i(direct1), want: []string{"10.0.0.1:20880 interface main"}},
		"both models count once, by the interface level": {main: slices.Concat(a(direct1), i(direct1)), want: []string{
			"10.0.0.1:20880 interface main", "10.0.0.1:20880 application main duplicate of interface level"}},
		"two registries count once": {main: i(direct1), other: i(direct1), want: []string{"10.0.0.1:20880 interface main,other"}},
		"a leftover of an earlier start": {main: i(strings.Replace(direct1, "17", "16", 1), direct1), want: []string{
			"10.0.0.1:20880 interface main", "10.0.0.1:20880 interface main duplicate of interface level"}},
		"mesh stands for direct at its origin (publish: both)": {main: i(direct1, mesh1), want: []string{
			"10.0.0.1:20880 interface main duplicate of mesh endpoint 10.0.0.1:20882", "10.0.0.1:20882 interface main"}},
		"at all four places": {main: slices.Concat(i(direct1, mesh1), a(direct1, sum1)), want: []string{
			"10.0.0.1:20880 interface main duplicate of mesh endpoint 10.0.0.1:20882",
			"10.0.0.1:20880 application main duplicate of interface level",
			"10.0.0.1:20882 interface main",
			"10.0.0.1:20882 application main duplicate of interface level"}},
		"two processes behind one mesh address count twice": {main: i(mesh1, mesh1b), want: []string{
			"10.0.0.1:20882 interface main", "10.0.0.1:20882 interface main"}},
		"their sum at application level does not count on top": {main: slices.Concat(i(mesh1, mesh1b), a(sum1)), want: []string{
			"10.0.0.1:20882 interface main", "10.0.0.1:20882 interface main", "10.0.0.1:20882 application main duplicate of interface level"}},
		"not either when its origin is a process without the service": {main: slices.Concat(i(mesh1b), a(sum1)), want: []string{
			"10.0.0.1:20882 interface main", "10.0.0.1:20882 application main duplicate: sum of the interface level"}},
		"an entry for two counts once": {main: slices.Concat(i(both1), a(sum1)), want: []string{
			"10.0.0.1:20882 interface main", "10.0.0.1:20882 application main duplicate of interface level"}},
		"an entry for two is not counted on top of another registry's two": {main: i(mesh1, mesh1b), other: i(both1), want: []string{
			"10.0.0.1:20882 interface main,other", "10.0.0.1:20882 interface main,other", "10.0.0.1:20882 interface other duplicate of interface level"}},
		"not either of one that is left": {main: i(mesh1b), other: i(both1), want: []string{
			"10.0.0.1:20882 interface main,other", "10.0.0.1:20882 interface other duplicate: sum of the interface level"}},
		"an entry for two beside one at another path": {main: i(both1, strings.Replace(mesh1b, "/a.B?", "/alias?", 1)), want: []string{
			"10.0.0.1:20882 interface main", "10.0.0.1:20882 interface main"}},
		"an entry for two stands for both": {main: i(both1, direct1, direct1b), want: []string{
			"10.0.0.1:20880 interface main duplicate of mesh endpoint 10.0.0.1:20882",
			"10.0.0.1:20882 interface main",
			"10.0.0.1:20890 interface main duplicate of mesh endpoint 10.0.0.1:20882"}},
		"the sum alone counts": {main: a(sum1), want: []string{"10.0.0.1:20882 application main"}},
		"other group, other service": {main: i(direct1, direct1+"&group=g"), want: []string{
			"10.0.0.1:20880 interface main", "10.0.0.1:20880 interface main"}},
		"what no call may go to": {main: i(direct1+"&enabled=false", direct1+"&disabled=true", direct1+"&category=configurators", "dubbo:///a.B?interface=a.B"), want: []string{
			":0 interface main no address", "10.0.0.1:20880 interface main category configurators",
			"10.0.0.1:20880 interface main disabled", "10.0.0.1:20880 interface main disabled"}},
		"a mesh entry that is disabled stands for nothing": {main: i(direct1, mesh1+"&disabled=true"), want: []string{
			"10.0.0.1:20880 interface main", "10.0.0.1:20882 interface main disabled"}},
		"category among others": {main: i(direct1 + "&category=providers,configurators"), want: []string{"10.0.0.1:20880 interface main"}},
	} {
		t.Run(name, func(t *testing.T) {
			all := merge([]Update{{Source: "main", Providers: c.main}, {Source: "other", Providers: c.other}})
			var got []string
			for _, x := range all {
				got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", x.address, x.provider.Model, strings.Join(x.registries, ","), x.excluded)))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// The order in which a registry lists its entries does not matter.
func TestMergeIgnoresOrder(t *testing.T) {
	list := []registry.Provider{ifaceLevel(t, direct1), appLevel(t, direct1), ifaceLevel(t, mesh1), ifaceLevel(t, mesh1b), appLevel(t, sum1), ifaceLevel(t, noStamp1)}
	text := func(all []candidate) string {
		var b strings.Builder
		for _, x := range all {
			fmt.Fprintln(&b, x.provider.URL, x.provider.Model, x.excluded)
		}
		return b.String()
	}
	want := text(merge([]Update{{Providers: list}}))
	for range len(list) {
		list = append(list[1:], list[0])
		if got := text(merge([]Update{{Providers: list}})); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// Java's simplified URLs have no timestamp; the instance knows it.
func TestTimestampComesFromTheInstance(t *testing.T) {
	all := merge([]Update{{Providers: []registry.Provider{ifaceLevel(t, noStamp1), appLevel(t, direct1)}}})
	if got := all[0].provider.URL.String(); got != noStamp1+"&timestamp=1700000000000" || all[1].excluded == "" {
		t.Errorf("%s, second: %q", got, all[1].excluded)
	}
}

func TestJoin(t *testing.T) {
	p := []registry.Provider{ifaceLevel(t, direct1)}
	for _, c := range []struct {
		one, two SetState
		first    []registry.Provider
		want     SetState
	}{
		{Ready, Ready, p, Ready}, {Ready, Waiting, p, Ready}, {Ready, Empty, p, Ready}, {Empty, Empty, nil, Empty},
		{Empty, Waiting, nil, Waiting}, {Protected, Ready, p, Protected}, {Protected, Empty, p, Protected},
		{Ready, Ready, []registry.Provider{ifaceLevel(t, direct1+"&disabled=true")}, Empty},
	} {
		updates := []Update{{Source: "one", State: c.one, Providers: c.first, Reason: "x"}, {Source: "two", State: c.two}}
		got := join("a.B", updates, merge(updates))
		if got.State != c.want || got.Source != "one,two" || got.Reason != "one: x" || got.Interface != "a.B" {
			t.Errorf("%s and %s: %+v, want %s", c.one, c.two, got, c.want)
		}
	}
}

// What real providers registered ends in the tables.
func TestRealProviders(t *testing.T) {
	content, err := os.ReadFile("testdata/providers.txt")
	if err != nil {
		t.Fatal(err)
	}
	var list []registry.Provider
	for line := range strings.Lines(string(content)) {
		list = append(list, ifaceLevel(t, strings.TrimSpace(line)))
	}
	_, s := compiled(t, Options{}, nil, ready("org.example.GreetService", list...))
	set, _ := s.interfaces.value("org.example.GreetService")
	used := 0
	for i, x := range set.candidates {
		e := set.endpoints[i]
		if e == nil {
			t.Logf("%s: %s", x.provider.URL, x.excluded)
			continue
		}
		used++
		if e.Weight != 100 || e.facts.began.Year() != 2026 && x.provider.URL.Param("timestamp") != "" {
			t.Errorf("%s: weight %d, began %v", x.provider.URL, e.Weight, e.facts.began)
		}
		if cl := s.Outbound.find("org.example.GreetService", x.service.Version, x.service.Group); !slices.Contains(cl.Endpoints, e) {
			t.Errorf("%s is in no cluster", x.provider.URL)
		}
	}
	if used < 8 {
		t.Errorf("%d of %d are used", used, len(list))
	}
}
