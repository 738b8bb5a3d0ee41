// Package nacos is the Nacos backend of package registry. It writes and reads
// what Dubbo's own Nacos registry, service discovery and metadata report write
// and read, over the protocol of Nacos 2 and 3.
//
// Of nacos-sdk-go it uses the protocol (messages and gRPC stubs), not the
// clients: those hide refused requests, answer reads from caches on disk and in
// memory, share a logger and a table of connections in the process, log in only
// every few hours, and touch their connection from several goroutines without a
// lock.
//
// Invariants:
//   - One connection for each Registry. A server takes the instances of a
//     connection out when it ends, so a new one registers them before anything
//     else.
//   - A connection owns one set of instances for each service. It is always
//     written whole.
//   - Held means seen in the registry: what was written is read back.
//   - An entry that another host lists is left alone.
//   - After a reconnect what a service lost is kept for a bounded time: a server
//     that was restarted is empty until its clients have come back.
package nacos
