// Package api is the control API: it decodes, limits, authorises and calls the
// workload store; it decides nothing about registries or routes.
//
// Invariants:
//   - Every answer that is not 2xx or 304 is {"error":{"code","message","detail"}};
//     errors.go is the only place that turns an error into a status.
//   - POST and PUT change state, GET reads, every call is idempotent.
//   - A request names registries, never addresses or passwords of them.
//   - Only this machine is served: loopback or a unix socket, a Host that is
//     ours, nothing that a web page could have sent.
//   - What subscribe and watch answer is computed by Answer, a pure function;
//     its revision changes only when what an SDK acts on changes.
//   - A request that waits gives up its place among the working ones; how many
//     may be held is capped apart.
package api
