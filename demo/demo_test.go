package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestSum(t *testing.T) {
	const text = `# HELP meshferry_requests_total Requests.
# TYPE meshferry_requests_total counter
meshferry_requests_total{direction="outbound",service="org.example.GreetService",result="ok"} 7
meshferry_requests_total{direction="outbound",service="g/org.example.GreetService:1.0.0",result="timeout"} 3e+00
meshferry_requests_total{direction="outbound",service="org.example.Other"} 100
meshferry_requests_total{direction="inbound",service="org.example.GreetService"} 1
meshferry_requests_total_other{direction="outbound",service="org.example.GreetService"} 1000
`
	for direction, want := range map[string]int{"outbound": 10, "inbound": 1, "none": 0} {
		got, err := sum(strings.NewReader(text), "meshferry_requests_total", `direction="`+direction+`"`, service)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", direction, got, err, want)
		}
	}
	for _, bad := range []string{"m{a 1", "m{a=\"b\"} x"} {
		if _, err := sum(strings.NewReader(bad), "m"); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestShort(t *testing.T) {
	got := short("dubbo://127.0.0.1:20882/a.B?anyhost=true&application=shop&interface=a.B&pid=1&meshferry.origin=127.0.0.1:20880")
	if want := "dubbo://127.0.0.1:20882/a.B?application=shop&interface=a.B&meshferry.origin=127.0.0.1:20880  (and 2 more)"; got != want {
		t.Errorf("%s", got)
	}
	if got := short("no URL"); got != "no URL" {
		t.Error(got)
	}
}

func TestRedacted(t *testing.T) {
	for in, want := range map[string]string{
		"zookeeper://u:p@ss@h:2181": "zookeeper://***@h:2181",
		"zookeeper://h1:2181,h2":    "zookeeper://h1:2181,h2",
	} {
		if got := redacted(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestRooted(t *testing.T) {
	for address, want := range map[string]bool{
		"zookeeper://h1:2181,h2:2181": false, "zookeeper://h:2181/": false, "zookeeper://h:2181/prod": true, "zookeeper://u:a/b@h:2181": false, "": false,
	} {
		if rooted(address) != want {
			t.Errorf("%q: %v", address, !want)
		}
	}
}

func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	var out bytes.Buffer
	d := &demo{out: &out}
	got, err := d.freePort("127.0.0.1", taken)
	if err != nil || got == taken || got == 0 {
		t.Fatalf("%d, %v", got, err)
	}
	if !strings.Contains(out.String(), "is taken") {
		t.Errorf("it was not said: %q", out.String())
	}
	if _, err := d.freePort("192.0.2.1", 1); err == nil || !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("%v", err)
	}
}

func TestChildren(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no shell")
	}
	var f family
	dir := t.TempDir()
	polite, err := f.start("polite", dir, sh, "-c", "trap 'exit 0' TERM; echo said >&2; echo ready; while :; do sleep 0.02; done")
	if err != nil {
		t.Fatal(err)
	}
	failing, err := f.start("failing", dir, sh, "-c", "exit 3")
	if err != nil {
		t.Fatal(err)
	}
	polite.out.Read(make([]byte, 1))
	d := &demo{}
	err = d.await(t.Context(), failing, "nothing", func() error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "failing ended: exit status 3") {
		t.Errorf("%v", err)
	}
	pid := polite.pid()
	f.close()
	if err := polite.result(); err == nil || err.Error() != "without an error" {
		t.Errorf("%v", err)
	}
	if got := polite.tail(3); got != "said" {
		t.Errorf("log %q", got)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("it lives")
	}
	if _, err := f.start("none", dir, "/no/such/program"); err == nil {
		t.Error("no program was started")
	}
}

func TestAwait(t *testing.T) {
	d := &demo{}
	tries := 0
	err := d.await(t.Context(), nil, "the third try", func() error {
		if tries++; tries < 3 {
			return errors.New("no")
		}
		return nil
	})
	if err != nil || tries != 3 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

func TestShares(t *testing.T) {
	from := counted{made: 100, by: map[string]int{"hello world, this is blue": 100}}
	for _, tt := range []struct {
		percent, blue, green, strange int
		want                          string
	}{
		{0, 500, 0, 0, ""}, {100, 0, 500, 0, ""}, {50, 500, 500, 0, ""}, {50, 540, 460, 0, ""}, {10, 900, 100, 0, ""},
		{0, 499, 1, 0, "green answered 1 of 500"}, {100, 1, 499, 0, "green answered 499 of 500"},
		{50, 580, 420, 0, "80 more or less than 50 %, and chance explains 71"}, {50, 0, 0, 0, "0 calls"}, {50, 500, 499, 1, "500 answers of blue, 499 of green"},
	} {
		to := counted{made: from.made + tt.blue + tt.green + tt.strange, by: map[string]int{"hello world, this is blue": 100 + tt.blue, "hello world, this is green": tt.green}}
		x := &canary{demo: &demo{out: io.Discard}}
		err := x.compare(from, to, tt.percent)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
