package meshferry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// States of a [Result] and an [Answer].
const (
	StatePublished   = "published"
	StatePending     = "pending"     // kept and retried; see the reason
	StateUnpublished = "unpublished" //
	StateSuperseded  = "superseded"  // unpublish by URL: newer content stands under that identity
	StateWaiting     = "waiting"     // subscribe: nothing known yet, keep what you have
	StateReady       = "ready"       // subscribe: providers are known
	StateEmpty       = "empty"       // subscribe: it is known that there is no provider
	StateProtected   = "protected"   // subscribe: the last good set, for a while

	ReasonAgentAway = "agent-away" // set by this client, never by an agent
)

// Publication is one service that this process serves: a whole provider URL, or
// the fields. Fields left empty are filled by the agent.
type Publication struct {
	URL         string            `json:"url,omitempty"`
	Application string            `json:"application,omitempty"`
	Interface   string            `json:"interface,omitempty"`
	Group       string            `json:"group,omitempty"`
	Version     string            `json:"version,omitempty"`
	Protocol    string            `json:"protocol,omitempty"` // "dubbo", "tri"
	Host        string            `json:"host,omitempty"`
	Port        int               `json:"port,omitempty"` // the local one, usually 20880
	Path        string            `json:"path,omitempty"` // default: the interface
	Methods     []string          `json:"methods,omitempty"`
	Params      map[string]string `json:"params,omitempty"`
	Registries  []string          `json:"registries,omitempty"` // names from the agent's configuration; default: all
	// Wait bounds how long the agent waits for the registry before it answers
	// "pending". Zero: the agent's default, 2 s. Negative: it does not wait.
	Wait time.Duration `json:"-"`
}

// identity tells publications of one workload apart: protocol, service key,
// path and local port. Everything else is content.
func (p Publication) identity() (string, error) {
	t := target{protocol: p.Protocol, path: p.Path, port: p.Port}
	service := serviceKey(p.Group, p.Interface, p.Version)
	if p.URL != "" {
		var err error
		if t, err = parseURL(p.URL); err != nil {
			return "", err
		}
		service = t.service()
	}
	if service == "" {
		return "", errors.New("publication without an interface")
	}
	if t.path == "" {
		t.path = p.Interface
	}
	return fmt.Sprintf("%s %s %s %d", t.protocol, service, t.path, t.port), nil
}

// Consumer is one service that this process calls: a whole consumer URL, or the
// fields. Group and version may be "*" or a comma list.
type Consumer struct {
	URL         string            `json:"url,omitempty"`
	Application string            `json:"application,omitempty"`
	Interface   string            `json:"interface,omitempty"`
	Group       string            `json:"group,omitempty"`
	Version     string            `json:"version,omitempty"`
	Protocol    string            `json:"protocol,omitempty"`
	Params      map[string]string `json:"params,omitempty"`     // timeout, loadbalance, ...
	Categories  []string          `json:"categories,omitempty"` // default: those of the URL, else "providers"
}

// identity is protocol and service key as asked.
func (s Consumer) identity() (string, error) {
	protocol, service := s.Protocol, serviceKey(s.Group, s.Interface, s.Version)
	if s.URL != "" {
		t, err := parseURL(s.URL)
		if err != nil {
			return "", err
		}
		protocol, service = t.param("protocol"), t.service()
	}
	if service == "" {
		return "", errors.New("subscription without an interface")
	}
	return protocol + " " + service, nil
}

// Result is what became of a publication.
type Result struct {
	Agent        string   `json:"agent"` // boot id
	State        string   `json:"state"`
	Reason       string   `json:"reason,omitempty"`
	Publications []Record `json:"publications,omitempty"`
}

// Record is one publication as the agent sees it.
type Record struct {
	Workload   string          `json:"workload,omitempty"`
	Service    string          `json:"service"`
	Protocol   string          `json:"protocol,omitempty"`
	Port       int             `json:"port,omitempty"`
	State      string          `json:"state"`
	Reason     string          `json:"reason"`
	Advertised []string        `json:"advertised"` // URLs that stand in registries
	Registries []RegistryState `json:"registries"`
	Error      *Refusal        `json:"error,omitempty"` // in a batch: why this one was refused
}

// RegistryState is one registry as the agent sees it.
type RegistryState struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"` // of a publication: why it is pending
	Detail string `json:"detail,omitempty"` // to the reason: who holds the entry, an error
	Age    string `json:"age,omitempty"`    // of a subscription: since when the registry is in this state
}

// Answer is what an agent says of a subscription.
type Answer struct {
	Subscription string              `json:"subscription"`
	Agent        string              `json:"agent"` // boot id
	Revision     uint64              `json:"revision"`
	State        string              `json:"state"`
	Mode         string              `json:"mode"` // "mesh", or "direct": individual endpoints
	Reason       string              `json:"reason,omitempty"`
	URLs         map[string][]string `json:"urls"`     // by category: "providers", "configurators", "routers"
	Fallback     []string            `json:"fallback"` // direct providers
	Registries   []RegistryState     `json:"registries,omitempty"`
}

// outbound is the addresses of the agent's data plane that the answer names.
// Endpoints that are handed out individually stand in Fallback, or the mode is
// "direct".
func (a Answer) outbound() []string {
	if a.Mode == "direct" {
		return nil
	}
	var addrs []string
	for _, raw := range a.URLs["providers"] {
		if slices.Contains(a.Fallback, raw) {
			continue
		}
		t, err := parseURL(raw)
		if err != nil || t.port == 0 {
			continue
		}
		addrs = append(addrs, joinHostPort(t.host, t.port))
	}
	return unique(addrs)
}

// Refusal is an answer of the agent that a retry of the same call will not
// change. Source: the agent's error body {"error":{"code","message","detail"}}.
type Refusal struct {
	Status  int    `json:"-"` // HTTP status
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  any    `json:"detail,omitempty"`
}

// Error names the code and the reason.
func (r *Refusal) Error() string {
	text := fmt.Sprintf("agent refused (%d %s)", r.Status, r.Code)
	if r.Message != "" {
		text += ": " + strings.TrimSpace(r.Message)
	}
	return text
}
