// Package controlplane serves xDS for Dubbo services: what registries have, and
// what a folder of Istio's resources says about it, as listeners, routes, clusters
// and endpoints.
//
// Invariants:
//   - It keeps no state of its own: equal registries and folders give equal
//     resources and versions (hashes of content) on every instance.
//   - A folder is served when all of it is valid; until then the last good one is.
//   - Nothing is served before every registry has answered once.
//   - A change costs in proportion to itself. A resource is marshalled once, and its
//     bytes are shared by all nodes; lists of names are shared too. A node is sent
//     what changed. A provider that comes or goes changes EDS only.
//   - A node has one response of a type under way; one that is slow is told the
//     newest when it is ready, and holds up nobody.
//   - Make before break: what was removed is told last.
//
// go-control-plane's types are used, its cache and server are not: they keep the
// names and versions that a node knows in maps of its own, and marshal for each
// node again. With 500 nodes that follow 10 000 services that was 3.3 GB and 39 s
// until all had everything, and state of the world did not end; see docs/xds.md.
package controlplane
