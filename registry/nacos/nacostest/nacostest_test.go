package nacostest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

var (
	v3   = flag.Bool("nacos3", false, "run the tests with Nacos 3.1 instead of 2.3")
	long = flag.Bool("long", false, "run the tests that start servers")
)

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

func version() Version {
	if *v3 {
		return V3
	}
	return V2
}

// TestServerLifeCycle is one server that is asked, frozen, killed, wiped and
// given another secret.
func TestServerLifeCycle(t *testing.T) {
	if !*long {
		t.Skip("starts a server: make test-nacos, or -long")
	}
	s := Start(t, Use(version()), Auth())
	ctx := t.Context()
	if where := listening(t, s.port); len(where) < 4 || slices.ContainsFunc(where, func(a string) bool { return !strings.HasPrefix(a, "0100007F:") }) {
		t.Errorf("it listens at %v, want four ports on 127.0.0.1 only", where)
	}
	if err := s.CreateNamespace(ctx, "one", "first"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetConfig(ctx, "one", "g", "d", "x"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetConfig(ctx, Public, "g", "d", "y"); err != nil {
		t.Fatal(err)
	}
	for namespace, want := range map[string]string{"one": "x", Public: "y"} {
		if got, err := s.Config(ctx, namespace, "g", "d"); err != nil || got != want {
			t.Errorf("configuration in %s: %q, %v, want %q", namespace, got, err, want)
		}
	}
	if got, err := s.Config(ctx, "one", "g", "other"); !errors.Is(err, ErrNoConfig) {
		t.Errorf("missing configuration: %q, %v", got, err)
	}
	if list, err := s.Instances(ctx, Public, "DEFAULT_GROUP", "nobody"); err != nil || len(list) != 0 {
		t.Errorf("instances of nobody: %v, %v", list, err)
	}
	if names, err := s.Services(ctx, Public, "DEFAULT_GROUP"); err != nil || len(names) != 0 {
		t.Errorf("services: %v, %v", names, err)
	}
	if err := s.Wipe(); err == nil {
		t.Error("wiped a running server")
	}
	s.Pause()
	s.Continue()
	token := s.token
	s.Stop()
	if _, err := s.call(ctx, http.MethodGet, "/nacos/", nil); err == nil {
		t.Error("a stopped server answers")
	}
	if err := s.Wipe(); err != nil {
		t.Fatal(err)
	}
	s.SetSecret("the second secret of a test server")
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	fresh := s.token
	s.token = token
	if got, err := s.Config(ctx, "one", "g", "d"); err == nil {
		t.Errorf("a token of the earlier secret is taken: %q", got)
	}
	s.token = fresh
	if got, err := s.Config(ctx, "one", "g", "d"); !errors.Is(err, ErrNoConfig) {
		t.Errorf("after a wipe: %q, %v", got, err)
	}
}

// listening lists the sockets of the server's ports as the kernel does.
func listening(t *testing.T, port int) []string {
	t.Helper()
	var all []string
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			f := bytes.Fields(line)
			if len(f) < 4 || string(f[3]) != "0A" {
				continue
			}
			for _, p := range []int{port - 1000, port, port + 1000, port + 1001} {
				if bytes.HasSuffix(f[1], fmt.Appendf(nil, ":%04X", p)) {
					all = append(all, string(f[1]))
				}
			}
		}
	}
	return all
}
