package e2e

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/internal/netns"
)

// neighbour is another machine on a network with this one: a network namespace,
// which is there for as long as a process in it is.
type neighbour struct {
	t    *testing.T
	pid  string
	here string // this machine's address on that network
}

func newNeighbour(t *testing.T) *neighbour {
	t.Helper()
	if err := netns.Available(); err != nil {
		t.Skip("NOT TESTED: ", err)
	}
	if _, err := exec.LookPath("nsenter"); err != nil {
		t.Skip("NOT TESTED: a foreign address needs the program nsenter (Debian: util-linux)")
	}
	holder := exec.Command("cat") // ends when its input does
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	wait, err := netns.Start(holder)
	if err != nil {
		t.Skip("NOT TESTED: ", err)
	}
	t.Cleanup(func() {
		input.Close()
		if err := wait(); err != nil {
			t.Error(err)
		}
	})
	n := &neighbour{t: t, pid: strconv.Itoa(holder.Process.Pid), here: "10.20.40.1"}
	for _, args := range []string{
		"link add foreign0 type veth peer name foreign1",
		"link set foreign1 netns " + n.pid,
		"addr add " + n.here + "/24 dev foreign0",
		"link set foreign0 up",
	} {
		if err := netns.IP(args); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := netns.IP("link delete foreign0"); err != nil {
			t.Error(err)
		}
	})
	for _, args := range []string{"link set lo up", "addr add 10.20.40.2/24 dev foreign1", "link set foreign1 up"} {
		if out, err := n.command(t.Context(), append([]string{"ip"}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s there: %v: %s", args, err, out)
		}
	}
	return n
}

// command is a command on the neighbour's side.
func (n *neighbour) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=/proc/" + n.pid + "/ns/net", "--"}, args...)...)
}

// call makes one call of a URL, from the neighbour or from here, with dubbo-go.
func (n *neighbour) call(foreign bool, address string) error {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	args := []string{program(n.t, "app"), "consumer", "--url", "dubbo://" + address, "--calls", "1", "--retries", "0"}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if foreign {
		cmd = n.command(ctx, args...)
	}
	out, err := cmd.Output()
	if err == nil && !strings.Contains(string(out), `"answer":"hello world, this is one"`) {
		err = fmt.Errorf("the answer is %s", out)
	}
	return err
}

// Another machine can use 20882 and not 20881, whether that is bound to loopback,
// to this machine's address or to all; applications of this machine can use it at
// any. Nor does it reach the control API.
func TestForeignAddress(t *testing.T) {
	long(t)
	// Not beside others: a JVM would take the address on the neighbour's network for its own.
	w := newWorld(t)
	n := newNeighbour(t)
	at := func(port string) string { return net.JoinHostPort(n.here, port) }
	port := func() string { return fmt.Sprint(w.lanAddress().port) }
	for _, bound := range []string{"loopback", n.here, "0.0.0.0"} {
		t.Run(bound, func(t *testing.T) {
			inbound, outbound := port(), port()
			flags := []string{"--address", n.here, "--inbound", at(inbound)}
			if bound != "loopback" {
				flags = append(flags, "--outbound", net.JoinHostPort(bound, outbound))
			}
			a := w.agent("host-"+bound, withFlags(flags...))
			w.provider(options{agent: a, name: "one", application: "shop-" + bound, iface: service})
			a.published(1)

			if err := n.call(true, at(inbound)); err != nil {
				t.Errorf("20882 from a foreign address: %v", err)
			}
			local := a.outbound()
			if bound != "loopback" {
				local = at(outbound)
			}
			if err := n.call(false, local); err != nil {
				t.Errorf("20881 at %s from this machine: %v", local, err)
			}
			before := a.calls("outbound", service)
			for _, p := range []string{outbound, outboundPort} {
				if err := n.call(true, at(p)); err == nil {
					t.Errorf("20881 at %s answered a foreign address", at(p))
				}
			}
			if now := a.calls("outbound", service); now != before {
				t.Errorf("the agent counted %d calls of a foreign address", now-before)
			}
			if n.reaches(at(controlPort)) {
				t.Errorf("the control API can be reached from a foreign address")
			}
		})
	}
}

// reaches says whether the neighbour can open a connection.
func (n *neighbour) reaches(address string) bool {
	n.t.Helper()
	host, port, _ := net.SplitHostPort(address)
	ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Second)
	defer cancel()
	return n.command(ctx, "bash", "-c", "exec 3<>/dev/tcp/"+host+"/"+port).Run() == nil
}
