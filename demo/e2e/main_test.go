package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// built holds the programs under test. They are built by the first test that
// needs them, so that -short needs none.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// tests run with a folder for the programs, and a few at a time: most of them
// wait for a registry, not for a processor.
type tests struct{ *testing.M }

func (m tests) Run() int {
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	if built.dir = os.Getenv(programs); built.dir == "" {
		dir, err := os.MkdirTemp("", "meshferry-e2e-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		built.dir = dir
	}
	return m.M.Run()
}

func TestMain(m *testing.M) {
	flag.Parse()
	if *withJava || *wholeMatrix || *startups > 0 {
		if status, done := isolated(); done {
			os.Exit(status)
		}
	}
	goleak.VerifyTestMain(tests{m})
}

// program is the path of "meshferry" (with the race detector, if the tests have
// it) or "app" (without).
func program(t testing.TB, name string) string {
	t.Helper()
	if os.Getenv(programs) == "" {
		build()
	}
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, name)
}

// build builds both, once.
func build() {
	built.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
		defer cancel()
		build := func(pkg string, flags ...string) {
			if built.err != nil {
				return
			}
			args := append([]string{"build", "-o", built.dir + string(filepath.Separator)}, flags...)
			cmd := exec.CommandContext(ctx, "go", append(args, "github.com/meshferry/meshferry/"+pkg)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				built.err = fmt.Errorf("build %s: %w\n%s", pkg, err, out)
			}
		}
		var race []string
		if raceDetector {
			race = []string{"-race"}
		}
		build("cmd/meshferry", race...)
		build("demo/app")
	})
}
