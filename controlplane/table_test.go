package controlplane

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func assignment(name string, revision int) *entry {
	return newEntry(name, &endpoint.ClusterLoadAssignment{ClusterName: name, NamedEndpoints: map[string]*endpoint.Endpoint{fmt.Sprint(revision): {}}})
}

// memory keeps what it is sent, as a client of the protocol does.
type memory struct {
	whole, delta bool
	has          map[string]string // versions by name
}

func (m *memory) take(t *testing.T, a *answer) {
	t.Helper()
	b, err := codec{}.Marshal(newResponse(a, "x", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if m.delta {
		var r discovery.DeltaDiscoveryResponse
		if err := proto.Unmarshal(b.Materialize(), &r); err != nil || r.SystemVersionInfo != a.version || r.Nonce != "1" || r.TypeUrl != "x" || len(r.Resources) != a.resources {
			t.Fatalf("%v %v", err, &r)
		}
		for _, one := range r.Resources {
			m.has[one.Name] = one.Version
			if versionOf(one.Resource.Value) != one.Version {
				t.Fatalf("%s: version %s", one.Name, one.Version)
			}
		}
		for _, name := range r.RemovedResources {
			delete(m.has, name)
		}
		return
	}
	var r discovery.DiscoveryResponse
	if err := proto.Unmarshal(b.Materialize(), &r); err != nil || r.VersionInfo != a.version || r.Nonce != "1" || r.TypeUrl != "x" || len(r.Resources) != a.resources {
		t.Fatalf("%v %v", err, &r)
	}
	if m.whole {
		clear(m.has)
	}
	for _, one := range r.Resources {
		var v endpoint.ClusterLoadAssignment
		if err := (*anypb.Any)(one).UnmarshalTo(&v); err != nil {
			t.Fatal(err)
		}
		m.has[v.ClusterName] = versionOf(one.Value)
	}
}

// TestTableConverges changes a table at random while nodes ask late and for other
// names, state of the world and incrementally: each ends with what the table has,
// also when more has changed than is kept.
func TestTableConverges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	letters := []string{"a", "b", "c", "d", "e"}
	for round := range 400 {
		whole, delta, all := round%2 == 0, round%4 < 2, round%8 < 4
		table, lists := newTable(resource.EndpointType, whole), newNameLists()
		sub := &subscription{table: table, delta: delta, names: noNames, all: true}
		node := &memory{whole, delta, map[string]string{}}
		ask := func(list ...string) {
			r := &request{delta: delta, wildcard: all && len(list) == 0, subscribe: list}
			if !delta {
				r.names = lists.of(slices.Clone(list))
				sub.replaced(r)
				return
			}
			for _, name := range sub.names.list {
				if !slices.Contains(list, name) {
					r.unsubscribe = append(r.unsubscribe, name)
				}
			}
			sub.updated(r, lists, false)
		}
		drain := func(bury bool) {
			for {
				a, err := table.next(sub, bury)
				if err != nil {
					t.Fatal(err)
				}
				if a == nil {
					return
				}
				node.take(t, a)
			}
		}
		if all {
			ask()
		} else {
			ask("a", "b", "c")
		}
		changes := random.IntN(2 * keptChanges)
		for i := range changes {
			name := letters[random.IntN(5)]
			var e *entry
			if random.IntN(4) > 0 {
				e = assignment(name, i%7)
			}
			table.update(map[string]*entry{name: e})
			if random.IntN(20) == 0 {
				drain(random.IntN(2) == 0)
			}
			if !all && random.IntN(30) == 0 {
				n := 1 + random.IntN(4)
				ask(letters[n-1 : n+1]...)
			}
		}
		drain(true)
		want := map[string]string{}
		for name, e := range table.entries {
			if sub.wants(name) {
				want[name] = e.version
			}
		}
		// What is not asked for any more, and what is gone where absence says nothing, a
		// client forgets by itself.
		maps.DeleteFunc(node.has, func(name, _ string) bool {
			_, there := table.entries[name]
			return !sub.wants(name) || !there && !whole && !delta
		})
		if !maps.Equal(node.has, want) {
			t.Fatalf("round %d (whole %v, incremental %v, all %v) after %d changes: has %v, want %v", round, whole, delta, all, changes, node.has, want)
		}
		again := newTable(resource.EndpointType, false) // the version is that of the content
		for _, name := range slices.Sorted(maps.Keys(table.entries)) {
			again.update(map[string]*entry{name: table.entries[name].entry})
		}
		if again.version() != table.version() {
			t.Fatalf("equal content has versions %s and %s", again.version(), table.version())
		}
	}
}

// What was removed stays with a node until it is told to bury it, state of the
// world included; one that was away for too many removals must come again.
func TestTableBuries(t *testing.T) {
	for _, delta := range []bool{false, true} {
		table := newTable(resource.ClusterType, true)
		sub := &subscription{table: table, delta: delta, names: noNames, all: true, wildcard: true}
		node := &memory{true, delta, map[string]string{}}
		step := func(bury bool, want ...string) {
			t.Helper()
			if a, err := table.next(sub, bury); err != nil {
				t.Fatal(err)
			} else if a != nil {
				node.take(t, a)
			}
			if has := slices.Sorted(maps.Keys(node.has)); !slices.Equal(has, want) {
				t.Fatalf("incremental %v: has %v, want %v", delta, has, want)
			}
		}
		table.update(map[string]*entry{"a": assignment("a", 1), "b": assignment("b", 1)})
		step(false, "a", "b")
		table.update(map[string]*entry{"b": nil})
		step(false, "a", "b")
		table.update(map[string]*entry{"c": assignment("c", 1)})
		step(false, "a", "b", "c")
		step(true, "a", "c")
		gone := map[string]*entry{}
		for i := range maxGone + 1 {
			gone[fmt.Sprint(i)] = assignment("x", 1)
		}
		table.update(gone)
		for name := range gone {
			gone[name] = nil
		}
		table.update(gone)
		if _, err := table.next(sub, true); errors.Is(err, errBehind) != delta {
			t.Errorf("incremental %v: %v", delta, err)
		}
	}
}

// Nodes that are sent the same share the bytes.
func TestTableShares(t *testing.T) {
	table, lists := newTable(resource.EndpointType, false), newNameLists()
	all := map[string]*entry{}
	var list []string
	for i := range 10 * small {
		name := fmt.Sprint("cluster-", i)
		all[name] = assignment(name, 1)
		list = append(list, name)
	}
	table.update(all)
	for _, delta := range []bool{false, true} {
		var first *answer
		for range 3 {
			sub := &subscription{table: table, delta: delta, names: lists.of(slices.Clone(list)), all: true}
			a, err := table.next(sub, true)
			if err != nil || a == nil || len(a.parts) != 1 || a.resources != len(list) {
				t.Fatalf("%v %v", a, err)
			}
			if first == nil {
				first = a
			}
			if &first.parts[0].ReadOnlyData()[0] != &a.parts[0].ReadOnlyData()[0] {
				t.Error("two nodes have bytes of their own")
			}
		}
	}
}

func FuzzRequest(f *testing.F) {
	sotw, err := proto.Marshal(&discovery.DiscoveryRequest{Node: agentNode(), TypeUrl: "t", VersionInfo: "v", ResponseNonce: "n", ResourceNames: []string{"b", "a", "*"}})
	if err != nil {
		f.Fatal(err)
	}
	delta, err := proto.Marshal(&discovery.DeltaDiscoveryRequest{Node: agentNode(), TypeUrl: "t", ResponseNonce: "n", ResourceNamesSubscribe: []string{"b", "*"},
		ResourceNamesUnsubscribe: []string{"c"}, InitialResourceVersions: map[string]string{"x": "1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sotw)
	f.Add(delta)
	lists := newNameLists()
	f.Fuzz(func(t *testing.T, b []byte) {
		// Whatever protobuf reads is read the same.
		r := &request{lists: lists}
		err := r.decode(b)
		var want discovery.DiscoveryRequest
		if proto.Unmarshal(b, &want) == nil {
			if err != nil || r.typeURL != want.TypeUrl || r.version != want.VersionInfo || r.nonce != want.ResponseNonce || r.nacked != (want.ErrorDetail != nil) {
				t.Fatalf("%v: %+v, want %v", err, r, &want)
			}
			list := slices.Clone(want.ResourceNames)
			if r.wildcard != slices.Contains(list, "*") {
				t.Fatal("wildcard")
			}
			list = slices.DeleteFunc(list, func(n string) bool { return n == "*" })
			slices.Sort(list)
			list = slices.Compact(list)
			if !slices.Equal(list, r.names.list) {
				t.Fatalf("names %q, want %q", r.names.list, list)
			}
			again := &request{lists: lists, last: []*names{r.names}}
			if err := again.decode(b); err != nil || !slices.Equal(list, again.names.list) || again.wildcard != r.wildcard || again.typeURL != r.typeURL || again.nonce != r.nonce {
				t.Fatalf("%v: with the names known %+v, want %+v", err, again, r)
			}
			more := append(slices.Clone(b), appendText(nil, fieldNames, "one more")...)
			again = &request{lists: lists, last: []*names{r.names}}
			if err := again.decode(more); err != nil || !again.names.has("one more") {
				t.Fatalf("%v: with one more %+v", err, again)
			}
		}
		d := &request{lists: lists, delta: true}
		err = d.decode(b)
		var wantDelta discovery.DeltaDiscoveryRequest
		if proto.Unmarshal(b, &wantDelta) == nil {
			if err != nil || d.typeURL != wantDelta.TypeUrl || d.nonce != wantDelta.ResponseNonce || !maps.Equal(d.initial, wantDelta.InitialResourceVersions) {
				t.Fatalf("%v: %+v, want %v", err, d, &wantDelta)
			}
		}
	})
}
