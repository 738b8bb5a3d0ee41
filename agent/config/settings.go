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

	"github.com/meshferry/meshferry/internal/nearest"
	"github.com/meshferry/meshferry/registry"
)

// setting is one value that a file, a variable or a flag can set.
type setting struct {
	key  string // path in the YAML file
	flag string // without dashes; empty: none
	help string // of the flag
	value
}

// value is a place in a Config.
type value struct {
	set  func(c *Config, values []string) error
	get  func(c *Config) string // as a file would say it; a list with ", " between
	take func(c, from *Config)  // copies it
	list bool                   // takes several values
	live bool                   // SIGHUP changes it in a running agent
}

// settings are all of them but for the lists: addresses, registries, services,
// inbound.static, inbound.extra.
func settings() []setting {
	return []setting{
		{"address", "address", "host that other hosts dial\n(default: address of the default route's interface)",
			field(func(c *Config) *string { return &c.Address }, host)},
		{"listeners.outbound", "outbound", "local consumers call here (default 127.0.0.1:20881)",
			field(func(c *Config) *string { return &c.Listeners.Outbound }, hostPort)},
		{"listeners.inbound", "inbound", "the rest of the world calls here (default 0.0.0.0:20882)",
			field(func(c *Config) *string { return &c.Listeners.Inbound }, hostPort)},
		{"listeners.control", "control", "control API, on loopback only (default 127.0.0.1:20883)",
			field(func(c *Config) *string { return &c.Listeners.Control }, loopback)},
		{"listeners.controlSocket", "control-socket", "unix socket of the control API, empty: none\n(default /run/meshferry/control.sock, of an ordinary user in $XDG_RUNTIME_DIR)",
			field(func(c *Config) *string { return &c.Listeners.ControlSocket }, socketPath)},
		{"listeners.controlTokenFile", "control-token-file", "file with a token that callers of --control must send (default none)",
			field(func(c *Config) *string { return &c.Listeners.ControlTokenFile }, path)},
		{"stateDir", "state-dir", "directory for what must survive a restart\n(default /var/lib/meshferry, of an ordinary user in $XDG_STATE_HOME)",
			field(func(c *Config) *string { return &c.StateDir }, path)},
		{"meshPorts", "", "", list(func(c *Config) *[]int { return &c.MeshPorts }, integer(1, 65535))},
		{"xds.servers", "xds", "ADS server host:port to take rules from, repeat for more (default none)",
			list(func(c *Config) *[]string { return &c.XDS.Servers }, dialable)},
		{"xds.mode", "", "", field(func(c *Config) *string { return &c.XDS.Mode }, choice("sidecar", "grpc"))},
		{"xds.delta", "", "", field(func(c *Config) *bool { return &c.XDS.Delta }, boolean)},
		{"xds.port", "", "", field(func(c *Config) *int { return &c.XDS.Port }, integer(1, 65535))},
		{"xds.listeners", "", "", list(func(c *Config) *[]string { return &c.XDS.Listeners }, text)},
		{"xds.tls.enabled", "", "", field(func(c *Config) *bool { return &c.XDS.TLS.Enabled }, boolean)},
		{"xds.tls.caFile", "", "", field(func(c *Config) *string { return &c.XDS.TLS.CAFile }, path)},
		{"xds.tls.certFile", "", "", field(func(c *Config) *string { return &c.XDS.TLS.CertFile }, path)},
		{"xds.tls.keyFile", "", "", field(func(c *Config) *string { return &c.XDS.TLS.KeyFile }, path)},
		{"xds.tls.tokenFile", "", "", field(func(c *Config) *string { return &c.XDS.TLS.TokenFile }, path)},
		{"xds.tls.serverName", "", "", field(func(c *Config) *string { return &c.XDS.TLS.ServerName }, text)},
		{"xds.node.id", "", "", field(func(c *Config) *string { return &c.XDS.Node.ID }, text)},
		{"xds.node.name", "", "", field(func(c *Config) *string { return &c.XDS.Node.Name }, func(v string) (string, error) { return v, checkName(v) })},
		{"xds.node.namespace", "", "", field(func(c *Config) *string { return &c.XDS.Node.Namespace }, func(v string) (string, error) { return v, checkName(v) })},
		{"xds.node.labels", "", "", list(func(c *Config) *[]string { return &c.XDS.Node.Labels }, label)},
		{"xds.node.locality", "", "", field(func(c *Config) *string { return &c.XDS.Node.Locality }, locality)},
		{"publish.models", "", "", models(func(c *Config) *[]registry.Model { return &c.Publish.Models })},
		{"protection.enabled", "", "", live(field(func(c *Config) *bool { return &c.Protection.Enabled }, boolean))},
		{"protection.emptyHold", "", "", live(field(func(c *Config) *time.Duration { return &c.Protection.EmptyHold }, duration(0)))},
		{"protection.shrinkHold", "", "", live(field(func(c *Config) *time.Duration { return &c.Protection.ShrinkHold }, duration(0)))},
		{"stop.notifyWait", "", "", live(field(func(c *Config) *time.Duration { return &c.Stop.NotifyWait }, duration(0)))},
		{"stop.drain", "", "", live(field(func(c *Config) *time.Duration { return &c.Stop.Drain }, duration(0)))},
		{"probe.interval", "", "", live(field(func(c *Config) *time.Duration { return &c.Probe.Interval }, duration(10*time.Millisecond)))},
		{"probe.timeout", "", "", live(field(func(c *Config) *time.Duration { return &c.Probe.Timeout }, duration(time.Millisecond)))},
		{"probe.fall", "", "", live(field(func(c *Config) *int { return &c.Probe.Fall }, integer(1, 1000)))},
		{"probe.rise", "", "", live(field(func(c *Config) *int { return &c.Probe.Rise }, integer(1, 1000)))},
		{"limits.workloads", "", "", field(func(c *Config) *int { return &c.Limits.Workloads }, integer(1, 1e6))},
		{"limits.publications", "", "", field(func(c *Config) *int { return &c.Limits.Publications }, integer(1, 1e6))},
		{"limits.subscriptions", "", "", field(func(c *Config) *int { return &c.Limits.Subscriptions }, integer(1, 1e6))},
		{"limits.requests", "", "", field(func(c *Config) *int { return &c.Limits.Requests }, integer(1, 1e6))},
		{"limits.heldRequests", "", "", field(func(c *Config) *int { return &c.Limits.HeldRequests }, integer(1, 1e6))},
		{"limits.requestRate", "", "", field(func(c *Config) *int { return &c.Limits.RequestRate }, integer(1, 1e6))},
		{"limits.requestBurst", "", "", field(func(c *Config) *int { return &c.Limits.RequestBurst }, integer(1, 1e6))},
		{"limits.frame", "", "", field(func(c *Config) *int { return &c.Limits.Frame }, integer(1<<10, 1<<30))},
		{"limits.connections", "", "", field(func(c *Config) *int { return &c.Limits.Connections }, integer(1, 1e6))},
		{"limits.inFlight", "", "", field(func(c *Config) *int { return &c.Limits.InFlight }, integer(1, 1e6))},
		{"limits.queue", "", "", field(func(c *Config) *int { return &c.Limits.Queue }, integer(64<<10, 1<<40))},
		{"limits.memory", "", "", field(func(c *Config) *int { return &c.Limits.Memory }, integer(1<<20, 1<<40))},
		{"compat.mosn.listen", "", "", field(func(c *Config) *string { return &c.Compat.Mosn.Listen }, loopback)},
		{"compat.mosn.providerPort", "", "", field(func(c *Config) *int { return &c.Compat.Mosn.ProviderPort }, integer(1, 65535))},
		{"compat.mosn.registry", "", "", field(func(c *Config) *string { return &c.Compat.Mosn.Registry }, func(v string) (string, error) { return v, checkName(v) })},
		{"log.level", "log-level", "debug, info, warn or error (default info)", live(level(func(c *Config) *slog.Level { return &c.Log.Level }))},
		{"log.format", "log-format", "text or json (default text)", field(func(c *Config) *string { return &c.Log.Format }, choice("text", "json"))},
	}
}

// later are names of CONTRACT §11 whose part this version does not have.
var later = map[string]bool{
	"registries.configRoot": true,
}

// field is the value at a place, read by parse.
func field[T any](at func(*Config) *T, parse func(string) (T, error)) value {
	return value{
		set: func(c *Config, values []string) error {
			if len(values) != 1 {
				return fmt.Errorf("want one value, not %d", len(values))
			}
			v, err := parse(values[0])
			if err == nil {
				*at(c) = v
			}
			return err
		},
		get:  func(c *Config) string { return fmt.Sprint(*at(c)) },
		take: func(c, from *Config) { *at(c) = *at(from) },
	}
}

// live marks what SIGHUP changes in a running agent.
func live(v value) value {
	v.live = true
	return v
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

func duration(least time.Duration) func(string) (time.Duration, error) {
	return func(text string) (time.Duration, error) {
		v, err := time.ParseDuration(text)
		if err != nil {
			return 0, fmt.Errorf("want a duration with a unit, like 300ms, 15s or 2m, not %q", text)
		}
		if v < least || v > 24*time.Hour {
			return 0, fmt.Errorf("want %v to 24h, not %v", least, v)
		}
		return v, nil
	}
}

func integer(least, most int) func(string) (int, error) {
	return func(text string) (int, error) {
		v, err := strconv.Atoi(text)
		if err != nil || v < least || v > most {
			return 0, fmt.Errorf("want a number in %d..%d, not %q", least, most, text)
		}
		return v, nil
	}
}

func boolean(text string) (bool, error) {
	switch text {
	case "true", "false":
		return text == "true", nil
	}
	return false, fmt.Errorf("want true or false, not %q", text)
}

func choice(known ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		for _, k := range known {
			if text == k {
				return text, nil
			}
		}
		return "", fmt.Errorf("want %s, not %q%s", strings.Join(known, ", "), text, nearest.DidYouMean(text, known))
	}
}

func level(at func(*Config) *slog.Level) value {
	v := field(at, func(text string) (l slog.Level, err error) {
		name, err := choice("debug", "info", "warn", "error")(text)
		if err == nil {
			err = l.UnmarshalText([]byte(name))
		}
		return l, err
	})
	v.get = func(c *Config) string { return strings.ToLower(at(c).String()) }
	return v
}

func models(at func(*Config) *[]registry.Model) value {
	return value{
		list: true,
		set: func(c *Config, values []string) error {
			all := make([]registry.Model, len(values))
			for i, v := range values {
				name, err := choice(string(registry.ModelInterface), string(registry.ModelApplication))(v)
				if err != nil {
					return err
				}
				all[i] = registry.Model(name)
			}
			*at(c) = all
			return nil
		},
		get: func(c *Config) string {
			var names []string
			for _, m := range *at(c) {
				names = append(names, string(m))
			}
			return strings.Join(names, ", ")
		},
		take: func(c, from *Config) { *at(c) = *at(from) },
	}
}

// list is the values at a place, each read by parse.
func list[T any](at func(*Config) *[]T, parse func(string) (T, error)) value {
	return value{
		list: true,
		set: func(c *Config, values []string) error {
			all := make([]T, len(values))
			for i, text := range values {
				v, err := parse(text)
				if err != nil {
					return err
				}
				all[i] = v
			}
			*at(c) = all
			return nil
		},
		get: func(c *Config) string {
			var texts []string
			for _, v := range *at(c) {
				texts = append(texts, fmt.Sprint(v))
			}
			return strings.Join(texts, ", ")
		},
		take: func(c, from *Config) { *at(c) = *at(from) },
	}
}

// dialable is host:port of another machine, which may have a name.
func dialable(text string) (string, error) {
	h, p, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("want host:port, not %q", text)
	}
	if _, err := integer(1, 65535)(p); err != nil {
		return "", fmt.Errorf("port: %w", err)
	}
	if h, err = host(h); err != nil {
		return "", err
	}
	return net.JoinHostPort(h, p), nil
}

func text(v string) (string, error) {
	if v == "" || len(v) > 512 {
		return "", fmt.Errorf("want a text of 1 to 512 characters, not %q", v)
	}
	return v, nil
}

func label(v string) (string, error) {
	if k, _, ok := strings.Cut(v, "="); !ok || k == "" || len(v) > 512 {
		return "", fmt.Errorf("want key=value, not %q", v)
	}
	return v, nil
}

func locality(v string) (string, error) {
	if v == "" || strings.Count(v, "/") > 2 || len(v) > 512 {
		return "", fmt.Errorf("want region/zone/subzone, not %q", v)
	}
	return v, nil
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
	port, err := integer(0, 65535)(p)
	if err != nil {
		return "", fmt.Errorf("port: %w", err)
	}
	if _, err := netip.ParseAddr(h); err != nil && h != "" && h != "localhost" {
		return "", fmt.Errorf("want an IP address before the port, not %q", h)
	}
	return net.JoinHostPort(h, strconv.Itoa(port)), nil
}

// loopback is a hostPort that only this machine reaches: who reaches the control
// API can publish.
func loopback(text string) (string, error) {
	address, err := hostPort(text)
	if err != nil {
		return "", err
	}
	h, port, _ := net.SplitHostPort(address)
	if a, err := netip.ParseAddr(h); h != "localhost" && (err != nil || !a.IsLoopback()) {
		return "", fmt.Errorf("%s is not on loopback, and whoever reaches this API can publish: use 127.0.0.1:%s", address, port)
	}
	return address, nil
}

func path(text string) (string, error) {
	if text == "" || strings.ContainsRune(text, 0) {
		return "", errors.New("want a path")
	}
	return filepath.Clean(text), nil
}

// maxSocket is how long the path of a unix socket can be on Linux (sun_path in
// unix(7), less its closing zero).
const maxSocket = 107

// socketPath may be empty.
func socketPath(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	p, err := path(text)
	if err == nil && len(p) > maxSocket {
		err = fmt.Errorf("the path has %d characters, and a unix socket can have %d: choose a shorter one", len(p), maxSocket)
	}
	return p, err
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
		XDS:        XDS{Mode: "sidecar", Port: 20882, Node: XDSNode{Namespace: "default"}},
		Publish:    Publish{Models: []registry.Model{registry.ModelInterface, registry.ModelApplication}},
		Protection: Protection{Enabled: true, EmptyHold: 30 * time.Second, ShrinkHold: 10 * time.Second},
		Stop:       Stop{NotifyWait: 3 * time.Second, Drain: 10 * time.Second},
		Probe:      Probe{Interval: time.Second, Timeout: 300 * time.Millisecond, Fall: 3, Rise: 2},
		Limits: Limits{Workloads: 256, Publications: 2000, Subscriptions: 4000, Requests: 32, HeldRequests: 512,
			RequestRate: 100, RequestBurst: 400, Frame: 8 << 20, Connections: 10_000,
			InFlight: 16_384, Queue: 128 << 20, Memory: 512 << 20},
		Log: Log{Level: slog.LevelInfo, Format: "text"},
	}
}
