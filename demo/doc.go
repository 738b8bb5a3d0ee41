// Demo shows one call through the mesh, step by step, and proves each step:
//
//	go run ./demo                                   an embedded registry, a directory
//	go run ./demo --registry zookeeper://h:2181     a real one
//	go run ./demo --java                            mixed with applications in Java
//	go run ./demo --keep                            keep running, and say what to try
//	go run ./demo --move                            from ZooKeeper to Nacos while calls run
//	go run ./demo --xds                             a canary by rules, while calls run
//
// It builds the agent and the demo application, starts two agents on two
// loopback addresses as two hosts, a provider behind the first and a consumer
// behind the second, and compares what the registry holds and what agents and
// provider counted with what it told. Anything that is not as told ends it with
// exit code 1 and the reason. Every process that it starts ends with it.
package main
