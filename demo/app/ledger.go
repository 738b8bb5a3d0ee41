package main

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// call is one line of the ledger. Times are milliseconds.
type call struct {
	N      int     `json:"n"`
	At     float64 `json:"at"` // when it began, after the first
	MS     float64 `json:"ms"` // how long it took
	OK     bool    `json:"ok"`
	Answer string  `json:"answer,omitempty"`
	Error  string  `json:"error,omitempty"`
	To     string  `json:"to,omitempty"`   // what the application itself called
	Hops   string  `json:"hops,omitempty"` // and on from there
}

func entry(n int, begin, at time.Time, answer string, err error) call {
	c := call{N: n, At: ms(at.Sub(begin)), MS: ms(time.Since(at)), OK: err == nil, Answer: answer}
	if err != nil {
		c.Error = err.Error()
	}
	return c
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// summary is the last line of a ledger.
type summary struct {
	Calls   int            `json:"calls"`
	OK      int            `json:"ok"`
	Failed  int            `json:"failed"`
	Skipped int            `json:"skipped"` // not begun in time: too many were under way
	Errors  map[string]int `json:"errors"`
	Answers map[string]int `json:"answers"`
	P50     float64        `json:"p50_ms"`
	P99     float64        `json:"p99_ms"`
	Max     float64        `json:"max_ms"`
	// LongestFailure is the time from the begin of the first to the end of the
	// last call in the longest row of failures, by time of begin.
	LongestFailure float64 `json:"longest_failure_ms"`
}

// maxUnderWay bounds the calls at once: a load that is not answered must not
// eat the memory of the machine.
const maxUnderWay = 4096

// load begins rate calls a second for a time, whether or not earlier ones have
// been answered, waits for all, and writes the ledger in the order of their
// begin.
func load(ctx context.Context, rate int, length time.Duration, w *json.Encoder, do func(context.Context) (string, error)) {
	var (
		mu      sync.Mutex
		ledger  []call
		calls   sync.WaitGroup
		places  = make(chan struct{}, maxUnderWay)
		begin   = time.Now()
		total   = int(length.Seconds() * float64(rate))
		skipped int
	)
	for i := range total {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		select {
		case places <- struct{}{}:
		default:
			skipped++
			continue
		}
		calls.Go(func() {
			defer func() { <-places }()
			at := time.Now()
			answer, err := do(ctx)
			e := entry(i+1, begin, at, answer, err)
			mu.Lock()
			defer mu.Unlock()
			ledger = append(ledger, e)
		})
	}
	calls.Wait()
	slices.SortFunc(ledger, func(a, b call) int { return a.N - b.N })
	for _, e := range ledger {
		w.Encode(e)
	}
	s := summarise(ledger)
	s.Skipped = skipped
	w.Encode(s)
}

func summarise(ledger []call) summary {
	s := summary{Calls: len(ledger), Errors: map[string]int{}, Answers: map[string]int{}}
	var times []float64
	var failing float64 = -1 // begin of the present row of failures
	for _, e := range ledger {
		times = append(times, e.MS)
		if e.OK {
			s.OK++
			s.Answers[e.Answer]++
			failing = -1
			continue
		}
		s.Failed++
		s.Errors[e.Error]++
		if failing < 0 {
			failing = e.At
		}
		s.LongestFailure = max(s.LongestFailure, e.At+e.MS-failing)
	}
	if len(times) > 0 {
		slices.Sort(times)
		s.P50, s.P99, s.Max = times[len(times)/2], times[len(times)*99/100], times[len(times)-1]
	}
	return s
}
