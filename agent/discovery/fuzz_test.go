package discovery

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

// What was read from disk is written as it was read.
func FuzzSavedSet(f *testing.F) {
	f.Add([]byte(`{"heard":"2026-11-20T10:00:00Z","providers":[{"model":"interface","url":"dubbo://10.0.0.1:20880/a.B?x=%20"},{"url":"bad"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var one, two savedSet
		if json.Unmarshal(text, &one) != nil {
			t.Skip()
		}
		again, err := json.Marshal(one)
		if err != nil {
			t.Skip() // a year that JSON cannot hold
		}
		if err := json.Unmarshal(again, &two); err != nil {
			t.Fatal(err)
		}
		if !one.Heard.Equal(two.Heard) || !reflect.DeepEqual(one.list, two.list) {
			t.Errorf("%s: %+v and %+v", text, one, two)
		}
	})
}

// Whatever a registry lists: what it lists now is always served, what it does
// not list is served only in state protected and only within the hold, and a
// set that was not suspect is served exactly.
func TestSetInvariants(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	p := Protection{EmptyHold: 30 * time.Second, ShrinkHold: 10 * time.Second}
	for range 300 {
		s, now := &set{}, time.Unix(1_800_000_000, 0)
		last := map[registry.Provider]time.Time{} // when it was listed last
		var listed []registry.Provider
		incomplete := false
		for range 60 {
			now = now.Add(time.Duration(r.IntN(4000)) * time.Millisecond)
			switch r.IntN(4) {
			case 0:
				s.expire(now)
			case 1:
				s.refused(func(string) bool { return r.IntN(5) == 0 })
			default:
				listed = nil
				for i, text := range urls(8) {
					u, err := registry.ParseURL(text)
					if err != nil {
						t.Fatal(err)
					}
					if r.IntN(3) > 0 && i < 1+r.IntN(8) {
						listed = append(listed, registry.Provider{URL: u})
					}
				}
				for _, x := range s.now {
					last[x] = now
				}
				e := registry.Endpoints{Providers: listed}
				if incomplete = r.IntN(5) == 0; incomplete {
					e.Incomplete = "metadata"
				}
				s.observe(e, p, now)
			}
			s.expire(now)
			u := s.update("main", "a.B")
			served := map[registry.Provider]bool{}
			for _, x := range u.Providers {
				served[x] = true
			}
			for _, x := range listed {
				if !served[x] {
					t.Fatalf("%s is listed and not served", x.URL)
				}
				delete(served, x)
			}
			for x := range served {
				if u.State != route.Protected || u.Reason == "" {
					t.Fatalf("%s is not listed, served in state %s", x.URL, u.State)
				}
				if age := now.Sub(last[x]); age > p.EmptyHold {
					t.Fatalf("%s is served %v after it was listed", x.URL, age)
				}
			}
			switch {
			case !s.heard || len(served) > 0:
			case len(listed) > 0 && u.State != route.Ready,
				len(listed) == 0 && u.State != route.Empty && !incomplete:
				t.Fatalf("state %s with %d listed and nothing held", u.State, len(listed))
			}
		}
	}
}
