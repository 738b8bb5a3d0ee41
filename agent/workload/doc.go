// Package workload knows what the local applications asked for: publications,
// subscriptions and leases. It keeps them on disk and finds out, by probes and
// leases, which publications live. What it knows goes out as one View.
//
// Invariants:
//   - A View is immutable. Its Generation grows with every change of what was
//     asked for or of what lives, and with nothing else: saying the same again
//     changes nothing.
//   - Nothing is Live before its local port answered once, and nothing is
//     withdrawn before its first probe, also after a start from disk.
//   - A lease never withdraws what answers its probe. A lease that ended only
//     makes the agent look, and shortens how long something dead is remembered.
//   - Publish, Unpublish, Subscribe and Unsubscribe return when the change is on
//     disk. When the disk fails they return all the same, and View.DiskError
//     says so: serving is worth more than remembering.
//
// One mutex guards the state, in place of a goroutine that owns it: every call
// is a few look-ups in memory and must also work before Run has begun, nothing
// under the mutex waits for more than a line of log, and a queue in front of an owner
// would need deadlines and an answer for when it is full. The slow things have
// goroutines of their own, all ended with Run: one saves (whoever waits at that
// moment shares its fsync), and for each local address one probes and one reads
// the connection that the prober keeps.
package workload
