// Package catalog follows registries and says which services they have, with the
// host that each has in xDS and the endpoints behind it. The control plane and
// the adapter to istiod both start from it.
//
// Invariants:
//   - Nothing is delivered before every registry has answered once: a control
//     plane that starts during an outage must not take services away.
//   - While a registry is away, its last sets stay. A set that becomes empty, and
//     providers that an incomplete set does not name, stay for a bounded time.
//   - Equal registries give equal views, on every machine: no clock, no order of
//     arrival counts.
//   - A Service that was delivered is never changed; the goroutine of Run owns
//     everything else.
package catalog
