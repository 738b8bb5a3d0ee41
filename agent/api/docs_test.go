package api

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestManual: docs/operations.md has every code with its status, and none that
// there is not.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## What the control API refuses\n")
	section, _, _ = strings.Cut(section, "\n## ")
	manual := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9]+) \\|").FindAllStringSubmatch(section, -1) {
		manual[m[1]] = m[2]
	}
	for code, status := range statuses {
		if code == "unauthorised" { // no setting of the agent asks for a token
			continue
		}
		if manual[code] != strconv.Itoa(status) {
			t.Errorf("%s: the manual says %q, it is %d", code, manual[code], status)
		}
	}
	for code := range manual {
		if statuses[code] == 0 {
			t.Errorf("the manual has %s, the API does not", code)
		}
	}
}
