package route

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// TestShares: providers of two registries, one of them in both.
func TestShares(t *testing.T) {
	u := func(source string, hosts ...int) Update {
		x := Update{Source: source, Interface: "a.B", State: Ready}
		for _, h := range hosts {
			// Two registries seldom keep the same order of parameters.
			text := fmt.Sprintf("dubbo://10.0.0.%d:20880/a.B?interface=a.B&%s=1", h, source)
			x.Providers = append(x.Providers, ifaceLevel(t, text))
		}
		return x
	}
	for name, c := range map[string]struct {
		shares map[string]Share
		gone   []int // not reachable
		want   string
	}{
		"alike":               {map[string]Share{"new": {100, false}, "old": {100, false}}, nil, "1:33 2:33 3:33"},
		"weights":             {map[string]Share{"new": {50, false}, "old": {100, false}}, nil, "1:40 2:40 3:20"},
		"weight 0":            {map[string]Share{"new": {0, false}, "old": {100, false}}, nil, "1:50 2:50 3:0"},
		"preferred":           {map[string]Share{"new": {100, true}, "old": {100, false}}, nil, "1:0 2:50 3:50"},
		"preferred, one away": {map[string]Share{"new": {100, true}, "old": {100, false}}, []int{2}, "1:0 2:0 3:100"},
		"preferred, all away": {map[string]Share{"new": {100, true}, "old": {100, false}}, []int{2, 3}, "1:100 2:0 3:0"},
		"both preferred":      {map[string]Share{"new": {100, true}, "old": {100, true}}, nil, "1:33 2:33 3:33"},
	} {
		_, s := compiled(t, Options{Registry: func(source string) Share { return c.shares[source] }}, nil, u("old", 1, 2), u("new", 2, 3))
		cl := s.Outbound.Lookup([]byte("a.B"), nil).Only()
		if len(cl.Endpoints) != 3 {
			t.Fatalf("%s: %d endpoints, want 3", name, len(cl.Endpoints))
		}
		for _, e := range cl.Endpoints {
			for _, h := range c.gone {
				if strings.HasPrefix(e.Peer.Addr, fmt.Sprintf("10.0.0.%d:", h)) {
					e.Peer.Failed(time.Now())
				}
			}
		}
		const n = 20_000
		rnd := rand.New(rand.NewPCG(1, 2))
		by := map[string]int{}
		for range n {
			by[cl.pick(nil, rnd.Uint64N).Peer.Addr]++
		}
		var got []string
		for h := 1; h <= 3; h++ {
			got = append(got, fmt.Sprintf("%d:%d", h, (by[fmt.Sprintf("10.0.0.%d:20880", h)]*100+n/2)/n))
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: shares %s, want %s", name, text, c.want)
		}
		if x := s.explain(Query{Service: registry.Service{Interface: "a.B"}}, time.Now()); strings.Join(x.Candidates[1].Registries, ",") != "new,old" && strings.Join(x.Candidates[1].Registries, ",") != "old,new" {
			t.Errorf("%s: the provider in both is said to be in %v", name, x.Candidates[1].Registries)
		}
	}
}
