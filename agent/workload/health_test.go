package workload

import (
	"strings"
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	letters := map[rune]outcome{'h': answered, 'a': accepted, 'm': missed, 'x': refused, 'c': closed, 'R': saidReadonly, 'W': saidWriteable, '?': noVerdict}
	const published = 'P'
	for _, c := range []struct {
		name      string
		heartbeat bool
		seen      string // outcomes
		want      string // after each: L live, s settling, p port-closed, n no-answer, r readonly
	}{
		{"one answer is enough at first", true, "h", "L"},
		{"port opens late", true, "xxh", "ppL"},
		{"one missed heartbeat is nothing", true, "hmhmmh", "LLLLLL"},
		{"hangs after three, back after two", true, "hmmmhh", "LLLnnL"},
		{"hang interrupted while it comes back", true, "hmmmhmhh", "LLLnnnnL"},
		{"accepts but is silent is a miss, once it has answered", true, "haaa", "LLLn"},
		{"never answers heartbeats: alive by TCP", true, "aaaa", "LLLL"},
		{"tri: accepting is all", false, "aaaa", "LLLL"},
		{"refused is dead at once, back after two", true, "hxhh", "LppL"},
		{"refused forgets that it answered heartbeats", true, "hxaa", "LppL"},
		{"published anew after death: one answer", true, "hxPh", "LpsL"},
		{"published anew while it lives", true, "hPm", "LLL"},
		{"published anew while it hangs", true, "hmmmPah", "LLLnsnL"},
		{"closed alone says nothing", true, "hch", "LLL"},
		{"readonly until it closed and rises again", true, "hRhhchh", "Lrrr" + "ppL"},
		{"readonly, refused, new process", true, "hRxhh", "LrppL"},
		{"readonly, then published anew", true, "hRhPh", "LrrsL"},
		{"readonly taken back", true, "hRW", "LrL"},
		{"readonly and hung", true, "hRmmmWh", "Lrrrrnn"},
		{"short of descriptors", true, "h???", "LLLL"},
		{"time-outs before it answered", true, "mmh", "nnL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			h := health{}
			h.published(now)
			var got strings.Builder
			for _, r := range c.seen {
				now = now.Add(time.Second)
				if r == published {
					h.published(now)
				} else {
					h.observe(letters[r], c.heartbeat, ProbeSettings{Fall: 3, Rise: 2}, now)
				}
				live, reason := h.status()
				if live != (reason == "") {
					t.Fatalf("live %v because of %q", live, reason)
				}
				if live {
					got.WriteByte('L')
				} else {
					got.WriteByte(reason[0])
				}
			}
			if got.String() != c.want {
				t.Errorf("%s gives %s, want %s", c.seen, got.String(), c.want)
			}
		})
	}
}

func TestEvent(t *testing.T) {
	for _, c := range []struct {
		flags byte
		body  string
		want  outcome
	}{
		{0xa2, "\x01R", saidReadonly},
		{0xb7, "\x00\x00\x00\x02JR", saidReadonly},
		{0xa2, "\x01W", saidWriteable},
		{0xb7, "\x00\x00\x00\x02JW", saidWriteable},
		{0xe2, "N", noVerdict},
		{0xf7, "\x00\x00\x00\x01\xaf", noVerdict},
		{0xc2, "\x01R", noVerdict},
		{0xa2, "", noVerdict},
	} {
		if got := event(c.flags, []byte(c.body)); got != c.want {
			t.Errorf("%#x %q: %v, want %v", c.flags, c.body, got, c.want)
		}
	}
}
