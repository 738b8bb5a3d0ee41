package api

import (
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/watch"
	"github.com/meshferry/meshferry/registry"
)

// TestInSyncOnlyWhileConnected: what the last comparison found is not shown as true
// while the registry cannot be asked.
func TestInSyncOnlyWhileConnected(t *testing.T) {
	var state watch.Value[reconcile.State]
	state.Store(&reconcile.State{InSync: true, LastCompare: time.Now()})
	for is, want := range map[string]bool{registry.Connecting: false, registry.Connected: true, registry.Away: false, registry.Closed: false} {
		r := Registry{Name: "main", Status: func() registry.Status { return registry.Status{State: is} }, State: &state}
		if got := r.describe(time.Now()); got.InSync != want {
			t.Errorf("%s: in sync is %v", is, got.InSync)
		}
	}
}
