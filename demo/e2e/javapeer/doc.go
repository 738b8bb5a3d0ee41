// Package javapeer runs Java Dubbo, unmodified or thin, as a consumer or a provider
// of the service of demo/app, and drives it over its standard input and output. One
// source, in the API that the lines have in common, is compiled for each.
//
// It needs Java 17 and Maven; the first use of a line fetches about 30 MB into
// the repository's .cache folder (or $MESHFERRY_CACHE).
//
// Invariants:
//   - Nothing of ours is on the class path but the driver in java/ and, for a thin
//     peer, the jars of sdk-lite/java: what a test shows of an unmodified one holds
//     for an application that knows nothing of agents.
//   - A process never outlives the one that started it.
//   - Files that Dubbo keeps in its home are in the peer's own folder.
package javapeer
