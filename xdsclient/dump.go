package xdsclient

import (
	"cmp"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
)

// Dump is the state of the client for people: what Envoy's client status discovery
// service tells, and why something waits.
type Dump struct {
	Status
	Resources []ResourceState // sorted by type and name
	Held      []Held
}

// Status is the state of the client without its resources.
type Status struct {
	Servers []ServerState
	Types   []TypeState
	Ready   bool // every type was answered once, by a server or from the disk
}

// ServerState is one server and the stream to it.
type ServerState struct {
	Address   string    `json:"address"`
	Asked     bool      `json:"asked"`     // it has a connection; servers after the one in use have none
	Connected bool      `json:"connected"` // a stream stands
	Serving   bool      `json:"serving"`   // it answered last
	Since     time.Time `json:"since,omitzero"`
	Streams   int       `json:"streams"`        // opened so far
	Err       string    `json:"err,omitzero"`   // why the last stream ended, "" after an answer
	Ended     string    `json:"ended,omitzero"` // why the last stream ended, also after an answer
}

// TypeState is one type of resource.
type TypeState struct {
	URL       string `json:"url"`
	Wildcard  bool   `json:"wildcard"`
	Names     int    `json:"names"`   // asked for
	Waiting   int    `json:"waiting"` // of them without an answer
	Refused   int    `json:"refused"` // resources whose newest version cannot be used; the last good ones are
	Version   string `json:"version,omitzero"`
	Nonce     string `json:"nonce,omitzero"` // of the serving server
	Responses int    `json:"responses"`
	NACKs     int    `json:"nacks"`
	NACK      *NACK  `json:"nack,omitzero"` // the last one
}

// Name is the type as people say it, "Cluster".
func (t TypeState) Name() string { return short(t.URL) }

// NACK is something that could not be used.
type NACK struct {
	Version string    `json:"version,omitzero"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

// States of a resource, named as in envoy.admin.v3.ClientResourceStatus.
const (
	Requested    = "REQUESTED"
	DoesNotExist = "DOES_NOT_EXIST"
	Acked        = "ACKED"
	Nacked       = "NACKED" // the last good one is in use, if there is one
)

// ResourceState is one resource.
type ResourceState struct {
	URL     string
	Name    string
	State   string
	Version string
	Server  string // that sent it; "disk"
	At      time.Time
	NACK    *NACK
	Kept    string // why it is in use although the server has it no more
	// Raw is the resource as the server sent it, nil if there is none; see Decode.
	Raw []byte
}

// Held is a virtual host or listener that was received and waits for clusters.
type Held struct {
	Listener    string    `json:"listener,omitzero"`
	Route       string    `json:"route,omitzero"`
	VirtualHost string    `json:"virtualHost,omitzero"`
	Since       time.Time `json:"since,omitzero"` // Until is zero while no server answers
	Until       time.Time `json:"until,omitzero"` // Until is zero while no server answers
	Needs       []string  `json:"needs"`
}

// Status takes a picture of streams and types.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status()
}

func (c *Client) status() Status {
	d := Status{Ready: c.c.ready}
	for i, s := range c.o.Servers {
		st := ServerState{Address: s.Address, Serving: c.c.serving == i}
		if ch := c.channels[i]; ch != nil {
			st.Asked, st.Connected, st.Since, st.Streams = true, ch.state.connected, ch.state.since, ch.state.streams
			if ch.state.err != nil {
				st.Err = ch.state.err.Error()
			}
			if ch.state.ended != nil {
				st.Ended = ch.state.ended.Error()
			}
		}
		d.Servers = append(d.Servers, st)
	}
	for _, t := range c.c.order {
		st := TypeState{
			URL: t.url, Wildcard: t.wildcard, Names: len(t.names), Waiting: len(t.waiting),
			Version: t.version, Responses: t.responses, NACKs: t.nacks, NACK: t.nacked.export(),
		}
		if c.c.serving >= 0 && c.c.streams[c.c.serving] != nil {
			if ss := c.c.streams[c.c.serving].types[t.url]; ss != nil {
				st.Nonce = ss.nonce
			}
		}
		if t.nacks > 0 { // else there is none to count
			for _, r := range t.resources {
				if r.refused != nil {
					st.Refused++
				}
			}
		}
		d.Types = append(d.Types, st)
	}
	return d
}

// Dump takes a picture of everything. It costs in proportion to the number of
// resources.
func (c *Client) Dump() Dump {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := Dump{Status: c.status()}
	for _, t := range c.c.order {
		for name, r := range t.resources {
			d.Resources = append(d.Resources, c.describe(t, name, r))
		}
		for name := range t.waiting {
			if name != "" && t.resources[name] == nil {
				d.Resources = append(d.Resources, ResourceState{URL: t.url, Name: name, State: Requested})
			}
		}
	}
	slices.SortFunc(d.Resources, func(a, b ResourceState) int {
		return cmp.Or(cmp.Compare(a.URL, b.URL), cmp.Compare(a.Name, b.Name))
	})
	for k, r := range c.c.stage.routes {
		for v, h := range r.held {
			d.Held = append(d.Held, Held{Route: k.name, VirtualHost: v.Name, Since: h.since, Until: h.until, Needs: names(h.needs)})
		}
	}
	for name, l := range c.c.stage.listeners {
		if l.held != nil {
			d.Held = append(d.Held, Held{Listener: name, Since: l.held.since, Until: l.held.until, Needs: names(l.held.needs)})
		}
	}
	slices.SortFunc(d.Held, func(a, b Held) int {
		return cmp.Or(cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.Route, b.Route), cmp.Compare(a.VirtualHost, b.VirtualHost))
	})
	return d
}

func (c *Client) describe(t *typeState, name string, r *resource) ResourceState {
	s := ResourceState{URL: t.url, Name: name, Version: r.version, At: r.at, NACK: r.refused.export(), Kept: r.kept, Raw: r.raw}
	switch {
	case r.refused != nil:
		s.State = Nacked
	case r.value != nil:
		s.State = Acked
	case r.missing:
		s.State = DoesNotExist
	default:
		s.State = Requested
	}
	if r.value != nil {
		if s.Server = "disk"; r.server >= 0 {
			s.Server = c.o.Servers[r.server].Address
		}
	}
	return s
}

func (r *refusal) export() *NACK {
	if r == nil {
		return nil
	}
	return &NACK{r.version, r.why, r.at}
}

func names(list []key) []string {
	var out []string
	for _, k := range list {
		out = append(out, short(k.url)+" "+k.name)
	}
	return sortedSet(out)
}

// Decode gives Raw as a message, for printing; nil if it is of an extension.
func (r ResourceState) Decode() proto.Message {
	var m proto.Message
	switch r.URL {
	case ListenerURL:
		m = new(listenerv3.Listener)
	case RouteURL:
		m = new(routev3.RouteConfiguration)
	case ClusterURL:
		m = new(clusterv3.Cluster)
	case EndpointURL:
		m = new(endpointv3.ClusterLoadAssignment)
	default:
		return nil
	}
	if r.Raw == nil || proto.Unmarshal(r.Raw, m) != nil {
		return nil
	}
	return m
}
