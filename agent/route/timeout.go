package route

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// timeouts is what one URL, or several that were joined, say.
type timeouts struct {
	iface   time.Duration            // 0: nothing said
	methods map[string]time.Duration // nothing said for those not in it
}

// timeoutsOf reads the time-outs of a URL.
func timeoutsOf(u registry.URL) timeouts {
	var t timeouts
	u.Params(func(key, value string) bool {
		t.read(key, value)
		return true
	})
	return t
}

// read takes one parameter, if it is "timeout" or "{method}.timeout" (Java), or
// "methods.{method}.timeout" (dubbo-go).
func (t *timeouts) read(key, value string) {
	method, found := strings.CutSuffix(key, "timeout")
	if !found {
		return
	}
	d := parseTimeout(value)
	switch {
	case d <= 0:
	case method == "":
		t.iface = d
	case strings.HasSuffix(method, "."):
		if t.methods == nil {
			t.methods = map[string]time.Duration{}
		}
		t.methods[strings.TrimPrefix(strings.TrimSuffix(method, "."), "methods.")] = d
	}
}

// parseTimeout reads milliseconds (Java) or a duration such as "3s" (dubbo-go);
// 0: neither.
func parseTimeout(s string) time.Duration {
	if ms, err := strconv.ParseInt(s, 10, 32); err == nil {
		return time.Duration(ms) * time.Millisecond
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}

// of is the time-out of a method, 0 when nothing is said.
func (t *timeouts) of(method []byte) time.Duration {
	if d, ok := t.methods[string(method)]; ok {
		return d
	}
	return t.iface
}

// join takes the longer of both where both say something.
func (t *timeouts) join(o timeouts) {
	t.iface = max(t.iface, o.iface)
	if len(o.methods) == 0 {
		return
	}
	methods := maps.Clone(o.methods)
	for m, d := range t.methods {
		methods[m] = max(methods[m], d)
	}
	t.methods = methods
}

func (t *timeouts) equal(o *timeouts) bool {
	return t.iface == o.iface && maps.Equal(t.methods, o.methods)
}

// deadlines is what is known of a cluster's time-outs without a call.
type deadlines struct {
	callers  []callerTimeouts // one for each application, sorted
	provider timeouts
	differ   bool // callers disagree
}

type callerTimeouts struct {
	application string
	pids        []int // of its processes, as far as known
	timeouts
}

// newDeadlines joins the subscriptions of each application, and what providers
// say; where equals disagree the longer one counts.
func newDeadlines(callers []Caller, providers []*Endpoint) deadlines {
	var d deadlines
	for _, e := range providers {
		d.provider.join(e.facts.timeouts)
	}
	for _, c := range callers {
		t := timeoutsOf(c.URL)
		if n := len(d.callers); n > 0 && d.callers[n-1].application == c.Application {
			d.callers[n-1].join(t)
		} else {
			d.callers = append(d.callers, callerTimeouts{application: c.Application, timeouts: t})
		}
		if last := &d.callers[len(d.callers)-1]; c.PID > 0 && !slices.Contains(last.pids, c.PID) {
			last.pids = append(last.pids, c.PID)
		}
	}
	for i := range d.callers {
		d.differ = d.differ || !d.callers[i].equal(&d.callers[0].timeouts)
	}
	return d
}

// of is the time-out of a call, 0 for none. None counts as the longest.
func (d *deadlines) of(application string, method []byte) time.Duration {
	if len(d.callers) == 0 {
		return d.provider.of(method)
	}
	if !d.differ {
		return d.caller(0, method)
	}
	longest := d.caller(0, method)
	for i := range d.callers {
		t := d.caller(i, method)
		if application != "" && d.callers[i].application == application {
			return t
		}
		if longest != 0 && (t == 0 || t > longest) {
			longest = t
		}
	}
	return longest
}

// application is the one that a process belongs to, empty when there is none, or
// more than one.
func (d *deadlines) application(pid int) (name string) {
	for _, c := range d.callers {
		if !slices.Contains(c.pids, pid) {
			continue
		}
		if name != "" {
			return ""
		}
		name = c.application
	}
	return name
}

func (d *deadlines) caller(i int, method []byte) time.Duration {
	if t := d.callers[i].of(method); t != 0 {
		return t
	}
	return d.provider.of(method)
}
