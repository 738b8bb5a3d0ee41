package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/demo/e2e/javapeer"
)

// javaLoad is a load of a Java consumer that goes on until it is told to end. It
// comes in pieces: the next one begins when all calls of the last have ended.
type javaLoad struct {
	begin time.Time
	end   chan struct{}
	done  chan struct{}
	// valid once done is closed
	calls []javapeer.Entry
	err   error
}

func startLoad(t *testing.T, p *javapeer.Peer, c javapeer.Call, rate int, piece time.Duration) *javaLoad {
	l := &javaLoad{begin: time.Now(), end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for {
			at := float64(time.Since(l.begin).Milliseconds())
			entries, err := p.Load(t.Context(), c, rate, piece)
			for _, e := range entries {
				e.At += at
				l.calls = append(l.calls, e)
			}
			if l.err = err; err != nil {
				return
			}
			select {
			case <-l.end:
				return
			default:
			}
		}
	}()
	return l
}

// last says that this piece is the last one.
func (l *javaLoad) last() { close(l.end) }

// stop ends the load and gives its calls.
func (l *javaLoad) stop(t *testing.T) []javapeer.Entry {
	t.Helper()
	l.last()
	return l.ended(t)
}

// ended waits for the last piece and gives all calls.
func (l *javaLoad) ended(t *testing.T) []javapeer.Entry {
	t.Helper()
	<-l.done
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.calls
}

// failedOf are the calls that failed.
func failedOf(calls []javapeer.Entry) (bad []javapeer.Entry) {
	for _, e := range calls {
		if !e.OK {
			bad = append(bad, e)
		}
	}
	return bad
}

// answeredBy waits until a Java consumer is answered by exactly these providers.
func answeredBy(t *testing.T, p *javapeer.Peer, providers ...string) {
	t.Helper()
	eventually(t, "answers of "+strings.Join(providers, " and "), func() error {
		entries, err := p.Call(t.Context(), javapeer.Call{N: 30})
		if err != nil {
			t.Fatal(err)
		}
		by := map[string]bool{}
		for _, e := range entries {
			_, who, _ := strings.Cut(e.Answer, "this is ")
			by[who] = true
		}
		for _, want := range providers {
			if !by[want] {
				return fmt.Errorf("answers by %v, %v", by, failedOf(entries))
			}
		}
		if len(by) != len(providers) {
			return fmt.Errorf("answers by %v, %v", by, failedOf(entries))
		}
		return nil
	})
}

// Two hosts have a thin Java provider each. One after the other is stopped, which
// drains it, and started again, under load: no call fails. Then one is killed: the
// calls that it was working on fail, at once, and no others.
func TestJavaProvidersRestart(t *testing.T) {
	long(t)
	t.Parallel()
	w := newWorld(t)
	far := w.agent("far")
	hosts := []*agent{w.agent("a"), w.agent("b")}
	ports := []int{w.lanAddress().port, w.lanAddress().port}
	lines := []javapeer.Line{javapeer.V27, javapeer.V33}
	providers := make([]*javapeer.Peer, len(hosts))
	start := func(i int, name string) {
		t.Helper()
		providers[i] = javapeer.Start(t, javapeer.Options{Line: lines[i], Thin: true, Application: "shop", Registry: hosts[i].mesh(), Port: ports[i], Name: name,
			Properties: map[string]string{"dubbo.service.shutdown.wait": "2000"}})
		hosts[i].published(1)
	}
	start(0, "old one")
	start(1, "old two")
	c := javapeer.Start(t, javapeer.Options{Line: javapeer.V33, Thin: true, Application: "till", Registry: far.mesh()})
	answeredBy(t, c, "old one", "old two")

	load := startLoad(t, c, javapeer.Call{}, 100, time.Second)
	for i, name := range []string{"new one", "new two"} {
		begin := time.Now()
		if err := providers[i].Stop(); err != nil {
			t.Fatal(err)
		}
		t.Logf("Java %s stopped within %v", lines[i], time.Since(begin).Round(time.Millisecond))
		start(i, name)
		// It is called before the other one stops.
		eventually(t, "calls of "+name, func() error {
			if s, err := providers[i].Stats(t.Context()); err != nil || s.Calls["sayHello"] == 0 {
				return fmt.Errorf("%+v, %v", s, err)
			}
			return nil
		})
	}
	calls := load.stop(t)
	if bad := failedOf(calls); len(bad) > 0 {
		t.Errorf("rolling restart: %d of %d calls failed: %+v", len(bad), len(calls), bad[:min(5, len(bad))])
	}
	t.Logf("rolling restart: %d calls, none failed", len(calls))

	const slow, rate = 200 * time.Millisecond, 50
	load = startLoad(t, c, javapeer.Call{Method: "slow", Arg: "200"}, rate, time.Second)
	eventually(t, "calls in flight", func() error {
		if s, err := providers[0].Stats(t.Context()); err != nil || s.Calls["slow"] < rate/2 {
			return fmt.Errorf("%+v, %v", s, err)
		}
		return nil
	})
	killed := time.Now()
	at := float64(killed.Sub(load.begin).Milliseconds())
	providers[0].Kill()
	w.gone(w.zk.Conn(t), fmt.Sprintf("%s:%d", w.lanAddress().host, ports[0]))
	t.Logf("withdrawn %v after the kill", time.Since(killed).Round(time.Millisecond))
	answeredBy(t, c, "new two")
	calls = load.stop(t)
	bad := failedOf(calls)
	longest := 0.0
	for _, e := range bad {
		// The agent says at once that the connection is lost: not a time-out. What it
		// wrote before it knew counts as in flight; on a busy machine that is some time.
		const slack = 1000
		if !strings.Contains(e.Error+e.Cause, "unknown-outcome") || e.At > at+slack || e.At+e.MS < at-slack {
			t.Errorf("a call that was not in flight at the kill, at %.0f, failed, or not at once: %+v", at, e)
		}
		longest = max(longest, e.MS)
	}
	t.Logf("kill -9: %d of %d calls failed, those in flight; the longest took %.0f ms", len(bad), len(calls), longest)
}

// An agent is killed and started again at once, under load of thin Java consumers:
// they are without answers for as long as their agent, and at most 2 s more. Calls
// in flight at the kill are apart: Java 3 waits its time-out for them.
func TestAgentRestartUnderJava(t *testing.T) {
	long(t)
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	w.provider(options{agent: a, name: "go", application: "shop"})
	a.published(1)
	consumers := map[javapeer.Line]*javapeer.Peer{}
	for _, line := range []javapeer.Line{javapeer.V27, javapeer.V32, javapeer.V33} {
		consumers[line] = javapeer.Start(t, javapeer.Options{Line: line, Thin: true, Application: "till", Registry: b.mesh()})
		answeredBy(t, consumers[line], "go")
	}
	// What a consumer adds to the gap is measured; a machine that stands still for a
	// moment spoils one measurement, so there may be three.
	const tries = 3
	for try := 1; ; try++ {
		loads := map[javapeer.Line]*javaLoad{}
		for line, c := range consumers {
			loads[line] = startLoad(t, c, javapeer.Call{}, 50, 10*time.Second)
		}
		before := a.calls("inbound", service)
		eventually(t, "the load", func() error {
			if n := a.calls("inbound", service) - before; n < 200 {
				return fmt.Errorf("%d calls", n)
			}
			return nil
		})
		gap := b.outage()
		for _, c := range consumers {
			answeredBy(t, c, "go")
		}
		for _, l := range loads {
			l.last()
		}
		late := ""
		for line, l := range loads {
			calls := l.ended(t)
			out, lost, hung := outage(calls)
			t.Logf("thin Java %s: %v without answers, the agent was away for %v; %d of %d calls failed at once, %d in flight by time-out", line, out, gap, lost, len(calls), hung)
			if out > gap+2*time.Second {
				late += fmt.Sprintf(" thin Java %s: %v without answers, the agent was away for %v;", line, out, gap)
			}
		}
		if late == "" {
			return
		}
		if try == tries {
			t.Fatalf("%d times in a row:%s", tries, late)
		}
	}
}

// The same for consumers that know nothing of agents, when the agent of their only
// provider is killed: what Java Dubbo makes of it is printed. Java 3 takes a
// minute, so it is not part of an ordinary run.
func TestAgentRestartUnderUnmodifiedJava(t *testing.T) {
	if !*wholeMatrix {
		t.Skip("takes a minute: -matrix")
	}
	t.Parallel()
	w := newWorld(t)
	inbound, provider := w.lanAddress(), w.lanAddress()
	a := w.agent("a", withFlags("--address", inbound.host, "--inbound", inbound.String()))
	w.app("provider", nil, []string{"provider", "--registry", a.mesh(), "--name", "go", "--ip", provider.host, "--port", fmt.Sprint(provider.port)})
	a.published(1)
	consumers := map[javapeer.Line]*javapeer.Peer{}
	loads := map[javapeer.Line]*javaLoad{}
	for _, line := range []javapeer.Line{javapeer.V27, javapeer.V32, javapeer.V33} {
		consumers[line] = javapeer.Start(t, javapeer.Options{Line: line, Application: "till", Registry: w.zk.URL()})
		answeredBy(t, consumers[line], "go")
		loads[line] = startLoad(t, consumers[line], javapeer.Call{}, 20, 10*time.Second)
	}
	gap := a.outage()
	for line, c := range consumers {
		deadline := time.Now().Add(2 * time.Minute)
		for {
			entries, err := c.Call(t.Context(), javapeer.Call{N: 5})
			if err != nil {
				t.Fatal(err)
			}
			if len(failedOf(entries)) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("Java %s: no answers for 2 minutes: %+v", line, entries)
			}
			time.Sleep(200 * time.Millisecond)
		}
		calls := loads[line].stop(t)
		out, lost, hung := outage(calls)
		t.Logf("unmodified Java %s: %v without answers, the agent was away for %v; %d of %d calls failed at once, %d by time-out", line, out, gap, lost, len(calls), hung)
	}
}

// outage kills the agent, starts it again, and says how long nobody was there.
func (a *agent) outage() time.Duration {
	a.t.Helper()
	a.Kill()
	begin := time.Now()
	a.start()
	eventually(a.t, a.name+" to be back", func() error {
		if !a.running() {
			return errors.New("it ended")
		}
		_, err := a.fetch("/readyz")
		return err
	})
	return time.Since(begin).Round(time.Millisecond)
}

// outage is the longest time between two answers, how many calls failed at once,
// and how many by their time-out.
func outage(calls []javapeer.Entry) (out time.Duration, lost, hung int) {
	var answers []float64
	for _, e := range calls {
		switch {
		case e.OK:
			answers = append(answers, e.At+e.MS)
		case e.MS > 2500: // the time-out is 3 s
			hung++
		default:
			lost++
		}
	}
	slices.Sort(answers)
	longest := 0.0
	for i := 1; i < len(answers); i++ {
		longest = max(longest, answers[i]-answers[i-1])
	}
	return time.Duration(longest * float64(time.Millisecond)).Round(time.Millisecond), lost, hung
}
