package config

import (
	"maps"
	"slices"
)

// Reload is c with those settings of next that a running agent can change.
// changed and restart name the keys that differ: those that it has taken, and
// those that it has not because they need a restart. Both are sorted.
func (c Config) Reload(next Config) (merged Config, changed, restart []string) {
	merged = c
	for _, s := range settings() {
		switch {
		case s.get(&c) == s.get(&next):
		case s.live:
			s.take(&merged, &next)
			changed = append(changed, s.key)
		default:
			restart = append(restart, s.key)
		}
	}
	if !slices.Equal(c.Services, next.Services) {
		merged.Services = next.Services
		changed = append(changed, "services")
	}
	if !slices.EqualFunc(c.Static, next.Static, Static.equal) {
		merged.Static = next.Static
		changed = append(changed, "inbound.static")
	}
	if !maps.Equal(c.Addresses, next.Addresses) {
		restart = append(restart, "addresses")
	}
	if !slices.Equal(c.Registries, next.Registries) {
		restart = append(restart, "registries")
	}
	slices.Sort(changed)
	slices.Sort(restart)
	return merged, changed, restart
}
