package config

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry/local"
	"github.com/meshferry/meshferry/registry/nacos"
	"github.com/meshferry/meshferry/registry/zookeeper"
)

// Registry is one registry. URL is what the backend's ParseURL reads, with
// everything that the file says beside it, but without user and password.
type Registry struct {
	Name         string
	Backend      string // "zookeeper", "nacos", "local"
	URL          string
	Username     string
	Password     Secret // from the environment or the URL; it beats PasswordFile
	PasswordFile string
	Weight       int  // of its providers, in percent
	Preferred    bool // its providers are called before those of others
}

// Credentials are the user and the password, which is read from PasswordFile if
// it was not given. Both are empty when there are none.
func (r Registry) Credentials() (user, password string, err error) {
	if r.Password != "" || r.PasswordFile == "" {
		return r.Username, string(r.Password), nil
	}
	info, err := os.Stat(r.PasswordFile)
	if err != nil {
		return "", "", fmt.Errorf("registry %s: password file: %w", r.Name, err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return "", "", fmt.Errorf("registry %s: password file %s: mode %v: want a file that only its owner can read (chmod 600)",
			r.Name, r.PasswordFile, info.Mode())
	}
	f, err := os.Open(r.PasswordFile)
	if err != nil {
		return "", "", fmt.Errorf("registry %s: password file: %w", r.Name, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return "", "", fmt.Errorf("registry %s: password file: %w", r.Name, err)
	}
	password = strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return "", "", fmt.Errorf("registry %s: password file %s is empty", r.Name, r.PasswordFile)
	}
	return r.Username, password, nil
}

// entry is a registry as one place has it.
type entry struct {
	where    string // the place of the whole entry
	name     string
	url      string
	urlWhere string
	params   map[string]string // root, servicesRoot, namespace, group, tls, sessionTimeout
	username string
	file     string

	weight    *int // nil: not said
	preferred bool
}

// fields are the keys of one registry in the file.
func (e *entry) fields() map[string]func(string) error {
	text := func(s *string) func(string) error {
		return func(v string) error {
			if *s = v; v == "" {
				return errors.New("is empty")
			}
			return nil
		}
	}
	param := func(key string) func(string) error {
		return func(v string) error {
			e.params[key] = v
			return nil
		}
	}
	return map[string]func(string) error{
		"name":         func(v string) error { e.name = v; return checkName(v) },
		"url":          text(&e.url),
		"username":     text(&e.username),
		"passwordFile": text(&e.file),
		"root":         param("root"),
		"servicesRoot": param("servicesRoot"),
		"namespace":    param("namespace"),
		"group":        param("group"),
		"tls":          param("tls"),
		"weight": func(v string) error {
			n, err := integer(0, 10_000)(v)
			e.weight = &n
			return err
		},
		"preferred": func(v string) (err error) { e.preferred, err = boolean(v); return err },
		"sessionTimeout": func(v string) error {
			if _, err := duration(time.Second)(v); err != nil {
				return err
			}
			return param("sessionTimeout")(v)
		},
	}
}

// parseEntry reads "[name=]URL".
func parseEntry(text, where string) (entry, error) {
	e := entry{where: where, urlWhere: where, url: text}
	scheme, _, _ := strings.Cut(text, "://")
	if name, address, ok := strings.Cut(text, "="); ok && len(name) < len(scheme) {
		e.name, e.url = name, address
		if err := checkName(name); err != nil {
			return e, fmt.Errorf("registry name: %w", err)
		}
	}
	return e, nil
}

// finish makes a Registry of an entry. A password in the URL is told of in
// warning. Errors do not contain it.
func (e entry) finish() (r Registry, warning string, err error) {
	r = Registry{Name: e.name, Username: e.username, PasswordFile: e.file, Weight: 100, Preferred: e.preferred}
	if e.weight != nil {
		r.Weight = *e.weight
	}
	scheme, rest, ok := strings.Cut(e.url, "://")
	if !ok {
		return r, "", fmt.Errorf("want an address like zookeeper://host:2181, nacos://host:8848 or local:///directory, not %q", withoutUser(e.url))
	}
	r.Backend = scheme
	rest, user, password, err := credentials(rest)
	if err != nil {
		return r, "", err
	}
	if user != "" {
		if r.Username != "" && r.Username != user {
			return r, "", fmt.Errorf("the user is %q in the address and %q beside it", user, r.Username)
		}
		r.Username = user
	}
	if password != "" {
		r.Password = Secret(password)
		warning = fmt.Sprintf("the password of registry %s stands in its address, where others can read it: use passwordFile or %s", r.Name, passwordVariable(r.Name))
	}
	if r.URL, err = withParams(scheme+"://"+rest, e.params); err != nil {
		return r, "", err
	}
	switch scheme {
	case "zookeeper":
		_, err = zookeeper.ParseURL(r.URL)
	case "local":
		if r.Username != "" || r.PasswordFile != "" || len(e.params) > 0 {
			return r, "", errors.New("a local registry is a directory: it has no user, password, root, group or session")
		}
		_, err = local.ParseURL(r.URL)
	case "nacos":
		_, err = nacos.ParseURL(r.URL)
	default:
		err = fmt.Errorf("no backend for %q%s", scheme, suggest(scheme, []string{"zookeeper", "nacos", "local"}, nil))
	}
	return r, warning, err
}

// credentials takes user and password out of an address: from before the '@', and
// from the parameters username and password, where Dubbo takes them too.
func credentials(rest string) (clean, user, password string, err error) {
	if i := strings.LastIndexByte(authority(rest), '@'); i >= 0 {
		name, secret, _ := strings.Cut(rest[:i], ":")
		rest = rest[i+1:]
		var err, err2 error
		user, err = url.PathUnescape(name)
		password, err2 = url.PathUnescape(secret)
		if err != nil || err2 != nil || user == "" {
			return "", "", "", errors.New("want user:password, percent-encoded, before the '@'")
		}
	}
	address, query, _ := strings.Cut(rest, "?")
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(key); err == nil {
			key = name
		}
		value, err := url.QueryUnescape(value)
		switch {
		case key != "username" && key != "password":
			kept = append(kept, pair)
		case err != nil:
			return "", "", "", fmt.Errorf("parameter %s: want it percent-encoded", key)
		case key == "password":
			password = value
		case user != "" && user != value:
			return "", "", "", fmt.Errorf("the user is %q before the '@' and %q in the parameters", user, value)
		default:
			user = value
		}
	}
	if query = strings.Join(kept, "&"); query != "" {
		address += "?" + query
	}
	return address, user, password, nil
}

// authority is the part of an address before its path and query. A password
// with such signs must be percent-encoded.
func authority(rest string) string {
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		return rest[:i]
	}
	return rest
}

// withoutUser cuts what may be a password.
func withoutUser(text string) string {
	text, query, found := strings.Cut(text, "?")
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		text = "…" + text[i:]
	}
	if found && !strings.Contains(query, "password") {
		text += "?" + query
	} else if found {
		text += "?…"
	}
	return text
}

// withParams sets query parameters of an address.
func withParams(address string, params map[string]string) (string, error) {
	if len(params) == 0 {
		return address, nil
	}
	path, query, _ := strings.Cut(address, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", fmt.Errorf("parameters of the address: %w", err)
	}
	for k, v := range params {
		values.Set(k, v)
	}
	return path + "?" + values.Encode(), nil
}

// passwordVariable is the variable for the password of a registry.
func passwordVariable(name string) string {
	safe := strings.Map(func(c rune) rune {
		if c == '-' || c == '.' {
			return '_'
		}
		return c
	}, strings.ToUpper(name))
	return prefix + "REGISTRY_" + safe + "_PASSWORD"
}
