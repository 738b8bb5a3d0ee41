package javapeer

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A process that calls itself: what a test asks of a peer, on the line that the
// end-to-end tests do not use.
func TestPeer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Java")
	}
	port := freePort(t)
	p := Start(t, Options{Line: V32, Registry: "N/A", Port: port, Name: "itself", Group: "g", Version: "1.0.0", URL: "dubbo://[::ffff:127.0.0.1]:" + strconv.Itoa(port),
		Properties: map[string]string{"dubbo.service.shutdown.wait": "500"}})
	call := func(c Call) []Entry {
		t.Helper()
		c.Group, c.Version = "g", "1.0.0"
		entries, err := p.Call(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return entries
	}

	for i, e := range call(Call{N: 3}) {
		if !e.OK || e.Answer != "hello world, this is itself" || e.N != i+1 || e.MS <= 0 {
			t.Errorf("%+v", e)
		}
	}
	if e := call(Call{Method: "slow", Arg: "50"})[0]; !e.OK || e.MS < 50 {
		t.Errorf("%+v", e)
	}
	if e := call(Call{Method: "echo", Arg: "70000"})[0]; e.Answer != "70000 bytes" {
		t.Errorf("%+v", e)
	}
	if e := call(Call{Method: "fail", Arg: "on purpose"})[0]; e.OK || e.Cause != "java.lang.IllegalStateException: on purpose" {
		t.Errorf("%+v", e)
	}
	load, err := p.Load(t.Context(), Call{Group: "g", Version: "1.0.0"}, 50, time.Second)
	if err != nil || len(load) != 50 || load[49].N != 50 || load[49].At < 900 {
		t.Errorf("%d calls, %v", len(load), err)
	}
	s, err := p.Stats(t.Context())
	if err != nil || s.Calls["sayHello"] != 53 || s.Calls["fail"] != 1 || s.Connections != 1 || len(s.Peers) != 1 {
		t.Errorf("%+v, %v", s, err)
	}

	if _, err := p.Call(t.Context(), Call{Method: "nothing"}); err == nil || !strings.Contains(err.Error(), "no method nothing") {
		t.Errorf("%v", err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := p.Call(t.Context(), Call{}); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("%v", err)
	}
}

func TestStartFails(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Java")
	}
	_, err := Run(t.Context(), Options{Line: V32, Dir: t.TempDir(), Registry: "nosuch://127.0.0.1:1", Port: freePort(t)})
	if err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("%v", err)
	}
}

// freePort is one that nobody listens on, on any address.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
