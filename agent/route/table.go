package route

import (
	"bytes"

	"github.com/meshferry/meshferry/registry"
)

// Table finds the virtual host of a call of protocol dubbo. The zero Table is
// empty.
type Table struct {
	// Unrouted counts the calls for which no cluster was found.
	Unrouted *Stats

	names  index[[]*VirtualHost] // by interface, or by path alias; one for each version
	opaque *[32]*Cluster         // by serialization id
}

var noVersion = []byte("0.0.0")

// Lookup finds the virtual host by what the body says behind the protocol
// version, which is the interface (Java) or the path (dubbo-go): as interface
// first, then as path alias. Version "0.0.0" is the same as none. It returns nil
// when nobody provides it.
//
// When Only of the result is nil, the attachments decide: if attachment "path"
// is there and differs from what was looked up, Lookup with it, then Group with
// attachment "group".
func (t *Table) Lookup(path, version []byte) *VirtualHost {
	if bytes.Equal(version, noVersion) {
		version = nil
	}
	for _, v := range t.names.bytes(path) {
		if v.version == string(version) {
			return v
		}
	}
	return nil
}

// Opaque is, on the inbound side, the cluster for a body that cannot be read:
// the one local process whose URLs allow that serialization, nil if there is not
// exactly one (CONTRACT §4.5).
func (t *Table) Opaque(serialization byte) *Cluster {
	if t.opaque == nil || int(serialization) >= len(t.opaque) {
		return nil
	}
	return t.opaque[serialization]
}

// clusters calls yield for each cluster, some more than once.
func (t *Table) clusters(yield func(*Cluster) bool) {
	for _, hosts := range t.names.all {
		for _, v := range hosts {
			for _, cl := range v.clusters {
				if !yield(cl) {
					return
				}
			}
			if v.only != nil && !yield(v.only) {
				return
			}
		}
	}
	if t.opaque == nil {
		return
	}
	for _, cl := range t.opaque {
		if cl != nil && !yield(cl) {
			return
		}
	}
}

// VirtualHost is one (path or interface, version) of protocol dubbo: clusters by
// group.
type VirtualHost struct {
	version  string
	clusters []*Cluster // sorted by group
	groups   []string   // of clusters
	only     *Cluster
}

// Service is interface and version, without a group.
func (v *VirtualHost) Service() registry.Service {
	return registry.Service{Interface: v.clusters[0].Service.Interface, Version: v.version}
}

// Only is the cluster when there is only one choice, so that attachments need
// not be read: one group and path, or, on the inbound side, one local process.
// Else nil.
func (v *VirtualHost) Only() *Cluster { return v.only }

// Group is the cluster of a group; nil: no such group.
func (v *VirtualHost) Group(group []byte) *Cluster {
	low, high := 0, len(v.groups)
	for low < high {
		middle := (low + high) / 2
		if v.groups[middle] < string(group) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low < len(v.groups) && v.groups[low] == string(group) {
		return v.clusters[low]
	}
	return nil
}

// Groups lists the groups, sorted; "" is none.
func (v *VirtualHost) Groups() []string { return v.groups }
