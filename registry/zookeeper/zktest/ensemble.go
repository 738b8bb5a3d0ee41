package zktest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/internal/process"
)

// Ensemble is three servers that replicate each other.
type Ensemble struct{ Servers [3]*Server }

// URL is the ensemble as a registry address.
func (e Ensemble) URL() string {
	return "zookeeper://" + strings.Join([]string{e.Servers[0].Addr(), e.Servers[1].Addr(), e.Servers[2].Addr()}, ",")
}

// Start3 runs an ensemble of three servers until the test ends.
func Start3(t testing.TB, opts ...Option) Ensemble {
	t.Helper()
	var e Ensemble
	conf := "initLimit=10\nsyncLimit=5\n"
	for i := range e.Servers {
		s, err := newServer(t.Context(), t.TempDir(), opts)
		peer, err2 := process.FreePort("127.0.0.1")
		election, err3 := process.FreePort("127.0.0.1")
		if err != nil || err2 != nil || err3 != nil {
			t.Fatal(err, err2, err3)
		}
		conf += fmt.Sprintf("server.%d=127.0.0.1:%d:%d\n", i+1, peer, election)
		if err := os.MkdirAll(s.data(), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.data(), "myid"), []byte(strconv.Itoa(i+1)), 0o644); err != nil {
			t.Fatal(err)
		}
		e.Servers[i] = s
		t.Cleanup(s.Kill)
	}
	// A member serves only once a majority has met: start all, then wait.
	var g errgroup.Group
	for _, s := range e.Servers {
		s.conf = conf
		g.Go(func() error { return s.Start(t.Context()) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return e
}
