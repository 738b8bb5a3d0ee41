package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/meshferry/meshferry/internal/nearest"
)

const prefix = "MESHFERRY_"

// Input is everything that settings come from.
type Input struct {
	Flags map[string][]string // the flags that were given, without dashes
	Env   []string            // NAME=value, as of os.Environ
	File  string              // name of the file, for messages
	Text  []byte              // its content
	UID   int                 // of the user; 0 has other default directories
}

// Load puts the settings together and checks them. The error has one line for
// each thing that is wrong. Address stays empty if nobody sets it.
func Load(in Input) (Config, error) {
	l := &loader{c: defaults(), where: map[string]string{}, settings: settings()}
	l.c.File = in.File
	l.directories(in)
	l.file(in.File, in.Text)
	l.environment(in.Env)
	l.flags(in.Flags)
	l.registries(in.Env)
	l.check()
	if len(l.errs) > 0 {
		return Config{}, errors.Join(l.errs...)
	}
	return l.c, nil
}

// loader builds a Config.
type loader struct {
	c        Config
	settings []setting
	where    map[string]string // key → where it was set
	entries  []entry           // registries, those of the highest place that has any
	errs     []error
}

func (l *loader) fail(where, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf("%s: %w", where, fmt.Errorf(format, args...)))
}

func (l *loader) set(s setting, where string, values ...string) {
	if err := s.set(&l.c, values); err != nil {
		if !strings.HasPrefix(where, "-") && !strings.HasPrefix(where, prefix) {
			err = fmt.Errorf("%s: %w", s.key, err)
		}
		l.fail(where, "%w", err)
		return
	}
	l.where[s.key] = where
}

// directories sets the default directories of a user. Where to keep the state of
// a user who has no home is an error only if nobody says it.
func (l *loader) directories(in Input) {
	if in.UID == 0 {
		l.c.Listeners.ControlSocket = "/run/meshferry/control.sock"
		l.c.StateDir = "/var/lib/meshferry"
		return
	}
	l.c.Listeners.ControlSocket = userSocket(in.UID, in.Env)
	switch state, home := lookup(in.Env, "XDG_STATE_HOME"), lookup(in.Env, "HOME"); {
	case filepath.IsAbs(state): // a relative one does not count (XDG base directory specification)
		l.c.StateDir = filepath.Join(state, "meshferry")
	case filepath.IsAbs(home):
		l.c.StateDir = filepath.Join(home, ".local", "state", "meshferry")
	}
}

// Sockets are the paths where the control socket of an agent may be, for a
// client of this user: of an agent of the same user first.
func Sockets(uid int, env []string) []string {
	const system = "/run/meshferry/control.sock"
	if uid == 0 {
		return []string{system}
	}
	return []string{userSocket(uid, env), system}
}

func userSocket(uid int, env []string) string {
	if dir := lookup(env, "XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "meshferry", "control.sock")
	}
	return fmt.Sprintf("/tmp/meshferry-%d/control.sock", uid)
}

func lookup(env []string, name string) string {
	for _, pair := range slices.Backward(env) {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v
		}
	}
	return ""
}

// ignored are variables of this name space that are no settings of the agent.
var ignored = map[string]bool{
	prefix + "CONFIG": true, // names the file
	prefix + "CACHE":  true, // where the tests keep what they download
}

func (l *loader) environment(env []string) {
	byName := map[string]setting{}
	known := []string{prefix + "REGISTRY", prefix + "CONFIG"}
	for _, s := range l.settings {
		byName[s.variable()] = s
		known = append(known, s.variable())
	}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		s, isSetting := byName[name]
		switch {
		case !strings.HasPrefix(name, prefix), ignored[name], isPassword(name):
		case name == prefix+"REGISTRY":
			l.list(name, strings.Fields(value))
		case !isSetting:
			l.fail(name, "unknown variable%s", suggestVariable(name, known))
		case s.list:
			l.set(s, name, strings.FieldsFunc(value, func(c rune) bool { return c == ',' || c == ' ' })...)
		default:
			l.set(s, name, value)
		}
	}
}

func suggestVariable(name string, known []string) string {
	short := make([]string, len(known))
	for i, k := range known {
		short[i] = strings.TrimPrefix(k, prefix)
	}
	if n := nearest.Name(strings.TrimPrefix(name, prefix), short); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", prefix+n)
	}
	return " (known are those that 'meshferry run --help' lists)"
}

func isPassword(name string) bool {
	return strings.HasPrefix(name, prefix+"REGISTRY_") && strings.HasSuffix(name, "_PASSWORD")
}

func (l *loader) flags(flags map[string][]string) {
	byName := map[string]setting{}
	known := []string{"config", "registry"}
	for _, s := range l.settings {
		if s.flag != "" {
			byName[s.flag] = s
			known = append(known, s.flag)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		where, values := "--"+name, flags[name]
		s, isSetting := byName[name]
		switch {
		case name == "config":
		case name == "registry":
			l.list(where, values)
		case !isSetting:
			l.fail(where, "unknown flag%s", SuggestFlag(name, known))
		default:
			l.set(s, where, values...)
		}
	}
}

// SuggestFlag is " (did you mean …?)" with the known flag that is most like name,
// or empty.
func SuggestFlag(name string, known []string) string {
	if n := nearest.Name(strings.TrimLeft(name, "-"), known); n != "" {
		return fmt.Sprintf(" (did you mean --%s?)", n)
	}
	return ""
}

// list takes registries from a flag or variable. They replace those of lower
// places; an entry of the same name keeps what its URL does not say.
func (l *loader) list(where string, texts []string) {
	var entries []entry
	for _, text := range texts {
		e, err := parseEntry(text, where)
		if err != nil {
			l.fail(where, "%w", err)
			continue
		}
		if e.name == "" && !slices.ContainsFunc(entries, func(e entry) bool { return e.name == "main" }) {
			e.name = "main"
		}
		for _, lower := range l.entries {
			if lower.name == e.name {
				e.params, e.username, e.file, e.weight, e.preferred = lower.params, lower.username, lower.file, lower.weight, lower.preferred
			}
		}
		entries = append(entries, e)
	}
	if len(entries) > 0 {
		l.entries = entries
	}
}

// registries finishes the entries and gives them their passwords.
func (l *loader) registries(env []string) {
	byVariable := map[string]int{}
	names := map[string]bool{}
	for _, e := range l.entries {
		if e.name == "" {
			l.fail(e.where, "a second registry without a name: write name=URL")
			continue
		}
		r, warning, err := e.finish()
		if err != nil {
			l.fail(e.urlWhere, "registry %s: %w", e.name, err)
			continue
		}
		v := passwordVariable(e.name)
		if names[e.name] {
			l.fail(e.where, "registry %s is there twice", e.name)
			continue
		}
		if _, twice := byVariable[v]; twice {
			l.fail(e.where, "the name %s is too like another: both have the variable %s", e.name, v)
			continue
		}
		names[e.name], byVariable[v] = true, len(l.c.Registries)
		l.c.Registries = append(l.c.Registries, r)
		if warning != "" {
			l.warn("%s: %s", e.urlWhere, warning)
		}
	}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if !isPassword(name) {
			continue
		}
		i, ok := byVariable[name]
		switch {
		case !ok && len(l.errs) == 0:
			l.fail(name, "there is no registry of that name%s", nearest.DidYouMean(name, slices.Sorted(maps.Keys(byVariable))))
		case ok && l.c.Registries[i].Username == "":
			l.fail(name, "registry %s has no user: set its username", l.c.Registries[i].Name)
		case ok:
			l.c.Registries[i].Password = Secret(value)
		}
	}
}

func (l *loader) warn(format string, args ...any) {
	l.c.Warnings = append(l.c.Warnings, fmt.Sprintf(format, args...))
}

// check looks at what must fit together.
func (l *loader) check() {
	names := map[string]bool{}
	for _, r := range l.c.Registries {
		names[r.Name] = true
		if r.Username != "" && r.Password == "" && r.PasswordFile == "" {
			l.fail("registry "+r.Name, "a user without a password: set passwordFile or %s", passwordVariable(r.Name))
		}
		if r.Username == "" && r.PasswordFile != "" {
			l.fail("registry "+r.Name, "a passwordFile without a username")
		}
	}
	if len(l.errs) > 0 {
		return // what follows would be about the same mistakes
	}
	known := slices.Sorted(maps.Keys(names))
	for _, name := range slices.Sorted(maps.Keys(l.c.Addresses)) {
		if !names[name] {
			l.fail(l.where["addresses."+name], "addresses.%s: there is no registry of that name%s", name, nearest.DidYouMean(name, known))
		}
	}
	mosn := l.c.Compat.Mosn
	if mosn.Registry != "" && !names[mosn.Registry] {
		l.fail(l.where["compat.mosn.registry"], "compat.mosn.registry: there is no registry %q%s", mosn.Registry, nearest.DidYouMean(mosn.Registry, known))
	}
	if mosn.Listen != "" && mosn.ProviderPort == 0 {
		l.fail(l.where["compat.mosn.listen"], "compat.mosn.listen needs compat.mosn.providerPort: MOSN's requests do not say it")
	}
	if t := l.c.XDS.TLS; (t.CertFile == "") != (t.KeyFile == "") {
		l.fail(cmp.Or(l.where["xds.tls.certFile"], l.where["xds.tls.keyFile"]), "xds.tls: a certificate needs its key, and a key its certificate: set certFile and keyFile")
	} else if !t.Enabled && (t.CAFile != "" || t.CertFile != "" || t.TokenFile != "" || t.ServerName != "") {
		l.fail(cmp.Or(l.where["xds.tls.caFile"], l.where["xds.tls.certFile"], l.where["xds.tls.tokenFile"], l.where["xds.tls.serverName"]), "xds.tls: set enabled: true, or the files are not used")
	}
	l.ports()
	for _, s := range l.c.Static {
		for _, own := range l.listeners() {
			host, port, _ := net.SplitHostPort(own.address)
			if ip, err := netip.ParseAddr(host); port == strconv.Itoa(s.Port) && (err != nil || ip.IsUnspecified() || host == cmp.Or(s.Host, "127.0.0.1")) {
				l.fail(l.where["inbound.static"], "inbound.static: %s: port %d is the agent's own listener %s: set the port on which the application really listens", s.Application, s.Port, own.address)
			}
		}
	}
	if len(l.c.Listeners.ControlSocket) > maxSocket {
		l.fail("listeners.controlSocket", "the default %s is too long for a unix socket: set --control-socket", l.c.Listeners.ControlSocket)
	}
	if l.c.StateDir == "" {
		l.fail("stateDir", "this user has neither HOME nor XDG_STATE_HOME: set --state-dir")
	}
	if len(names) == 0 {
		l.errs = append(l.errs, errNoRegistry)
	}
}

// errNoRegistry says what to do: an agent without a registry neither publishes nor
// finds anything, and a warning would scroll by.
var errNoRegistry = errors.New(`no registry is set, so nothing could be published or found. Give one of
  --registry zookeeper://host:2181
  MESHFERRY_REGISTRY=zookeeper://host:2181
  registries: [{url: "zookeeper://host:2181"}]   in the file of --config
To try it on one machine without a server: --registry local:///tmp/registry --address 127.0.0.1`)

// listener is an address that the agent listens on, by the key that sets it.
type listener struct{ key, address string }

func (l *loader) listeners() []listener {
	list := []listener{
		{"listeners.outbound", l.c.Listeners.Outbound}, {"listeners.inbound", l.c.Listeners.Inbound},
		{"listeners.control", l.c.Listeners.Control}, {"compat.mosn.listen", l.c.Compat.Mosn.Listen},
	}
	for _, x := range l.c.Extra {
		list = append(list, listener{extraKey(x), l.c.ExtraAddress(x)})
	}
	return list
}

// ports errs for listeners that cannot both be had.
func (l *loader) ports() {
	var seen []listener
	for _, one := range l.listeners() {
		if one.address == "" || strings.HasSuffix(one.address, ":0") {
			continue
		}
		for _, other := range seen {
			if !overlap(one.address, other.address) {
				continue
			}
			where := l.where[one.key]
			if where == "" {
				where = l.where[other.key]
			}
			if one.address == other.address {
				l.fail(where, "%s and %s have the same address %s", other.key, one.key, one.address)
			} else {
				l.fail(where, "%s and %s cannot both be had: %s and %s", other.key, one.key, other.address, one.address)
			}
		}
		seen = append(seen, one)
	}
}

// overlap tells whether two addresses cannot be listened on by two: the same port,
// at the same host or at every one.
func overlap(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	every := func(host string) bool {
		ip, err := netip.ParseAddr(host)
		return host == "" || err == nil && ip.IsUnspecified()
	}
	return portA == portB && (hostA == hostB || every(hostA) || every(hostB))
}
