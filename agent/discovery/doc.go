// Package discovery follows interfaces in the registries and delivers their
// providers to package route: what local consumers subscribed to, and what calls
// asked for on demand.
//
// Invariants:
//   - One subscription for each (registry, interface), while somebody wants it.
//   - While a registry is away its last set stays. A set that is suddenly empty,
//     or lost more than half of its providers, or is incomplete, is suspect: the
//     missing providers are held for a bounded time, and each of them only until
//     it refuses connections.
//   - What is held is said: state protected, with the reason.
//   - The last sets are on disk, so that an agent that starts while a registry is
//     away has something to serve; they are dropped a day after the registry was
//     last heard.
//   - The goroutine of Source.Run owns all sets.
package discovery
