// Package istio reads a folder of Istio's networking resources (VirtualService,
// DestinationRule, ServiceEntry, WorkloadEntry), as Kubernetes writes them, into
// the types of istio.io/api, and checks them as a whole.
//
// Invariants:
//   - Nothing is dropped in silence: a field that a Dubbo call cannot use is an
//     error or a warning that names file, line and field.
//   - A folder with an error yields no Config: one that is served is whole.
//   - Equal files give equal results; the order of files does not count.
package istio
