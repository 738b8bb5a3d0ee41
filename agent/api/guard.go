package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

const (
	maxBody = 64 << 10 // bytes of a request body
	maxURI  = 8 << 10  // bytes of a request target, and of the header
)

// guard refuses what did not come from a program on this machine that means us:
// a Host that is not ours (DNS rebinding), anything with the marks of a browser,
// and bodies that are not JSON or too long. Source: Tailscale's LocalAPI and
// Caddy's admin endpoint refuse the same.
func (s *Server) guard(c *gin.Context) {
	if err := checkRequest(c.Request, peerOf(c.Request)); err != nil {
		s.fail(c, err)
		return
	}
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, maxBody)
}

func checkRequest(r *http.Request, p *peer) error {
	if p.local.IsValid() && !ourHost(r.Host, p.local) {
		return refuse("forbidden", "use the address of the control listener", "Host %q is not this agent", r.Host)
	}
	for _, h := range []string{"Origin", "Referer"} {
		if _, there := r.Header[h]; there {
			return refuse("forbidden", "web pages are not served", "a request with %s is refused", h)
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "none" && site != "same-origin" {
		return refuse("forbidden", "web pages are not served", "a %s request is refused", site)
	}
	if len(r.RequestURI) > maxURI {
		return refuse("url-too-long", "", "the request target is longer than %d bytes", maxURI)
	}
	if r.ContentLength > maxBody {
		return &http.MaxBytesError{Limit: maxBody}
	}
	if r.ContentLength != 0 {
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			return refuse("content-type", "send Content-Type: application/json", "content type %q is not JSON", r.Header.Get("Content-Type"))
		}
	}
	return nil
}

// ourHost tells whether a Host header names the address that the connection was
// made to: that address itself or a name of loopback, with our port.
func ourHost(header string, local netip.AddrPort) bool {
	host, port, err := net.SplitHostPort(header)
	if err != nil {
		host, port = strings.Trim(header, "[]"), "80"
	}
	if port != strconv.Itoa(int(local.Port())) {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	ip = ip.Unmap()
	return ip == local.Addr().Unmap() || ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || ip == netip.IPv6Loopback()
}

// authorise asks TCP callers for the token, if there is one. The unix socket is
// guarded by its file mode instead.
func (s *Server) authorise(c *gin.Context) {
	if s.token == nil || !peerOf(c.Request).local.IsValid() {
		return
	}
	given, ok := strings.CutPrefix(c.GetHeader("Authorization"), "Bearer ")
	sum := sha256.Sum256([]byte(given))
	if !ok || subtle.ConstantTimeCompare(sum[:], s.token[:]) != 1 {
		c.Header("WWW-Authenticate", "Bearer")
		s.fail(c, refuse("unauthorised", "send Authorization: Bearer with the text of the token file", "the token is missing or wrong"))
	}
}
