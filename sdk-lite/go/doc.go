// Package meshferry is the client of the control API of a Meshferry agent: it
// publishes what this process serves and subscribes to what it calls. It uses
// the standard library only.
//
// A [Client] keeps the wishes of the application (what it publishes, what it
// subscribes to) and makes the agent know them: at once if the agent is there,
// and again whenever an agent with another boot id answers. An agent that is
// away is not an error: the answer says "pending" with the reason "agent-away",
// and the wish is kept. Only a refusal by the agent ([Refusal]) and a bad
// argument are errors, and then nothing is kept.
//
// Invariants:
//   - Background work is owned by Run. When Run has returned, no goroutine and
//     no connection of the client is left.
//   - Every call has a time-out, every retry a cap and jitter.
//   - A [Set] is whole, never a delta, and never changes once handed out.
//   - A subscription has the agent's URLs while the agent is there. When control
//     API and outbound address have both failed for one second it has the direct
//     providers instead (from memory, or from disk if the agent was never seen),
//     and the agent's URLs again after both answered twice.
package meshferry
