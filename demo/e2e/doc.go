// Package e2e proves the product from end to end: a real ZooKeeper or Nacos, an
// ADS server on go-control-plane's cache, agents as processes, and applications
// with dubbo-go and Java Dubbo, some of which know an agent and some of which know
// nothing of agents. It has tests only.
//
// A host is a loopback address of its own, so every agent has the real ports
// 20881, 20882 and 20883, and tests can run side by side. What a test claims, it
// reads from the registry, from the agents' metrics, from the providers' own
// counts and from the kernel's table of connections; never from a log.
package e2e
