package main

import (
	"fmt"
	"strings"
)

// publication is what is shown of one publication.
type publication struct {
	Workload, Service, Protocol, State, Reason string

	Port       int
	Advertised []string
	Registries []struct{ Name, State, Reason, Detail string }
}

// off tells that its publish mode keeps it out of every registry.
func (p publication) off() bool {
	for _, r := range p.Registries {
		if r.Reason != "off" {
			return false
		}
	}
	return len(p.Registries) > 0
}

// state is the word of the API, or "off", which counts as published there.
func (p publication) state() string {
	if p.off() {
		return "off"
	}
	return p.State
}

// why says in words why a publication is pending.
func (p publication) why(reason, detail string) string {
	text, known := map[string]string{
		"port-closed":   fmt.Sprintf("nothing listens on port %d of this host: is the provider running?", p.Port),
		"no-answer":     fmt.Sprintf("port %d takes connections and does not answer: the provider hangs", p.Port),
		"readonly":      "the provider said that it is about to stop",
		"registry-away": "the registry cannot be reached; it is written when it can",
		"conflict":      "somebody else who is alive holds this entry: is the advertised address used twice?",
		"settling":      "it is on its way",
		"stopping":      "the agent stops and withdraws everything",

		"protocol-not-carried": "the agent does not speak " + p.Protocol + "; other hosts call the provider itself",
	}[reason]
	if !known {
		return strings.TrimSuffix(reason+": "+detail, ": ")
	}
	if detail != "" {
		text += " (" + detail + ")"
	}
	return reason + ": " + text
}

// pending is a row for each registry that does not hold p: service, port,
// registry, why.
func (p publication) pending() (rows [][]string) {
	for _, r := range p.Registries {
		if r.State == "pending" {
			rows = append(rows, []string{p.Service, port(p.Port), r.Name, p.why(r.Reason, r.Detail)})
		}
	}
	return rows
}

// around is a row for each registry that holds p at the provider's own address
// because the agent cannot stand before it: service, port, registry, why.
func (p publication) around() (rows [][]string) {
	for _, r := range p.Registries {
		if r.State == "published" && r.Reason == "protocol-not-carried" {
			rows = append(rows, []string{p.Service, port(p.Port), r.Name, p.why(r.Reason, "")})
		}
	}
	return rows
}
