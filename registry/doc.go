// Package registry holds the words that every part shares: URL, Service,
// Provider, Instance, Metadata, and the small interfaces that a registry
// backend implements. It uses the standard library only and does no I/O.
//
// Invariants:
//   - A URL is kept whole. Parameters keep their bytes and their order; nothing
//     is decoded or encoded on the way through (Dubbo's URL.valueOf splits a
//     registry string without decoding its parts).
//   - Backends deliver whole sets, never deltas. Who reads them computes the
//     difference.
package registry
