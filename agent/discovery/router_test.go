package discovery

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshferry/meshferry/agent/route"
)

// A call for a service that nobody subscribed to finds it, and keeps it while
// it is called.
func TestOnDemandThroughTheRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRegistry()
		f.set("a.B", urls(2)...)
		f.set("a.None")
		source := New(main(f))
		router := route.New(route.Options{Sources: []route.Source{source}})
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- router.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}()
		find := func() *route.Cluster {
			v := router.Snapshot().Outbound.Lookup([]byte("a.B"), []byte("0.0.0"))
			if v == nil {
				return nil
			}
			return v.Only()
		}
		if !router.Await(t.Context(), "a.B") || find() == nil {
			t.Fatal("not found on demand")
		}
		if !router.Await(t.Context(), "a.None") || router.Await(t.Context(), "a.Unheard") {
			t.Error("an empty set is an answer, silence is none")
		}
		for range 20 {
			find().Stats.Request(1)
			time.Sleep(time.Minute)
		}
		if find() == nil {
			t.Fatal("dropped although it is called")
		}
		time.Sleep(12 * time.Minute)
		if find() != nil {
			t.Error("still followed long after the last call")
		}
		if !router.Await(t.Context(), "a.B") || find() == nil {
			t.Error("not found again")
		}
	})
}
