package reconcile

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// journal logs each change once: what appeared in the registry and what went,
// who is in the way, and whether the registry can be reached.
type journal struct {
	log       *slog.Logger
	held      map[string]bool
	conflicts map[string]bool
	trouble   string // "", "away" or "failing"
	told      bool   // of the trouble
}

// note compares the result with what it knows.
func (j *journal) note(r result) {
	j.health(r)
	held, conflicts := map[string]bool{}, map[string]bool{}
	for entry, name := range entries(r.applied) {
		switch item := r.report[name]; item.State {
		case registry.Held:
			held[entry] = true
			if !j.held[entry] {
				j.log.Info("advertised", "change", "+", "entry", entry)
			}
		case registry.Conflict:
			conflicts[entry] = true
			if !j.conflicts[entry] {
				j.log.Error("held by another owner who is alive: is the advertised address used twice?", "entry", entry, "owner", item.Owner)
			}
		default:
			if j.held[entry] { // not told: as it was
				held[entry] = true
			}
		}
	}
	for entry := range j.held {
		if !held[entry] {
			if r.err != nil && !conflicts[entry] {
				held[entry] = true // perhaps it is still there
				continue
			}
			j.log.Info("withdrawn", "change", "-", "entry", entry)
		}
	}
	j.held, j.conflicts = held, conflicts
}

func (j *journal) health(r result) {
	trouble := ""
	switch {
	case r.away:
		trouble = "away"
	case r.err != nil:
		trouble = "failing"
	}
	switch {
	case trouble != j.trouble && trouble != "": // one miss is nothing: at a start the first connection is being made
		j.trouble, j.told = trouble, false
	case trouble == "away" && !j.told: // the backend says it, with the cause
		j.told = true
	case trouble != "" && !j.told:
		j.told = true
		j.log.Warn("registry cannot be brought up to date; nothing is lost, trying again", "err", r.err)
	case trouble == "":
		if j.told {
			j.log.Info("registry is up to date again")
		}
		j.trouble, j.told = "", false
	}
}

// invalid tells which publications cannot be advertised since the newest plan.
func (j *journal) invalid(before, now plan) {
	for id, i := range now.publications {
		if why, bad := strings.CutPrefix(i.reason, invalidPrefix); bad && before.publications[id].reason != i.reason {
			j.log.Warn("publication cannot be advertised", "service", id.Service, "workload", id.Workload, "why", why)
		}
	}
}

// entries are the providers and instances of d as they are logged, and the
// names that a Report has for them.
func entries(d registry.Desired) map[string]string {
	all := map[string]string{}
	for _, u := range d.Providers {
		all[u.String()] = u.String()
	}
	for _, a := range d.Applications {
		all[fmt.Sprintf("application %s revision %s", a.ID(), a.Metadata.Revision)] = a.ID()
	}
	return all
}
