package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// States of a subscription.
const (
	StateWaiting   = "waiting"   // nothing is known yet: the SDK keeps what it has
	StateReady     = "ready"     // there are providers
	StateEmpty     = "empty"     // there are none
	StateProtected = "protected" // the registry says none or suspiciously few; the last good set is used for now
)

// Modes of a subscription.
const (
	ModeMesh   = "mesh"   // the URLs lead to the agent's outbound address
	ModeDirect = "direct" // the URLs are the endpoints themselves, Document.Reason says why
)

// Document is what subscribe and watch answer (CONTRACT §3).
type Document struct {
	Subscription string              `json:"subscription"`
	Agent        string              `json:"agent"` // boot id
	Revision     uint64              `json:"revision"`
	State        string              `json:"state"`
	Mode         string              `json:"mode"`
	Reason       string              `json:"reason"`
	URLs         map[string][]string `json:"urls"`     // by category
	Fallback     []string            `json:"fallback"` // at most maxFallback direct providers
	Registries   []RegistryState     `json:"registries"`
}

// RegistryState is how one registry stands: State of registry.Status, and since
// when, in whole seconds ("2s").
type RegistryState struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Age   string `json:"age"`
}

// visible is the part of a document that an SDK acts on, and that its revision
// counts: neither ages, nor texts, nor endpoints behind the outbound address.
func (d Document) visible() [sha256.Size]byte {
	text, err := json.Marshal([]any{d.State, d.Mode, d.URLs})
	if err != nil {
		panic(err) // strings, slices and maps of them always marshal
	}
	return sha256.Sum256(text)
}

// Question is everything that an answer depends on.
type Question struct {
	Subscription workload.Subscription
	// State, Reason and Providers are those of the interface: all groups and
	// versions, both models, each provider once.
	State     string
	Reason    string
	Providers []registry.Provider
	Outbound  netip.AddrPort // bound address of the outbound listener
	Protocols []string       // what the outbound listener speaks
	Inbound   []string       // every host:port at which registries list providers behind this agent
}

// withoutAgent are the providers as they can be called while this agent is away:
// those behind it at their own address.
func (q Question) withoutAgent() []registry.Provider {
	list := slices.Clone(q.Providers)
	for i := range list {
		u := &list[i].URL
		origin, err := registry.ParseURL(u.Protocol + "://" + u.Param(registry.MarkOrigin))
		if err == nil && origin.Port != 0 && slices.Contains(q.Inbound, u.HostPort()) {
			u.Host, u.Port = origin.Host, origin.Port
		}
	}
	return list
}

// Answer computes the document of a subscription, but for Agent, Revision and
// Registries. It is pure: equal questions get equal answers, whatever the order
// of the providers.
func Answer(q Question) Document {
	sub := q.Subscription
	d := Document{
		Subscription: sub.ID, State: q.State, Mode: ModeMesh, Reason: q.Reason,
		URLs: map[string][]string{}, Fallback: []string{}, Registries: []RegistryState{},
	}
	for _, category := range sub.Categories {
		if category != "providers" {
			d.URLs[category] = []string{emptyURL(sub, category)}
		}
	}
	if !slices.Contains(sub.Categories, "providers") {
		d.State, d.Reason = StateReady, ""
		return d
	}
	if q.State == StateWaiting {
		return d
	}
	why := individually(sub)
	providers := matching(sub, q.Providers)
	if why != "" {
		providers = matching(sub, apart(q.Providers))
	}
	if len(providers) == 0 {
		d.URLs["providers"] = []string{emptyURL(sub, "providers")}
		if d.State = StateEmpty; len(q.Providers) > 0 {
			d.Reason = fmt.Sprintf("%s has providers, but none is %s", sub.Service.Interface, sub.Service)
			if sub.Protocol != "" {
				d.Reason += ", protocol " + sub.Protocol
			}
		}
		return d
	}
	d.Fallback = fallback(sub.ID, matching(sub, q.withoutAgent()))

	sdk := clientOf(sub)
	var urls []string
	mesh := false
	for _, g := range grouped(providers) {
		direct := why
		if direct == "" {
			direct = q.unreachable(g)
		}
		if direct != "" {
			d.Reason = direct
			urls = append(urls, texts(g.urls)...)
			continue
		}
		mesh = true
		urls = append(urls, handOut(g, sdk, q.Outbound).String())
	}
	if !mesh {
		d.Mode, d.Fallback = ModeDirect, []string{}
	}
	d.URLs["providers"] = urls
	return d
}

// individually says why a subscription must have the endpoints themselves.
func individually(sub workload.Subscription) string {
	switch c := sub.URL.Param("cluster"); c {
	case "broadcast", "forking", "mergeable":
		return "cluster=" + c + " cannot work behind one address"
	}
	return ""
}

// apart are the providers, those that share the address of their agent with others of
// the same service at their own: at the agent's, a call reaches one of them, and not
// the one that was meant. An own address that only its host can dial is none.
func apart(all []registry.Provider) []registry.Provider {
	type place struct {
		protocol, path, address string
		service                 registry.Service
	}
	at := func(u registry.URL) place { return place{u.Protocol, u.Path, u.HostPort(), u.Service()} }
	origins := map[place]map[string]registry.URL{}
	for _, p := range all {
		u := p.URL
		for text := range strings.SplitSeq(cmp.Or(u.Param(registry.MarkOrigins), u.Param(registry.MarkOrigin)), ",") {
			origin, err := registry.ParseURL(u.Protocol + "://" + text)
			ip, notIP := netip.ParseAddr(origin.Host)
			if err != nil || origin.Port == 0 || notIP == nil && ip.Unmap().IsLoopback() {
				continue
			}
			if origins[at(u)] == nil {
				origins[at(u)] = map[string]registry.URL{}
			}
			own := u
			own.Host, own.Port = origin.Host, origin.Port
			origins[at(u)][text] = own
		}
	}
	var list []registry.Provider
	done := map[place]bool{}
	for _, p := range all {
		own := origins[at(p.URL)]
		if len(own) < 2 {
			list = append(list, p)
			continue
		}
		if !done[at(p.URL)] {
			for _, u := range own { // the answer is sorted later
				one := p
				one.URL = u
				list = append(list, one)
			}
		}
		done[at(p.URL)] = true
	}
	return list
}

// unreachable says why the outbound listener cannot carry the calls of a group
// of providers.
func (q Question) unreachable(g group) string {
	if !slices.Contains(q.Protocols, g.protocol) {
		return "protocol " + g.protocol + " is not carried by the agent"
	}
	if _, equal := common(g.urls, "token"); !equal && !slices.Contains(serializations(g.urls), "hessian2") {
		return "tokens differ by provider, and the serialization does not let the agent write them"
	}
	return ""
}

// matching are the enabled providers that the subscription asked for, as URLs
// that can be handed out, sorted.
func matching(sub workload.Subscription, all []registry.Provider) []registry.URL {
	var urls []registry.URL
	for _, p := range all {
		u := p.URL
		if !sub.Service.Matches(u.Service()) || u.Param("enabled") == "false" || u.Param("disabled") == "true" {
			continue
		}
		if !registry.Accepts(sub.Protocol, u.Protocol) {
			continue
		}
		urls = append(urls, stripped(u))
	}
	slices.SortFunc(urls, func(a, b registry.URL) int { return strings.Compare(a.String(), b.String()) })
	return urls
}

// stripped drops our marks, and the weight=0 that dubbo-go writes for "none":
// Java would send nothing there.
func stripped(u registry.URL) registry.URL {
	golang := strings.HasPrefix(u.Param("release"), "dubbo-golang")
	return u.Without(func(k, v string) bool {
		return strings.HasPrefix(k, registry.MarkPrefix) || golang && k == "weight" && v == "0"
	})
}

// group is the providers that one URL stands for.
type group struct {
	protocol, path string
	service        registry.Service
	urls           []registry.URL
}

func grouped(urls []registry.URL) []group {
	var groups []group
	for _, u := range urls {
		g := group{protocol: u.Protocol, path: u.Path, service: u.Service()}
		i := slices.IndexFunc(groups, func(o group) bool {
			return o.protocol == g.protocol && o.path == g.path && o.service == g.service
		})
		if i < 0 {
			groups, i = append(groups, g), len(groups)
		}
		groups[i].urls = append(groups[i].urls, u)
	}
	slices.SortFunc(groups, func(a, b group) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.path, b.path), cmp.Compare(a.service.Key(), b.service.Key()))
	})
	return groups
}

// emptyURL clears a category in an SDK. Source: Dubbo's
// CacheableFailbackRegistry#toUrlsWithEmpty.
func emptyURL(sub workload.Subscription, category string) string {
	u := registry.URL{Protocol: "empty", Host: sub.URL.Host, Path: sub.Service.Interface}
	if u.Host == "" {
		u.Host = "0.0.0.0"
	}
	u = u.With("category", category).With("interface", sub.Service.Interface)
	return withService(u, sub.Service).String()
}

func withService(u registry.URL, s registry.Service) registry.URL {
	if s.Group != "" {
		u = u.With("group", s.Group)
	}
	if s.Version != "" {
		u = u.With("version", s.Version)
	}
	return u
}

// maxFallback bounds the direct providers that an answer carries.
const maxFallback = 64

// fallback picks direct providers. Of many, different subscriptions get
// different ones, and the same one gets the same.
func fallback(id string, urls []registry.URL) []string {
	list := texts(urls)
	if len(list) > maxFallback {
		rank := func(s string) uint64 {
			h := fnv.New64a()
			h.Write([]byte(id))
			h.Write([]byte(s))
			return h.Sum64()
		}
		slices.SortFunc(list, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
		list = list[:maxFallback]
		slices.Sort(list)
	}
	return list
}

func texts(urls []registry.URL) []string {
	list := make([]string, len(urls))
	for i, u := range urls {
		list[i] = u.String()
	}
	return list
}
