package route

import (
	"slices"
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

// facts is what routing needs of a provider URL, read in one pass.
type facts struct {
	service     registry.Service
	application string
	excluded    string // why no call may go there, whatever else is listed
	mesh        bool
	origin      string // of a mesh entry: the provider behind it
	origins     string // of a mesh entry that stands for several: all of them, separated by commas
	weight      int
	stamp       string        // parameter timestamp
	began       time.Time     // start of the provider; zero: not known
	warmup      time.Duration // 0: none
	token       string
	loadbalance string
	callsBack   bool
	timeouts    timeouts
}

func factsOf(u registry.URL) *facts {
	f := &facts{}
	var category, enabled, disabled, release, weight, warmup string
	u.Params(func(key, value string) bool {
		switch key {
		case "interface":
			f.service.Interface = value
		case "group":
			f.service.Group = value
		case "version":
			f.service.Version = registry.NormalVersion(value)
		case "application":
			f.application = value
		case "category":
			category = value
		case "enabled":
			enabled = value
		case "disabled":
			disabled = value
		case "release":
			release = value
		case "weight":
			weight = value
		case "warmup":
			warmup = value
		case registry.KeyTimestamp:
			f.stamp = value
		case "token":
			f.token = value
		case "loadbalance":
			f.loadbalance = value
		case registry.MarkCaps:
			f.mesh = true
		case registry.MarkOrigin:
			f.origin = value
		case registry.MarkOrigins:
			f.origins = value
		case "onconnect", "ondisconnect", "callbacks":
			f.callsBack = f.callsBack || value != "" && value != "false" && value != "0"
		default:
			// callback arguments: org.apache.dubbo.rpc.protocol.dubbo.CallbackServiceCodec
			f.callsBack = f.callsBack || value == "true" && strings.HasSuffix(key, ".callback")
			f.timeouts.read(key, value)
		}
		return true
	})
	if f.service.Interface == "" {
		f.service.Interface = u.Path
	}
	if !f.mesh {
		f.origin, f.origins = "", ""
	}
	if f.token == "false" {
		f.token = ""
	}
	f.weight = weightOf(weight, release)
	f.began, f.warmup = beganOf(f.stamp), warmupOf(warmup)
	switch {
	case u.Host == "" || u.Port == 0:
		f.excluded = "no address"
	case category != "" && !slices.Contains(strings.Split(category, ","), "providers"):
		f.excluded = "category " + category
	case enabled == "false" || disabled == "true":
		f.excluded = "disabled"
	}
	return f
}

// weightOf reads parameter weight: 100 when it is missing or no number, 0 when it
// is negative. dubbo-go 3.3 registers weight=0 without meaning it.
func weightOf(weight, release string) int {
	w, err := strconv.ParseInt(weight, 10, 32)
	switch {
	case weight == "" || err != nil:
		return defaultWeight
	case w == 0 && strings.HasPrefix(release, "dubbo-golang"):
		return defaultWeight
	}
	return int(min(max(w, 0), mostWeight))
}

// beganOf reads parameter timestamp. Java writes milliseconds, dubbo-go seconds.
func beganOf(stamp string) time.Time {
	n, err := strconv.ParseInt(stamp, 10, 64)
	if stamp == "" || err != nil || n <= 0 {
		return time.Time{}
	}
	const asSeconds = 100_000_000_000 // as milliseconds the year 1973
	if n < asSeconds {
		return time.Unix(n, 0)
	}
	return time.UnixMilli(n)
}

// warmupOf reads parameter warmup, milliseconds; nothing above zero: no warm-up.
func warmupOf(warmup string) time.Duration {
	ms, err := strconv.ParseInt(warmup, 10, 32)
	if warmup == "" || err != nil {
		return defaultWarmup
	}
	return max(0, time.Duration(ms)*time.Millisecond)
}

// effective is the endpoint's weight at a moment: it grows linearly from 1 while
// the provider warms up (AbstractLoadBalance#calculateWarmupWeight, Dubbo 3). A
// start in the future gives 1. warming tells whether it will still grow.
func (e *Endpoint) effective(now time.Time) (weight uint32, warming bool) {
	if e.Weight <= 0 || e.facts.began.IsZero() {
		return uint32(max(e.Weight, 0)), false
	}
	uptime, warmup := now.Sub(e.facts.began), e.facts.warmup
	if uptime >= warmup {
		return uint32(e.Weight), false
	}
	w := int64(e.Weight) * max(0, uptime.Milliseconds()) / max(1, warmup.Milliseconds())
	return uint32(max(1, w)), true
}
