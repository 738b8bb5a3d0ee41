//go:build linux

// Package netns gives a program a network of its own, so that tests with real ports
// and real applications neither disturb nor notice others on the same machine: a
// JVM takes any address that it finds for its own.
//
// Invariants:
//   - A namespace has no name and nothing on disk. It is gone, with all that is in
//     it, when its last process is: there is nothing to clean up, whatever happens.
//   - A process in it dies with the one that started it.
//   - Nothing leads out of it: what must be downloaded is downloaded before.
package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/meshferry/meshferry/internal/process"
)

// Host is the address of this machine in its own namespace: not a loopback one,
// since Java Dubbo registers no such.
const Host = "10.20.30.1"

// inside tells a program that it was started by Run.
const inside = "INSIDE_NETNS"

// Inside says whether Run started this program.
func Inside() bool { return os.Getenv(inside) != "" }

// Available says what is missing, if anything is.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("a network namespace needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("a network namespace needs the program ip (Debian: iproute2)")
	}
	return nil
}

// Start starts a command in a new namespace, which has nothing yet. The command is
// killed when this process ends; wait must be called.
func Start(cmd *exec.Cmd) (wait func() error, err error) {
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, inside+"=1")
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	p, err := process.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return p.Wait, nil
}

// Up makes the network of the namespace that this process is in: loopback, and
// Host on an interface of its own. No route leads further, so that whoever asks for
// more is told at once.
func Up() error {
	for _, args := range []string{
		"link set lo up",
		"link add lan0 type veth peer name lan1",
		"addr add " + Host + "/24 dev lan0",
		"link set lan0 up",
		"link set lan1 up",
	} {
		if err := IP(args); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", net.JoinHostPort(Host, "0"))
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	return l.Close()
}

// IP runs the program ip.
func IP(args string) error {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}
