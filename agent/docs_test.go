package agent

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestManual: docs/operations.md has every message of level Error and Warn, and
// none that there is not.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## The log\n")
	section, _, _ = strings.Cut(section, "\n## ")
	manual := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| (Error|Warn) \\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1) {
		manual[m[1]+" "+m[2]] = true
	}
	code := map[string]bool{}
	for _, dir := range []string{".", "../registry", "../xdsclient", "../cmd"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "registrytest") {
				messages(t, path, code)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for message := range code {
		if !manual[message] {
			t.Errorf("the manual lacks: %s", message)
		}
	}
	for message := range manual {
		if !code[message] {
			t.Errorf("the manual has what nobody logs: %s", message)
		}
	}
}

// messages finds the calls of Error and Warn with a literal text.
func messages(t *testing.T, path string, found map[string]bool) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || method.Sel.Name != "Error" && method.Sel.Name != "Warn" {
			return true
		}
		if lit, ok := call.Args[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			found[method.Sel.Name+" "+text] = true
		}
		return true
	})
}
