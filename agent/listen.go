package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshferry/meshferry/agent/peercred"
)

// listen opens a TCP listener. A port that is taken is reported with the process
// that has it, as far as this user may know. where is what sets the address.
func listen(what, where, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s listener: %s is taken%s; choose another with %s", what, address, holder(address), where)
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return nil, fmt.Errorf("%s listener: %s is at no address of this machine; choose another with %s", what, address, where)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s listener: this user may not listen on %s; choose another with %s", what, address, where)
	}
	if err != nil {
		return nil, fmt.Errorf("%s listener: %w", what, err)
	}
	return l, nil
}

// listenUnix opens a unix socket. A file that a dead agent left is replaced; a
// living one is not, and neither is what is no socket.
func listenUnix(path string) (_ net.Listener, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("control socket %s: %w; choose another with --control-socket", path, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&fs.ModeSocket == 0 {
			return nil, errors.New("there is a file that is no socket")
		}
		var d net.Dialer
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			c.Close()
			return nil, errors.New("another process listens there")
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Its group may use it; the caller's uid is checked for every change.
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// holder is " by <program> (pid N)", or empty.
func holder(address string) string {
	host, port, _ := net.SplitHostPort(address)
	switch host {
	case "":
		host = "0.0.0.0"
	case "localhost":
		host = "127.0.0.1"
	}
	at, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil {
		return ""
	}
	if p := peercred.Listener(at); p.PID > 0 {
		return fmt.Sprintf(" by %s (pid %d)", p.Name(), p.PID)
	}
	return ""
}

// lockDir makes sure that one agent at a time uses a state directory. The lock
// goes with the process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable(dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, _ := os.ReadFile(f.Name())
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s is in use by another agent (pid %s); stop it, or choose another with --state-dir", dir, strings.TrimSpace(string(owner)))
		}
		return nil, fmt.Errorf("state directory %s: %w", dir, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("state directory %s: %w", dir, err)
		}
	}
	return f, nil
}

func unusable(dir string, err error) error {
	return fmt.Errorf("state directory %s cannot be used: %w; make it writable for this user, or choose another with --state-dir", dir, err)
}

// ours tells whether an address is one of this machine's.
func ours(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return true // not known to be foreign
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip.Unmap() {
			return true
		}
	}
	return false
}
