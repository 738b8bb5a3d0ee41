package route

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// Attachments is what routes read of a call behind its front (dubbo.Attachments).
type Attachments interface {
	// Lookup gives the value as text; false: missing, or it has no text. The value
	// is valid until the next call.
	Lookup(key string) (value []byte, ok bool)
	// Argument is the argument of that index, from 0, under the same rules.
	Argument(index int) (value []byte, ok bool)
}

// matcher is a StringMatch made ready. The zero matcher holds for every text.
type matcher struct {
	StringMatch
	text   []byte
	regex  *regexp.Regexp
	prefix []byte // put before the text: "/interface/" in front of a method
}

func newMatcher(m StringMatch) (matcher, error) {
	c := matcher{StringMatch: m, text: []byte(m.Text)}
	if m.IgnoreCase {
		c.text = bytes.ToLower(c.text)
	}
	if m.Kind == Regex {
		var err error
		if c.regex, err = regexp.Compile(`^(?:` + m.Text + `)$`); err != nil {
			return c, err
		}
	}
	return c, nil
}

// always tells that no text makes a difference.
func (m *matcher) always() bool { return m.Kind == Any && !m.Invert }

func (m *matcher) match(text []byte) bool {
	if m.Kind == Any {
		return !m.Invert
	}
	if m.prefix != nil {
		var scratch [256]byte
		return m.compare(append(append(scratch[:0], m.prefix...), text...)) != m.Invert
	}
	return m.compare(text) != m.Invert
}

func (m *matcher) compare(text []byte) bool {
	if m.IgnoreCase {
		return m.compareFolded(text)
	}
	switch m.Kind {
	case Exact:
		return string(text) == m.Text
	case Prefix:
		return bytes.HasPrefix(text, m.text)
	case Suffix:
		return bytes.HasSuffix(text, m.text)
	case Contains:
		return bytes.Contains(text, m.text)
	case Regex:
		return m.regex.Match(text)
	case Range:
		n, ok := integer(text)
		return ok && m.From <= n && n < m.To
	}
	return true
}

// compareFolded is compare without regard to case.
func (m *matcher) compareFolded(text []byte) bool {
	n := len(m.text)
	switch m.Kind {
	case Exact:
		return len(text) == n && folded(text, m.text)
	case Prefix:
		return len(text) >= n && folded(text[:n], m.text)
	case Suffix:
		return len(text) >= n && folded(text[len(text)-n:], m.text)
	case Contains:
		for i := 0; i+n <= len(text); i++ {
			if folded(text[i:i+n], m.text) {
				return true
			}
		}
		return false
	}
	plain := *m
	plain.IgnoreCase = false
	return plain.compare(text)
}

// folded compares with a lower case text of the same length.
func folded(text, lower []byte) bool {
	for i, b := range text {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		if b != lower[i] {
			return false
		}
	}
	return true
}

// integer reads a decimal number with an optional sign.
func integer(text []byte) (n int64, ok bool) {
	if len(text) == 0 || len(text) > 20 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(text), 10, 64) // the compiler keeps short strings on the stack
	return n, err == nil
}

// String says a condition as people read it.
func (m StringMatch) String() string {
	not := ""
	if m.Invert {
		not = "not "
	}
	switch m.Kind {
	case Any:
		return not + "present"
	case Range:
		return fmt.Sprintf("%sin [%d, %d)", not, m.From, m.To)
	}
	return not + [...]string{"", "=", "begins with", "ends with", "contains", "matches"}[m.Kind] + " " + strconv.Quote(m.Text)
}

// conditions are a Match made ready for one service.
type conditions struct {
	methods     []matcher // all on the method: of Method and of Path
	attachments []attachmentMatcher
	arguments   []argumentMatcher
	fraction    uint32
	never       bool
}

type attachmentMatcher struct {
	key          string
	missingEmpty bool
	matcher
}

type argumentMatcher struct {
	index int
	matcher
}

// newConditions makes a Match ready for a service: what the service itself decides
// is decided now.
func newConditions(m Match, s registry.Service) (*conditions, error) {
	c := &conditions{fraction: m.Fraction, never: m.Fraction == NoneOf}
	for _, fixed := range [...]struct {
		StringMatch
		text string
	}{{m.Group, s.Group}, {m.Version, s.Version}} {
		x, err := newMatcher(fixed.StringMatch)
		if err != nil {
			return nil, err
		}
		c.never = c.never || !x.match([]byte(fixed.text))
	}
	for i, x := range [...]StringMatch{m.Method, pathToMethod(m.Path, s.Interface)} {
		one, err := newMatcher(x)
		if err != nil {
			return nil, err
		}
		if i == 1 && x.Kind > Prefix { // it may look at both parts
			one.prefix = []byte("/" + s.Interface + "/")
		}
		switch {
		case one.always():
		case one.Kind == Any:
			c.never = true
		default:
			c.methods = append(c.methods, one)
		}
	}
	for _, a := range m.Attachments {
		one, err := newMatcher(a.StringMatch)
		if err != nil {
			return nil, fmt.Errorf("attachment %s: %w", a.Key, err)
		}
		c.attachments = append(c.attachments, attachmentMatcher{a.Key, a.MissingIsEmpty, one})
	}
	for _, a := range m.Arguments {
		one, err := newMatcher(a.StringMatch)
		if err != nil {
			return nil, fmt.Errorf("argument %d: %w", a.Index, err)
		}
		c.arguments = append(c.arguments, argumentMatcher{a.Index, one})
	}
	return c, nil
}

// pathToMethod turns a condition on "/interface/method" into one on the method: no
// condition when the interface decides that it holds, an inverted Any when it never
// does. A regular expression, and what looks at the end or the middle, stays.
func pathToMethod(m StringMatch, iface string) StringMatch {
	const slash = "/"
	front := slash + iface + slash
	text := m.Text
	fold := func(s string) string {
		if m.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	switch m.Kind {
	case Exact, Prefix:
		rest, inside := strings.CutPrefix(fold(text), fold(front))
		switch {
		case inside:
			m.Text = text[len(text)-len(rest):]
			if m.Kind == Prefix && rest == "" {
				return StringMatch{Invert: m.Invert}
			}
			return m
		case m.Kind == Prefix && strings.HasPrefix(fold(front), fold(text)):
			return StringMatch{Invert: m.Invert}
		}
		return StringMatch{Invert: !m.Invert}
	}
	return m
}

// byMethod tells whether a call of a method matches, as far as that is decided
// without its attachments and chance.
func (c *conditions) byMethod(method []byte) bool {
	if c.never {
		return false
	}
	for i := range c.methods {
		if !c.methods[i].match(method) {
			return false
		}
	}
	return true
}

// open tells that attachments, arguments or chance decide too.
func (c *conditions) open() bool {
	return len(c.attachments) > 0 || len(c.arguments) > 0 || c.fraction != 0
}

// holds decides the rest of a call whose method matches.
func (c *conditions) holds(a Attachments, draw func(uint64) uint64) bool {
	for i := range c.attachments {
		if !c.attachments[i].holds(a) {
			return false
		}
	}
	for i := range c.arguments {
		if !c.arguments[i].holds(a) {
			return false
		}
	}
	return c.fraction == 0 || draw(Million) < uint64(c.fraction)
}

func (m *argumentMatcher) holds(a Attachments) bool {
	if a == nil {
		return false
	}
	text, there := a.Argument(m.index)
	return there && m.match(text)
}

func (m *attachmentMatcher) holds(a Attachments) bool {
	var text []byte
	there := false
	if a != nil {
		text, there = a.Lookup(m.key)
	}
	switch {
	case m.Kind == Any:
		return there != m.Invert
	case !there && !m.missingEmpty:
		return false
	}
	return m.match(text)
}

// matches tells whether the pattern names a service.
func (p ServicePattern) matches(s registry.Service) bool {
	if p.Group != "" && p.Group != s.Group || p.Version != "" && registry.NormalVersion(p.Version) != s.Version {
		return false
	}
	before, after, wild := strings.Cut(p.Interface, "*")
	if !wild {
		return p.Interface == s.Interface
	}
	return len(s.Interface) >= len(before)+len(after) && strings.HasPrefix(s.Interface, before) && strings.HasSuffix(s.Interface, after)
}
