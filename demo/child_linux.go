package main

import "syscall"

// dieWithParent has the kernel kill the child when the demo dies, however it
// dies. A group of its own keeps Ctrl-C from reaching it before the demo stops
// things in order.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
