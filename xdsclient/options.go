package xdsclient

import (
	"cmp"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Server is one ADS server.
type Server struct {
	// Address is what grpc.NewClient takes: "host:port", "unix:///path", …
	Address string
	// TLS secures the connection; nil: plain text. See TLSFiles.
	TLS credentials.TransportCredentials
	// DialOptions are added to the client's own.
	DialOptions []grpc.DialOption
	// IgnoreDeletion keeps listeners and clusters that the server leaves out (gRFC
	// A53): for servers that may forget for a while.
	IgnoreDeletion bool
}

// Options of New.
type Options struct {
	// Servers in order of preference, at least one. The next one is asked when a
	// stream to the one before ended without an answer while something asked for is
	// not known, or was not confirmed for FallbackAfter (gRFC A71 has the first
	// reason only). The first answer of a better one ends the lesser ones.
	Servers []Server
	Node    *corev3.Node
	// Delta asks incrementally.
	Delta bool
	// Wildcard asks for all listeners and clusters that the server has for this
	// node. Without it SetListeners names the listeners, and clusters are asked for
	// by the names in routes.
	Wildcard bool
	// Follow tells which listeners matter, by name: the routes of others are not
	// asked for, and they are not delivered. Nil: all.
	Follow func(listener string) bool
	// Implied is the virtual host of a route configuration by that name which has none
	// for its domains, nil for none: istiod's gRPC generator has a cluster but no
	// virtual host for a service whose port is TCP. Its clusters are asked for like those of others.
	Implied func(route string) *routev3.VirtualHost
	// Extensions are further network filters and their routes.
	Extensions []Extension
	// Path names the file of the last good resources; "": none is kept.
	Path string
	Log  *slog.Logger

	// Times; 0: the default.
	ResourceTimeout time.Duration // a name that was asked for does not exist if the server does not answer; 15s
	MissingHold     time.Duration // a route waits that long for a cluster that a complete answer did not have; 2s
	FallbackAfter   time.Duration // 5m; below 0: never
	Backoff         time.Duration // between streams, the first one; grows by 1.6; 1s
	BackoffMost     time.Duration // 30s
	// MaxMessage bounds a response, in bytes; 0: 256 MiB.
	MaxMessage int
}

// Extension teaches the client a network filter of listeners, and the resources
// that the filter refers to, when the client does not know them itself. Its
// functions must not keep the bytes.
type Extension struct {
	// FilterURL is the type of the filter's configuration.
	FilterURL string
	// Filter decodes it: a value for Listener.Filters, the names of resources of
	// type RouteURL that it refers to, and clusters that it names itself.
	Filter func(raw []byte) (value any, routes, clusters []string, err error)
	// RouteURL is the type of the resources; "": there are none.
	RouteURL string
	// Route decodes one: its name, a value for Resource.Value, the clusters it names.
	Route func(raw []byte) (name string, value any, clusters []string, err error)
}

func (o Options) withDefaults() (Options, error) {
	if len(o.Servers) == 0 {
		return o, errors.New("xdsclient: no server")
	}
	for _, s := range o.Servers {
		if s.Address == "" {
			return o, errors.New("xdsclient: a server has no address")
		}
	}
	if o.Node.GetId() == "" {
		return o, errors.New("xdsclient: the node has no id")
	}
	o.ResourceTimeout = cmp.Or(o.ResourceTimeout, 15*time.Second)
	o.MissingHold = cmp.Or(o.MissingHold, 2*time.Second)
	o.FallbackAfter = cmp.Or(o.FallbackAfter, 5*time.Minute)
	o.Backoff = cmp.Or(o.Backoff, time.Second)
	o.BackoffMost = cmp.Or(o.BackoffMost, 30*time.Second)
	o.MaxMessage = cmp.Or(o.MaxMessage, 256<<20)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// jittered is d give or take a fifth.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
