package registry

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// MaxURL is the longest URL, in bytes, that ParseURL takes.
const MaxURL = 8 << 10

// ErrURL is wrapped by every error of ParseURL.
var ErrURL = errors.New("bad Dubbo URL")

// URL is a Dubbo URL: protocol://user:pass@host:port/path?k=v&k=v. The query is
// kept byte for byte, because peers compare, hash and delete by exact text.
// The zero Port means that none was given. It is a value: methods return
// changed copies. Source: org.apache.dubbo.common.URL.
type URL struct {
	Protocol string // "dubbo", "tri", "consumer", "override", ...
	User     string // "user:password" without the '@', usually empty
	Host     string // without brackets; empty in what dubbo-go publishes
	Port     int
	Path     string // without the leading slash
	Query    string // without the '?'
}

// ParseURL reads a URL as it stands in a registry after one decoding, or in a
// request of an SDK. It errs, wrapping ErrURL, when the protocol is missing, the
// port is no number in 0..65535, a control character occurs, a space occurs
// before the query (Dubbo leaves values as they are, "owner=Jane Doe"), or the
// text is longer than MaxURL.
func ParseURL(s string) (URL, error) {
	bad := func(why string) (URL, error) {
		if len(s) > 120 {
			s = s[:120] + "…"
		}
		return URL{}, fmt.Errorf("%w: %s: %q", ErrURL, why, s)
	}
	if len(s) > MaxURL {
		return bad(fmt.Sprintf("longer than %d bytes", MaxURL))
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return bad("contains a control character")
		}
	}
	var u URL
	rest, ok := "", false
	u.Protocol, rest, ok = strings.Cut(s, "://")
	if !ok || u.Protocol == "" || strings.ContainsAny(u.Protocol, "/?&=@:") {
		return bad("no protocol://")
	}
	rest, u.Query, _ = strings.Cut(rest, "?")
	if strings.Contains(u.Protocol, " ") || strings.Contains(rest, " ") {
		return bad("contains a space before the query")
	}
	authority := rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, u.Path = rest[:i], rest[i+1:]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		u.User, authority = authority[:i], authority[i+1:]
	}
	host, port := authority, ""
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 {
			return bad("'[' without ']' in the host")
		}
		host, port = authority[1:end], authority[end+1:]
		if port != "" && port[0] != ':' {
			return bad("text between ']' and the port")
		}
		port = strings.TrimPrefix(port, ":")
	} else if i := strings.LastIndexByte(authority, ':'); i >= 0 {
		host, port = authority[:i], authority[i+1:]
	}
	u.Host = host
	if strings.ContainsAny(host, "[]") {
		return bad("brackets in the host")
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return bad("port is not a number in 0..65535")
		}
		u.Port = int(n)
	}
	return u, nil
}

// String is the text of the URL. ParseURL(u.String()) gives u back.
func (u URL) String() string {
	var b strings.Builder
	b.Grow(len(u.Protocol) + len(u.User) + len(u.Host) + len(u.Path) + len(u.Query) + 16)
	b.WriteString(u.Protocol)
	b.WriteString("://")
	if u.User != "" {
		b.WriteString(u.User)
		b.WriteByte('@')
	}
	switch {
	case u.Port != 0:
		b.WriteString(u.HostPort())
	case strings.Contains(u.Host, ":"):
		b.WriteString("[" + u.Host + "]")
	default:
		b.WriteString(u.Host)
	}
	if u.Path != "" {
		b.WriteByte('/')
		b.WriteString(u.Path)
	}
	if u.Query != "" {
		b.WriteByte('?')
		b.WriteString(u.Query)
	}
	return b.String()
}

// HostPort is the address to dial, IPv6 hosts in brackets.
func (u URL) HostPort() string { return net.JoinHostPort(u.Host, strconv.Itoa(u.Port)) }

// Params calls yield for each parameter in order, until it returns false. A
// parameter without '=' has an empty value.
func (u URL) Params(yield func(key, value string) bool) {
	for rest := u.Query; rest != ""; {
		var pair string
		pair, rest, _ = strings.Cut(rest, "&")
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		if !yield(key, value) {
			return
		}
	}
}

// Lookup is the value of a parameter, as it stands in the text. Of a parameter
// that occurs more than once it is the last one, as Java reads it.
func (u URL) Lookup(key string) (value string, found bool) {
	for k, v := range u.Params {
		if k == key {
			value, found = v, true
		}
	}
	return value, found
}

// Param is the value that Lookup finds, or the empty string.
func (u URL) Param(key string) string {
	v, _ := u.Lookup(key)
	return v
}

// With sets a parameter: in its place when it is there, else last. Further
// values of the same parameter are dropped; all others keep their bytes and order.
func (u URL) With(key, value string) URL {
	pairs := strings.Split(u.Query, "&")
	if u.Query == "" {
		pairs = nil
	}
	found := false
	kept := pairs[:0]
	for _, pair := range pairs {
		if k, _, _ := strings.Cut(pair, "="); pair != "" && k == key {
			if found {
				continue
			}
			found, pair = true, key+"="+value
		}
		kept = append(kept, pair)
	}
	if !found {
		kept = append(kept, key+"="+value)
	}
	u.Query = strings.Join(kept, "&")
	return u
}

// Without drops every parameter for which drop returns true. All others keep
// their bytes and order.
func (u URL) Without(drop func(key, value string) bool) URL {
	var kept []string
	for rest, more := u.Query, u.Query != ""; more; {
		var pair string
		pair, rest, more = strings.Cut(rest, "&")
		if k, v, _ := strings.Cut(pair, "="); pair != "" && drop(k, v) {
			continue
		}
		kept = append(kept, pair)
	}
	u.Query = strings.Join(kept, "&")
	return u
}

// Service is the service that the URL names: its interface parameter, or its
// path when there is none, with group and version.
func (u URL) Service() Service {
	iface := u.Param("interface")
	if iface == "" {
		iface = u.Path
	}
	return Service{Group: u.Param("group"), Interface: iface, Version: NormalVersion(u.Param("version"))}
}
