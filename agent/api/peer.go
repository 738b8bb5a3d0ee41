package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/meshferry/meshferry/agent/workload"
)

// peer is the other end of one connection. Who it is, is asked of the kernel
// when first needed, once for each connection.
type peer struct {
	local netip.AddrPort // our end; invalid on a unix socket
	owner func() workload.Owner
}

type peerKey struct{}

// withPeer is the server's ConnContext.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	p := &peer{}
	switch c := c.(type) {
	case *net.UnixConn:
		p.owner = sync.OnceValue(func() workload.Owner { return unixOwner(c) })
	case *net.TCPConn:
		p.local = addrPort(c.LocalAddr())
		remote := addrPort(c.RemoteAddr())
		p.owner = sync.OnceValue(func() workload.Owner { return tcpOwner("/proc", remote, p.local) })
	default:
		p.owner = func() workload.Owner { return nobody }
	}
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(r *http.Request) *peer { return r.Context().Value(peerKey{}).(*peer) }

var nobody = workload.Owner{UID: -1, PID: -1}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// unixOwner is SO_PEERCRED: who connected.
func unixOwner(c *net.UnixConn) workload.Owner {
	raw, err := c.SyscallConn()
	if err != nil {
		return nobody
	}
	owner := nobody
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			owner = workload.Owner{UID: int(cred.Uid), PID: int(cred.Pid)}
		}
	})
	if err != nil {
		return nobody
	}
	return owner
}

// tcpOwner finds the socket whose local end is remote and whose peer is local in
// the kernel's tables. The process is known only where its descriptors may be
// read (same user, or we are root). A v4 peer may stand in the v6 table.
func tcpOwner(proc string, remote, local netip.AddrPort) workload.Owner {
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		f, err := os.Open(filepath.Join(proc, table))
		if err != nil {
			continue
		}
		uid, inode, found := findSocket(f, remote, local)
		f.Close()
		if found {
			return workload.Owner{UID: uid, PID: socketHolder(proc, uid, inode)}
		}
	}
	return nobody
}

// findSocket scans a table of /proc/net/tcp's form (Linux,
// Documentation/networking/proc_net_tcp.rst): columns 1 and 2 are the two ends,
// 7 the uid, 9 the inode.
func findSocket(table io.Reader, own, other netip.AddrPort) (uid int, inode string, found bool) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		if a, ok := parseEnd(f[1]); !ok || a != own {
			continue
		}
		if b, ok := parseEnd(f[2]); !ok || b != other {
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

// socketHolder is the process of that user that has the socket open, or -1.
func socketHolder(proc string, uid int, inode string) int {
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
		if err != nil || !ownedBy(filepath.Join(proc, d.Name()), uid) {
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
