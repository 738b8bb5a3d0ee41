// Package xds turns what package xdsclient delivers into the rules, clusters and
// endpoints of package route.
//
// How a Dubbo call is read: attachments are headers, "/interface/method" is the
// path, and the pseudo headers dubbo-method (or :method), dubbo-group and
// dubbo-version are what their names say. Query parameters are attachments too. A
// service is the host that rewrite.Host gives (CONTRACT §9) at the port of the mesh.
//
// Invariants:
//   - Nothing is dropped in silence: each field that is set and not honoured becomes
//     one line of Unsupported, of the route, virtual host or cluster that has it.
//   - A condition that cannot be checked never matches, so that a rule does not catch
//     calls that its author excluded; a fault that cannot be limited as its author
//     wanted is not injected.
//   - Istio's default of two retries, which no author wrote, repeats no call that may
//     have been executed.
//   - Work is proportional to the change: a virtual host, cluster or set of endpoints
//     that kept its pointer is not looked at again.
package xds
