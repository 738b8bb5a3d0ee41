package rewrite

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "rewrite the golden files")

// agent is the address of all golden files.
var agent = Address{Host: "10.0.0.9", Port: 20882, Caps: "1"}

// capture is a line of a testdata file: what a real peer wrote, and in which
// experiment (names as in the captures: framework, registration mode, moment).
type capture struct{ source, text string }

func captures(t testing.TB, name string) []capture {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var all []capture
	for line := range strings.Lines(string(content)) {
		source, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			t.Fatalf("%s: bad line %q", name, line)
		}
		all = append(all, capture{source, text})
	}
	return all
}

// golden compares with testdata/<name>, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(gotLines), len(wantLines)) {
		var g, w []byte
		if i < len(gotLines) {
			g = gotLines[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if !bytes.Equal(g, w) {
			t.Fatalf("%s:%d (run with -update if this is meant)\n got %s\nwant %s", path, i+1, g, w)
		}
	}
}

func parse(t testing.TB, text string) registry.URL {
	t.Helper()
	u, err := registry.ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
