package zktest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
)

type silent struct{}

func (silent) Printf(string, ...any) {}

// Conn is a session for a test's own reads and writes. It is closed when the
// test ends.
func (s *Server) Conn(t testing.TB) *zk.Conn {
	t.Helper()
	c, events, err := zk.Connect([]string{s.Addr()}, 10*time.Second, zk.WithLogger(silent{}), zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e := <-events:
			if e.State == zk.StateHasSession {
				return c
			}
		case <-deadline:
			t.Fatalf("no session with %s within 20 s", s.Addr())
		}
	}
}

// Tree is every node below the given paths (default: all but ZooKeeper's own),
// sorted, for golden files: a line with the path and "(ephemeral)", then the
// data, indented.
func (s *Server) Tree(t testing.TB, roots ...string) string {
	t.Helper()
	if len(roots) == 0 {
		roots = []string{"/"}
	}
	c := s.Conn(t)
	defer c.Close()
	var b strings.Builder
	for _, root := range roots {
		dump(t, c, &b, root)
	}
	return b.String()
}

func dump(t testing.TB, c *zk.Conn, b *strings.Builder, path string) {
	t.Helper()
	data, stat, err := c.Get(path)
	if errors.Is(err, zk.ErrNoNode) {
		return // deleted while we walk
	}
	if err != nil {
		t.Fatalf("tree %s: %v", path, err)
	}
	if path != "/" {
		b.WriteString(path)
		if stat.EphemeralOwner != 0 {
			b.WriteString(" (ephemeral)")
		}
		b.WriteByte('\n')
		if len(data) > 0 {
			fmt.Fprintf(b, "  %s\n", data)
		}
	}
	children, _, err := c.Children(path)
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		t.Fatalf("tree %s: %v", path, err)
	}
	slices.Sort(children)
	for _, name := range children {
		child := strings.TrimSuffix(path, "/") + "/" + name
		if child != "/zookeeper" {
			dump(t, c, b, child)
		}
	}
}

// Load writes the nodes of a dump into the server, below the path under (empty,
// or with a leading slash; made if need be). A dump has blocks of "NODE <path>",
// "  kind=persistent|EPHEMERAL …" and, if there is any, "  data=<text>". The
// ephemeral ones live in the returned session. It is how captures of real peers
// are put back.
func (s *Server) Load(t testing.TB, file, under string) *zk.Conn {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := s.Conn(t)
	create := func(path, data string, flags int32) {
		_, err := c.Create(path, []byte(data), flags, zk.WorldACL(zk.PermAll))
		if err != nil && !errors.Is(err, zk.ErrNodeExists) {
			t.Fatalf("load %s: %s: %v", file, path, err)
		}
	}
	for i, letter := range under {
		if letter == '/' && i > 0 {
			create(under[:i], "", 0)
		}
	}
	if under != "" {
		create(under, "", 0)
	}
	for block := range strings.SplitSeq("\n"+string(text), "\nNODE ") {
		path, rest, _ := strings.Cut(block, "\n")
		if !strings.HasPrefix(path, "/") || path == "/" {
			continue
		}
		var data string
		if _, d, ok := strings.Cut(rest, "\n  data="); ok {
			data = strings.TrimSuffix(d, "\n")
		}
		var flags int32
		if strings.HasPrefix(rest, "  kind=EPHEMERAL") {
			flags = zk.FlagEphemeral
		}
		create(under+path, data, flags)
	}
	return c
}
