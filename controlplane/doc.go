// Package controlplane serves xDS for Dubbo services: what registries have, and
// what a folder of Istio's resources says about it, as listeners, routes, clusters
// and endpoints, on go-control-plane's server.
//
// Invariants:
//   - It keeps no state of its own: equal registries and folders give equal
//     resources and versions (hashes of content) on every instance.
//   - A folder is served when all of it is valid; until then the last good one is.
//   - Nothing is served before every registry has answered once.
//   - A change costs in proportion to itself: resources are shared by all nodes,
//     marshalled once, and a node is sent what changed. A provider that comes or
//     goes changes EDS only.
package controlplane
