package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// neighbour is another machine on a network with this one: a network namespace.
type neighbour struct {
	t    *testing.T
	name string
	here string // this machine's address on that network
}

// newNeighbour makes one. It needs root and the program ip; without, the test is
// skipped and says so.
func newNeighbour(t *testing.T) *neighbour {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: a foreign address needs a network namespace, and that needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("NOT TESTED: a foreign address needs the program ip (Debian: iproute2)")
	}
	id := os.Getpid() % 10000
	n := &neighbour{t: t, name: fmt.Sprintf("meshferry-%d", os.Getpid()), here: fmt.Sprintf("10.%d.%d.1", 100+id/250, 1+id%250)}
	here, there := fmt.Sprintf("mfh%d", id), fmt.Sprintf("mft%d", id)
	ip := func(args string) error {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
		return nil
	}
	if err := ip("netns add " + n.name); err != nil {
		t.Skipf("NOT TESTED: a foreign address needs a network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := ip("netns delete " + n.name); err != nil {
			t.Error(err)
		}
		_ = ip("link delete " + here) // it goes with its other end, a moment later
	})
	for _, args := range []string{
		"link add " + here + " type veth peer name " + there,
		"link set " + there + " netns " + n.name,
		"addr add " + n.here + "/24 dev " + here,
		"link set " + here + " up",
		"-n " + n.name + " addr add " + strings.TrimSuffix(n.here, "1") + "2/24 dev " + there,
		"-n " + n.name + " link set " + there + " up",
		"-n " + n.name + " link set lo up",
	} {
		if err := ip(args); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// call makes one call of a URL, from the neighbour or from here, with dubbo-go.
func (n *neighbour) call(foreign bool, address string) error {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	args := []string{program(n.t, "app"), "consumer", "--url", "dubbo://" + address, "--calls", "1", "--retries", "0"}
	if foreign {
		args = append([]string{"ip", "netns", "exec", n.name}, args...)
	}
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
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
	t.Parallel()
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
	return exec.CommandContext(ctx, "ip", "netns", "exec", n.name, "bash", "-c", "exec 3<>/dev/tcp/"+host+"/"+port).Run() == nil
}
