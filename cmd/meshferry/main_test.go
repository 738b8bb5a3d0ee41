package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	switch os.Getenv("TEST_MESHFERRY_AS") { // this test binary as another process
	case "program":
		main()
	case "signals":
		ctx, stop := untilSignal(context.Background(), slog.New(slog.NewTextHandler(os.Stdout, nil)), func() { fmt.Println("reload") })
		defer stop()
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("ended")
		select {} // only the second signal ends it
	}
	goleak.VerifyTestMain(m)
}

// child is this test binary in another role.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Scanner
}

func start(t *testing.T, as string, args ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(os.Args[0], args...)}
	c.cmd.Env = append(withoutMeshferry(os.Environ()), "TEST_MESHFERRY_AS="+as)
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = c.cmd.Stdout
	c.out = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(30*time.Second, func() { c.signal(syscall.SIGKILL) })
	t.Cleanup(func() {
		late.Stop()
		c.signal(syscall.SIGKILL)
		c.cmd.Wait()
	})
	return c
}

func withoutMeshferry(env []string) []string {
	return slices.DeleteFunc(env, func(pair string) bool { return strings.HasPrefix(pair, "MESHFERRY_") })
}

func (c *child) signal(s syscall.Signal) { c.cmd.Process.Signal(s) }

// until reads lines until one contains text.
func (c *child) until(text string) {
	c.t.Helper()
	var all []string
	for c.out.Scan() {
		if all = append(all, c.out.Text()); strings.Contains(c.out.Text(), text) {
			return
		}
	}
	c.t.Fatalf("no %q in\n%s", text, strings.Join(all, "\n"))
}

// exit waits for the end and returns the exit code.
func (c *child) exit() int {
	for c.out.Scan() {
	}
	c.cmd.Wait()
	return c.cmd.ProcessState.ExitCode()
}

// TestRun starts an agent, asks it everything, and stops it.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "c.sock")
	args := []string{
		"run", "--registry", "local://" + dir + "/registry", "--address", "127.0.0.1", "--outbound", "127.0.0.1:0", "--inbound", "127.0.0.1:0",
		"--control", "127.0.0.1:0", "--control-socket", socket, "--state-dir", dir + "/state", "--log-format", "json",
	}
	agent := start(t, "program", args...)
	agent.until(`"msg":"local registry connected"`)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"status"}, "No local application"},
		{[]string{"status", "-o", "json"}, `"state": "running"`},
		{[]string{"services"}, "Nothing is offered here."},
		{[]string{"endpoints", "com.a.Foo"}, "No provider is known."},
		{[]string{"explain", "g/com.a.Foo:1.0", "--method", "hi", "--attachment", "a=b=c"}, "no: a call would fail now"},
	} {
		code, out, errs := command(append(c.args, "--control-socket", socket)...)
		if code != exitDone || errs != "" || !strings.Contains(out, c.want) {
			t.Errorf("%q: exit %d\n%s%s", c.args, code, out, errs)
		}
	}
	second := start(t, "program", args...)
	second.until("in use by another agent")
	if code := second.exit(); code != exitFailed {
		t.Errorf("second agent on the same state directory: exit %d", code)
	}
	agent.signal(syscall.SIGTERM)
	agent.until(`"msg":"agent stopped"`)
	if code := agent.exit(); code != exitDone {
		t.Errorf("exit %d after SIGTERM", code)
	}
	if code, _, errs := command("status", "--control-socket", socket); code != exitNotRunning || !strings.Contains(errs, "unix:"+socket) {
		t.Errorf("after the end: exit %d, %s", code, errs)
	}
}

// TestReload: SIGHUP takes what can change, names what cannot, and refuses a bad
// file whole.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "m.yaml")
	write := func(text string) {
		t.Helper()
		text = "registries: [{url: local://" + dir + "/registry}]\naddress: 127.0.0.1\nstateDir: " + dir + "/state\n" +
			"listeners: {outbound: 127.0.0.1:0, inbound: 127.0.0.1:0, control: 127.0.0.1:0, controlSocket: " + dir + "/c.sock}\n" + text
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log: {level: warn}\n")
	agent := start(t, "program", "run", "--config", file)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if code, _, _ := command("status", "--control-socket", dir+"/c.sock"); code == exitDone {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no agent")
		}
	}
	for _, c := range []struct{ text, want string }{
		{"log: {level: info}\nstop: {drain: 1s, notifyWait: 0s}\n", `msg="configuration reloaded" changed="log.level, stop.drain, stop.notifyWait"`},
		{"log: {level: info}\nstop: {drain: 2s}\nprobe: {fall: 0}\n", "configuration not reloaded, the old one stays"},
		{"log: {level: info, format: json}\nstop: {drain: 1s, notifyWait: 0s}\nlimits: {frame: 1024}\n", `settings="limits.frame, log.format"`},
	} {
		write(c.text)
		agent.signal(syscall.SIGHUP)
		agent.until(c.want)
	}
	agent.signal(syscall.SIGTERM)
	agent.until("agent stopped")
	if code := agent.exit(); code != exitDone {
		t.Errorf("exit %d", code)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	c := start(t, "signals")
	c.until("ready")
	c.signal(syscall.SIGHUP)
	c.until("reload")
	c.signal(syscall.SIGINT)
	c.until("ended")
	c.signal(syscall.SIGINT) // an echo, as timeout(1) sends it
	c.signal(syscall.SIGTERM)
	c.until("second signal")
	if code := c.exit(); code != exitFailed {
		t.Errorf("exit %d", code)
	}
}

// command runs one command line in this process.
func command(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = execute(args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"statsu"}, []string{`unknown command "statsu"`, "status", "See 'meshferry --help'."}},
		{[]string{"run", "--outbond", "x"}, []string{"unknown flag: --outbond (did you mean --outbound?)", "See 'meshferry run --help'."}},
		{[]string{"run", "x"}, []string{`unknown command "x" for "meshferry run"`}},
		{[]string{"status", "-o", "yaml"}, []string{"want text or json"}},
		{[]string{"endpoints"}, []string{"wants one service"}},
		{[]string{"explain", "a", "b"}, []string{"wants one service", "got 2 arguments"}},
		{[]string{"explain", "a", "--attachment", "b"}, []string{`--attachment wants key=value, not "b"`}},
		{[]string{"explain", "a", "--argument", "x=b"}, []string{`--argument wants index=value, not "x=b"`}},
	} {
		code, out, errs := command(c.args...)
		if code != exitUsage || out != "" {
			t.Errorf("%q: exit %d, output %q", c.args, code, out)
		}
		for _, want := range append(c.want, "meshferry: ") {
			if !strings.Contains(errs, want) {
				t.Errorf("%q: no %q in %s", c.args, want, errs)
			}
		}
	}
}

func TestBadSettings(t *testing.T) {
	for name, value := range map[string]string{"MESHFERRY_REGISTRY": "", "MESHFERRY_CONFIG": ""} {
		t.Setenv(name, value)
	}
	if code, _, errs := command("run"); code != exitFailed || !strings.Contains(errs, "no registry is set") || !strings.Contains(errs, "--registry zookeeper://") {
		t.Errorf("no registry: exit %d: %s", code, errs)
	}
	t.Setenv("MESHFERRY_OUTBOND", "x")
	code, _, errs := command("run", "--log-level", "loud")
	if code != exitFailed || !strings.Contains(errs, "MESHFERRY_OUTBOUND") || !strings.Contains(errs, "--log-level") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// TestHelp: every command explains itself with an example.
func TestHelp(t *testing.T) {
	for _, cmd := range append(newRoot().Commands(), newRoot()) {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		if cmd.Short == "" || cmd.Long == "" || !strings.Contains(cmd.Example, "meshferry ") {
			t.Errorf("%s does not explain itself", cmd.Name())
		}
		code, out, _ := command(append(strings.Fields(cmd.CommandPath()), "--help")[1:]...)
		if code != exitDone || !strings.Contains(out, cmd.Long) {
			t.Errorf("%s --help: exit %d\n%s", cmd.Name(), code, out)
		}
	}
	if code, out, _ := command("run", "--help"); code != exitDone || !strings.Contains(out, "--state-dir") {
		t.Errorf("run --help: exit %d\n%s", code, out)
	}
}

func TestVersion(t *testing.T) {
	if code, out, _ := command("version"); code != exitDone || !strings.HasPrefix(out, "meshferry ") {
		t.Errorf("exit %d: %s", code, out)
	}
	_, out, _ := command("version", "-o", "json")
	var v map[string]string
	if err := json.Unmarshal([]byte(out), &v); err != nil || v["version"] == "" || v["go"] == "" {
		t.Errorf("%s: %v", out, err)
	}
}

// fake is an agent that answers from testdata, on TCP.
func fake(t *testing.T, answer http.HandlerFunc) (address string) {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

var update = flag.Bool("update", false, "write the golden files")

// TestGolden compares what is printed of the answers in testdata.
func TestGolden(t *testing.T) {
	var asked []string
	name := func(u *url.URL) string {
		if u.Query().Get("service") == "com.a.Ruled" {
			return strings.TrimSuffix("/explain-rules-"+u.Query().Get("direction"), "-")
		}
		return strings.TrimSuffix(strings.TrimPrefix(u.Path, "/v1")+"-"+u.Query().Get("direction"), "-")
	}
	address := fake(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		text, err := os.ReadFile("testdata" + name(r.URL) + ".json")
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(text)
	})
	const full = "application=cart&attachment=a%3Db%3Dc&attachment=x%3D1%2C2&"
	for _, c := range []struct {
		golden string
		args   []string
		asked  []string
	}{
		{"status", []string{"status"}, []string{""}},
		{"services", []string{"services"}, []string{""}},
		{"endpoints", []string{"endpoints", "g/com.a.Foo:1.0"}, []string{"service=g%2Fcom.a.Foo%3A1.0", "direction=inbound&service=g%2Fcom.a.Foo%3A1.0"}},
		{"endpoints-inbound", []string{"endpoints", "g/com.a.Foo:1.0", "--inbound"}, []string{"direction=inbound&service=g%2Fcom.a.Foo%3A1.0"}},
		{"explain", []string{"explain", "com.a.Foo", "--method", "hi", "--application", "cart", "--attachment", "a=b=c", "--attachment", "x=1,2"},
			[]string{full + "method=hi&service=com.a.Foo", full + "direction=inbound&method=hi&service=com.a.Foo"}},
		{"explain-rules", []string{"explain", "com.a.Ruled"}, []string{"service=com.a.Ruled", "direction=inbound&service=com.a.Ruled"}},
	} {
		asked = nil
		code, out, errs := command(append(c.args, "--control", address)...)
		if code != exitDone || !slices.Equal(asked, c.asked) {
			t.Errorf("%q: exit %d, asked %q\n%s", c.args, code, asked, errs)
		}
		file := "testdata/" + c.golden + ".txt"
		if *update {
			if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
		}
		if out != string(want) {
			t.Errorf("%q printed\n%s\nwant\n%s", c.args, out, want)
		}
		// Everything may be missing, and with -o json nothing is lost.
		code, out, _ = command(append(c.args, "--control", address, "-o", "json")...)
		var got, sent any
		raw, _ := os.ReadFile("testdata/" + c.golden + ".json")
		if json.Unmarshal([]byte(out), &got) != nil || json.Unmarshal(raw, &sent) != nil || code != exitDone || fmt.Sprint(got) != fmt.Sprint(sent) {
			t.Errorf("%q -o json: exit %d\n%s", c.args, code, out)
		}
	}
	empty := fake(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	for _, args := range [][]string{{"status"}, {"services"}, {"endpoints", "a"}, {"explain", "a"}} {
		if code, out, errs := command(append(args, "--control", empty)...); code != exitDone || out == "" {
			t.Errorf("%q of an empty answer: exit %d %s", args, code, errs)
		}
	}
}

func TestAnswersOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		status     int
		body, want string
	}{
		"refusal":    {422, `{"error":{"code":"invalid","message":"bad service","detail":"give one"}}`, "bad service; give one (invalid)"},
		"no agent":   {404, `<html>`, "HTTP 404, and not JSON: is it an agent?"},
		"other JSON": {500, `{"x":1}`, "HTTP 500: is it an agent?"},
		"other type": {200, `{"registries":5}`, "cannot be read"},
	} {
		address := fake(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		})
		code, out, errs := command("status", "--control", address)
		if code != exitFailed || out != "" || !strings.Contains(errs, c.want) || !strings.Contains(errs, address) {
			t.Errorf("%s: exit %d %s %s", name, code, out, errs)
		}
	}
}

// TestNoAgentThere: something else has the port.
func TestNoAgentThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	defer func() { l.Close(); <-ended }()
	if code, _, errs := command("status", "--control", l.Addr().String()); code != exitFailed || !strings.Contains(errs, "is it an agent?") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "meshferry", "control.sock")
	if err := os.MkdirAll(filepath.Dir(there), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", there)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const tcp = "tcp:127.0.0.1:20883"
	for _, c := range []struct {
		name string
		c    client
		env  map[string]string
		dir  string
		want []string
	}{
		{"socket there", client{}, nil, dir, []string{"unix:" + there, tcp}},
		{"no socket", client{}, nil, "/nowhere", []string{tcp}},
		{"variables", client{}, map[string]string{"MESHFERRY_CONTROL": "h:1", "MESHFERRY_CONTROL_SOCKET": "/s"}, dir, []string{"unix:/s", "tcp:h:1"}},
		{"a flag beats variables", client{control: "h:2"}, map[string]string{"MESHFERRY_CONTROL_SOCKET": "/s"}, dir, []string{"tcp:h:2"}},
		{"socket flag", client{socket: "/t"}, nil, dir, []string{"unix:/t"}},
	} {
		var got []string
		for _, p := range c.c.places(12345, func(name string) string { return c.env[name] }, []string{"XDG_RUNTIME_DIR=" + c.dir}) {
			if p.address != "/run/meshferry/control.sock" { // an agent of this machine may be there
				got = append(got, p.String())
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestToken: the token goes where one may be asked for, and nowhere else.
func TestToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var sent []string
	address := fake(t, func(w http.ResponseWriter, r *http.Request) {
		sent = append(sent, r.Header.Get("Authorization"))
		w.Write([]byte("{}"))
	})
	command("status", "--control", address)
	command("status", "--control", address, "--control-token-file", file)
	t.Setenv("MESHFERRY_CONTROL_TOKEN_FILE", file)
	command("explain", "com.a.Foo", "--inbound", "--control", address)
	if want := []string{"", "Bearer s3cret", "Bearer s3cret"}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	if code, _, errs := command("status", "--control", address, "--control-token-file", file+"x"); code != exitFailed || !strings.Contains(errs, "token of the control API") || len(sent) != 3 {
		t.Errorf("no such file: exit %d, %s", code, errs)
	}
}
