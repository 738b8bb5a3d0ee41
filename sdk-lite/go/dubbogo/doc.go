// Package dubbogo is the registry "mesh" of dubbo-go: an application that
// imports it and names the agent as its registry publishes to, and calls
// through, the Meshferry agent of its host.
//
//	import _ "github.com/meshferry/meshferry/sdk-lite/go/dubbogo"
//
//	registry.WithAddress("mesh://127.0.0.1:20883"), registry.WithRegisterInterface()
//
// The address may also be a unix socket, "mesh:///run/meshferry/control.sock".
// registry.WithPassword gives the agent's token, if it asks for one.
// registry.WithParams knows "cache", the directory that keeps direct providers
// for a start without agent ("off": none; default: meshferry in the user's cache
// directory).
//
// Without agent the application starts, serves, calls the direct providers that
// it knows, and says so once in its log. When the agent is there it is told
// everything again.
//
// Invariants:
//   - One client, so one lease and one workload, for each agent address and
//     process, although dubbo-go constructs a registry for every look-up.
//   - dubbo-go is handed whole sets, by NotifyAll, and never an unknown one: a
//     set of which nothing is known yet removes nobody.
//   - The application itself is never stopped by a missing agent; only what the
//     agent refuses is an error.
package dubbogo
