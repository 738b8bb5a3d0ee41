//go:build linux

package netns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// The test's own program is the one that runs inside.
func TestMain(m *testing.M) {
	if !Inside() {
		goleak.VerifyTestMain(m)
		return
	}
	if err := Up(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, a := range addresses {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && ip.To4() != nil {
			fmt.Println(ip)
		}
	}
}

// Inside there is loopback and one address, whatever there is outside; outside
// nothing has changed, and two of them are not in each other's way.
func TestNamespace(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip("NOT TESTED: ", err)
	}
	before, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var out strings.Builder
		cmd := exec.Command(os.Args[0])
		cmd.Stdout, cmd.Stderr = &out, &out
		wait, err := Start(cmd)
		if err != nil {
			t.Skip("NOT TESTED: ", err)
		}
		t.Cleanup(func() {
			if err := wait(); err != nil || out.String() != "127.0.0.1\n"+Host+"\n" {
				t.Errorf("%v: %q", err, out.String())
			}
		})
	}
	if after, err := net.InterfaceAddrs(); err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("outside there is %v, want %v, %v", after, before, err)
	}
}
