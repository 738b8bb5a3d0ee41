package route

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares v as JSON with a file.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

func TestExplain(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000).Add(3 * time.Minute)
	c := newCompiler(Options{})
	c.setCallers([]Caller{
		{Application: "shop", Service: registry.Service{Interface: "a.B", Group: "g"}, URL: mustURL(t, "consumer://h/a.B?timeout=2000&loadbalance=leastactive")},
		{Application: "desk", Service: registry.Service{Interface: "a.B", Group: "g"}, URL: mustURL(t, "consumer://h/a.B?timeout=3000&slow.timeout=9000"), PID: 4711},
	})
	const g = "&group=g&application=stock"
	c.update(Update{Source: "main", Interface: "a.B", State: Protected, Reason: "3 of 4 providers disappeared", Providers: []registry.Provider{
		ifaceLevel(t, direct1+g), ifaceLevel(t, mesh1+g), ifaceLevel(t, mesh1b+g), appLevel(t, sum1+g),
		ifaceLevel(t, "dubbo://10.0.0.2:20880/a.B?interface=a.B&weight=50"+g),
		ifaceLevel(t, "dubbo://10.0.0.3:20880/a.B?interface=a.B"+g), ifaceLevel(t, "dubbo://10.0.0.4:20880/a.B?interface=a.B"+g),
		ifaceLevel(t, "dubbo://10.0.0.5:20880/a.B?interface=a.B&weight=0"+g), ifaceLevel(t, "dubbo://10.0.0.6:20880/a.B?interface=a.B&enabled=false"+g),
		ifaceLevel(t, "dubbo://10.0.0.7:20880/a.B?interface=a.B&group=other"), ifaceLevel(t, "tri://10.0.0.8:20880/a.B?interface=a.B"+g),
	}})
	c.setLocal([]Local{
		local(t, "app1", "127.0.0.1:20880", "g/a.C", "a.C", ""), local(t, "app2", "127.0.0.1:20890", "g/a.C", "a.C", "weight=300"),
		local(t, "app2", "127.0.0.1:20890", "h/a.C", "a.C", ""),
	})
	s, _ := c.compile(now)
	c.peers[peerKey{Outbound, "10.0.0.3:20880"}].Readonly(true)
	c.peers[peerKey{Outbound, "10.0.0.4:20880"}].Failed(time.Now())
	c.peers[peerKey{Outbound, "10.0.0.2:20880"}].InFlight.Store(4)

	asked := registry.Service{Interface: "a.B"}
	golden(t, "explain-outbound", s.explain(Query{Service: asked, Method: "slow", Attachments: map[string]string{"group": "g", "version": "0.0.0"}}, now))
	golden(t, "explain-no-group", s.explain(Query{Service: registry.Service{Interface: "a.B", Group: "x"}, Application: "shop"}, now))
	golden(t, "explain-inbound", s.explain(Query{Service: registry.Service{Interface: "a.C", Group: "g"}, Direction: Inbound}, now))
	golden(t, "explain-metadata", s.explain(Query{Service: registry.Service{Interface: "org.apache.dubbo.metadata.MetadataService", Group: "app1", Version: "1.0.0"}, Direction: Inbound}, now))
	golden(t, "explain-unknown", s.explain(Query{Service: registry.Service{Interface: "a.X"}}, now))

	if x := s.explain(Query{Service: registry.Service{Interface: "a.B", Group: "g"}, Application: "desk"}, now); x.Timeout != "3s" || x.TimeoutWhy != "the caller is known: subscription of desk" {
		t.Errorf("a known caller: %q, %q", x.Timeout, x.TimeoutWhy)
	}
}

// Why nobody can be meant is told apart.
func TestExplainNobody(t *testing.T) {
	none := Update{Source: "main", Interface: "a.None", State: Empty}
	_, s := compiled(t, Options{}, nil, none, ready("a.B",
		ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B&version=1.0"), ifaceLevel(t, "dubbo://10.0.0.2:20880/a.B?interface=a.B&version=1.0&group=g")))
	for _, c := range []struct {
		key, direction, want string
	}{
		{"a.Unheard", Outbound, "no registry has told of this interface yet"},
		{"a.None", Outbound, "no registry lists a provider of this interface"},
		{"a.B:2.0", Outbound, `no usable provider of version "2.0"; there is a.B:1.0, g/a.B:1.0`},
		{"a.B", Outbound, `no usable provider of version ""; there is a.B:1.0, g/a.B:1.0`},
		{"x/a.B:1.0", Outbound, `no group "x"`},
		{"a.B:1.0", Outbound, ""},
		{"a.B", Inbound, "no local application offers this interface, or its port does not answer"},
	} {
		service, err := registry.ParseService(c.key)
		if err != nil {
			t.Fatal(err)
		}
		x := s.explain(Query{Service: service, Direction: c.direction}, time.Now())
		if x.Reason != c.want || x.Routed != (c.want == "") {
			t.Errorf("%s %s: routed %v, %q; want %q", c.direction, c.key, x.Routed, x.Reason, c.want)
		}
	}
}

// The explanation and the data plane agree.
func TestExplainIsWhatPickDoes(t *testing.T) {
	_, s := compiled(t, Options{}, nil, ready("a.B",
		ifaceLevel(t, "dubbo://10.0.0.1:20880/a.B?interface=a.B"), ifaceLevel(t, "dubbo://10.0.0.2:20880/a.B?interface=a.B&weight=300")))
	cl := s.Outbound.find("a.B", "", "")
	for _, turn := range []func(){func() {}, func() { cl.Endpoints[1].Peer.Readonly(true) }, func() { cl.Endpoints[0].Peer.Readonly(true) }} {
		turn()
		x := s.explain(Query{Service: cl.Service}, time.Now())
		shares := []float64{x.Candidates[0].Share, x.Candidates[1].Share}
		checkShares(t, "explained", draws(cl, 10_000), shares)
		if shares[0]+shares[1] != 1 {
			t.Errorf("shares %v", shares)
		}
	}
}
