package route

import (
	"sync/atomic"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Endpoint is one provider of a cluster.
type Endpoint struct {
	Peer   *Peer
	URL    registry.URL
	Origin string // host:port of the provider behind a mesh endpoint, else empty
	Mesh   bool   // Peer is the inbound listener of another agent
	Token  string // what the provider wants as attachment "token", else empty
	Weight int    // as configured; Explain shows the effective one of a warm-up

	facts    *facts // of URL
	second   bool   // a registry lists it that is not preferred
	readonly bool   // inbound: Local.Readonly
	spec     *EndpointSpec
	locality *LocalitySpec
	host     *host // of rules: what is known of it in this cluster, survives snapshots
}

func (e *Endpoint) rank() rank {
	if e.readonly {
		return readonly
	}
	if e.host != nil && e.host.out() {
		return ejected
	}
	return e.Peer.rank()
}

// Cluster is the providers of one service key that a call may go to: all that the
// registries list, or, with a Name, those of a cluster of rules.
type Cluster struct {
	Name             string           // of rules; empty: of the registries
	Service          registry.Service // Interface "*" or Group "*": several, of one local process
	Endpoints        []*Endpoint      // sorted by address and origin; not to be changed
	Dedicated        bool             // callbacks: one upstream connection for each downstream connection
	TokenPerEndpoint bool             // tokens differ: the chosen endpoint's must be written into the attachments
	Policy           Policy
	Stats            *Stats // survives snapshots

	policyWhy string
	deadlines deadlines
	balance   *atomic.Pointer[balance] // replaced whole by the router's loop while endpoints warm up, or are ejected and return
	turn      *atomic.Uint64           // position of round robin
	routes    *Routes                  // what rules say about the service; nil: nothing
	noRules   string                   // why they say nothing although they are asked, for people
	spec      *ClusterSpec             // of rules
	set       *EndpointSet             // of rules
	state     *clusterState            // of rules, survives snapshots
}

// Routes is what rules say about the service; nil: every call goes to this cluster.
func (c *Cluster) Routes() *Routes { return c.routes }

// Timeout is the time-out of a call of method by an application when the call
// itself carries none (CONTRACT §8): that of the application's subscription for
// the method, then for the interface, else the provider's in the same order,
// else 0: none. An unknown application gets the longest of all subscriptions.
func (c *Cluster) Timeout(application string, method []byte) time.Duration {
	return c.deadlines.of(application, method)
}

// NeedsCaller tells whether local subscriptions disagree, so that Timeout
// depends on the application.
func (c *Cluster) NeedsCaller() bool { return c.deadlines.differ }

// Application is the one that subscribed to the service from a process, empty when
// none did, or several.
func (c *Cluster) Application(pid int) string { return c.deadlines.application(pid) }

// Hashed tells that the policy is a consistent hash: PickBy wants a key.
func (c *Cluster) Hashed() bool { return c.Policy == RingHash || c.Policy == Maglev }
