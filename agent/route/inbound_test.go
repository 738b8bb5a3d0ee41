package route

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// local is a provider of a service at a local port.
func local(t testing.TB, application, address, service, path, params string) Local {
	t.Helper()
	s, err := registry.ParseService(service)
	if err != nil {
		t.Fatal(err)
	}
	return Local{Address: address, Application: application, Protocol: "dubbo", Service: s, Path: path, URL: mustURL(t, "dubbo://"+address+"/"+path+"?"+params)}
}

func inboundOf(t testing.TB, o Options, set ...Local) (*compiler, *Snapshot) {
	t.Helper()
	c := newCompiler(o)
	c.setLocal(set)
	s, _ := c.compile(time.Now())
	return c, s
}

// The dispatch order of CONTRACT §4.
func TestInboundTable(t *testing.T) {
	const p1, p2 = "127.0.0.1:20880", "127.0.0.1:20890"
	other := local(t, "app2", p2, "a.T", "a.T", "")
	other.Protocol = "tri"
	_, s := inboundOf(t, Options{},
		local(t, "app1", p1, "g1/a.One:1.0.0", "a.One", ""),
		local(t, "app1", p1, "g2/a.One:1.0.0", "a.One", ""),
		local(t, "app1", p1, "g1/a.Two", "a.Two", ""),
		local(t, "app2", p2, "g2/a.Two", "a.Two", ""),
		local(t, "app1", p1, "a.Both", "a.Both", "weight=300"),
		local(t, "app1", p2, "a.Both", "a.Both", ""),
		local(t, "app1", p1, "a.Path", "one", ""),
		local(t, "app2", p2, "a.Path", "two", ""),
		local(t, "app2", p2, "a.Plain", "", ""),
		other)
	const meta = "org.apache.dubbo.metadata.MetadataService"
	for _, c := range []struct {
		path, version, group string
		want, only           string
	}{
		{"a.One", "1.0.0", "g1", p1, p1}, // one process: attachments are not read
		{"a.One", "1.0.0", "g9", "?", p1},
		{"a.One", "", "g1", "-", ""},
		{"a.Two", "0.0.0", "g1", p1, ""}, // two processes: the group decides
		{"a.Two", "", "g2", p2, ""},
		{"a.Both", "", "", p1 + " " + p2, p1 + " " + p2}, // equal processes
		{"a.Path", "", "", p1 + " " + p2, ""},            // the path decides
		{"one", "", "", p1, p1},
		{"two", "", "", p2, p2},
		{"a.Plain", "", "", p2, p2},
		{meta, "1.0.0", "app1", p1 + " " + p2, ""},
		{meta, "1.0.0", "app2", p2, ""},
		{meta, "2.0.0", "app1", "-", ""},
		{meta + "V2", "2.0.0", "app2", p2, ""},
		{"a.T", "", "", "-", ""},
	} {
		v := s.Inbound.Lookup([]byte(c.path), []byte(c.version))
		got, only := "-", ""
		if v != nil {
			got = "?"
			if cl := v.Group([]byte(c.group)); cl != nil {
				got = strings.Join(addresses(cl), " ")
			}
			only = strings.Join(addresses(v.Only()), " ")
		}
		if got != c.want || only != c.only {
			t.Errorf("%s/%s:%s: %q, only %q; want %q, %q", c.group, c.path, c.version, got, only, c.want, c.only)
		}
	}
	if cl := s.Inbound.Lookup([]byte("a.One"), []byte("1.0.0")).Only(); cl.Service.Key() != "*/a.One:1.0.0" {
		t.Errorf("counted as %s", cl.Service)
	}
	if got := s.Inbound.find("a.Both", "", "").balance.Load().weights; !slices.Equal(got, []uint32{300, 100}) {
		t.Errorf("weights %v", got)
	}
}

func TestInboundReadonly(t *testing.T) {
	leaving := local(t, "app", "127.0.0.1:20880", "a.B", "a.B", "")
	leaving.Readonly = true
	_, s := inboundOf(t, Options{}, leaving)
	if e := s.Inbound.find("a.B", "", "").Pick(nil); e == nil {
		t.Error("calls still go to the only process")
	}
	_, s = inboundOf(t, Options{}, leaving, local(t, "app", "127.0.0.1:20890", "a.B", "a.B", ""))
	cl := s.Inbound.find("a.B", "", "")
	for range 50 {
		if e := cl.Pick(nil); e.Peer.Addr != "127.0.0.1:20890" {
			t.Fatal("the process that leaves got a call")
		}
	}
}

func TestOpaque(t *testing.T) {
	const p1, p2 = "127.0.0.1:20880", "127.0.0.1:20890"
	_, s := inboundOf(t, Options{},
		local(t, "app1", p1, "a.B", "a.B", "prefer.serialization=fastjson2,hessian2"),
		local(t, "app1", p1, "a.C", "a.C", "serialization=kryo"),
		local(t, "app2", p2, "a.D", "a.D", ""),
		local(t, "app2", p2, "a.E", "a.E", "serialization=msgpack"))
	for id, want := range map[byte]string{2: "", 23: p1, 8: p1, 27: p2, 9: "", 31: "", 255: ""} {
		got := ""
		if cl := s.Inbound.Opaque(id); cl != nil {
			got = cl.Pick(nil).Peer.Addr
		}
		if got != want {
			t.Errorf("serialization %d: %q, want %q", id, got, want)
		}
	}
	if s.Outbound.Opaque(2) != nil || new(Table).Opaque(2) != nil {
		t.Error("outbound has no opaque cluster")
	}
}

// An inbound port of its own sees one application.
func TestApplication(t *testing.T) {
	_, s := inboundOf(t, Options{Applications: []string{"app1", "none"}},
		local(t, "app1", "127.0.0.1:20880", "a.B", "a.B", ""),
		local(t, "app2", "127.0.0.1:20890", "a.B", "a.B", ""))
	if got := addresses(s.Application("app1").find("a.B", "", "")); !slices.Equal(got, []string{"127.0.0.1:20880"}) {
		t.Errorf("app1: %v", got)
	}
	for _, name := range []string{"none", "app2"} {
		if table := s.Application(name); table.find("a.B", "", "") != nil || table.Unrouted == nil {
			t.Errorf("%s has a table", name)
		}
	}
	if got := addresses(s.Inbound.find("a.B", "", "")); len(got) != 2 {
		t.Errorf("all: %v", got)
	}
}

// The same address as outbound endpoint and as local provider are two peers.
func TestPeersByDirection(t *testing.T) {
	c, s := compiled(t, Options{}, nil, ready("a.B", ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B")))
	c.setLocal([]Local{local(t, "app", "10.0.0.1:20880", "a.B", "a.B", "")})
	next, _ := c.compile(time.Now())
	in, out := next.Inbound.find("a.B", "", ""), next.Outbound.find("a.B", "", "")
	if in.Endpoints[0].Peer == out.Endpoints[0].Peer || in.Stats == out.Stats {
		t.Error("directions share a peer or statistics")
	}
	if s.Inbound.find("a.B", "", "") != nil {
		t.Error("the old snapshot changed")
	}
	c.setLocal(nil)
	if next, _ = c.compile(time.Now()); next.Inbound.find("a.B", "", "") != nil || in.Endpoints[0].Peer.Used() {
		t.Error("the local provider stayed")
	}
}
