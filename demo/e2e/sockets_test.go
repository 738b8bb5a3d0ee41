package e2e

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dialled is who has connections to an address, as the kernel knows it: process
// ids with the number of their connections.
func dialled(t *testing.T, address string) map[int]int {
	t.Helper()
	inodes := map[string]bool{}
	// A JVM dials IPv4 addresses from IPv6 sockets.
	for file, mapped := range map[string]string{"/proc/net/tcp": "", "/proc/net/tcp6": "0000000000000000FFFF0000"} {
		table, err := os.ReadFile(file)
		if err != nil && mapped == "" {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			const established = "01"
			if len(f) > 9 && f[2] == mapped+kernelName(t, address) && f[3] == established {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	by := map[int]int{}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && inodes[to] {
			var pid int
			if _, err := fmt.Sscanf(link, "/proc/%d/", &pid); err != nil {
				t.Fatal(err)
			}
			by[pid]++
		}
	}
	return by
}

// dials is where a process has connections to, with their number.
func dials(t *testing.T, pid int) map[string]int {
	t.Helper()
	mine := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			mine[to] = true
		}
	}
	to := map[string]int{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(file)
		if err != nil {
			continue // no IPv6 here
		}
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			const established = "01"
			if len(f) > 9 && f[3] == established && mine["socket:["+f[9]+"]"] {
				to[usualName(t, f[2])]++
			}
		}
	}
	return to
}

// usualName is the way back from kernelName; an IPv4 address is written as one
// also if the socket is an IPv6 one.
func usualName(t *testing.T, name string) string {
	t.Helper()
	host, port, _ := strings.Cut(name, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	words, err2 := hex.DecodeString(host)
	if err != nil || err2 != nil {
		t.Fatalf("address %q", name)
	}
	for i := 0; i+4 <= len(words); i += 4 { // each word is a number in the machine's byte order
		binary.NativeEndian.PutUint32(words[i:], binary.BigEndian.Uint32(words[i:]))
	}
	ip, _ := netip.AddrFromSlice(words)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)).String()
}

// kernelName is an address as /proc/net/tcp writes it: the address as a number in
// the machine's byte order, the port in the usual one.
func kernelName(t *testing.T, address string) string {
	t.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	ip := a.Addr().As4()
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), a.Port())
}

// onlyDialledBy claims that the processes, and no others, have connections to an
// address.
func onlyDialledBy(t *testing.T, address string, want ...*process) {
	t.Helper()
	var pids []int
	for _, p := range want {
		pids = append(pids, p.PID())
	}
	slices.Sort(pids)
	got := dialled(t, address)
	if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, pids) {
		t.Errorf("%s has connections (by process id) %v, want only from %v", address, got, pids)
	}
}
