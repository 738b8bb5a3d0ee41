package zktest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-zookeeper/zk"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServerLifeCycle(t *testing.T) {
	s := Start(t)
	c := s.Conn(t)
	for _, n := range []struct {
		path, data string
		flags      int32
	}{{"/b", "two\nlines", 0}, {"/a", "", 0}, {"/a/leaf", "x", zk.FlagEphemeral}} {
		if _, err := c.Create(n.path, []byte(n.data), n.flags, zk.WorldACL(zk.PermAll)); err != nil {
			t.Fatal(err)
		}
	}
	want := "/a\n/a/leaf (ephemeral)\n  x\n/b\n  two\nlines\n"
	if got := s.Tree(t); got != want {
		t.Errorf("tree:\n%s\nwant:\n%s", got, want)
	}
	if got := s.Tree(t, "/a"); got != "/a\n/a/leaf (ephemeral)\n  x\n" {
		t.Errorf("subtree:\n%s", got)
	}
	answer, err := s.FourLetter("mntr")
	if err != nil || !strings.Contains(answer, "zk_ephemerals_count\t1") {
		t.Errorf("mntr: %v\n%s", err, answer)
	}
	if err := s.Wipe(); err == nil {
		t.Error("wiped a running server")
	}

	s.Pause()
	s.Continue()
	addr := s.Addr()
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if s.Addr() != addr || !strings.Contains(s.Tree(t), "/b\n") {
		t.Error("restart changed port or data")
	}
	s.Stop()
	if _, err := s.FourLetter("ruok"); err == nil {
		t.Error("a stopped server answers")
	}
	if err := s.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := s.Tree(t); got != "" {
		t.Errorf("after wipe:\n%s", got)
	}
}

func TestLoad(t *testing.T) {
	s := Start(t)
	file := filepath.Join(t.TempDir(), "dump.txt")
	text := "NODE /\n  kind=persistent datalen=0\nNODE /a\n  kind=persistent datalen=1\n  data=x\n" +
		"NODE /a/b\n  kind=EPHEMERAL datalen=9\n  decoded=k\n      k=v\n  data={\"y\":1}\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Load(t, file, "")
	s.Load(t, file, "/c/d")
	if got, want := s.Tree(t, "/a"), "/a\n  x\n/a/b (ephemeral)\n  {\"y\":1}\n"; got != want {
		t.Errorf("tree:\n%s\nwant:\n%s", got, want)
	}
	if got, want := s.Tree(t, "/c"), "/c\n/c/d\n/c/d/a\n  x\n/c/d/a/b (ephemeral)\n  {\"y\":1}\n"; got != want {
		t.Errorf("tree:\n%s\nwant:\n%s", got, want)
	}
}

func TestEnsembleSurvivesOneMember(t *testing.T) {
	e := Start3(t)
	c := e.Servers[0].Conn(t)
	if _, err := c.Create("/x", nil, 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	e.Servers[1].Kill()
	if err := e.Servers[1].Restart(); err != nil {
		t.Fatal(err)
	}
	if got := e.Servers[1].Tree(t); got != "/x\n" {
		t.Errorf("tree of the restarted member: %q", got)
	}
}

// TestPortTaken makes sure that the reason of a failed start can be read: Run
// chooses another port by it.
func TestPortTaken(t *testing.T) {
	s := Start(t)
	second, err := newServer(t.Context(), t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	second.port = s.port
	if err := second.Start(t.Context()); err == nil || !second.PortTaken() {
		t.Errorf("start without a port: %v", err)
	}
}
