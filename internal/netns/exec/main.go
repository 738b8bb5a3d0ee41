//go:build linux

// Command exec runs a command in a network namespace of its own, where 127.0.0.1
// and one more address are all there is:
//
//	go run ./internal/netns/exec COMMAND ARG…
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/meshferry/meshferry/internal/netns"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Exited() {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "netns:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("no command")
	}
	if netns.Inside() {
		if err := netns.Up(); err != nil {
			return err
		}
		path, err := exec.LookPath(args[0])
		if err != nil {
			return err
		}
		return syscall.Exec(path, args, os.Environ())
	}
	if err := netns.Available(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	wait, err := netns.Start(cmd)
	if err != nil {
		return err
	}
	return wait()
}
