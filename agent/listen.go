package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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

// holder is " by <program> (pid N)", or empty. It looks for the socket's inode in
// the kernel's table and then among the descriptors of the processes.
func holder(address string) string {
	host, port, _ := net.SplitHostPort(address)
	switch host {
	case "":
		host = "0.0.0.0"
	case "localhost":
		host = "127.0.0.1"
	}
	want, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil {
		return ""
	}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for _, inode := range listening(table, want) {
			if pid, name := process("socket:[" + inode + "]"); pid != "" {
				return fmt.Sprintf(" by %s (pid %s)", name, pid)
			}
		}
	}
	return ""
}

// listening lists the inodes of the sockets whose listening keeps others from an
// address: at the same one, or one of the two is any address.
func listening(table string, want netip.AddrPort) (inodes []string) {
	f, err := os.Open(table)
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) <= 9 || w[3] != "0A" {
			continue
		}
		at, ok := kernelAddress(w[1])
		if ok && at.Port() == want.Port() && (at.Addr() == want.Addr().Unmap() || at.Addr().IsUnspecified() || want.Addr().IsUnspecified()) {
			inodes = append(inodes, w[9])
		}
	}
	return inodes
}

// kernelAddress reads an address of the kernel's table, "0100007F:5193": words of
// four bytes in the machine's order, and the port as a number.
func kernelAddress(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// process finds who has a descriptor that links to target.
func process(target string) (pid, name string) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == target {
			pid = strings.Split(link, "/")[2]
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			return pid, strings.TrimSpace(string(comm))
		}
	}
	return "", ""
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
