package proxy

import (
	"net"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

// subscribe tells the router of local subscriptions of foo: "application pid timeout".
func (m *mesh) subscribe(t *testing.T, callers ...route.Caller) {
	t.Helper()
	m.router.SetCallers(callers)
	m.await(t, func(s *route.Snapshot) bool {
		v := s.Outbound.Lookup([]byte(foo), nil)
		return v != nil && v.Only() != nil && v.Only().NeedsCaller() == (len(callers) > 1) && v.Only().Timeout("", nil) > 0
	})
}

func callerOf(t *testing.T, application string, pid int, timeout string) route.Caller {
	t.Helper()
	u, err := registry.ParseURL("consumer://h/" + foo + "?interface=" + foo + "&timeout=" + timeout)
	if err != nil {
		t.Fatal(err)
	}
	return route.Caller{Application: application, Service: registry.Service{Interface: foo}, URL: u, PID: pid}
}

// within is the time-out that a call which nobody answers got.
func (c *client) within(id uint64, attachments map[string]string) string {
	c.t.Helper()
	text := c.wantRefusal(req{id: id, iface: foo, attachments: attachments}, 2, "no answer")
	_, text, _ = strings.Cut(text, "within ")
	text, _, _ = strings.Cut(text, " (")
	return text[:strings.IndexByte(text, 's')+1]
}

// Whose time-out counts is told by attachment remote.application, else by the
// process, which is looked for once for each connection and which no call waits for.
func TestCallerByProcess(t *testing.T) {
	p := serve(t, never)
	asked := make(chan net.Addr, 16)
	answer := make(chan int)
	a := start(t, Options{Host: "h1", Process: func(remote, local net.Addr) int {
		asked <- remote
		return <-answer
	}})
	a.provide(t, foo, p.addr())
	one, two, three := callerOf(t, "one", 1, "100"), callerOf(t, "two", 2, "150"), callerOf(t, "three", 3, "300")

	c := dial(t, a.outbound)
	a.subscribe(t, one)
	if got := c.within(1, nil); got != "200ms" {
		t.Errorf("one subscription: %s", got)
	}
	a.subscribe(t, one, two, three)
	if got := c.within(2, nil); got != "400ms" { // the longest; the process is still looked for
		t.Errorf("unknown: %s", got)
	}
	if from := <-asked; from.String() != c.LocalAddr().String() {
		t.Errorf("asked for %s, the consumer is at %s", from, c.LocalAddr())
	}
	answer <- 2
	eventually(t, "process known", func() bool { return a.connections()[0].caller.pid.Load() == 2 })
	for id := uint64(3); id < 5; id++ {
		if got := c.within(id, nil); got != "250ms" {
			t.Errorf("known by process: %s", got)
		}
	}
	// Another application in the same process: which one calls cannot be known.
	other := callerOf(t, "other", 2, "100")
	a.router.SetCallers([]route.Caller{one, two, three, other})
	a.await(t, func(s *route.Snapshot) bool {
		return s.Outbound.Lookup([]byte(foo), nil).Only().Application(2) == ""
	})
	if got := c.within(5, nil); got != "400ms" {
		t.Errorf("two applications in one process: %s", got)
	}

	named := dial(t, a.outbound)
	if got := named.within(6, map[string]string{"remote.application": "one"}); got != "200ms" {
		t.Errorf("known by attachment: %s", got)
	}
	unknown := dial(t, a.outbound)
	unknown.within(7, nil)
	<-asked
	answer <- 0
	eventually(t, "process not found", func() bool { return a.Counters().UnknownCallers == 1 })
	if got := unknown.within(8, nil); got != "400ms" {
		t.Errorf("unknown for good: %s", got)
	}
	if len(asked) != 0 {
		t.Error("asked again, or for a caller that is known")
	}
}

// A consumer that asks for another group than the only one there is refused, and
// not sent to a provider that it does not mean; those that ask for that one pass.
func TestOnlyAnotherGroup(t *testing.T) {
	p := serve(t, echo)
	a := start(t, Options{})
	a.provide(t, "g1/"+foo, p.addr())
	c := dial(t, a.outbound)
	for range 2 {
		c.wantRefusal(req{id: 1, iface: foo, attachments: map[string]string{"group": "g2"}}, 4, "no provider of g2/"+foo)
		c.wantRefusal(req{id: 2, iface: foo}, 4, "no provider of "+foo)
	}
	for id := uint64(3); id < 6; id++ {
		c.wantEcho(req{id: id, iface: foo, attachments: map[string]string{"group": "g1"}})
	}
	if n := p.calls.Load(); n != 3 {
		t.Errorf("the provider saw %d calls, want 3", n)
	}
	b := start(t, Options{})
	b.provide(t, foo, p.addr())
	dial(t, b.outbound).wantRefusal(req{id: 1, iface: foo, attachments: map[string]string{"group": "g2"}}, 4, "no provider of g2/"+foo)
	dial(t, b.outbound).wantEcho(req{id: 2, iface: foo, attachments: map[string]string{"group": ""}})
}
