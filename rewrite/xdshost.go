package rewrite

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// Limits of DNS names (RFC 1035), which istiod checks.
const (
	maxLabel = 63
	maxName  = 253
)

// Host is the name of a service in xDS and in Istio's resources: the interface in
// lower case, then "-group" and "-version" with dashes for its dots, as
// dubbo2istio names it. Istio lowers some names and not others, so capitals would
// not survive. A service whose plain name could be read in two ways or is no DNS
// name is named with a hash of its key behind it: what DNS does not allow becomes
// '-', the last label is cut to 53 characters, then "-x" and 8 hex digits.
//
// The way back is a table of known services (Hosts), not parsing: interfaces that
// differ in capitals alone share a name.
func Host(s registry.Service) string {
	name := strings.ToLower(s.Interface)
	for _, part := range []string{s.Group, s.Version} {
		if part != "" {
			name += "-" + strings.ReplaceAll(part, ".", "-")
		}
	}
	if plain(s, name) {
		return name
	}
	sum := sha256.Sum256([]byte(s.Key()))
	return hashed(strings.ToLower(name), "-x"+hex.EncodeToString(sum[:4]))
}

// plain tells whether the plain name of a service is its host.
func plain(s registry.Service, name string) bool {
	all := func(text string, ok func(c byte) bool) bool {
		for i := range len(text) {
			if !ok(text[i]) {
				return false
			}
		}
		return true
	}
	if !all(s.Interface, func(c byte) bool { return letter(c|' ') || digit(c) || c == '.' }) ||
		!all(s.Group, func(c byte) bool { return letter(c) || digit(c) }) || s.Group != "" && !letter(s.Group[0]) ||
		len(name) > maxName {
		return false
	}
	if s.Version != "" {
		for number := range strings.SplitSeq(s.Version, ".") {
			if number == "" || !all(number, digit) {
				return false
			}
		}
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || l[0] == '-' || len(l) > maxLabel {
			return false
		}
	}
	// istiod: "top level domain cannot be all-numeric".
	return !all(labels[len(labels)-1], digit)
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }

// hashed makes a DNS name of any text, with the suffix in its last label. Of a
// name that is too long the first labels go.
func hashed(name, suffix string) string {
	labels := strings.Split(strings.Map(func(c rune) rune {
		if c < 0x80 && (letter(byte(c)) || digit(byte(c)) || c == '.') {
			return c
		}
		return '-'
	}, name), ".")
	last := len(labels) - 1
	length := 0
	for i, l := range labels {
		l = strings.TrimLeft(l, "-")
		if i < last {
			l = strings.TrimRight(l[:min(len(l), maxLabel)], "-")
		} else {
			l = l[:min(len(l), maxLabel-len(suffix))]
		}
		if l = cmp.Or(l, "x"); i == last { // a label is never empty
			l += suffix
		}
		labels[i] = l
		length += len(l) + 1
	}
	for length-1 > maxName {
		length -= len(labels[0]) + 1
		labels = labels[1:]
	}
	return strings.Join(labels, ".")
}

// Collision is a service that has no host, because another one has it.
type Collision struct {
	Host    string
	Kept    registry.Service // who has the host: its key sorts first
	Refused registry.Service
}

func (c Collision) Error() string {
	return fmt.Sprintf("service %s has no host in xDS: %q is that of %s", c.Refused, c.Host, c.Kept)
}

// Hosts is the way back: the services by host. Services that share a host would
// be sent each other's calls, so only the one whose key sorts first has it, the
// same one on every machine; the others are refused by name.
func Hosts(services []registry.Service) (map[string]registry.Service, []Collision) {
	sorted := slices.Clone(services)
	slices.SortFunc(sorted, func(a, b registry.Service) int { return cmp.Compare(a.Key(), b.Key()) })
	table := make(map[string]registry.Service, len(sorted))
	var refused []Collision
	for _, s := range slices.Compact(sorted) {
		host := Host(s)
		if kept, taken := table[host]; taken {
			refused = append(refused, Collision{host, kept, s})
			continue
		}
		table[host] = s
	}
	return table, refused
}
