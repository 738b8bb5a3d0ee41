package admin

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/meshferry/meshferry/agent/route"
)

// TestManual: docs/operations.md has every metric and every reason of a failure,
// and none that there is not.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	o, st, _ := options()
	st.Fail(route.NoRoute)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(get(New(o), "/metrics").Body.String()))
	if err != nil {
		t.Fatal(err)
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(families)), func(name string) bool { return !strings.HasPrefix(name, "meshferry_") })
	compare(t, "metrics", first(string(text), `meshferry_[a-z_]+`), names)

	var reasons []string
	for _, f := range route.Failures() {
		reasons = append(reasons, f.String())
	}
	_, callers, _ := strings.Cut(string(text), "\n## What callers see\n")
	callers, _, _ = strings.Cut(callers, "\n## ")
	compare(t, "reasons", first(callers, `[a-z_]+`), reasons)
}

// first are the first cells of table rows that are names of that form, each once.
func first(text, form string) (names []string) {
	for _, m := range regexp.MustCompile("(?m)^\\| `("+form+")` \\|").FindAllStringSubmatch(text, -1) {
		if !slices.Contains(names, m[1]) {
			names = append(names, m[1])
		}
	}
	return names
}

func compare(t *testing.T, what string, manual, code []string) {
	t.Helper()
	for _, name := range code {
		if !slices.Contains(manual, name) {
			t.Errorf("%s: %s is not in the manual", what, name)
		}
	}
	for _, name := range manual {
		if !slices.Contains(code, name) {
			t.Errorf("%s: the manual has %s, the agent does not", what, name)
		}
	}
}
