package route

import (
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

// timeoutsOf reads "timeout" and "{method}.timeout" (Java), or
// "methods.{method}.timeout" (dubbo-go).
func timeoutsOf(u registry.URL) timeouts {
	var t timeouts
	u.Params(func(key, value string) bool {
		method, found := strings.CutSuffix(key, "timeout")
		d := parseTimeout(value)
		switch {
		case !found || d <= 0:
		case method == "":
			t.iface = d
		case strings.HasSuffix(method, "."):
			if t.methods == nil {
				t.methods = map[string]time.Duration{}
			}
			t.methods[strings.TrimPrefix(strings.TrimSuffix(method, "."), "methods.")] = d
		}
		return true
	})
	return t
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
	for m, d := range o.methods {
		if t.methods == nil {
			t.methods = map[string]time.Duration{}
		}
		t.methods[m] = max(t.methods[m], d)
	}
}

// deadlines is what is known of a cluster's time-outs without a call.
type deadlines struct {
	callers  []callerTimeouts // by application, sorted
	provider timeouts
	differ   bool // callers disagree
}

type callerTimeouts struct {
	application string
	timeouts
}

func (d *deadlines) of(application string, method []byte) time.Duration {
	longest := time.Duration(0)
	for i := range d.callers {
		c := &d.callers[i]
		t := c.of(method)
		if t == 0 {
			t = d.provider.of(method)
		}
		if !d.differ || c.application == application && application != "" || t == 0 {
			return t
		}
		longest = max(longest, t)
	}
	if longest == 0 {
		return d.provider.of(method)
	}
	return longest
}
