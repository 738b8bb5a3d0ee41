package e2e

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-zookeeper/zk"
)

var update = flag.Bool("update", false, "write the golden files")

// What ZooKeeper holds: before anything is published, with one provider and one
// consumer, after the provider has unpublished, and after the agent has stopped.
// Only what Dubbo itself keeps for good is left: empty parents, the mapping and the
// metadata of a revision.
func TestRegistryContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.agent("a", withFile("stop: {notifyWait: 0s}"))
	w.golden("before")
	p := w.provider(options{agent: a, application: "shop", group: "g1", version: "1.0.0"})
	a.published(1)
	c := w.consumer(options{agent: a, group: "g1", version: "1.0.0"})
	if l := c.call(1); len(l.failed()) > 0 {
		t.Fatal(l)
	}
	w.golden("published")
	p.stop()
	c.stop()
	a.published(0)
	w.golden("unpublished")
	a.stop()
	w.golden("stopped")
}

// golden compares the content of ZooKeeper with testdata/<name>.golden, and waits
// until it is that: consumers are written after they were answered.
func (w *world) golden(name string) {
	w.t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(w.content()), 0o644); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "ZooKeeper to hold what "+file+" says", func() error {
		if got := w.content(); got != string(want) {
			return errors.New("it holds\n" + got)
		}
		return nil
	})
}

// content is the tree of ZooKeeper without what differs from run to run.
func (w *world) content() string {
	s := readable(w.zk.Tree(w.t))
	for _, name := range w.hosts {
		s = regexp.MustCompile(regexp.QuoteMeta(w.host(name))+`\b`).ReplaceAllString(s, "HOST-"+strings.ToUpper(name))
	}
	for _, v := range volatile {
		s = v.pattern.ReplaceAllString(s, v.by)
	}
	return s
}

// volatile is what differs from run to run, or from machine to machine.
var volatile = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`\bpid=\d+`), "pid=PID"},
	{regexp.MustCompile(`\btimestamp=\d+`), "timestamp=TIME"},
	{regexp.MustCompile(`("(?:timestamp|registrationTimeUTC)":)"?\d+"?`), "${1}TIME"},
	{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "REVISION"},
	{regexp.MustCompile(`meshferry:[0-9a-f]+`), "meshferry:ID"},
	{regexp.MustCompile(`("meshferry\.host":)"[^"]*"`), `$1"ID"`},
}

// readable decodes the names of leaves.
func readable(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "/") {
			for _, e := range [][2]string{{"%3A", ":"}, {"%2F", "/"}, {"%3F", "?"}, {"%3D", "="}, {"%26", "&"}, {"%2C", ","}, {"%25", "%"}} {
				line = strings.ReplaceAll(line, e[0], e[1])
			}
			lines[i] = line
		}
	}
	return strings.Join(lines, "\n")
}

// node is what identifies one life of a node.
type node struct{ czxid, owner int64 }

// ephemerals are the nodes that die with a session.
func (w *world) ephemerals(c *zk.Conn) map[string]node {
	w.t.Helper()
	all := map[string]node{}
	var walk func(path string)
	walk = func(path string) {
		names, stat, err := c.Children(path)
		if err == zk.ErrNoNode {
			return
		}
		if err != nil {
			w.t.Fatalf("%s: %v", path, err)
		}
		if stat.EphemeralOwner != 0 {
			all[path] = node{stat.Czxid, stat.EphemeralOwner}
		}
		slices.Sort(names)
		for _, name := range names {
			if child := strings.TrimSuffix(path, "/") + "/" + name; child != "/zookeeper" {
				walk(child)
			}
		}
	}
	walk("/")
	return all
}
