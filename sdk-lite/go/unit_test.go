package meshferry

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// counting reports each connection that was accepted.
type counting struct {
	net.Listener
	accepted chan<- struct{}
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.accepted <- struct{}{}
	}
	return conn, err
}

func TestPresence(t *testing.T) {
	type step struct {
		at                time.Duration
		control, outbound bool
		away              bool
	}
	for name, steps := range map[string][]step{
		"one failure":            {{0, false, false, false}, {time.Second - 1, false, false, false}, {time.Second + 1, true, false, false}},
		"both for a second":      {{0, false, false, false}, {time.Second, false, false, true}},
		"an answer in between":   {{0, false, false, false}, {900, false, true, false}, {time.Second, false, false, false}, {1900 * time.Millisecond, false, false, false}, {2 * time.Second, false, false, true}},
		"only the control API":   {{0, false, true, false}, {time.Hour, false, true, false}},
		"only the outbound":      {{0, true, false, false}, {time.Hour, true, false, false}},
		"back after two":         {{0, false, false, false}, {time.Second, false, false, true}, {2 * time.Second, true, true, true}, {3 * time.Second, true, true, false}},
		"two that are not a row": {{0, false, false, false}, {time.Second, false, false, true}, {2 * time.Second, true, true, true}, {3 * time.Second, true, false, true}, {4 * time.Second, true, true, true}, {5 * time.Second, true, true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			var p presence
			begin := time.Now()
			for i, s := range steps {
				before := p.away
				flipped := p.observe(begin.Add(s.at), s.control, s.outbound)
				if p.away != s.away || flipped != (before != s.away) {
					t.Fatalf("step %d: away %v, flipped %v; want away %v", i, p.away, flipped, s.away)
				}
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	b := newBackoff(100*time.Millisecond, time.Second)
	for _, most := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		most *= time.Millisecond
		if d := b.pause(); d < most/2 || d > most {
			t.Errorf("%v, want %v..%v", d, most/2, most)
		}
	}
	b.reset()
	if d := b.pause(); d > 100*time.Millisecond {
		t.Errorf("%v after reset", d)
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if !sleep(t.Context(), time.Minute, nil) || time.Since(begin) != time.Minute {
			t.Error("sleep did not last")
		}
		wake := make(chan struct{})
		close(wake)
		if !sleep(t.Context(), time.Minute, wake) || time.Since(begin) != time.Minute {
			t.Error("sleep was not woken")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if sleep(ctx, time.Minute, nil) {
			t.Error("sleep outlived its context")
		}
	})
}

func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		p    Publication
		want string
	}{
		{Publication{URL: "dubbo://10.0.0.1:20880/com.a.Foo?group=g&version=1.0.0&interface=com.a.Foo"}, "dubbo g/com.a.Foo:1.0.0 com.a.Foo 20880"},
		{Publication{URL: "dubbo://:20880/com.a.Foo?version=0.0.0"}, "dubbo com.a.Foo com.a.Foo 20880"},
		{Publication{URL: "tri://u:p@[fe80::1]:50051/x/y?interface=com.a.Foo"}, "tri com.a.Foo x/y 50051"},
		{Publication{Protocol: "dubbo", Interface: "com.a.Foo", Group: "g", Version: "1.0.0", Port: 20880}, "dubbo g/com.a.Foo:1.0.0 com.a.Foo 20880"},
	} {
		if got, err := c.p.identity(); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v; want %q", c.p, got, err, c.want)
		}
	}
	for _, c := range []struct {
		s    Consumer
		want string
	}{
		{Consumer{URL: "consumer://10.0.0.1/com.a.Foo?protocol=dubbo&group=*"}, "dubbo */com.a.Foo"},
		{Consumer{Protocol: "dubbo", Interface: "com.a.Foo", Group: "a,b"}, "dubbo a,b/com.a.Foo"},
	} {
		if got, err := c.s.identity(); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v; want %q", c.s, got, err, c.want)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo")
	f.Add("consumer://[::1]/com.a.Foo?a=b&&=")
	f.Add("empty://:/")
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := parseURL(raw)
		if err == nil && (u.protocol == "" || u.port < 0 || u.port > 65535) {
			t.Errorf("%q: %+v", raw, u)
		}
		u.service()
	})
}

func TestOutbound(t *testing.T) {
	a := Answer{Mode: "mesh", URLs: map[string][]string{"providers": {
		"dubbo://[::ffff:127.0.0.1]:20881/a", "dubbo://127.0.0.1:20881/a", "dubbo://127.0.0.1:20881/b", "empty://127.0.0.1/a", "bad", "dubbo://10.0.0.5:20880/a"}},
		Fallback: []string{"dubbo://10.0.0.5:20880/a"}}
	if got := a.outbound(); len(got) != 2 || got[0] != "127.0.0.1:20881" || got[1] != "[::ffff:127.0.0.1]:20881" {
		t.Errorf("%q", got)
	}
	a.Mode = "direct"
	if got := a.outbound(); got != nil {
		t.Errorf("direct endpoints are no address of the agent: %q", got)
	}
}

func TestPlain(t *testing.T) {
	if got := plain("shöp app/1"); got != "sh-p-app/1" {
		t.Error(got)
	}
}
