package agent

import (
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

// An agent that stops in order leaves no session behind that somebody would have
// to wait for.
func TestStopEndsTheSession(t *testing.T) {
	if testing.Short() {
		t.Skip("starts ZooKeeper")
	}
	zk := zktest.Start(t)
	a := run(t, load(t, t.TempDir(), "registries: [{url: '"+zk.URL()+"'}]"))
	// The command's own connection has the session 0.
	eventually(t, "a session", func() bool {
		text, err := zk.FourLetter("cons")
		if err != nil {
			t.Error(err)
		}
		return strings.Contains(text, "sid=0x1")
	})
	a.stop(t)
	if text, err := zk.FourLetter("dump"); err != nil || strings.Contains(text, "\t0x") {
		t.Errorf("%v: a session is left:\n%s", err, text)
	}
}
