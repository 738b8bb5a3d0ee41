package controlplane

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
)

func assignment(name string, revision int) *entry {
	return newEntry(&endpoint.ClusterLoadAssignment{ClusterName: name, NamedEndpoints: map[string]*endpoint.Endpoint{fmt.Sprint(revision): {}}})
}

// TestTableConverges changes a table at random while nodes ask late, twice, and
// for other names: each ends with what the table has, also when more has changed
// than is kept.
func TestTableConverges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		table := newTable(resource.EndpointType, false)
		sub := stream.NewDeltaSubscription([]string{"*"}, nil, nil, true)
		if round%2 == 0 {
			sub = stream.NewDeltaSubscription([]string{"a", "b", "c"}, nil, nil, true)
		}
		has := map[string]string{} // of the node
		out := make(chan cache.DeltaResponse, 10)
		request := &discovery.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType}
		ask := func() func() {
			cancel, err := table.CreateDeltaWatch(request, sub, out)
			if err != nil {
				t.Fatal(err)
			}
			request = &discovery.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResponseNonce: "1"}
			return cancel
		}
		cancel := ask()
		drain := func() {
			for len(out) > 0 {
				r := <-out
				sub.SetReturnedResources(r.GetReturnedResources())
				answer, err := r.GetDeltaDiscoveryResponse()
				if err != nil {
					t.Fatal(err)
				}
				for _, one := range answer.Resources {
					has[one.Name] = one.Version
				}
				for _, name := range answer.RemovedResources {
					delete(has, name)
				}
				cancel()
				cancel = ask()
			}
		}
		changes := random.IntN(2 * keptChanges)
		for i := range changes {
			name := []string{"a", "b", "c", "d", "e"}[random.IntN(5)]
			var e *entry
			if random.IntN(4) > 0 {
				e = assignment(name, i%7)
			}
			table.update(map[string]*entry{name: e})
			if random.IntN(20) == 0 {
				drain()
			}
		}
		drain()
		want := map[string]string{}
		for name, e := range table.entries {
			if _, ok := sub.SubscribedResources()[name]; ok || sub.IsWildcard() {
				want[name] = e.version
			}
		}
		if !maps.Equal(has, want) {
			t.Fatalf("round %d after %d changes: has %v, want %v", round, changes, has, want)
		}
		again := newTable(resource.EndpointType, false) // the version is that of the content
		for _, name := range slices.Sorted(maps.Keys(table.entries)) {
			again.update(map[string]*entry{name: table.entries[name]})
		}
		if again.version() != table.version() {
			t.Fatalf("equal content has versions %s and %s", again.version(), table.version())
		}
	}
}
