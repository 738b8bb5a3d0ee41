package route

import (
	"strconv"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

func TestMatchers(t *testing.T) {
	for _, c := range []struct {
		m    StringMatch
		yes  string // separated by spaces; _ is the empty text
		no   string
		fold bool
	}{
		{m: StringMatch{}, yes: "_ a b"},
		{m: StringMatch{Invert: true}, no: "_ a"},
		{m: StringMatch{Kind: Exact, Text: "gray"}, yes: "gray", no: "_ Gray gray2 agray"},
		{m: StringMatch{Kind: Prefix, Text: "gr"}, yes: "gr gray", no: "_ g Gray agr"},
		{m: StringMatch{Kind: Suffix, Text: "ay"}, yes: "ay gray", no: "_ y grayx AY"},
		{m: StringMatch{Kind: Contains, Text: "ra"}, yes: "ra gray", no: "_ r gRAy"},
		{m: StringMatch{Kind: Regex, Text: "g.*|b"}, yes: "g gray b", no: "_ ag bb"},
		{m: StringMatch{Kind: Range, From: -1, To: 10}, yes: "-1 0 9 +3", no: "_ -2 10 x 1.0 99999999999999999999999"},
		{m: StringMatch{Kind: Exact, Text: "GrAy", IgnoreCase: true}, yes: "gray GRAY", no: "grey gra"},
		{m: StringMatch{Kind: Prefix, Text: "Gr", IgnoreCase: true}, yes: "gray GR", no: "g"},
		{m: StringMatch{Kind: Suffix, Text: "aY", IgnoreCase: true}, yes: "gray GRAY", no: "y"},
		{m: StringMatch{Kind: Contains, Text: "Ra", IgnoreCase: true}, yes: "gRAy", no: "g r"},
		{m: StringMatch{Kind: Exact, Text: "a", Invert: true}, yes: "_ b", no: "a"},
		{m: StringMatch{Kind: Range, From: 0, To: 1, Invert: true}, yes: "x 1", no: "0"},
	} {
		m, err := newMatcher(c.m)
		if err != nil {
			t.Fatal(err)
		}
		for want, texts := range map[bool]string{true: c.yes, false: c.no} {
			for text := range strings.FieldsSeq(texts) {
				if text == "_" {
					text = ""
				}
				if got := m.match([]byte(text)); got != want {
					t.Errorf("%v on %q: %v", c.m, text, got)
				}
			}
		}
	}
	if _, err := newMatcher(StringMatch{Kind: Regex, Text: "("}); err == nil {
		t.Error("a bad expression was read")
	}
}

func TestConditions(t *testing.T) {
	s := registry.Service{Interface: "com.a.Foo", Group: "g", Version: "1.0"}
	exact := func(text string) StringMatch { return StringMatch{Kind: Exact, Text: text} }
	prefix := func(text string) StringMatch { return StringMatch{Kind: Prefix, Text: text} }
	attachment := func(m StringMatch) Match { return Match{Attachments: []AttachmentMatch{{Key: "tag", StringMatch: m}}} }
	for _, c := range []struct {
		name string
		m    Match
		yes  []string // "method" or "method tag=value"
		no   []string
	}{
		{"nothing", Match{}, []string{"say", "say tag=x"}, nil},
		{"method", Match{Method: exact("say")}, []string{"say"}, []string{"sayHello"}},
		{"path of all", Match{Path: prefix("/")}, []string{"say"}, nil},
		{"path of the interface", Match{Path: prefix("/com.a.Foo")}, []string{"say"}, nil},
		{"path of the interface and a slash", Match{Path: prefix("/com.a.Foo/")}, []string{"say"}, nil},
		{"path of another interface", Match{Path: prefix("/com.a.Foobar")}, nil, []string{"say"}},
		{"path with a method", Match{Path: prefix("/com.a.Foo/say")}, []string{"say", "sayHello"}, []string{"find"}},
		{"exact path", Match{Path: exact("/com.a.Foo/say")}, []string{"say"}, []string{"sayHello"}},
		{"exact path of another", Match{Path: exact("/com.a.Bar/say")}, nil, []string{"say"}},
		{"inverted path", Match{Path: StringMatch{Kind: Prefix, Text: "/com.a.Foo/say", Invert: true}}, []string{"find"}, []string{"say"}},
		{"inverted path of another", Match{Path: StringMatch{Kind: Exact, Text: "/com.a.Bar/say", Invert: true}}, []string{"say"}, nil},
		{"path without case", Match{Path: StringMatch{Kind: Prefix, Text: "/COM.A.foo/SAY", IgnoreCase: true}}, []string{"sayHello"}, []string{"find"}},
		{"path expression", Match{Path: StringMatch{Kind: Regex, Text: `/com\.a\..*/(say|find).*`}}, []string{"sayHello", "find"}, []string{"list"}},
		{"end of a path", Match{Path: StringMatch{Kind: Suffix, Text: "Foo/say"}}, []string{"say"}, []string{"tosay"}},
		{"group and version", Match{Group: exact("g"), Version: prefix("1.")}, []string{"say"}, nil},
		{"other group", Match{Group: exact("h")}, nil, []string{"say"}},
		{"other version", Match{Version: StringMatch{Kind: Prefix, Text: "1.", Invert: true}}, nil, []string{"say"}},
		{"attachment", attachment(exact("gray")), []string{"say tag=gray"}, []string{"say", "say tag=blue"}},
		{"present", attachment(StringMatch{}), []string{"say tag=", "say tag=x"}, []string{"say"}},
		{"missing", attachment(StringMatch{Invert: true}), []string{"say"}, []string{"say tag="}},
		{"inverted, missing matches nothing", attachment(StringMatch{Kind: Exact, Text: "gray", Invert: true}), []string{"say tag=blue"}, []string{"say", "say tag=gray"}},
		{"Istio's withoutHeaders", Match{Attachments: []AttachmentMatch{{Key: "tag", StringMatch: StringMatch{Kind: Exact, Text: "gray", Invert: true}, MissingIsEmpty: true}}},
			[]string{"say", "say tag=blue"}, []string{"say tag=gray"}},
		{"all must hold", Match{Method: exact("say"), Attachments: []AttachmentMatch{{Key: "tag"}, {Key: "user", StringMatch: StringMatch{Kind: Range, From: 0, To: 100}}}},
			[]string{"say tag=x user=7"}, []string{"say tag=x user=100", "say user=7", "find tag=x user=7"}},
		{"arguments", Match{Arguments: []ArgumentMatch{{Index: 0, StringMatch: exact("x")}, {Index: 2, StringMatch: StringMatch{Kind: Range, From: -5, To: 7}}}},
			[]string{"say 0=x 2=-5", "find 0=x 1=y 2=6"}, []string{"say", "say 0=x", "say 0=y 2=1", "say 0=x 2=7", "say 0=x 2=1.0", "say 2=1"}},
		{"argument that is missing, inverted", Match{Arguments: []ArgumentMatch{{Index: 1, StringMatch: StringMatch{Kind: Exact, Text: "x", Invert: true}}}}, []string{"say 1=y"}, []string{"say", "say 1=x"}},
		{"none of the calls", Match{Fraction: NoneOf}, nil, []string{"say"}},
		{"method that is missing", Match{Method: StringMatch{Invert: true}}, nil, []string{"say"}},
	} {
		when, err := newConditions(c.m, s)
		if err != nil {
			t.Fatal(err)
		}
		r := &Routes{list: []*Route{{RouteRule: &RouteRule{}, when: when}}}
		for want, calls := range map[bool][]string{true: c.yes, false: c.no} {
			for _, call := range calls {
				words := strings.Fields(call)
				q := Query{Attachments: map[string]string{}, Arguments: map[int]string{}}
				for _, pair := range words[1:] {
					k, v, _ := strings.Cut(pair, "=")
					if n, err := strconv.Atoi(k); err == nil {
						q.Arguments[n] = v
					} else {
						q.Attachments[k] = v
					}
				}
				found := r.Find([]byte(words[0]), queried{&q}) != nil
				if found && c.m.Arguments != nil && r.Find([]byte(words[0]), nil) != nil {
					t.Errorf("%s: matches arguments that cannot be read", c.name)
				}
				if found != want {
					t.Errorf("%s: %q matches: %v", c.name, call, found)
				}
				if one, decided := r.ByMethod([]byte(words[0])); decided && (one != nil) != want {
					t.Errorf("%s: %q by method alone: %v", c.name, call, one != nil)
				} else if !decided && len(c.m.Attachments)+len(c.m.Arguments) == 0 {
					t.Errorf("%s: %q is not decided by the method", c.name, call)
				}
			}
		}
	}
	if _, err := newConditions(attachment(StringMatch{Kind: Regex, Text: "["}), s); err == nil {
		t.Error("a bad expression was read")
	}
	if _, err := newConditions(Match{Arguments: []ArgumentMatch{{StringMatch: StringMatch{Kind: Regex, Text: "["}}}}, s); err == nil {
		t.Error("a bad expression on an argument was read")
	}
}

func TestServicePatterns(t *testing.T) {
	s := registry.Service{Interface: "com.a.Foo", Group: "g", Version: "1.0"}
	for p, want := range map[ServicePattern]bool{
		{Interface: "com.a.Foo"}: true, {Interface: "com.a.Fo"}: false, {Interface: "com.*"}: true, {Interface: "*.Foo"}: true, {Interface: "*"}: true,
		{Interface: "com.a.Foo*"}: true, {Interface: "com.a.Foo*o"}: false, {Interface: "org.*"}: false,
		{Interface: "*", Group: "g"}: true, {Interface: "*", Group: "h"}: false, {Interface: "*", Version: "1.0"}: true, {Interface: "*", Version: "0.0.0"}: false,
	} {
		if p.matches(s) != want {
			t.Errorf("%+v: %v", p, !want)
		}
	}
	if p := (ServicePattern{Interface: "*", Version: "0.0.0"}); p.matches(registry.Service{Interface: "a"}) != true {
		t.Error("0.0.0 is not the same as none")
	}
}
