package agent

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/agent/route"
)

// childEnv holds, in a process of its own, the addresses of the control and of the
// outbound listener.
const childEnv = "CALLER_CHILD"

// TestCallerIsKnownByItsProcess: two processes subscribe to a service with different
// time-outs, and their calls, which do not say whose they are, end after their own.
func TestCallerIsKnownByItsProcess(t *testing.T) {
	if addresses := os.Getenv(childEnv); addresses != "" {
		control, outbound, _ := strings.Cut(addresses, " ")
		callUntil(t, control, outbound, "child", 200)
		fmt.Println("known")
		bufio.NewReader(os.Stdin).ReadByte() // until the parent has looked
		return
	}
	p := provide(t)
	a := run(t, settings(t))
	a.publish(t, p.port())
	control, outbound := a.listeners.control.Addr().String(), a.listeners.outbound.Addr().String()
	subscribe(t, control, "parent", 400)

	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), childEnv+"="+control+" "+outbound)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "known" {
		said = append(said, lines.Text())
	}
	if lines.Text() != "known" {
		t.Fatalf("the child: %s; %v", strings.Join(said, "\n"), child.Wait())
	}
	callUntil(t, control, outbound, "parent", 400)

	_, text := a.ask(t, "GET", "/v1/explain?service="+service, "")
	var x route.Explanation
	if err := json.Unmarshal([]byte(text), &x); err != nil {
		t.Fatal(err)
	}
	want := []route.CallerRow{
		{Application: "child", Timeout: "200ms", Processes: []int{child.Process.Pid}},
		{Application: "parent", Timeout: "400ms", Processes: []int{os.Getpid()}},
	}
	if fmt.Sprint(x.Callers) != fmt.Sprint(want) || x.Timeout != "400ms" || !strings.Contains(x.TimeoutWhy, "unknown") {
		t.Errorf("explained as %s", text)
	}
	if _, text := a.ask(t, "GET", "/v1/explain?application=child&service="+service, ""); !strings.Contains(text, `"timeout":"200ms","timeoutWhy":"the caller is known`) {
		t.Errorf("explained for the child as %s", text)
	}
	in.Close()
	for lines.Scan() {
	}
	if err := child.Wait(); err != nil {
		t.Errorf("the child: %v", err)
	}
	p.letGo()
}

func subscribe(t *testing.T, control, application string, timeout int) {
	t.Helper()
	body := fmt.Sprintf(`{"url":"consumer://127.0.0.1/%s?application=%s&interface=%s&timeout=%d","workload":"%s-1"}`, service, application, service, timeout, application)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	r, err := client.Post("http://"+control+"/v1/subscribe", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Fatalf("subscribe: %s", r.Status)
	}
}

// callUntil subscribes and calls until a call that nobody answers ends after the
// application's own time-out: the first ones may come before its process is known.
func callUntil(t *testing.T, control, outbound, application string, timeout int) {
	t.Helper()
	subscribe(t, control, application, timeout)
	nc, err := net.Dial("tcp", outbound)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	want, refusal := fmt.Sprintf("within %dms", timeout+100), ""
	for deadline := time.Now().Add(patience); !strings.Contains(refusal, want); {
		if time.Now().After(deadline) {
			t.Fatalf("the last call: %q, want %q", refusal, want)
		}
		e := hessian.NewEncoder()
		for _, v := range []any{"2.0.2", service, "", "hold", "Ljava/lang/String;", "x", map[any]any{"path": service, "interface": service}} {
			if err := e.Encode(v); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := nc.Write(frame(0xc0|dubbo.Hessian2, 0, 1, e.Buffer())); err != nil {
			t.Fatal(err)
		}
		_, refusal = (&consumer{t: t, Conn: nc}).answer()
	}
}
