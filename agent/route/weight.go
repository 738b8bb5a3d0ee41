package route

import (
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Dubbo's defaults (org.apache.dubbo.rpc.Constants, cluster.Constants).
const (
	defaultWeight = 100
	defaultWarmup = 10 * time.Minute
	mostWeight    = 1 << 20 // keeps sums small
)

// weightOf reads parameter weight: 100 when it is missing or no number, 0 when it
// is negative. dubbo-go 3.3 registers weight=0 without meaning it.
func weightOf(u registry.URL) int {
	w, err := strconv.ParseInt(u.Param("weight"), 10, 32)
	switch {
	case err != nil:
		return defaultWeight
	case w == 0 && strings.HasPrefix(u.Param("release"), "dubbo-golang"):
		return defaultWeight
	}
	return int(min(max(w, 0), mostWeight))
}

// beganOf reads when the provider started, and how long it warms up. Java writes
// milliseconds, dubbo-go seconds. The zero time: no warm-up.
func beganOf(u registry.URL) (time.Time, time.Duration) {
	stamp, err := strconv.ParseInt(u.Param(registry.KeyTimestamp), 10, 64)
	if err != nil || stamp <= 0 {
		return time.Time{}, 0
	}
	warmup := defaultWarmup
	if ms, err := strconv.ParseInt(u.Param("warmup"), 10, 32); err == nil {
		warmup = time.Duration(ms) * time.Millisecond
	}
	if warmup <= 0 {
		return time.Time{}, 0
	}
	const asSeconds = 100_000_000_000 // as milliseconds the year 1973
	if stamp < asSeconds {
		return time.Unix(stamp, 0), warmup
	}
	return time.UnixMilli(stamp), warmup
}

// effective is the endpoint's weight at a moment: it grows linearly from 1 while
// the provider warms up (AbstractLoadBalance#calculateWarmupWeight, Dubbo 3). A
// start in the future gives 1. warming tells whether it will still grow.
func (e *Endpoint) effective(now time.Time) (weight uint32, warming bool) {
	if e.Weight <= 0 || e.began.IsZero() {
		return uint32(max(e.Weight, 0)), false
	}
	uptime := now.Sub(e.began)
	if uptime >= e.warmup {
		return uint32(e.Weight), false
	}
	w := int64(e.Weight) * max(0, uptime.Milliseconds()) / e.warmup.Milliseconds()
	return uint32(max(1, w)), true
}
