package route

import (
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		limit uint32
		want  int // of ten
	}{{0, 10}, {Unlimited, 10}, {Nothing, 0}, {1, 1}, {7, 7}} {
		cl := parts(t, &ClusterSpec{Limits: Limits{Connections: c.limit, Pending: c.limit, Requests: c.limit, Retries: c.limit}}, "p0:2h")
		open := func() bool { _, ok := cl.OpenConnection(false); return ok }
		for name, pair := range map[string]struct {
			enter func() bool
			leave func()
		}{
			"requests": {cl.Enter, cl.Leave}, "pending": {cl.EnterPending, cl.LeavePending}, "retries": {cl.EnterRetry, cl.LeaveRetry},
			"connections": {open, Connection{cl.state}.Close},
		} {
			for round := range 2 {
				got := 0
				for range 10 {
					if pair.enter() {
						got++
					}
				}
				if got != c.want {
					t.Errorf("limit %d of %s lets %d of 10 in in round %d, want %d", c.limit, name, got, round, c.want)
				}
				for range got {
					pair.leave()
				}
			}
		}
		if over := int64(2 * (10 - c.want)); cl.state.over.requests.Load() != over || cl.state.over.pending.Load() != over || cl.state.over.retries.Load() != over {
			t.Errorf("limit %d: kept out %+v, want %d", c.limit, &cl.state.over, over)
		}
		place, ok := cl.OpenConnection(true)
		if !ok || cl.state.connections.Load() != 1 {
			t.Errorf("limit %d keeps out a connection that must be", c.limit)
		}
		place.Close()
		if n := cl.state.connections.Load(); n != 0 {
			t.Errorf("%d connections left", n)
		}
	}
	none := &Cluster{} // of the registries
	place, ok := none.OpenConnection(false)
	place.Close()
	if !ok || !none.Enter() || !none.EnterPending() || !none.EnterRetry() || none.ConnectionsFull() || none.BudgetsRetries() {
		t.Error("a cluster without rules has limits")
	}
	none.Leave()
	none.LeavePending()
	none.LeaveRetry()
}

func TestRetryBudget(t *testing.T) {
	for _, c := range []struct {
		budget   RetryBudget
		inFlight int64
		want     int
	}{
		{RetryBudget{20, 3}, 0, 3}, {RetryBudget{20, 3}, 19, 3}, {RetryBudget{20, 3}, 24, 4}, {RetryBudget{20, 3}, 100, 20},
		{RetryBudget{25, 0}, 3, 0}, {RetryBudget{25, 0}, 100, 25}, {RetryBudget{0, 2}, 1000, 2}, {RetryBudget{100, 0}, 7, 7}, {RetryBudget{.5, 0}, 399, 1},
	} {
		cl := parts(t, &ClusterSpec{Limits: Limits{RetryBudget: &c.budget, Retries: 1, Requests: 5000}}, "p0:2h")
		for range c.inFlight {
			cl.Enter()
		}
		got := 0
		for cl.EnterRetry() {
			got++
		}
		if got != c.want || cl.state.over.budget.Load() != 1 || cl.state.over.retries.Load() != 0 {
			t.Errorf("%+v beside %d calls: %d retries, want %d", c.budget, c.inFlight, got, c.want)
		}
		if got > 0 {
			if cl.LeaveRetry(); !cl.EnterRetry() {
				t.Errorf("%+v: a retry that ended leaves no place", c.budget)
			}
		}
	}
	cl := parts(t, &ClusterSpec{Limits: Limits{RetryBudget: &RetryBudget{20, 3}, Connections: 2, HostConnections: 1}}, "p0:2h")
	cl.EnterRetry()
	cl.OverConnections()
	for _, want := range []string{"retry budget of 20%, at least 3: 1 of 3", "connections 0 of 2 (1 calls shared another)", "to each endpoint at most 1"} {
		if text := cl.limits(); !strings.Contains(text, want) {
			t.Errorf("%q does not say %q", text, want)
		}
	}
}

// What circuit breakers count survives a compilation.
func TestLimitsSurviveSnapshots(t *testing.T) {
	r := withCaller(newRuledTest(t, FromXDS))
	spec := func(requests uint32) map[string]*ClusterSpec {
		return map[string]*ClusterSpec{"blue": {Name: "blue", Limits: Limits{Requests: requests}}}
	}
	r.send(RuleUpdate{Source: "xds", Synced: true, Clusters: spec(2), Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:1")}, Routes: vhost("com.a.foo", split("blue", 1))})
	cluster := func() *Cluster {
		route, _ := r.snapshot.Outbound.find("com.a.Foo", "", "").Routes().ByMethod([]byte("say"))
		cl, _ := route.Choose()
		return cl
	}
	old := cluster()
	place, _ := old.OpenConnection(false)
	if let := [...]bool{old.Enter(), old.Enter(), old.Enter()}; let != [...]bool{true, true, false} {
		t.Fatal("a limit of 2 does not let in 2")
	}
	r.send(RuleUpdate{Clusters: spec(3), Endpoints: map[string]*EndpointSet{"blue": endpoints("10.0.0.1:1", "10.0.0.2:1")}})
	next := cluster()
	if next == old || !next.Enter() || next.Enter() || next.state.connections.Load() != 1 {
		t.Error("a new snapshot counts from 0")
	}
	old.Leave()
	place.Close()
	if !next.Enter() || next.state.connections.Load() != 0 {
		t.Error("what the old snapshot let in cannot leave")
	}
}
