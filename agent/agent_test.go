package agent

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An agent that stops in order leaves no session behind that somebody would have
// to wait for.
func TestStopEndsTheSession(t *testing.T) {
	if testing.Short() {
		t.Skip("starts ZooKeeper")
	}
	zk := zktest.Start(t)
	dir := t.TempDir()
	cfg, err := config.Load(config.Input{Flags: map[string][]string{
		"registry": {zk.URL()}, "address": {"127.0.0.1"}, "outbound": {"127.0.0.1:0"}, "inbound": {"127.0.0.1:0"},
		"control": {"127.0.0.1:0"}, "control-socket": {dir + "/s"}, "state-dir": {dir + "/state"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	// The command's own connection has the session 0.
	sessions := func() int {
		text, err := zk.FourLetter("cons")
		if err != nil {
			t.Error(err)
		}
		return strings.Count(text, "sid=0x1")
	}
	for deadline := time.Now().Add(30 * time.Second); sessions() == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the agent has no session")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if text, err := zk.FourLetter("dump"); err != nil || strings.Contains(text, "\t0x") {
		t.Errorf("%v: a session is left:\n%s", err, text)
	}
}
