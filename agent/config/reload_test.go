package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReload(t *testing.T) {
	const services = "services: [{match: a, publish: off}]\n"
	whole := mustLoad(t, "", nil, nil)
	for _, c := range []struct {
		name, text       string
		changed, restart string
	}{
		{"nothing", "", "", ""},
		{"defaults written out", "stop: {drain: 10000ms}\npublish: {models: [interface, application]}\nlimits: {frame: 8388608}", "", ""},
		{"live", services + "probe: {fall: 9}\nlog: {level: debug}\nprotection: {enabled: false}", "log.level probe.fall protection.enabled services", ""},
		{"static", "inbound: {static: [{application: shop, port: 20880, services: [com.a.Foo]}]}", "inbound.static", ""},
		{"restart", "address: 192.0.2.9\nlog: {format: json}\npublish: {models: [interface]}\ninbound: {extra: [{port: 20892, application: a}]}", "", "address inbound.extra log.format publish.models"},
		{"both", services + "stateDir: /elsewhere", "services", "stateDir"},
		{"lists", "addresses: {main: 192.0.2.9}\nregistries: [{url: '" + zk + "/other'}]", "", "addresses.main registries.main"},
		{"one more registry", "addresses: {new: 192.0.2.9}\nregistries: [{url: '" + zk + "'}, {name: new, url: '" + zk + "/other'}]", "registries", ""},
		{"another registry", "registries: [{name: new, url: '" + zk + "/other'}]", "registries", ""},
		{"weight", "registries: [{url: '" + zk + "', name: main, weight: 50, preferred: true}]", "registries", ""},
		{"another order", "registries: [{name: new, url: '" + zk + "/other'}, {url: '" + zk + "', name: main}]", "registries", ""},
		{"password", "registries: [{url: '" + strings.Replace(zk, "//", "//u:p@", 1) + "'}]", "", "registries.main"},
	} {
		next := mustLoad(t, c.text, nil, nil)
		merged, changed, restart := whole.Reload(next)
		if got := strings.Join(changed, " "); got != c.changed {
			t.Errorf("%s: changed %q, want %q", c.name, got, c.changed)
		}
		if got := strings.Join(restart, " "); got != c.restart {
			t.Errorf("%s: restart %q, want %q", c.name, got, c.restart)
		}
		// What was taken does not differ any more; what was not still does.
		_, changed, again := merged.Reload(next)
		if len(changed) != 0 || !slices.Equal(again, restart) {
			t.Errorf("%s: the second time %q and %q", c.name, changed, again)
		}
	}
	if !reflect.DeepEqual(whole, mustLoad(t, "", nil, nil)) {
		t.Error("Reload changed its receiver")
	}
	next := mustLoad(t, "probe: {interval: 3s}\nlimits: {workloads: 1}", nil, nil)
	if merged, _, _ := whole.Reload(next); merged.Probe.Interval != 3*time.Second || merged.Limits.Workloads != 256 {
		t.Errorf("merged %+v", merged)
	}
}
