// Package route turns sets of providers into an immutable Snapshot that the data
// plane reads, and picks an endpoint for each call.
//
// Invariants:
//   - A stored Snapshot never changes, with one exception: the effective weights
//     of a cluster are replaced whole while endpoints warm up.
//   - Table.Lookup, VirtualHost.Only, VirtualHost.Group, Cluster.Pick and
//     Cluster.Timeout take no lock and allocate nothing.
//   - The goroutine of Router.Run owns all compile state. Others hand it whole
//     sets, and the newest set replaces one that was not read yet.
//   - The work after a change is proportional to the change: one interface is
//     compiled again, and the tables share everything else.
//   - What survives snapshots is found by name: a Peer by (direction, address),
//     Stats by (direction, service key).
package route
