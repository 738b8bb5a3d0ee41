package config

import (
	"strings"
	"testing"
)

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		file  string
		env   []string
		flags map[string][]string
		want  []string // lines of the error, each the whole line or "…" and its end
	}{
		{name: "unknown key", file: "\nprobe:\n  intervall: 1s\n", want: []string{`m.yaml:3: unknown key "probe.intervall" (did you mean "interval"?)`}},
		{name: "unknown key at the top", file: "registrys: []", want: []string{`m.yaml:1: unknown key "registrys" (did you mean "registries"?)`}},
		{name: "key of another level", file: "emptyHold: 1s", want: []string{`m.yaml:1: unknown key "emptyHold" (did you mean "protection.emptyHold"?)`}},
		{name: "like nothing", file: "stop: {zzzzzzzz: 1}", want: []string{`m.yaml:1: unknown key "stop.zzzzzzzz" (known here: drain, notifyWait)`}},
		{name: "extra without application", file: "inbound:\n  extra:\n  - port: 20892", want: []string{"m.yaml:3: inbound.extra: an entry needs port and application, the one to which the port belongs"}},
		{name: "extra port", file: "inbound: {extra: [{port: 0, application: a}, {prot: 1}]}", want: []string{`m.yaml:1: inbound.extra.port: want a number in 1..65535, not "0"`, `m.yaml:1: unknown key "inbound.extra.prot" (did you mean "port"?)`, "m.yaml:1: inbound.extra: an entry needs port and application, the one to which the port belongs"}},
		{name: "two extra ports", file: "inbound:\n  extra:\n  - {port: 20892, application: a}\n  - {port: 20893, application: a}", want: []string{"m.yaml:4: inbound.extra: a is there twice, and has one port"}},
		{name: "extra port taken", file: "inbound:\n  extra:\n  - {port: 20881, application: a}\n  - {port: 20882, application: b}\n  - {port: 20892, application: c}\n  - {port: 20892, application: d}", want: []string{
			"m.yaml:3: listeners.outbound and inbound.extra of a cannot both be had: 127.0.0.1:20881 and 0.0.0.0:20881",
			"m.yaml:4: listeners.inbound and inbound.extra of b have the same address 0.0.0.0:20882",
			"m.yaml:6: inbound.extra of c and inbound.extra of d have the same address 0.0.0.0:20892"}},
		{name: "extra port of a static application", file: "inbound:\n  extra: [{port: 20892, application: a}]\n  static: [{application: a, port: 20892}]", want: []string{"m.yaml:3: inbound.static: a: port 20892 is the agent's own listener 0.0.0.0:20892: set the port on which the application really listens"}},
		{name: "registry key not yet", file: "registries: [{url: '" + zk + "', configRoot: x}]", want: []string{"m.yaml:1: registries.configRoot: this version does not have it yet"}},
		{name: "registry weight", file: "registries: [{url: '" + zk + "', weight: -1}]", want: []string{"m.yaml:1: registries.weight: want a number in 0..10000, not \"-1\""}},
		{name: "several at once", file: "probe: {fall: x}\nlog: {level: inf}\nstop: {drain: 5}", want: []string{
			`m.yaml:1: probe.fall: want a number in 1..1000, not "x"`,
			`m.yaml:2: log.level: want debug, info, warn, error, not "inf" (did you mean "info"?)`,
			`m.yaml:3: stop.drain: want a duration with a unit, like 300ms, 15s or 2m, not "5"`,
		}},
		{name: "twice", file: "stateDir: /a\nstateDir: /b", want: []string{"m.yaml:2: stateDir is there twice"}},
		{name: "no YAML", file: "a: b: c", want: []string{"m.yaml:1: no YAML: mapping values are not allowed in this context"}},
		{name: "no YAML later", file: "stop:\n  drain: 1s\n bad: [", want: []string{"…"}},
		{name: "two documents", file: "{}\n---\n{}", want: []string{"m.yaml: want one document, there are more (a line of ---)"}},
		{name: "a list", file: "[]", want: []string{"m.yaml:1: the file: want keys and values, not a list"}},
		{name: "value for keys", file: "probe: 3", want: []string{`m.yaml:1: probe: want keys and values, not "3"`}},
		{name: "keys for value", file: "address: {a: b}", want: []string{"m.yaml:1: address: want a value, not keys and values"}},
		{name: "list for value", file: "address: [a, b]", want: []string{"m.yaml:1: address: want one value, not 2"}},
		{name: "value for list", file: "registries: x", want: []string{`m.yaml:1: registries: want a list, not "x"`}},
		{name: "odd key", file: "? [a]\n: b", want: []string{"m.yaml:1: the file: want a name as key, not a list"}},
		{name: "too long", file: strings.Repeat("#", maxFile+1), want: []string{"m.yaml: longer than 1048576 bytes"}},
		{name: "negative", file: "stop: {drain: -1s}", want: []string{"m.yaml:1: stop.drain: want 0s to 24h, not -1s"}},
		{name: "no registry", file: "registries: []", want: []string{"no registry is set, so nothing could be published or found. Give one of",
			"  --registry zookeeper://host:2181", "  MESHFERRY_REGISTRY=zookeeper://host:2181",
			`  registries: [{url: "zookeeper://host:2181"}]   in the file of --config`,
			"To try it on one machine without a server: --registry local:///tmp/registry --address 127.0.0.1"}},
		{name: "control for everybody", flags: map[string][]string{"control": {"0.0.0.0:20883"}}, want: []string{
			"--control: 0.0.0.0:20883 is not on loopback, and whoever reaches this API can publish: use 127.0.0.1:20883"}},
		{name: "control without a host", flags: map[string][]string{"control": {":20883"}}, want: []string{
			"--control: :20883 is not on loopback, and whoever reaches this API can publish: use 127.0.0.1:20883"}},
		{name: "mosn for everybody", file: "compat: {mosn: {listen: '10.0.0.1:22222', providerPort: 1}}", want: []string{
			"m.yaml:1: compat.mosn.listen: 10.0.0.1:22222 is not on loopback, and whoever reaches this API can publish: use 127.0.0.1:22222"}},
		{name: "socket too long", flags: map[string][]string{"control-socket": {"/" + strings.Repeat("x", 107)}}, want: []string{
			"--control-socket: the path has 108 characters, and a unix socket can have 107: choose a shorter one"}},
		{name: "empty directory", flags: map[string][]string{"state-dir": {""}}, want: []string{"--state-dir: want a path"}},
		{name: "port", file: "compat: {mosn: {providerPort: 0}}", want: []string{`m.yaml:1: compat.mosn.providerPort: want a number in 1..65535, not "0"`}},
		{name: "ports of other agents", file: "meshPorts: [1, 99999]", want: []string{`m.yaml:1: meshPorts: want a number in 1..65535, not "99999"`}},
		{name: "xds server", file: "xds: {servers: [istiod]}", want: []string{`m.yaml:1: xds.servers: want host:port, not "istiod"`}},
		{name: "xds mode", file: "xds: {mode: ads}", want: []string{`m.yaml:1: xds.mode: want sidecar, grpc, not "ads"`}},
		{name: "xds files without tls", file: "xds: {tls: {caFile: /ca}}", want: []string{"m.yaml:1: xds.tls: set enabled: true, or the files are not used"}},
		{name: "xds half a pair", file: "xds: {tls: {enabled: true, certFile: /c}}", want: []string{"m.yaml:1: xds.tls: a certificate needs its key, and a key its certificate: set certFile and keyFile"}},
		{name: "xds token in plain text", file: "xds: {tls: {tokenFile: /t}}", want: []string{"m.yaml:1: xds.tls: set enabled: true, or the files are not used"}},
		{name: "xds label", file: "xds: {node: {labels: [x]}}", want: []string{`m.yaml:1: xds.node.labels: want key=value, not "x"`}},
		{name: "model", file: "publish: {models: [interfaces]}", want: []string{`m.yaml:1: publish.models: want interface, application, not "interfaces" (did you mean "interface"?)`}},
		{name: "boolean", file: "protection: {enabled: yes}", want: []string{`m.yaml:1: protection.enabled: want true or false, not "yes"`}},
		{name: "static", file: "inbound:\n  static:\n  - {application: shop}\n  - {application: shop, port: 20880}\n  - {application: shop, port: 20880}\n  - {application: shop, port: 0}\n" +
			"  - {application: \"\", port: 1}\n  - {application: a, port: 1, protocol: tri}\n  - {application: b, port: 1, services: [\"g/\"]}\n  - {application: c, port: 1, servcies: []}\n",
			want: []string{
				"m.yaml:3: inbound.static: an entry needs application and port, where it really listens",
				"m.yaml:5: inbound.static: shop at port 20880 is there twice",
				`m.yaml:6: inbound.static.port: want a number in 1..65535, not "0"`,
				"m.yaml:6: inbound.static: an entry needs application and port, where it really listens",
				`m.yaml:7: inbound.static.application: want the name of an application, 1 to 128 characters, not ""`,
				"m.yaml:7: inbound.static: an entry needs application and port, where it really listens",
				`m.yaml:8: inbound.static.protocol: want dubbo, not "tri"`,
				`m.yaml:9: inbound.static.services: bad service key "g/": want [group/]interface[:version]`,
				`m.yaml:10: unknown key "inbound.static.servcies" (did you mean "services"?)`,
			}},
		{name: "static at our own port", file: "inbound: {static: [{application: shop, port: 20882}]}", want: []string{
			"m.yaml:1: inbound.static: shop: port 20882 is the agent's own listener 0.0.0.0:20882: set the port on which the application really listens"}},
		{name: "static at our own port, elsewhere", file: "listeners: {inbound: '127.0.0.2:20882'}\ninbound: {static: [{application: a, port: 20882}, {application: b, host: 127.0.0.2, port: 20882}, {application: c, host: x, port: 1}]}",
			want: []string{`m.yaml:2: inbound.static.host: want an IP address of this machine, not "x"`}},
		{name: "static at our own listener", file: "listeners: {inbound: '127.0.0.2:20882'}\ninbound: {static: [{application: a, port: 20882}, {application: b, host: 127.0.0.2, port: 20882}]}",
			want: []string{"m.yaml:2: inbound.static: b: port 20882 is the agent's own listener 127.0.0.2:20882: set the port on which the application really listens"}},
		{name: "address with port", file: "address: 192.0.2.1:20882", want: []string{`m.yaml:1: address: want a host without a port, not "192.0.2.1:20882": the port is that of the inbound listener`}},
		{name: "any address", file: "address: 0.0.0.0", want: []string{"m.yaml:1: address: 0.0.0.0 is no address that others can dial"}},
		{name: "listener", flags: map[string][]string{"outbound": {"20881"}}, want: []string{`--outbound: want host:port, not "20881"`}},
		{name: "listener port", flags: map[string][]string{"inbound": {"0.0.0.0:99999"}}, want: []string{`--inbound: port: want a number in 0..65535, not "99999"`}},
		{name: "listener host", flags: map[string][]string{"inbound": {"example.com:1"}}, want: []string{`--inbound: want an IP address before the port, not "example.com"`}},
		{name: "same listeners", flags: map[string][]string{"control": {"127.0.0.1:20881"}}, want: []string{"--control: listeners.outbound and listeners.control have the same address 127.0.0.1:20881"}},
		{name: "same listeners by the first", flags: map[string][]string{"outbound": {"127.0.0.1:20883"}}, want: []string{"--outbound: listeners.outbound and listeners.control have the same address 127.0.0.1:20883"}},
		{name: "unknown variable", env: []string{"MESHFERRY_OUTBOND=x"}, want: []string{`MESHFERRY_OUTBOND: unknown variable (did you mean "MESHFERRY_OUTBOUND"?)`}},
		{name: "variable like nothing", env: []string{"MESHFERRY_ZZZZZZZZZZ=x"}, want: []string{"MESHFERRY_ZZZZZZZZZZ: unknown variable (known are those that 'meshferry run --help' lists)"}},
		{name: "bad variable", env: []string{"MESHFERRY_LIMITS_HELD_REQUESTS=x"}, want: []string{`MESHFERRY_LIMITS_HELD_REQUESTS: want a number in 1..1000000, not "x"`}},
		{name: "unknown flag", flags: map[string][]string{"stat-dir": {"x"}}, want: []string{"--stat-dir: unknown flag (did you mean --state-dir?)"}},
		{name: "nacos", flags: map[string][]string{"registry": {"nacos://h:8848/public"}}, want: []string{"--registry: registry main: bad Nacos address: it has a path; a namespace is given as ?namespace=…, a context path as ?contextPath=…"}},
		{name: "nacos with a root", file: "registries: [{url: nacos://h, root: /x}]", want: []string{`m.yaml:1: registry main: bad Nacos address: unknown parameter "root"; known are namespace, group, contextPath, tls, backup, username, password`}},
		{name: "scheme", flags: map[string][]string{"registry": {"zookeper://h:2181"}}, want: []string{`--registry: registry main: no backend for "zookeper" (did you mean "zookeeper"?)`}},
		{name: "no scheme", flags: map[string][]string{"registry": {"h:2181"}}, want: []string{`--registry: registry main: want an address like zookeeper://host:2181, nacos://host:8848 or local:///directory, not "h:2181"`}},
		{name: "no scheme with password", flags: map[string][]string{"registry": {"u:secret@h:2181"}}, want: []string{`--registry: registry main: want an address like zookeeper://host:2181, nacos://host:8848 or local:///directory, not "…@h:2181"`}},
		{name: "no scheme with password as parameter", file: "registries: [{url: 'h:2181?username=u&password=secret'}]", want: []string{`m.yaml:1: registry main: want an address like zookeeper://host:2181, nacos://host:8848 or local:///directory, not "h:2181?…"`}},
		{name: "users in two places", flags: map[string][]string{"registry": {"nacos://u:secret@h?username=v"}}, want: []string{`--registry: registry main: the user is "u" before the '@' and "v" in the parameters`}},
		{name: "password not encoded", flags: map[string][]string{"registry": {"nacos://h?username=u&password=%zzsecret"}}, want: []string{`--registry: registry main: parameter password: want it percent-encoded`}},
		{name: "of Dubbo alone", flags: map[string][]string{"registry": {"nacos://h?register-mode=instance"}}, want: []string{`--registry: registry main: bad Nacos address: parameter "register-mode": publish.models says at which levels providers are written`}},
		{name: "two registries in one", flags: map[string][]string{"registry": {"zookeeper://h1|zookeeper://h2"}}, want: []string{`--registry: registry main: bad ZooKeeper address: it has several registries: give each an entry of its own, with a name`}},
		{name: "bad name", flags: map[string][]string{"registry": {"a b=zookeeper://h"}}, want: []string{`--registry: registry name: want a name of 1 to 64 letters, digits, '-', '_' or '.', not "a b"`}},
		{name: "relative directory", flags: map[string][]string{"registry": {"local://x"}}, want: []string{`--registry: registry main: bad registry address "local://x": want local:///absolute/directory`}},
		{name: "local with password", flags: map[string][]string{"registry": {"local://u:p@/x"}}, want: []string{"--registry: registry main: a local registry is a directory: it has no user, password, root, group or session"}},
		{name: "two without name", flags: map[string][]string{"registry": {zk, zk}}, want: []string{"--registry: a second registry without a name: write name=URL"}},
		{name: "same name", flags: map[string][]string{"registry": {"a=" + zk, "a=" + zk}}, want: []string{"--registry: registry a is there twice"}},
		{name: "same variable", flags: map[string][]string{"registry": {"a-b=" + zk, "a_b=" + zk}}, want: []string{"--registry: the name a_b is too like another: both have the variable MESHFERRY_REGISTRY_A_B_PASSWORD"}},
		{name: "no URL", file: "registries:\n- name: x", want: []string{"m.yaml:2: registries: an entry without url"}},
		{name: "line of the URL", file: "registries:\n- name: x\n  url: nacos://h:0", want: []string{`m.yaml:3: registry x: bad Nacos address: server "h:0": want host:port, the port at most 64535`}},
		{name: "two users", file: "registries: [{url: 'zookeeper://u:p@h', username: v}]", want: []string{`m.yaml:1: registry main: the user is "u" in the address and "v" beside it`}},
		{name: "user without password", file: "registries: [{url: zookeeper://h, username: v}]", want: []string{"registry main: a user without a password: set passwordFile or MESHFERRY_REGISTRY_MAIN_PASSWORD"}},
		{name: "password without user", file: "registries: [{url: zookeeper://h, passwordFile: /p}]", want: []string{"registry main: a passwordFile without a username"}},
		{name: "password variable without user", flags: map[string][]string{"registry": {zk}}, env: []string{"MESHFERRY_REGISTRY_MAIN_PASSWORD=x"}, want: []string{"MESHFERRY_REGISTRY_MAIN_PASSWORD: registry main has no user: set its username"}},
		{name: "password of nobody", flags: map[string][]string{"registry": {zk}}, env: []string{"MESHFERRY_REGISTRY_MAI_PASSWORD=x"}, want: []string{`MESHFERRY_REGISTRY_MAI_PASSWORD: there is no registry of that name (did you mean "MESHFERRY_REGISTRY_MAIN_PASSWORD"?)`}},
		{name: "session", file: "registries: [{url: zookeeper://h, sessionTimeout: 15}]", want: []string{`m.yaml:1: registries.sessionTimeout: want a duration with a unit, like 300ms, 15s or 2m, not "15"`}},
		{name: "address of nobody", file: "registries: [{url: zookeeper://h}]\naddresses:\n  mian: 192.0.2.1", want: []string{`m.yaml:3: addresses.mian: there is no registry of that name (did you mean "main"?)`}},
		{name: "mosn without port", file: "compat: {mosn: {listen: '127.0.0.1:22222'}}", want: []string{"m.yaml:1: compat.mosn.listen needs compat.mosn.providerPort: MOSN's requests do not say it"}},
		{name: "mosn with unknown registry", file: "compat: {mosn: {registry: x}}", want: []string{`m.yaml:1: compat.mosn.registry: there is no registry "x"`}},
		{name: "service without match", file: "services:\n- publish: off", want: []string{`m.yaml:2: services: an entry without match (which services it is for, like "com.a.*")`}},
		{name: "service mode", file: "services: [{match: a, publish: on}]", want: []string{`m.yaml:1: services.publish: want mesh, direct, both, off, not "on"`}},
		{name: "service key", file: "services: [{match: a, routing: {loadbalanc: x}}]", want: []string{`m.yaml:1: unknown key "services.routing.loadbalanc" (did you mean "loadbalance"?)`}},
		{name: "merge key", file: "a: &a {drain: 1s}\nstop: {<<: *a}", want: []string{`m.yaml:1: unknown key "a" …`, `m.yaml:2: unknown key "stop.<<" …`}},
		{name: "alias to itself", file: "stop: &a {drain: *a}", want: []string{"…"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := load(t, c.file, c.env, c.flags)
			if err == nil {
				t.Fatalf("no error: %+v", got)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is shown: %v", err)
			}
			lines := strings.Split(err.Error(), "\n")
			ok := len(lines) == len(c.want)
			for i := range min(len(lines), len(c.want)) {
				begin, _, cut := strings.Cut(c.want[i], "…")
				if c.want[i] != lines[i] && !(cut && strings.HasPrefix(lines[i], strings.TrimSpace(begin))) {
					ok = false
				}
			}
			if !ok {
				t.Errorf("got\n%v\nwant\n%s", err, strings.Join(c.want, "\n"))
			}
		})
	}
}

// FuzzLoad: whatever is in the file, it is an error that names the file, or a
// consistent Config.
func FuzzLoad(f *testing.F) {
	for _, text := range []string{"", "{}", "probe: {interval: 1s}", "registries: [{url: zookeeper://u:p@h/x, root: y}]", "a: &a [*a]", "services: [{match: '*'}]", "---\n...", "? a\n: b", "!!binary x", "stop: ~", "addresses: {a: b}"} {
		f.Add(text, "zookeeper://h", "MESHFERRY_OUTBOUND=127.0.0.1:1")
	}
	f.Add("", "a=local:///x", "MESHFERRY_REGISTRY_A_PASSWORD=x")
	f.Fuzz(func(t *testing.T, text, address, variable string) {
		c, err := Load(Input{File: "m.yaml", Text: []byte(text), Env: []string{variable}, Flags: map[string][]string{"registry": {address}}})
		if err != nil {
			return
		}
		if c.StateDir == "" || c.Listeners.Outbound == "" || len(c.Registries) != 1 {
			t.Fatalf("%+v", c)
		}
		if r := c.Registries[0]; strings.Contains(authority(strings.TrimPrefix(r.URL, r.Backend+"://")), "@") {
			t.Fatalf("a user in %q", r.URL)
		}
	})
}
