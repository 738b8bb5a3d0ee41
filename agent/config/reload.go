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
	merged.Registries, merged.Addresses = nil, maps.Clone(next.Addresses)
	differ := false
	for _, r := range next.Registries {
		i := slices.IndexFunc(c.Registries, func(o Registry) bool { return o.Name == r.Name })
		if i < 0 {
			merged.Registries = append(merged.Registries, r)
			continue
		}
		now := c.Registries[i]
		differ = differ || now.Weight != r.Weight || now.Preferred != r.Preferred
		now.Weight, now.Preferred = r.Weight, r.Preferred
		merged.Registries = append(merged.Registries, now)
		if now != r {
			restart = append(restart, "registries."+r.Name)
		}
		if was, is := c.Addresses[r.Name], next.Addresses[r.Name]; was != is {
			restart = append(restart, "addresses."+r.Name)
			if delete(merged.Addresses, r.Name); was != "" {
				merged.Addresses[r.Name] = was
			}
		}
	}
	if differ || !slices.EqualFunc(c.Registries, merged.Registries, func(a, b Registry) bool { return a.Name == b.Name }) {
		changed = append(changed, "registries")
	}
	if !slices.Equal(c.Extra, next.Extra) {
		restart = append(restart, "inbound.extra")
	}
	slices.Sort(changed)
	slices.Sort(restart)
	return merged, changed, restart
}
