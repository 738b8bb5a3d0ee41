package config

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const manual = "../../docs/configuration.md"

// rows are the tables of a Markdown text by the first cell of their header: the
// cells of each row, without the code marks of the first.
func rows(text string) map[string][][]string {
	tables := map[string][][]string{}
	name := ""
	for line := range strings.Lines(text) {
		inner, ok := strings.CutPrefix(strings.TrimSpace(line), "|")
		if !ok {
			name = ""
			continue
		}
		cells := strings.Split(strings.TrimSuffix(inner, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case name == "":
			name = cells[0]
			tables[name] = nil
		case !strings.HasPrefix(cells[0], "---"):
			cells[0] = strings.Trim(cells[0], "`")
			tables[name] = append(tables[name], cells)
		}
	}
	return tables
}

// TestManual holds docs/configuration.md to the settings: every key with its
// flag, variable, default and what SIGHUP does.
func TestManual(t *testing.T) {
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	tables := rows(string(text))
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + s + "`"
	}
	d := defaults()
	want := map[string]string{
		"addresses":      "|restart",
		"registries":     "`--registry` `MESHFERRY_REGISTRY`|at once",
		"services":       "|at once",
		"inbound.static": "|at once",
		"inbound.extra":  "|restart",
	}
	defaultOf := map[string]string{}
	for _, s := range settings() {
		flag, reload := s.flag, "restart"
		if flag != "" {
			flag = "--" + flag
		}
		if s.live {
			reload = "at once"
		}
		want[s.key] = strings.TrimSpace(code(flag)+" "+code(s.variable())) + "|" + reload
		if v := s.get(&d); v != "" && v != "0" {
			defaultOf[s.key] = code(v)
		}
	}
	got := map[string]string{}
	for _, row := range tables["key"] {
		if len(row) != 6 {
			t.Fatalf("%d cells: %q", len(row), row)
		}
		key := row[0]
		got[key] = strings.TrimSpace(row[1]+" "+row[2]) + "|" + row[5]
		if exact := defaultOf[key]; exact != "" && row[3] != exact {
			t.Errorf("default of %s: the manual says %s, it is %s", key, row[3], exact)
		}
		if row[3] == "" || row[4] == "" {
			t.Errorf("%s: no default or no meaning", key)
		}
	}
	same(t, "settings", got, want)

	fields := map[string]string{}
	for key := range (&entry{params: map[string]string{}}).fields() {
		fields[key] = ""
	}
	same(t, "registries[]", first(tables["key of `registries[]`"]), fields)

	// Of services the reader itself says what it knows.
	known := map[string]string{}
	for _, unknown := range []string{"services: [{zzzzzzzzzz: 1}]", "services: [{match: a, routing: {zzzzzzzzzz: 1}}]"} {
		_, err := load(t, unknown, nil, nil)
		list := regexp.MustCompile(`known here: ([^)]*)`).FindStringSubmatch(fmt.Sprint(err))
		if list == nil {
			t.Fatal(err)
		}
		for _, key := range strings.Split(list[1], ", ") {
			known[key] = ""
		}
	}
	delete(known, "routing")
	delete(known, "loadbalance")
	delete(known, "source")
	known["routing.source"] = ""
	known["routing.loadbalance"] = ""
	same(t, "services[]", first(tables["key of `services[]`"]), known)

	static := map[string]string{"application": "", "protocol": "", "host": "", "port": "", "services": ""}
	same(t, "inbound.static[]", first(tables["key of `inbound.static[]`"]), static)
	same(t, "inbound.extra[]", first(tables["key of `inbound.extra[]`"]), map[string]string{"port": "", "application": ""})
}

func first(rows [][]string) map[string]string {
	m := map[string]string{}
	for _, row := range rows {
		m[row[0]] = ""
	}
	return m
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[key]; !ok || g != want[key] {
			t.Errorf("%s: %s in the manual: %q (there: %v), want %q", what, key, g, ok, want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			t.Errorf("%s: the manual has %s, the agent does not", what, key)
		}
	}
}

// TestManualExample: the file in the manual is one.
func TestManualExample(t *testing.T) {
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no example")
	}
	if c := mustLoad(t, example, nil, nil); len(c.Registries) != 1 || len(c.Services) != 2 || len(c.Warnings) != 0 {
		t.Errorf("%+v", c)
	}
}
