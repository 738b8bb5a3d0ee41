// Package zookeeper is the ZooKeeper backend of package registry. It writes and
// reads what Dubbo's own ZooKeeper registry, service discovery and metadata
// report write and read.
//
// Invariants:
//   - One session for each Registry. It is recorded before anything is written
//     in it, resumed by the next process of the same host, and ended only by End.
//   - A node is never deleted to be created again: content is set in place, and
//     a leftover of this host is replaced in one transaction.
//   - A node whose owner lives is left alone, also if it names this host.
//   - Nothing is created for reading.
//   - One watch for each node, however many subscriptions need it.
//   - No lock is held while the library is called; its callback never blocks.
package zookeeper
