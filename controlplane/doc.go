// Package controlplane serves xDS for Dubbo services: what registries have, and
// what a folder of Istio's resources says about it, as listeners, routes, clusters
// and endpoints.
//
// Invariants:
//   - It keeps no state of its own: equal registries and folders give equal
//     resources and versions (hashes of content) on every instance.
//   - A folder is served when all of it is valid; until then the last good one is.
//   - Nothing is served before every registry has answered once.
//   - A change costs in proportion to itself. A resource is packed once and shared by
//     all nodes. What a node knows is the number of the last change that it was told,
//     not names and versions. A provider that comes or goes changes EDS only.
//   - A node has one response of a type under way; one that is slow is told the
//     newest when it is ready, and holds up nobody.
//   - Make before break: what was removed is told last.
//
// The protocol is go-control-plane's: each stream has a server of it, and the node is
// that server's cache. What its server does again for each node is to marshal the
// responses, to parse requests, and to keep the names that a node asked for in a map;
// docs/xds.md says what that costs.
package controlplane
