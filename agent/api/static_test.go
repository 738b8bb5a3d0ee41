package api

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

func TestStatic(t *testing.T) {
	w := start(t, nil)
	if err := w.store.SetStatic([]workload.Static{{Application: "file", Port: 20890, Services: []registry.Service{{Interface: "a.B"}}}}); err != nil {
		t.Fatal(err)
	}
	w.ports.set(":20881")
	add := func(body string) StaticReply {
		t.Helper()
		r := w.call(t, "POST", "/v1/static", body)
		var got StaticReply
		if r.into(t, &got); r.status != 200 || len(got.Applications) != 1 || got.Address != "10.0.0.5:20882" || got.Outbound != "127.0.0.1:20881" {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return got
	}
	if got := add(`{"application":"shop","port":20880}`).Applications[0]; got.State != "serving" || got.From != "command" || got.Protocol != "dubbo" {
		t.Errorf("%+v", got)
	}
	w.ports.set(":20870")
	if got := add(`{"application":"shop","port":20870,"protocol":"dubbo","services":["g/a.C:1.0"]}`).Applications[0]; got.State != "waiting" || got.Reason != "port-closed" {
		t.Errorf("%+v", got)
	}
	var st Status
	w.call(t, "GET", "/v1/status", "").into(t, &st)
	var list []string
	for _, one := range st.Static {
		list = append(list, one.Application+" "+one.From+" "+one.State)
	}
	if !slices.Equal(list, []string{"file configuration serving", "shop command waiting"}) {
		t.Errorf("%q", list)
	}

	for body, want := range map[string]string{
		`{"application":"shop"}`:                                "invalid",
		`{"port":20880}`:                                        "invalid",
		`{"application":"shop","port":20882}`:                   "invalid",
		`{"application":"shop","port":1,"protocol":"tri"}`:      "invalid",
		`{"application":"shop","port":1,"services":["g/"]}`:     "invalid",
		`{"application":"shop","port":1,"services":["a%b c/"]}`: "invalid",
		`{"application":"shop","prot":1}`:                       "unknown-field",
		`{"application":"shop","port":"1"}`:                     "malformed",
	} {
		if r := w.call(t, "POST", "/v1/static", body); !strings.Contains(r.body, `"code":"`+want+`"`) {
			t.Errorf("%s: %d %s, want %s", body, r.status, r.body, want)
		}
	}
	for body, want := range map[string]string{
		`{}`:                                "invalid",
		`{"application":"shop","port":1}`:   "invalid",
		`{"application":"file"}`:            "invalid", // it stands in the configuration
		`{"application":"shop","port":"1"}`: "malformed",
	} {
		if r := w.call(t, "POST", "/v1/static/remove", body); !strings.Contains(r.body, `"code":"`+want+`"`) {
			t.Errorf("remove %s: %d %s, want %s", body, r.status, r.body, want)
		}
	}
	for _, want := range []int{1, 0} {
		r := w.call(t, "POST", "/v1/static/remove", `{"application":"shop"}`)
		var got StaticReply
		if r.into(t, &got); r.status != 200 || len(got.Applications) != want {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
}

func TestJavaReference(t *testing.T) {
	const extras = "?dubbo.application.least-reconnect-duration=1000&heartbeat=1000&heartbeat.timeout=3000"
	for bound, want := range map[string]string{
		"127.0.0.1:20881": "dubbo://[::ffff:127.0.0.1]:20881/a.B" + extras,
		"127.1.2.3:1":     "dubbo://[::ffff:127.1.2.3]:1/a.B" + extras,
		"[::]:20881":      "dubbo://[::ffff:127.0.0.1]:20881/a.B" + extras,
		"10.0.0.5:20881":  "dubbo://10.0.0.5:20881/a.B" + extras,
	} {
		if got := JavaReference(netip.MustParseAddrPort(bound), "a.B"); got != want {
			t.Errorf("%s: %s, want %s", bound, got, want)
		}
	}
}
