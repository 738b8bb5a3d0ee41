package xds

//lint:file-ignore SA1019 control planes still send the deprecated forms of header matches

import (
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/meshferry/meshferry/agent/route"
)

// Pseudo headers.
const (
	headerMethod  = "dubbo-method"
	headerGroup   = "dubbo-group"
	headerVersion = "dubbo-version"
)

// matches translates the conditions of a route.
func matches(m *routev3.RouteMatch, n *notes) route.Match {
	b := matchBuilder{n: n}
	caseless := m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue()
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		if p.Prefix != "/" && p.Prefix != "" {
			b.set(&b.out.Path, "path", route.StringMatch{Kind: route.Prefix, Text: p.Prefix, IgnoreCase: caseless})
		}
	case *routev3.RouteMatch_Path:
		b.set(&b.out.Path, "path", route.StringMatch{Kind: route.Exact, Text: p.Path, IgnoreCase: caseless})
	case *routev3.RouteMatch_SafeRegex:
		b.set(&b.out.Path, "path", route.StringMatch{Kind: route.Regex, Text: p.SafeRegex.GetRegex()})
	case *routev3.RouteMatch_PathSeparatedPrefix:
		text := regexp.QuoteMeta(p.PathSeparatedPrefix) + "(/.*)?"
		if caseless {
			text = "(?i)" + text
		}
		b.set(&b.out.Path, "path", route.StringMatch{Kind: route.Regex, Text: text})
	case nil:
	default:
		b.never("this kind of path match")
	}
	for _, h := range m.GetHeaders() {
		b.header(h)
	}
	for _, q := range m.GetQueryParameters() {
		switch s := q.GetQueryParameterMatchSpecifier().(type) {
		case *routev3.QueryParameterMatcher_StringMatch:
			if v, ok := b.text(s.StringMatch); ok {
				b.out.Attachments = append(b.out.Attachments, route.AttachmentMatch{Key: q.GetName(), StringMatch: v})
			}
		case *routev3.QueryParameterMatcher_PresentMatch:
			b.out.Attachments = append(b.out.Attachments, route.AttachmentMatch{Key: q.GetName(), StringMatch: route.StringMatch{Invert: !s.PresentMatch}})
		default:
			b.out.Attachments = append(b.out.Attachments, route.AttachmentMatch{Key: q.GetName()})
		}
	}
	if f := m.GetRuntimeFraction(); f != nil {
		switch share := runtimePerMillion(f); share {
		case route.Million:
		case 0:
			b.out.Fraction = route.NoneOf
		default:
			b.out.Fraction = share
		}
	}
	var rest notes
	rest.fields(m, "prefix path safe_regex path_separated_prefix connect_matcher path_match_policy case_sensitive headers query_parameters runtime_fraction")
	for _, line := range rest {
		b.never(strings.TrimSuffix(line, " is not honoured"))
	}
	if b.impossible {
		b.out.Fraction = route.NoneOf
	}
	return b.out
}

type matchBuilder struct {
	n          *notes
	out        route.Match
	impossible bool
}

// never makes the route match nothing.
func (b *matchBuilder) never(what string) {
	b.n.add("%s cannot be checked, so the route never matches", what)
	b.impossible = true
}

// set adds a condition on a field. Two of which one names the whole text are
// joined here.
func (b *matchBuilder) set(field *route.StringMatch, what string, m route.StringMatch) {
	always := route.StringMatch{}
	switch {
	case *field == always:
		*field = m
	case *field == m:
	case exact(*field):
		if !holds(m, field.Text) {
			b.impossible = true // no call is both
		}
	case exact(m):
		if !holds(*field, m.Text) {
			b.impossible = true
		}
		*field = m
	default:
		b.never("more than one condition on the " + what)
	}
}

func exact(m route.StringMatch) bool { return m.Kind == route.Exact && !m.Invert && !m.IgnoreCase }

// holds tries a condition on a text.
func holds(m route.StringMatch, text string) bool {
	with := m.Text
	if m.IgnoreCase {
		text, with = strings.ToLower(text), strings.ToLower(with)
	}
	ok := true
	switch m.Kind {
	case route.Exact:
		ok = text == with
	case route.Prefix:
		ok = strings.HasPrefix(text, with)
	case route.Suffix:
		ok = strings.HasSuffix(text, with)
	case route.Contains:
		ok = strings.Contains(text, with)
	case route.Regex:
		re, err := regexp.Compile("^(?:" + with + ")$")
		ok = err == nil && re.MatchString(text)
	case route.Range:
		ok = false // a method or a path is no number
	}
	return ok != m.Invert
}

func (b *matchBuilder) header(h *routev3.HeaderMatcher) {
	v, ok := b.value(h)
	if !ok {
		return
	}
	v.Invert = v.Invert != h.GetInvertMatch()
	present := v.Kind == route.Any
	field, what := (*route.StringMatch)(nil), ""
	switch name := strings.ToLower(h.GetName()); name {
	case ":method", headerMethod:
		field, what = &b.out.Method, "method"
	case headerGroup:
		field, what = &b.out.Group, "group"
	case headerVersion:
		field, what = &b.out.Version, "version"
	case ":path":
		field, what = &b.out.Path, "path"
	case ":authority", "host", ":scheme":
		b.never("a match on " + h.GetName())
		return
	default:
		b.out.Attachments = append(b.out.Attachments, route.AttachmentMatch{
			Key: h.GetName(), StringMatch: v, MissingIsEmpty: h.GetTreatMissingHeaderAsEmpty(),
		})
		return
	}
	if present { // they always have a value; one that is empty is not there
		v = route.StringMatch{Kind: route.Exact, Invert: !v.Invert}
	}
	b.set(field, what, v)
}

// value translates what a header is compared with, in today's form and in those
// that Envoy deprecated.
func (b *matchBuilder) value(h *routev3.HeaderMatcher) (route.StringMatch, bool) {
	switch s := h.GetHeaderMatchSpecifier().(type) {
	case nil:
		return route.StringMatch{}, true
	case *routev3.HeaderMatcher_PresentMatch:
		return route.StringMatch{Invert: !s.PresentMatch}, true
	case *routev3.HeaderMatcher_RangeMatch:
		return route.StringMatch{Kind: route.Range, From: s.RangeMatch.GetStart(), To: s.RangeMatch.GetEnd()}, true
	case *routev3.HeaderMatcher_StringMatch:
		return b.text(s.StringMatch)
	case *routev3.HeaderMatcher_ExactMatch:
		return route.StringMatch{Kind: route.Exact, Text: s.ExactMatch}, true
	case *routev3.HeaderMatcher_SafeRegexMatch:
		return route.StringMatch{Kind: route.Regex, Text: s.SafeRegexMatch.GetRegex()}, true
	case *routev3.HeaderMatcher_PrefixMatch:
		return route.StringMatch{Kind: route.Prefix, Text: s.PrefixMatch}, true
	case *routev3.HeaderMatcher_SuffixMatch:
		return route.StringMatch{Kind: route.Suffix, Text: s.SuffixMatch}, true
	case *routev3.HeaderMatcher_ContainsMatch:
		return route.StringMatch{Kind: route.Contains, Text: s.ContainsMatch}, true
	}
	b.never("this kind of match on header " + h.GetName())
	return route.StringMatch{}, false
}

func (b *matchBuilder) text(m *matcherv3.StringMatcher) (route.StringMatch, bool) {
	fold := m.GetIgnoreCase()
	switch s := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return route.StringMatch{Kind: route.Exact, Text: s.Exact, IgnoreCase: fold}, true
	case *matcherv3.StringMatcher_Prefix:
		return route.StringMatch{Kind: route.Prefix, Text: s.Prefix, IgnoreCase: fold}, true
	case *matcherv3.StringMatcher_Suffix:
		return route.StringMatch{Kind: route.Suffix, Text: s.Suffix, IgnoreCase: fold}, true
	case *matcherv3.StringMatcher_Contains:
		return route.StringMatch{Kind: route.Contains, Text: s.Contains, IgnoreCase: fold}, true
	case *matcherv3.StringMatcher_SafeRegex:
		return route.StringMatch{Kind: route.Regex, Text: s.SafeRegex.GetRegex()}, true // ignore_case has no effect, as in Envoy
	}
	b.never("this kind of string match")
	return route.StringMatch{}, false
}
