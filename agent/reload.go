package agent

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/discovery"
	"github.com/meshferry/meshferry/agent/workload"
)

// Reload takes what a running agent can change from next, which must be complete
// and checked as for New, and logs one line with what has changed and one with
// what needs a restart. It may be called while Run works, from one goroutine at a
// time.
func (a *Agent) Reload(next config.Config) {
	before := a.config.Load()
	merged, changed, restart := before.Reload(next)
	merged.Warnings = next.Warnings
	readdressed := a.readdress(*before, merged) // first: a registry that is added may be heard at once
	if slices.Contains(changed, "registries") {
		failed := a.exchange(merged)
		merged.Registries = slices.DeleteFunc(slices.Clone(merged.Registries), func(r config.Registry) bool { return slices.Contains(failed, r.Name) })
	}
	a.config.Store(&merged)
	if slices.Contains(changed, "registries") {
		a.router.Refresh() // weights and preferences
	}
	for _, w := range next.Warnings {
		if !slices.Contains(before.Warnings, w) {
			a.log.Warn(w)
		}
	}
	a.workloads.SetProbe(workload.ProbeSettings(merged.Probe))
	if err := a.workloads.SetStatic(statics(merged.Static)); err != nil {
		a.log.Error("inbound.static not changed", "err", err)
	}
	a.discovery.SetProtection(protection(merged.Protection))
	if readdressed || slices.Contains(changed, "services") {
		a.router.Refresh()
	}
	if slices.Contains(changed, "services") {
		for _, b := range *a.backends.Load() {
			b.loop.Refresh()
		}
	}
	a.log.Info("configuration reloaded", "changed", cmp.Or(strings.Join(changed, ", "), "nothing"))
	if len(restart) > 0 {
		a.log.Warn("changed settings need a restart; the agent goes on with the old ones", "settings", strings.Join(restart, ", "))
	}
}

func protection(p config.Protection) discovery.Protection {
	hold := func(d time.Duration) time.Duration {
		if d == 0 {
			return -1 // there 0 is the default
		}
		return d
	}
	return discovery.Protection{EmptyHold: hold(p.EmptyHold), ShrinkHold: hold(p.ShrinkHold), Disabled: !p.Enabled}
}
