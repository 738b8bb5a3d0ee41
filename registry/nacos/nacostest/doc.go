// Package nacostest installs and runs a real Nacos server for tests and demos.
// It needs Java and Maven; the first use of a version fetches 150 to 190 MB into
// the repository's .cache folder (or $MESHFERRY_CACHE). A start takes 5 to 10 s
// and about as much of a processor: share a server where a test allows it.
//
// Invariants:
//   - A server listens on 127.0.0.1 only. Nacos itself cannot: gRPC and JRaft
//     listen everywhere, so a java agent (java/Loopback.java) moves them.
//   - A server never outlives the process that started it.
//   - Several processes may install at once: one does, the others wait.
package nacostest
