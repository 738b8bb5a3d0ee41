package peercred

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// table is of the form that Linux 6 prints on a little-endian machine.
const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:5163 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:C350 0100007F:5163 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20 4 30 10 -1
   2: 0000000000000000FFFF00000100007F:C351 0000000000000000FFFF00000100007F:5163 01 00000000:00000000 00:00000000 00000000  1001        0 4712 1 0 20 4 30 10 -1
   3: 0100007F:C352 0100007F
   4: 0100007F:C353 0100007F:5163 01 00000000:00000000 00:00000000 00000000  many        0 4713 1 0 20 4 30 10 -1
`

func TestFindSocket(t *testing.T) {
	local := netip.MustParseAddrPort("127.0.0.1:20835")
	for _, test := range []struct {
		remote string
		uid    int
		inode  string
		found  bool
	}{
		{"127.0.0.1:50000", 1000, "4711", true},
		{"127.0.0.1:50001", 1001, "4712", true},
		{"127.0.0.1:50002", -1, "", false},
		{"127.0.0.1:50003", 0, "4713", false},
		{"127.0.0.2:50000", -1, "", false},
	} {
		uid, inode, found := findSocket(strings.NewReader(table), connected(netip.MustParseAddrPort(test.remote), local))
		if found != test.found || found && (uid != test.uid || inode != test.inode) {
			t.Errorf("%s: %d %s %v", test.remote, uid, inode, found)
		}
	}
	if o := find(t.TempDir(), socketsUser, connected(local, local)); o != nobody {
		t.Errorf("without tables: %+v", o)
	}
}

// The kernel knows that this process listens, and where nobody else can then.
func TestListener(t *testing.T) {
	one, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	all, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	this := Process{UID: os.Getuid(), PID: os.Getpid()}
	for _, test := range []struct {
		name, host string
		at         net.Listener
		want       Process
	}{
		{"the address", "127.0.0.1", one, this},
		{"any address while one is taken", "0.0.0.0", one, this},
		{"another address", "127.0.0.2", one, nobody},
		{"one address while any is taken", "127.0.0.2", all, this},
		{"any address of IPv6", "::", all, this},
		{"an address in the form of IPv6", "::ffff:127.0.0.1", one, this},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := netip.AddrPortFrom(netip.MustParseAddr(test.host), AddrPort(test.at.Addr()).Port())
			got := Listener(at)
			if got != test.want {
				t.Fatalf("%v is held by %+v, want %+v", at, got, test.want)
			}
			if want := filepath.Base(os.Args[0]); got == this && !strings.HasPrefix(want, got.Name()) || got.Name() == "" && got == this {
				t.Errorf("its name is %q, of %s", got.Name(), want)
			}
		})
	}
	if name := nobody.Name(); name != "" {
		t.Errorf("nobody's name is %q", name)
	}
}

func FuzzFindSocket(f *testing.F) {
	f.Add(table)
	f.Add("a b c d e f g h i j\n0: :: 7F:1 x x x x x x x")
	a := netip.MustParseAddrPort("127.0.0.1:50000")
	f.Fuzz(func(t *testing.T, text string) { findSocket(strings.NewReader(text), connected(a, a)) })
}
