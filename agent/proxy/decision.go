package proxy

import (
	"bytes"
	"time"

	"github.com/meshferry/meshferry/agent/route"
)

// decision is what was decided for a call whose body begins with these bytes:
// protocol version, path, version, method and parameter types. It holds for every
// other call with the same beginning, while the snapshot does.
type decision struct {
	serialization byte
	front         []byte
	cluster       *route.Cluster
	route         *route.Route // of rules; nil: none
	limit         time.Duration
}

// decisions remembers the last few: most calls of a connection are of a few
// methods, and comparing bytes is cheaper than parsing them and looking them up.
type decisions struct {
	snap *route.Snapshot
	list []decision
	next int
}

// remembered is how many. Looking through 16 costs less than deciding one anew
// (BenchmarkDecisions), and a connection pays for those that it calls.
const remembered = 16

func (m *decisions) find(snap *route.Snapshot, serialization byte, body []byte) *decision {
	if m.snap != snap {
		clear(m.list)
		*m = decisions{snap: snap, list: m.list[:0]}
		return nil
	}
	for i := range m.list {
		d := &m.list[i]
		if d.serialization == serialization && bytes.HasPrefix(body, d.front) {
			return d
		}
	}
	return nil
}

// add follows a find of the same snapshot. The front is copied.
func (m *decisions) add(d decision) {
	d.front = bytes.Clone(d.front)
	if len(m.list) < remembered {
		m.list = append(m.list, d)
		return
	}
	m.list[m.next] = d
	m.next = (m.next + 1) % remembered
}
