package proxy

import (
	"fmt"
	"testing"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
)

// The last ones are remembered, each for its method, until the snapshot changes.
func TestDecisions(t *testing.T) {
	snap, clusters := new(route.Snapshot), make([]route.Cluster, 2*remembered)
	var m decisions
	front := func(n int) []byte {
		body := method(t, n)[dubbo.HeaderSize:]
		var f dubbo.Front
		if err := dubbo.ParseFront(dubbo.Hessian2, body, &f); err != nil {
			t.Fatal(err)
		}
		return body[:f.Args]
	}
	for n := range clusters {
		if m.find(snap, dubbo.Hessian2, method(t, n)[dubbo.HeaderSize:]) != nil {
			t.Fatalf("method %d is known before it was called", n)
		}
		m.add(decision{serialization: dubbo.Hessian2, front: front(n), cluster: &clusters[n]})
		for known := range clusters {
			d := m.find(snap, dubbo.Hessian2, method(t, known)[dubbo.HeaderSize:])
			if want := known <= n && known > n-remembered; (d != nil) != want || want && d.cluster != &clusters[known] {
				t.Fatalf("after method %d, method %d: %+v, want one: %v", n, known, d, want)
			}
		}
	}
	last := method(t, len(clusters)-1)[dubbo.HeaderSize:]
	if m.find(snap, dubbo.Fastjson2, last) != nil {
		t.Error("a decision for another serialization")
	}
	if m.find(new(route.Snapshot), dubbo.Hessian2, last) != nil || len(m.list) != 0 {
		t.Error("a decision outlives its snapshot")
	}
}

// What it costs to find one of so many methods that are called in turn; with more
// than are remembered, to decide and remember anew.
func BenchmarkDecisions(b *testing.B) {
	for _, methods := range []int{1, 4, 8, 16, 32} {
		b.Run(fmt.Sprint(methods), func(b *testing.B) {
			snap, cluster := new(route.Snapshot), new(route.Cluster)
			var bodies [][]byte
			for n := range methods {
				bodies = append(bodies, method(b, n)[dubbo.HeaderSize:])
			}
			var m decisions
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				body := bodies[n]
				if n++; n == methods {
					n = 0
				}
				if m.find(snap, dubbo.Hessian2, body) != nil {
					continue
				}
				var front dubbo.Front
				if err := dubbo.ParseFront(dubbo.Hessian2, body, &front); err != nil {
					b.Fatal(err)
				}
				m.add(decision{serialization: dubbo.Hessian2, front: body[:front.Args], cluster: cluster})
			}
		})
	}
}
