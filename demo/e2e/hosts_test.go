package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
)

// Two providers with different services and ports share the 20882 of their host:
// each gets its own calls.
func TestTwoProvidersOnOneHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	for i, o := range []options{
		{agent: a, name: "one", application: "one", iface: "org.example.One"},
		{agent: a, name: "two", application: "two", iface: "org.example.Two", port: 20890},
	} {
		p := w.provider(o)
		a.published(i + 1)
		c := w.consumer(options{agent: b, iface: o.iface})
		if l := c.call(50); l.answers()[o.name] != 50 {
			t.Errorf("%s: answers by %v; %v", o.iface, l.answers(), l)
		}
		wantCalls(t, 50, p, hop{a, "inbound", o.iface}, hop{b, "outbound", o.iface})
		onlyDialledBy(t, p.addr, a.process)
	}
}

// Two processes of one service share the 20882 of their host and the calls. When
// one is killed, only calls that it was working on fail; when ZooKeeper does not
// list it any more, which takes less than 3 s, none do.
func TestTwoProcessesOfOneService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	one := w.provider(options{agent: a, name: "one", application: "shop"})
	two := w.provider(options{agent: a, name: "two", application: "shop", port: 20890})
	a.published(2)
	thin := w.consumer(options{agent: b})
	unmodified := w.consumer(options{level: "application"})
	unmodified.found()
	for _, c := range []*app{thin, unmodified} {
		l := c.call(200)
		if by := l.answers(); by["one"]+by["two"] != 200 || by["one"] < 50 || by["two"] < 50 {
			t.Errorf("%s: answers by %v; %v", c.process.name, by, l)
		}
	}

	leaves := w.zk.Conn(t)
	const slow, rate = 200 * time.Millisecond, 50
	wait := thin.loadOf("Slow", "200", rate, 4*time.Second)
	eventually(t, "calls in flight at both", func() error {
		if one.stats().Calls["Slow"] < rate/2 || two.stats().Calls["Slow"] < rate/2 {
			return errors.New("too few yet")
		}
		return nil
	})
	before := one.stats().Calls["Slow"]
	killed := time.Now()
	one.Kill()
	w.gone(leaves, one.addr)
	t.Logf("withdrawn %v after the kill", within(t, killed, 3*time.Second))
	l := wait()
	bad := l.failed()
	for _, e := range bad {
		if !strings.Contains(e.Error, "unknown-outcome") || e.MS > 1000 {
			t.Errorf("a call that was not in flight failed, or not at once: %+v", e)
		}
	}
	// Those in flight at the kill began in the 200 ms before it, half of them there.
	if most := int(slow.Seconds()*rate) + 5; len(bad) > most {
		t.Errorf("%d calls failed, want at most the %d in flight: %v", len(bad), most, l)
	}
	t.Logf("%d calls failed of %d; the killed process had taken %d", len(bad), len(l), before)
	for _, c := range []*app{thin, unmodified} {
		if l := c.call(200); l.answers()["two"] != 200 {
			t.Errorf("%s after the withdrawal: answers by %v; %v", c.process.name, l.answers(), l)
		}
	}
}

// gone waits until no leaf of the service has the origin.
func (w *world) gone(c *zk.Conn, origin string) {
	w.t.Helper()
	eventually(w.t, origin+" to be withdrawn", func() error {
		for _, u := range children(w.t, c, "/dubbo/"+service+"/providers") {
			if u.HostPort() == origin || u.Param("meshferry.origin") == origin {
				return fmt.Errorf("still there: %s", u)
			}
		}
		return nil
	})
}

// within is the time since then, which must not be longer than most.
func within(t *testing.T, since time.Time, most time.Duration) time.Duration {
	t.Helper()
	d := time.Since(since)
	if d > most {
		t.Errorf("took %v, want at most %v", d, most)
	}
	return d.Round(time.Millisecond)
}
