package registrytest

import (
	"context"
	"flag"
	"os"
	"sync"
	"testing"
)

// Server is one that Run of zktest or nacostest gives.
type Server interface{ Kill() }

// Shared is one server for all tests of a package that do not stop it. It is started
// for the first that asks, and ends with the last.
type Shared[S Server] struct {
	Run func(ctx context.Context, dir string) (S, error)

	once  sync.Once
	dir   string
	s     S
	err   error
	began bool
}

// Server is the server.
func (s *Shared[S]) Server(t *testing.T) S {
	t.Helper()
	s.once.Do(func() {
		s.began = true
		s.s, s.err = s.Run(context.Background(), s.dir)
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.s
}

// Tests are all tests of a package, for goleak.VerifyTestMain.
func (s *Shared[S]) Tests(m *testing.M) interface{ Run() int } { return tests[S]{m, s} }

type tests[S Server] struct {
	m      *testing.M
	shared *Shared[S]
}

func (t tests[S]) Run() int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "meshferry-registry-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	t.shared.dir = dir
	code := t.m.Run()
	if t.shared.began && t.shared.err == nil {
		t.shared.s.Kill()
	}
	return code
}
