package route

import (
	"github.com/meshferry/meshferry/registry"
)

// Query asks how a call would be routed.
type Query struct {
	Service     registry.Service  `json:"service"`
	Method      string            `json:"method,omitempty"`
	Attachments map[string]string `json:"attachments,omitempty"`
	Application string            `json:"application,omitempty"` // the caller
	Direction   string            `json:"direction,omitempty"`   // Outbound when empty
}

// Explanation answers a Query.
type Explanation struct {
	Direction  string      `json:"direction"`
	Service    string      `json:"service"`
	Method     string      `json:"method,omitempty"`
	State      SetState    `json:"state"`
	Reason     string      `json:"reason,omitempty"`
	Routed     bool        `json:"routed"`           // a call would be sent
	Groups     []string    `json:"groups,omitempty"` // that exist, when there is more than one or not the one asked
	Policy     string      `json:"policy,omitempty"`
	PolicyWhy  string      `json:"policyWhy,omitempty"`
	Timeout    string      `json:"timeout,omitempty"` // "1s"; empty: none
	TimeoutWhy string      `json:"timeoutWhy,omitempty"`
	Dedicated  bool        `json:"dedicated,omitempty"`
	Candidates []Candidate `json:"candidates"`
}

// Candidate is one provider that was looked at.
type Candidate struct {
	Address     string   `json:"address"`
	Origin      string   `json:"origin,omitempty"`
	Service     string   `json:"service"`
	Protocol    string   `json:"protocol"`
	Application string   `json:"application,omitempty"`
	Registries  []string `json:"registries,omitempty"`
	Model       string   `json:"model,omitempty"`
	Mesh        bool     `json:"mesh"`
	Used        bool     `json:"used"`             // a call may go there
	Reason      string   `json:"reason,omitempty"` // why not, or why it comes last
	Configured  int      `json:"configuredWeight"`
	Weight      int      `json:"weight"` // effective, with warm-up
	Warming     string   `json:"warming,omitempty"`
	Share       float64  `json:"share"` // of the calls, 0 to 1, by weight among those of the best rank
	InFlight    int64    `json:"inFlight"`
}
