package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// Several groups and versions of one interface, at thin providers of one host and
// at one that knows nothing of agents: each consumer is answered by the provider
// of its own group and version only, thin or not, and by nobody if there is none.
func TestGroupsAndVersionsDoNotMix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	type key struct{ group, version string }
	name := func(k key) string { return strings.Trim(k.group+"/"+k.version, "/") + "!" }
	thin := []key{{"", ""}, {"g1", "1.0.0"}, {"g1", "2.0.0"}, {"g2", "1.0.0"}}
	providers := map[key]*app{}
	for i, k := range thin {
		// 20881 to 20883 are the agent's.
		port := 20880
		if i > 0 {
			port = 20890 + i
		}
		providers[k] = w.provider(options{agent: a, name: name(k), port: port, group: k.group, version: k.version, application: fmt.Sprintf("shop-%d", i)})
	}
	unmodified := key{"g2", "2.0.0"}
	providers[unmodified] = w.provider(options{level: "interface", name: name(unmodified), host: "old", group: unmodified.group, version: unmodified.version})
	a.published(len(thin))

	asked := map[key]int{}
	ask := func(k key, who string, c *app, wait bool) {
		t.Helper()
		const calls = 30
		if wait {
			asked[k] += c.found()
		}
		l := c.call(calls)
		if got := l.answers(); got[name(k)] != calls {
			t.Errorf("%s consumer of %v: answers by %v; %v", who, k, got, l)
		}
		asked[k] += calls
		c.stop()
	}
	all := slices.Collect(maps.Keys(providers))
	for _, k := range all {
		ask(k, "thin", w.consumer(options{agent: b, group: k.group, version: k.version}), false)
	}
	for i, k := range thin {
		level := []string{"interface", "application"}[i%2]
		ask(k, level+"-level", w.consumer(options{level: level, group: k.group, version: k.version}), true)
	}
	for _, k := range all {
		if got := providers[k].stats().total(); got != asked[k] {
			t.Errorf("provider of %v was called %d times, want %d", k, got, asked[k])
		}
	}
	nobody := w.consumer(options{agent: b, group: "g2", version: "3.0.0"})
	if e := nobody.call(1)[0]; e.OK {
		t.Errorf("a version that nobody has was answered: %+v", e)
	}
}
