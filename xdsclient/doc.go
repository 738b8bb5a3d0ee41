// Package xdsclient is a client of aggregated xDS: it asks an ADS server, or
// several in order of preference, for listeners, routes, clusters and endpoints,
// and delivers what changed in coherent steps.
//
// It knows Envoy's types and no application protocol. The protocol is
// https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol, state of the
// world and incremental. Peers it was made for: istiod (with a sidecar's node, and
// with the gRPC generator) and servers built on go-control-plane.
//
// Invariants:
//   - Every response to something that was asked for is answered once. A resource
//     that cannot be used is named in the NACK; the good ones beside it are used,
//     and its last good version stays.
//   - An extension that is not known (a filter, a transport socket, a metadata
//     value) is never a reason for a NACK.
//   - An Update is coherent: a virtual host is delivered when the clusters it names
//     are there with their endpoints, and a cluster is withdrawn when no delivered
//     virtual host names it any more. What never becomes complete is delivered
//     after a bounded time, without what is missing.
//   - What did not change is not delivered again, whatever version the server gives
//     it. A virtual host that did not change keeps its pointer.
//   - A lost server changes nothing: what was delivered stays for ever, and is on
//     disk for a start while every server is away.
//   - Values that were delivered are never changed. The goroutine of Run owns all
//     state; Dump and SetListeners take its lock.
//
// Names of DNS clusters are delivered as they are: who dials them resolves them.
package xdsclient
