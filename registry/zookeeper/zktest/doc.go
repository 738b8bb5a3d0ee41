// Package zktest installs and runs a real ZooKeeper server for tests and demos.
// It needs Java and Maven; the first use fetches about 13 MB into the
// repository's .cache folder (or $MESHFERRY_CACHE).
//
// Invariants:
//   - A server listens on 127.0.0.1 only.
//   - A server never outlives the process that started it.
//   - Several processes may install at once: one does, the others wait.
package zktest
