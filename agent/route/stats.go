package route

import (
	"sync/atomic"
	"time"
)

// Failure is why a call was not answered by its callee.
type Failure uint8

const (
	NoRoute    Failure = iota // no such service, group or version
	NoEndpoint                // nobody to send it to
	Refused                   // no connection to any endpoint
	Lost                      // the connection broke with the call in flight
	Deadline                  // no answer in time
	Limit                     // too much in flight, or a frame too large
	Remote                    // the next hop answered with an error status
	Abandoned                 // the caller went away
	Injected                  // a rule's fault or direct response
	failures
)

// Failures lists every reason.
func Failures() []Failure {
	all := make([]Failure, failures)
	for i := range all {
		all[i] = Failure(i)
	}
	return all
}

// String is the reason as metrics name it.
func (f Failure) String() string {
	names := [...]string{"no_route", "no_endpoint", "refused", "lost", "deadline", "limit", "remote", "abandoned", "injected"}
	if int(f) < len(names) {
		return names[f]
	}
	return "unknown"
}

// bounds are the upper bounds of the latency buckets; one more counts the rest.
var bounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Buckets is the upper bounds of the latency histogram.
func Buckets() []time.Duration { return bounds[:] }

// Stats counts the calls of one (direction, service key). It survives snapshots.
// Methods may be called from any goroutine and allocate nothing, Latency excepted.
type Stats struct {
	requests atomic.Int64
	failed   [failures]atomic.Int64
	buckets  [len(bounds) + 1]atomic.Int64
	sum      atomic.Int64  // nanoseconds
	turn     atomic.Uint64 // position of round robin

	seen int64 // owned by the router's loop: requests at its last look
}

// Request counts n calls that came in.
func (s *Stats) Request(n int) { s.requests.Add(int64(n)) }

// Fail counts a call that failed for reason f.
func (s *Stats) Fail(f Failure) { s.failed[f].Add(1) }

// Observe counts a call that was answered after d.
func (s *Stats) Observe(d time.Duration) { s.ObserveN(d, 1) }

// ObserveN counts n calls that were answered after d each.
func (s *Stats) ObserveN(d time.Duration, n int) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	s.buckets[i].Add(int64(n))
	s.sum.Add(int64(d) * int64(n))
}

// Requests is the number of calls that came in.
func (s *Stats) Requests() int64 { return s.requests.Load() }

// Failed is the number of calls that failed for reason f.
func (s *Stats) Failed(f Failure) int64 { return s.failed[f].Load() }

// Latency is the histogram of answered calls: how many, their total time, and
// how many took at most each of Buckets (cumulative).
func (s *Stats) Latency() (count int64, sum time.Duration, atMost []int64) {
	atMost = make([]int64, len(bounds))
	for i := range bounds {
		count += s.buckets[i].Load()
		atMost[i] = count
	}
	count += s.buckets[len(bounds)].Load()
	return count, time.Duration(s.sum.Load()), atMost
}
