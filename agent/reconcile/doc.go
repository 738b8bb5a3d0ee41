// Package reconcile keeps one registry equal to what the local applications
// published. There is one Loop for each registry. It compares, it does not
// replay: every Apply names the whole truth, after a change, after something of
// ours was lost, and every 30 to 60 seconds.
//
// Invariants:
//   - Only a live publication is advertised. What ends is withdrawn at both
//     levels with the next Apply, at once; what begins is written at the
//     interface level at once, at the application level after a quiet moment.
//   - After a start nothing is withdrawn before the first probes of what was
//     loaded from disk are back: a restart changes no node.
//   - A registry that is away loses nothing: the desired set is made anew from
//     the workloads at each attempt.
//   - The functions that decide (desired, pace, observe) are pure; the goroutine
//     of Run owns what they work on.
package reconcile
