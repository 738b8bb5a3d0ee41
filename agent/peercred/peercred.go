// Package peercred tells which process of this machine is at the other end of a
// connection, and which one listens at an address. It asks the kernel, every time;
// nothing is kept.
package peercred

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is who has a socket. -1 is unknown.
type Process struct{ UID, PID int }

var nobody = Process{UID: -1, PID: -1}

// AddrPort is a TCP address, IPv4 as such.
func AddrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// TCP is who has the other end of a TCP connection between two addresses of this
// machine: remote is that end, local ours. It reads the table of all sockets and
// then the descriptors of that user's processes, which takes milliseconds. The
// process is known only where its descriptors may be read (same user, or we are
// root).
func TCP(remote, local net.Addr) Process {
	return find("/proc", socketsUser, connected(AddrPort(remote), AddrPort(local)))
}

func connected(own, other netip.AddrPort) func(fields) bool {
	return func(f fields) bool {
		a, ok := f.own()
		if !ok || a != own {
			return false
		}
		b, ok := f.other()
		return ok && b == other
	}
}

// Listener is who listens at an address or keeps others from listening there: at
// that port, one of the two addresses may be the one that stands for all.
func Listener(at netip.AddrPort) Process {
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	return find("/proc", anyUser, func(f fields) bool {
		own, ok := f.own()
		return ok && f.listens() && own.Port() == at.Port() &&
			(own.Addr() == at.Addr() || own.Addr().IsUnspecified() || at.Addr().IsUnspecified())
	})
}

// Name is the program's, as the kernel knows it (15 bytes at most), or empty.
func (p Process) Name() string {
	if p.PID <= 0 {
		return ""
	}
	comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(comm))
}

// Unix is SO_PEERCRED: who connected.
func Unix(c *net.UnixConn) Process {
	raw, err := c.SyscallConn()
	if err != nil {
		return nobody
	}
	owner := nobody
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			owner = Process{UID: int(cred.Uid), PID: int(cred.Pid)}
		}
	})
	if err != nil {
		return nobody
	}
	return owner
}

// Whose descriptors are looked through for a socket. One that listens may have been
// opened by root for a process that is somebody else's by now.
type users bool

const (
	socketsUser users = false
	anyUser     users = true
)

// find looks for the first socket in the kernel's tables that is the wanted one. A
// v4 address may stand in the v6 table.
func find(proc string, of users, wanted func(fields) bool) Process {
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		f, err := os.Open(filepath.Join(proc, table))
		if err != nil {
			continue
		}
		uid, inode, found := findSocket(f, wanted)
		f.Close()
		if found {
			return Process{UID: uid, PID: socketHolder(proc, uid, of, inode)}
		}
	}
	return nobody
}

// fields are the words of a line of /proc/net/tcp (Linux,
// Documentation/networking/proc_net_tcp.rst): 1 and 2 are the two ends, 3 the state,
// 7 the uid, 9 the inode.
type fields []string

func (f fields) own() (netip.AddrPort, bool)   { return parseEnd(f[1]) }
func (f fields) other() (netip.AddrPort, bool) { return parseEnd(f[2]) }
func (f fields) listens() bool                 { return f[3] == "0A" } // TCP_LISTEN

func findSocket(table io.Reader, wanted func(fields) bool) (uid int, inode string, found bool) {
	for lines := bufio.NewScanner(table); lines.Scan(); {
		f := fields(strings.Fields(lines.Text()))
		if len(f) < 10 || !wanted(f) {
			continue
		}
		uid, err := strconv.Atoi(f[7])
		return uid, f[9], err == nil
	}
	return -1, "", false
}

// parseEnd reads "0100007F:1F90": 32-bit words in host order, the port in hex.
func parseEnd(s string) (netip.AddrPort, bool) {
	words, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	b, herr := hex.DecodeString(words)
	if !ok || err != nil || herr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for w := range slices.Chunk(b, 4) {
		binary.BigEndian.PutUint32(w, binary.NativeEndian.Uint32(w))
	}
	ip, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(ip.Unmap(), uint16(p)), ok
}

// socketHolder is the process that has the socket open, or -1.
func socketHolder(proc string, uid int, of users, inode string) int {
	if inode == "0" {
		return -1
	}
	want := "socket:[" + inode + "]"
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return -1
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || of == socketsUser && !ownedBy(filepath.Join(proc, d.Name()), uid) {
			continue
		}
		fds := filepath.Join(proc, d.Name(), "fd")
		entries, err := os.ReadDir(fds)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if to, err := os.Readlink(filepath.Join(fds, e.Name())); err == nil && to == want {
				return pid
			}
		}
	}
	return -1
}

func ownedBy(path string, uid int) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && int(st.Uid) == uid
}
