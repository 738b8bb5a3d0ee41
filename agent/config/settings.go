package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/meshferry/meshferry/registry"
)

// setting is one value that a file, a variable or a flag can set.
type setting struct {
	key  string // path in the YAML file
	flag string // without dashes; empty: none
	help string // of the flag
	set  func(c *Config, values []string) error
}

// settings are all of them but for the lists: addresses, registries, services.
func settings() []setting {
	return []setting{
		{"address", "address", "host that other hosts dial\n(default: address of the default route's interface)",
			one(func(c *Config, v string) (err error) { c.Address, err = host(v); return err })},
		{"listeners.outbound", "outbound", "local consumers call here (default 127.0.0.1:20881)",
			one(func(c *Config, v string) (err error) { c.Listeners.Outbound, err = hostPort(v); return err })},
		{"listeners.inbound", "inbound", "the rest of the world calls here (default 0.0.0.0:20882)",
			one(func(c *Config, v string) (err error) { c.Listeners.Inbound, err = hostPort(v); return err })},
		{"listeners.control", "control", "control API; keep it on loopback (default 127.0.0.1:20883)",
			one(func(c *Config, v string) (err error) { c.Listeners.Control, err = hostPort(v); return err })},
		{"listeners.controlSocket", "control-socket", "unix socket of the control API, empty: none\n(default /run/meshferry/control.sock, of an ordinary user in $XDG_RUNTIME_DIR)",
			one(func(c *Config, v string) (err error) { c.Listeners.ControlSocket, err = path(v, true); return err })},
		{"meshPorts", "", "", func(c *Config, values []string) error { return ports(&c.MeshPorts, values) }},
		{"stateDir", "state-dir", "directory for what must survive a restart\n(default /var/lib/meshferry, of an ordinary user in $XDG_STATE_HOME)",
			one(func(c *Config, v string) (err error) { c.StateDir, err = path(v, false); return err })},
		{"publish.models", "", "", func(c *Config, values []string) error { return models(&c.Publish.Models, values) }},
		{"protection.enabled", "", "", one(func(c *Config, v string) error { return boolean(&c.Protection.Enabled, v) })},
		{"protection.emptyHold", "", "", one(func(c *Config, v string) error { return duration(&c.Protection.EmptyHold, v, 0) })},
		{"protection.shrinkHold", "", "", one(func(c *Config, v string) error { return duration(&c.Protection.ShrinkHold, v, 0) })},
		{"stop.notifyWait", "", "", one(func(c *Config, v string) error { return duration(&c.Stop.NotifyWait, v, 0) })},
		{"stop.drain", "", "", one(func(c *Config, v string) error { return duration(&c.Stop.Drain, v, 0) })},
		{"probe.interval", "", "", one(func(c *Config, v string) error { return duration(&c.Probe.Interval, v, 10*time.Millisecond) })},
		{"probe.timeout", "", "", one(func(c *Config, v string) error { return duration(&c.Probe.Timeout, v, time.Millisecond) })},
		{"probe.fall", "", "", one(func(c *Config, v string) error { return integer(&c.Probe.Fall, v, 1, 1000) })},
		{"probe.rise", "", "", one(func(c *Config, v string) error { return integer(&c.Probe.Rise, v, 1, 1000) })},
		{"limits.workloads", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.Workloads, v, 1, 1e6) })},
		{"limits.publications", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.Publications, v, 1, 1e6) })},
		{"limits.subscriptions", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.Subscriptions, v, 1, 1e6) })},
		{"limits.requests", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.Requests, v, 1, 1e6) })},
		{"limits.heldRequests", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.HeldRequests, v, 1, 1e6) })},
		{"limits.requestRate", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.RequestRate, v, 1, 1e6) })},
		{"limits.requestBurst", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.RequestBurst, v, 1, 1e6) })},
		{"limits.frame", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.Frame, v, 1<<10, 1<<30) })},
		{"limits.connections", "", "", one(func(c *Config, v string) error { return integer(&c.Limits.Connections, v, 1, 1e6) })},
		{"compat.mosn.listen", "", "", one(func(c *Config, v string) (err error) { c.Compat.Mosn.Listen, err = hostPort(v); return err })},
		{"compat.mosn.providerPort", "", "", one(func(c *Config, v string) error { return integer(&c.Compat.Mosn.ProviderPort, v, 1, 65535) })},
		{"compat.mosn.registry", "", "", one(func(c *Config, v string) error { c.Compat.Mosn.Registry = v; return checkName(v) })},
		{"log.level", "log-level", "debug, info, warn or error (default info)", one(level)},
		{"log.format", "log-format", "text or json (default text)", one(func(c *Config, v string) error { return choice(&c.Log.Format, v, "text", "json") })},
	}
}

// later are names of CONTRACT §11 whose part this version does not have.
var later = map[string]bool{
	"inbound": true, "registries.configRoot": true, "registries.namespace": true, "registries.tls": true, "registries.weight": true,
}

// variable is the setting's MESHFERRY_* name: that of its flag, else of its key.
func (s setting) variable() string {
	if s.flag != "" {
		return prefix + strings.ToUpper(strings.ReplaceAll(s.flag, "-", "_"))
	}
	var b strings.Builder
	for _, c := range s.key {
		switch {
		case c == '.':
			b.WriteByte('_')
		case unicode.IsUpper(c):
			b.WriteByte('_')
			b.WriteRune(c)
		default:
			b.WriteRune(unicode.ToUpper(c))
		}
	}
	return prefix + b.String()
}

func one(set func(*Config, string) error) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		if len(values) != 1 {
			return fmt.Errorf("want one value, not %d", len(values))
		}
		return set(c, values[0])
	}
}

func duration(d *time.Duration, text string, least time.Duration) error {
	v, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("want a duration with a unit, like 300ms, 15s or 2m, not %q", text)
	}
	if v < least || v > 24*time.Hour {
		return fmt.Errorf("want %v to 24h, not %v", least, v)
	}
	*d = v
	return nil
}

func integer(n *int, text string, least, most int) error {
	v, err := strconv.Atoi(text)
	if err != nil || v < least || v > most {
		return fmt.Errorf("want a number in %d..%d, not %q", least, most, text)
	}
	*n = v
	return nil
}

func boolean(b *bool, text string) error {
	switch text {
	case "true", "false":
		*b = text == "true"
		return nil
	}
	return fmt.Errorf("want true or false, not %q", text)
}

func choice(s *string, text string, known ...string) error {
	for _, k := range known {
		if text == k {
			*s = text
			return nil
		}
	}
	return fmt.Errorf("want %s, not %q%s", strings.Join(known, ", "), text, didYouMean(text, known))
}

func level(c *Config, text string) error {
	var name string
	if err := choice(&name, text, "debug", "info", "warn", "error"); err != nil {
		return err
	}
	return c.Log.Level.UnmarshalText([]byte(name))
}

func ports(list *[]int, values []string) error {
	all := make([]int, len(values))
	for i, v := range values {
		if err := integer(&all[i], v, 1, 65535); err != nil {
			return err
		}
	}
	*list = all
	return nil
}

func models(list *[]registry.Model, values []string) error {
	all := make([]registry.Model, len(values))
	for i, v := range values {
		if err := choice((*string)(&all[i]), v, string(registry.ModelInterface), string(registry.ModelApplication)); err != nil {
			return err
		}
	}
	*list = all
	return nil
}

// host is an address or a name that others can dial.
func host(text string) (string, error) {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		if a.IsUnspecified() || a.IsMulticast() {
			return "", fmt.Errorf("%s is no address that others can dial", text)
		}
		return a.String(), nil
	}
	if _, _, err := net.SplitHostPort(text); err == nil {
		return "", fmt.Errorf("want a host without a port, not %q: the port is that of the inbound listener", text)
	}
	if text == "" || len(text) > 253 || strings.Trim(text, letters+".") != "" {
		return "", fmt.Errorf("want an address or a host name, not %q", text)
	}
	return text, nil
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

func hostPort(text string) (string, error) {
	h, p, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("want host:port, not %q", text)
	}
	var port int
	if err := integer(&port, p, 0, 65535); err != nil {
		return "", fmt.Errorf("port: %w", err)
	}
	if _, err := netip.ParseAddr(h); err != nil && h != "" && h != "localhost" {
		return "", fmt.Errorf("want an IP address before the port, not %q", h)
	}
	return net.JoinHostPort(h, strconv.Itoa(port)), nil
}

func path(text string, none bool) (string, error) {
	switch {
	case text == "" && none:
		return "", nil
	case text == "" || strings.ContainsRune(text, 0):
		return "", errors.New("want a path")
	}
	return filepath.Clean(text), nil
}

func checkName(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, letters+".") != "" {
		return fmt.Errorf("want a name of 1 to 64 letters, digits, '-', '_' or '.', not %q", name)
	}
	return nil
}

// defaults are those of CONTRACT §11, but for the directories.
func defaults() Config {
	return Config{
		Listeners:  Listeners{Outbound: "127.0.0.1:20881", Inbound: "0.0.0.0:20882", Control: "127.0.0.1:20883"},
		MeshPorts:  []int{20882},
		Publish:    Publish{Models: []registry.Model{registry.ModelInterface, registry.ModelApplication}},
		Protection: Protection{Enabled: true, EmptyHold: 30 * time.Second, ShrinkHold: 10 * time.Second},
		Stop:       Stop{NotifyWait: 3 * time.Second, Drain: 10 * time.Second},
		Probe:      Probe{Interval: time.Second, Timeout: 300 * time.Millisecond, Fall: 3, Rise: 2},
		Log:        Log{Level: slog.LevelInfo, Format: "text"},
	}
}
