// Package rewrite says how a provider that an application published is shown to
// the rest of the world: as a URL (interface level) and as an instance with its
// metadata (application level), and how to find the way back. Pure functions
// over the types of package registry; no I/O, no clock, no randomness.
//
// Invariants:
//   - Back(Out(u)) equals Canonical(u): nothing is lost on the way out.
//   - Parameters that Canonical does not name keep their bytes and their order.
//   - Equal input gives equal text on every host, so that equal hosts share one
//     revision of application metadata.
//   - Marks ("meshferry.*") stand in interface URLs and in instance metadata,
//     never in the parameters of a service.
package rewrite
