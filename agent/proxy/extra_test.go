package proxy

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

// What comes in at the port of an application is for its providers alone, whatever
// others offer (CONTRACT §4.1); in all else the port is like any inbound one.
func TestExtraInbound(t *testing.T) {
	ports := map[string]string{}
	var extra []Extra
	for _, application := range []string{"shop", "till", "nobody"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[application] = l.Addr().String()
		extra = append(extra, Extra{l, application})
	}
	a := start(t, Options{Extra: extra})
	providers := map[string]*provider{"shop": serve(t, echo), "till": serve(t, echo)}
	var locals []route.Local
	for _, one := range []struct{ application, service string }{{"shop", foo}, {"till", foo}, {"till", "g1/com.a.Bar:1.0"}, {"till", "g2/com.a.Bar:1.0"}} {
		s, err := registry.ParseService(one.service)
		if err != nil {
			t.Fatal(err)
		}
		addr := providers[one.application].addr()
		u, err := registry.ParseURL("dubbo://" + addr + "/" + s.Interface + "?interface=" + s.Interface)
		if err != nil {
			t.Fatal(err)
		}
		locals = append(locals, route.Local{Address: addr, Application: one.application, Workload: one.application, Protocol: "dubbo", Service: s, Path: s.Interface, URL: u})
	}
	a.router.SetLocal(locals)
	a.await(t, func(s *route.Snapshot) bool { return len(s.Local()) == len(locals) })

	bar := req{iface: "com.a.Bar", version: "1.0", attachments: map[string]string{"group": "g2"}}
	for _, c := range []struct {
		port, what string
		call       req
		goes       string // empty: refused
	}{
		{"shop", "its own", req{iface: foo}, "shop"},
		{"till", "the same service of another", req{iface: foo}, "till"},
		{"till", "a group", bar, "till"},
		{"shop", "a service that another offers", bar, ""},
		{"nobody", "an application that is not there", req{iface: foo}, ""},
		{"shop", "its metadata", req{iface: "org.apache.dubbo.metadata.MetadataService", version: "1.0.0", attachments: map[string]string{"group": "shop"}}, "shop"},
		{"shop", "metadata of another", req{iface: "org.apache.dubbo.metadata.MetadataService", version: "1.0.0", attachments: map[string]string{"group": "till"}}, "shop"},
	} {
		before := map[string]int64{}
		for name, p := range providers {
			before[name] = p.calls.Load()
		}
		conn := dial(t, ports[c.port])
		if c.goes == "" {
			conn.wantRefusal(c.call, 0, notExecuted+"no provider of ")
		} else {
			conn.wantEcho(c.call)
		}
		for name, p := range providers {
			want := before[name]
			if name == c.goes {
				want++
			}
			if got := p.calls.Load(); got != want {
				t.Errorf("%s at the port of %s: %s has %d calls, want %d", c.what, c.port, name, got, want)
			}
		}
		conn.Close()
	}

	c := dial(t, ports["shop"])
	c.wantEcho(req{id: 1, iface: foo})
	eventually(t, "connections counted", func() bool { return a.Counters().Downstream["inbound"] == 1 })
	if err := a.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if h, b := c.next(); !h.IsEvent() || dubbo.ParseEvent(h, b[dubbo.HeaderSize:]) != dubbo.Readonly {
		t.Errorf("first frame of a drain: %+v, want READONLY", h)
	}
}
