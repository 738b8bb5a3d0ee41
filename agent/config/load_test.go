package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const zk = "zookeeper://h:2181"

// load loads with one registry, if no place names any.
func load(t *testing.T, text string, env []string, flags map[string][]string) (Config, error) {
	t.Helper()
	if !strings.Contains(text, "registries:") && flags["registry"] == nil {
		env = append([]string{"MESHFERRY_REGISTRY=" + zk}, env...)
	}
	return Load(Input{File: "m.yaml", Text: []byte(text), Env: env, Flags: flags})
}

func mustLoad(t *testing.T, text string, env []string, flags map[string][]string) Config {
	t.Helper()
	c, err := load(t, text, env, flags)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c := mustLoad(t, "registries: [{url: '"+zk+"'}]", nil, nil)
	want := Config{
		Listeners:  Listeners{"127.0.0.1:20881", "0.0.0.0:20882", "127.0.0.1:20883", "/run/meshferry/control.sock", ""},
		StateDir:   "/var/lib/meshferry",
		Registries: []Registry{{Name: "main", Backend: "zookeeper", URL: zk, Weight: 100}},
		MeshPorts:  []int{20882},
		XDS:        XDS{Mode: "sidecar", Port: 20882, Node: XDSNode{Namespace: "default"}},
		Publish:    Publish{[]registry.Model{"interface", "application"}},
		Protection: Protection{true, 30 * time.Second, 10 * time.Second},
		Stop:       Stop{3 * time.Second, 10 * time.Second},
		Probe:      Probe{time.Second, 300 * time.Millisecond, 3, 2},
		Limits:     Limits{256, 2000, 4000, 32, 512, 100, 400, 8 << 20, 10_000, 16_384, 128 << 20, 512 << 20},
		Log:        Log{slog.LevelInfo, "text"},
		File:       "m.yaml",
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

// TestWholeFile reads every key.
func TestWholeFile(t *testing.T) {
	text, err := os.ReadFile("testdata/whole.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, string(text), nil, nil)
	want := Config{
		Address:   "192.0.2.1",
		Addresses: map[string]string{"dr": "192.0.2.2"},
		Listeners: Listeners{"127.0.0.1:1", "[::]:2", "127.0.0.1:3", "/run/x.sock", "/etc/t"},
		StateDir:  "/var/x",
		Registries: []Registry{
			{Name: "main", Backend: "zookeeper", URL: "zookeeper://h1:2181,h2:2181/dubbo?root=r&servicesRoot=s&sessionTimeout=20s", Username: "u", PasswordFile: "/etc/p", Weight: 100},
			{Name: "dr", Backend: "zookeeper", URL: "zookeeper://h3:2181?group=g", Weight: 25, Preferred: true},
			{Name: "here", Backend: "local", URL: "local:///var/lib/reg", Weight: 100},
		},
		Services: []Service{
			{Match: "g1/com.a.Foo:1.0.0", Publish: "direct"},
			{Match: "com.a.*", Publish: "both", LoadBalance: "leastactive"},
		},
		Static: []Static{
			{Application: "shop", Protocol: "dubbo", Port: 20880},
			{Application: "stock", Protocol: "dubbo", Host: "127.0.0.2", Port: 20890, Services: []registry.Service{{Group: "g1", Interface: "com.a.Foo", Version: "1.0.0"}, {Interface: "com.a.Bar"}}},
		},
		Extra:     []Extra{{20892, "shop"}},
		MeshPorts: []int{20882, 20892},
		XDS: XDS{
			Servers: []string{"istiod.example:15012", "192.0.2.9:15012"}, Mode: "grpc", Delta: true, Port: 20890, Listeners: []string{"*"},
			TLS:  XDSTLS{true, "/etc/ca", "/etc/cert", "/etc/key", "/etc/token", "istiod.istio-system.svc"},
			Node: XDSNode{"id", "host-1", "dubbo", []string{"app=shop", "zone=a"}, "cn/hz/a"},
		},
		Publish:    Publish{[]registry.Model{"application"}},
		Protection: Protection{false, time.Second, time.Minute},
		Stop:       Stop{time.Second, 2 * time.Second},
		Probe:      Probe{2 * time.Second, 100 * time.Millisecond, 4, 1},
		Limits:     Limits{1, 2, 3, 4, 5, 6, 7, 4096, 9, 10, 65536, 1 << 20},
		Compat:     Compat{Mosn{"127.0.0.1:22222", 20880, "dr"}},
		Log:        Log{slog.LevelDebug, "json"},
		File:       "m.yaml",
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	for _, s := range settings() { // a new setting belongs into the file
		if s.get(&c) == s.get(&Config{}) && s.key != "protection.enabled" {
			t.Errorf("%s has no value in testdata/whole.yaml", s.key)
		}
		if last := s.key[strings.LastIndexByte(s.key, '.')+1:]; !strings.Contains(string(text), last+":") {
			t.Errorf("%s is not in testdata/whole.yaml", s.key)
		}
	}
}

func TestPrecedence(t *testing.T) {
	file := "listeners: {outbound: 127.0.0.1:1}\nlog: {level: warn}\nregistries: [{url: '" + zk + "'}]\nprobe: {interval: 2s}\n"
	env := []string{"MESHFERRY_OUTBOUND=127.0.0.1:2", "MESHFERRY_LOG_LEVEL=error", "MESHFERRY_PROBE_INTERVAL=3s", "HOME=/x", "MESHFERRY_CACHE=/y"}
	flags := map[string][]string{"outbound": {"127.0.0.1:3"}}
	for _, c := range []struct {
		name     string
		got      Config
		outbound string
		level    slog.Level
		interval time.Duration
	}{
		{"default", mustLoad(t, "", nil, nil), "127.0.0.1:20881", slog.LevelInfo, time.Second},
		{"file", mustLoad(t, file, nil, nil), "127.0.0.1:1", slog.LevelWarn, 2 * time.Second},
		{"environment", mustLoad(t, file, env, nil), "127.0.0.1:2", slog.LevelError, 3 * time.Second},
		{"flag", mustLoad(t, file, env, flags), "127.0.0.1:3", slog.LevelError, 3 * time.Second},
	} {
		if c.got.Listeners.Outbound != c.outbound || c.got.Log.Level != c.level || c.got.Probe.Interval != c.interval {
			t.Errorf("%s: %+v", c.name, c.got)
		}
	}
}

func TestRegistryPlaces(t *testing.T) {
	file := "registries:\n- {url: zookeeper://f1, root: r, username: u, passwordFile: /p}\n- {name: dr, url: zookeeper://f2}\n"
	names := func(c Config) (all []string) {
		for _, r := range c.Registries {
			all = append(all, r.Name+" "+r.URL+" "+r.Username+" "+r.PasswordFile)
		}
		return all
	}
	for _, c := range []struct {
		name  string
		env   []string
		flags []string
		want  []string
	}{
		{"file", nil, nil, []string{"main zookeeper://f1?root=r u /p", "dr zookeeper://f2  "}},
		{"environment", []string{"MESHFERRY_REGISTRY=zookeeper://e1 x=local:///e2"}, nil, []string{"main zookeeper://e1?root=r u /p", "x local:///e2  "}},
		{"flags", []string{"MESHFERRY_REGISTRY=zookeeper://e1"}, []string{"dr=zookeeper://c1/a?group=b", "zookeeper://c2"},
			[]string{"dr zookeeper://c1/a?group=b  ", "main zookeeper://c2?root=r u /p"}},
	} {
		flags := map[string][]string{}
		if c.flags != nil {
			flags["registry"] = c.flags
		}
		if got := names(mustLoad(t, file, c.env, flags)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPasswords(t *testing.T) {
	for address, url := range map[string]string{
		"zookeeper://us%40er:pa%3Ass@h1:2181,h2:2181/r":              "zookeeper://h1:2181,h2:2181/r",
		"nacos://h?group=g&username=us%40er&password=pa:ss":          "nacos://h?group=g",
		"nacos://h?pass%77ord=pa%3ass&username=us%40er&namespace=ns": "nacos://h?namespace=ns",
	} {
		passwordInAddress(t, address, url)
	}

	file := "registries: [{name: eu-1, url: '" + zk + "', username: u, passwordFile: /p}]"
	c := mustLoad(t, file, []string{"MESHFERRY_REGISTRY_EU_1_PASSWORD=secret"}, nil)
	if user, password, err := c.Registries[0].Credentials(); user != "u" || password != "secret" || err != nil || len(c.Warnings) != 0 {
		t.Errorf("%q %q %v, warnings %q", user, password, err, c.Warnings)
	}
}

func passwordInAddress(t *testing.T, address, url string) {
	t.Helper()
	c := mustLoad(t, "", nil, map[string][]string{"registry": {address}})
	r := c.Registries[0]
	if r.Username != "us@er" || r.Password != "pa:ss" || r.URL != url {
		t.Errorf("%#v", r)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "MESHFERRY_REGISTRY_MAIN_PASSWORD") {
		t.Errorf("warnings %q", c.Warnings)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "password", r.Password, "registry", r, "config", c)
	for _, shown := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s %q", c, c, r.Password, r.Password), string(text), log.String(), fmt.Sprintf("%x", c.Redacted().Registries[0].Password)} {
		if strings.Contains(shown, "pa:ss") || strings.Contains(shown, fmt.Sprintf("%x", "pa:ss")) {
			t.Errorf("the password is shown: %s", shown)
		}
	}
	if c.Redacted(); c.Registries[0].Password != "pa:ss" {
		t.Error("Redacted changed the original")
	}
}

func TestPasswordFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	r := Registry{Name: "main", Username: "u", PasswordFile: write("good", " pass word \n", 0o600)}
	if user, password, err := r.Credentials(); user != "u" || password != " pass word " || err != nil {
		t.Errorf("%q %q %v", user, password, err)
	}
	for name, p := range map[string]string{
		"missing": filepath.Join(dir, "none"), "empty": write("empty", "\n", 0o600), "open to others": write("open", "x", 0o644), "directory": dir,
	} {
		r.PasswordFile = p
		if _, password, err := r.Credentials(); err == nil || password != "" {
			t.Errorf("%s: %q, %v; want an error", name, password, err)
		}
	}
	if user, password, err := (Registry{}).Credentials(); user != "" || password != "" || err != nil {
		t.Errorf("none: %q %q %v", user, password, err)
	}
}

func TestDirectories(t *testing.T) {
	one := map[string][]string{"registry": {zk}}
	for _, c := range []struct {
		name          string
		uid           int
		env           []string
		socket, state string
	}{
		{"root", 0, []string{"HOME=/root", "XDG_STATE_HOME=/s", "XDG_RUNTIME_DIR=/r"}, "/run/meshferry/control.sock", "/var/lib/meshferry"},
		{"user", 7, []string{"HOME=/h", "XDG_STATE_HOME=/s", "XDG_RUNTIME_DIR=/r"}, "/r/meshferry/control.sock", "/s/meshferry"},
		{"user without XDG", 7, []string{"HOME=/h"}, "/tmp/meshferry-7/control.sock", "/h/.local/state/meshferry"},
		{"relative XDG", 7, []string{"HOME=/h", "XDG_STATE_HOME=s", "XDG_RUNTIME_DIR=r"}, "/tmp/meshferry-7/control.sock", "/h/.local/state/meshferry"},
	} {
		got, err := Load(Input{UID: c.uid, Env: c.env, Flags: one})
		if err != nil || got.Listeners.ControlSocket != c.socket || got.StateDir != c.state {
			t.Errorf("%s: %q %q %v", c.name, got.Listeners.ControlSocket, got.StateDir, err)
		}
		if s := Sockets(c.uid, c.env); s[0] != c.socket || s[len(s)-1] != "/run/meshferry/control.sock" {
			t.Errorf("%s: sockets %q", c.name, s)
		}
	}
	if _, err := Load(Input{UID: 7, Flags: one}); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("no home: %v", err)
	}
	if _, err := Load(Input{UID: 7, Flags: map[string][]string{"state-dir": {"/x"}, "registry": {zk}}}); err != nil {
		t.Errorf("no home, but --state-dir: %v", err)
	}
	long := "/" + strings.Repeat("x", 100)
	if _, err := Load(Input{UID: 7, Env: []string{"HOME=/h", "XDG_RUNTIME_DIR=" + long}, Flags: one}); err == nil || !strings.Contains(err.Error(), "--control-socket") {
		t.Errorf("default socket too long: %v", err)
	}
	c, err := Load(Input{Flags: map[string][]string{"control-socket": {""}, "registry": {zk}}})
	if err != nil || c.Listeners.ControlSocket != "" {
		t.Errorf("no socket wanted: %q, %v", c.Listeners.ControlSocket, err)
	}
}

func TestServices(t *testing.T) {
	c := mustLoad(t, `
services:
- {match: "g1/com.a.Foo:1.0.0", publish: direct}
- {match: "com.a.*", routing: {loadbalance: roundrobin}}
- {match: "*.Foo", publish: off, routing: {source: xds-then-registry, loadbalance: random}}
- {match: "com.b.*", routing: xds}
`, nil, nil)
	for key, want := range map[string]string{
		"g1/com.a.Foo:1.0.0": "direct roundrobin xds-then-registry",
		"g1/com.a.Foo:2.0.0": "off roundrobin xds-then-registry",
		"com.b.Foo":          "off random xds-then-registry",
		"com.a.Bar":          "mesh roundrobin ",
		"com.b.Bar":          "mesh  xds",
	} {
		s, err := registry.ParseService(key)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.PublishMode(s) + " " + c.LoadBalance(s) + " " + c.Routing(s); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if c := (Config{Address: "a", Addresses: map[string]string{"x": "b"}}); c.AddressFor("x") != "b" || c.AddressFor("y") != "a" {
		t.Error("AddressFor")
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*", "", true}, {"*a", "ba", true}, {"*a", "ab", false},
		{"a*a", "a", false}, {"a*b*c", "aXbYc", true}, {"a*b*c", "acb", false}, {"a**b", "ab", true}, {"*b*", "abc", true},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func TestFlags(t *testing.T) {
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	Flags(fs)
	err := fs.Parse([]string{"--registry", "a=zookeeper://h1:1,h2:2", "--registry=local:///d", "--outbound", "127.0.0.1:5", "--control-socket="})
	if err != nil {
		t.Fatal(err)
	}
	got := Given(fs)
	want := map[string][]string{"registry": {"a=zookeeper://h1:1,h2:2", "local:///d"}, "outbound": {"127.0.0.1:5"}, "control-socket": {""}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, flag := range strings.Fields("config registry address outbound inbound control control-socket state-dir log-level log-format") {
		if fs.Lookup(flag) == nil {
			t.Errorf("no --%s", flag)
		}
	}
}

func TestRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.yaml")
	t.Setenv("MESHFERRY_REGISTRY", zk)
	if err := os.WriteFile(file, []byte("address: 192.0.2.7\nregistries: [{url: '"+zk+"'}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MESHFERRY_CONFIG", file)
	if c, err := Read(nil); err != nil || c.Address != "192.0.2.7" || c.File != file {
		t.Errorf("by variable: %+v, %v", c, err)
	}
	if _, err := Read(map[string][]string{"config": {file + ".none"}}); err == nil || !strings.Contains(err.Error(), ".none") {
		t.Errorf("missing file: %v", err)
	}
	t.Setenv("MESHFERRY_CONFIG", "")
	if c, err := Read(nil); err == nil {
		if c.Address == "" {
			t.Error("no address and no error")
		}
	} else if !strings.Contains(err.Error(), "--address") {
		t.Errorf("no advice: %v", err)
	}
}
