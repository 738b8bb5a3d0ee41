package route

import (
	"slices"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

func TestStats(t *testing.T) {
	var s Stats
	s.Request(3)
	s.Fail(Deadline)
	for _, d := range []time.Duration{0, 100 * time.Microsecond, 101 * time.Microsecond, time.Second, time.Hour} {
		s.Observe(d)
	}
	count, sum, atMost := s.Latency()
	if count != 5 || sum != time.Hour+time.Second+201*time.Microsecond || len(atMost) != len(Buckets()) {
		t.Errorf("%d calls in %v, %d buckets", count, sum, len(atMost))
	}
	for i, d := range Buckets() {
		want := int64(2)
		if d > 100*time.Microsecond {
			want = 3
		}
		if d >= time.Second {
			want = 4
		}
		if atMost[i] != want {
			t.Errorf("%d calls took at most %v, want %d", atMost[i], d, want)
		}
	}
	if s.Requests() != 3 || s.Failed(Deadline) != 1 || s.Failed(Lost) != 0 {
		t.Errorf("%d requests, %d deadlines", s.Requests(), s.Failed(Deadline))
	}
	names := map[string]bool{}
	for _, f := range Failures() {
		names[f.String()] = true
	}
	if len(names) != int(failures) || names["unknown"] || Failure(200).String() != "unknown" {
		t.Errorf("names of failures: %v", names)
	}
}

func TestStatisticsAreBounded(t *testing.T) {
	r := New(Options{MaxStats: 2})
	c := r.c
	service := func(name string) Update {
		return ready(name, ifaceLevel(t, "dubbo://10.0.0.1:1/"+name+"?interface="+name))
	}
	c.update(service("a.A"))
	c.update(service("a.B"))
	c.update(service("a.C"))
	s, _ := c.compile(time.Now())
	a, over := s.Outbound.find("a.A", "", "").Stats, s.Outbound.find("a.C", "", "").Stats
	a.Request(1)
	over.Request(7)
	s.Outbound.Unrouted.Request(9)
	list := func() (names []string) {
		r.EachStats(func(direction string, s registry.Service, st *Stats) {
			names = append(names, direction+" "+s.Key())
		})
		return names
	}
	if got, want := list(), []string{"inbound _unrouted", "outbound _other", "outbound _unrouted", "outbound a.A", "outbound a.B"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	c.update(Update{Source: "main", Interface: "a.B", State: Dropped})
	c.compile(time.Now())
	c.sweep(time.Now()) // makes room
	c.update(service("a.C"))
	s, _ = c.compile(time.Now())
	if st := s.Outbound.find("a.C", "", "").Stats; st == over || s.Outbound.find("a.A", "", "").Stats != a {
		t.Error("no room was made, or too much")
	}
	if got, want := list(), []string{"inbound _unrouted", "outbound _other", "outbound _unrouted", "outbound a.A", "outbound a.C"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestIndex(t *testing.T) {
	x := newIndex[int]()
	old := x
	for round := range 3 {
		e := x.edit()
		for i := range 1000 {
			e.set(string(rune('a'+i%26))+string(rune('a'+i/26)), i+round)
		}
		e.remove("aa")
		x = e.index
	}
	n := 0
	for k, v := range x.all {
		n++
		if got := x.bytes([]byte(k)); got != v {
			t.Errorf("%s: %d and %d", k, got, v)
		}
	}
	if _, ok := x.value("aa"); ok || n != 999 {
		t.Errorf("%d entries, removed one there: %v", n, ok)
	}
	for range old.all {
		t.Fatal("the first index changed")
	}
	var zero index[int]
	if _, ok := zero.value("a"); ok || zero.bytes([]byte("a")) != 0 {
		t.Error("the zero index has entries")
	}
}
