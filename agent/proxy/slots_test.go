package proxy

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
)

// Whatever comes in whatever order, an id is good for the call that it was given
// to, once.
func TestSlots(t *testing.T) {
	p, err := New(Options{Router: route.New(route.Options{}), MemoryBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		u := &upstream{p: p, peer: &route.Peer{}, timer: time.AfterFunc(time.Hour, func() {})}
		u.limit, u.memory = 1<<30, &p.memory
		u.timer.Stop()
		live, dead := map[uint64]uint64{}, []uint64{} // id on the wire → id of the call
		kept := map[uint64]int{}
		frame := (req{iface: foo}).frame(t)
		large := append(bytes.Clone(frame), make([]byte, 2*freeBytes)...)
		for n := range uint64(5000) {
			switch what := rnd.IntN(10); {
			case what < 5 && len(live) < 300:
				f := frame
				if rnd.IntN(20) == 0 {
					f = large
				}
				before := u.retained
				r := request{call: call{id: n, cluster: &route.Cluster{}, endpoint: &route.Endpoint{}, oneway: rnd.IntN(10) == 0}, frame: f}
				at := len(u.buf)
				u.enqueue(&r, 0)
				h, _ := dubbo.ParseHeader(u.buf[at:])
				if r.oneway {
					dead = append(dead, h.ID)
					break
				}
				if _, twice := live[h.ID]; twice || h.ID>>63 != 0 {
					t.Fatalf("id %x given twice, or negative", h.ID)
				}
				live[h.ID] = n
				kept[h.ID] = u.retained - before
			case what < 8:
				for id, want := range live { // any
					keep := rnd.IntN(2) == 0
					c, ok := u.release(id, keep)
					if !ok || c.id != want || keep && len(c.retained) != kept[id] || !keep && c.retained != nil {
						t.Fatalf("release %x: call %d, %v, %d bytes; want call %d", id, c.id, ok, len(c.retained), want)
					}
					delete(live, id)
					delete(kept, id)
					dead = append(dead, id)
					break
				}
			case len(dead) > 0:
				if c, ok := u.release(dead[rnd.IntN(len(dead))], true); ok {
					t.Fatalf("a used id gave call %d", c.id)
				}
			}
			sum, big := 0, int64(0)
			for _, n := range kept {
				if sum += n; n > freeBytes {
					big += int64(n)
				}
			}
			if u.busy != len(live) || u.busy+len(u.free) != len(u.slots) || u.retained != sum || u.large != big {
				t.Fatalf("busy %d free %d slots %d retained %d large %d; want %d calls, %d and %d bytes", u.busy, len(u.free), len(u.slots), u.retained, u.large, len(live), sum, big)
			}
			u.buf, u.out = u.buf[:0], 0
			u.count()
			if rnd.IntN(50) == 0 { // generations wrap
				for i := range u.slots {
					if s := &u.slots[i]; !s.busy && rnd.IntN(4) == 0 {
						s.use |= useMask &^ 7
						dead = dead[:0]
					}
				}
			}
		}
		for range 100 { // of a peer that answers nonsense
			id := rnd.Uint64()
			if _, ok := live[id]; ok {
				continue
			}
			if _, ok := u.release(id, true); ok {
				t.Fatalf("id %x, which nobody was given, is good", id)
			}
		}
		p.memory.used.Add(-u.large)
		if left := p.memory.used.Load(); left != 0 {
			t.Fatalf("%d bytes counted for nothing", left)
		}
	}
	p.stop()
}
