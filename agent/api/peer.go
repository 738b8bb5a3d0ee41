package api

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/meshferry/meshferry/agent/peercred"
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
		p.owner = sync.OnceValue(func() workload.Owner { return owner(peercred.Unix(c)) })
	case *net.TCPConn:
		p.local = peercred.AddrPort(c.LocalAddr())
		p.owner = sync.OnceValue(func() workload.Owner { return owner(peercred.TCP(c.RemoteAddr(), c.LocalAddr())) })
	default:
		p.owner = func() workload.Owner { return nobody }
	}
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(r *http.Request) *peer { return r.Context().Value(peerKey{}).(*peer) }

var nobody = workload.Nobody

func owner(p peercred.Process) workload.Owner { return workload.Owner(p) }
