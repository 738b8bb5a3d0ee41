// Package compose runs the docker-compose demo from nothing: an engine of its own,
// images made from packages under the names that docker-compose.yml uses, the
// demo, and its tour. It has a test only, which `make test-compose` runs.
//
// Nothing is left behind: the engine lives in network, mount and process
// namespaces of its own, which end with the test, however it ends. It needs root
// and Debian's docker.io, docker-compose, iptables and debootstrap; with CI=true
// it installs what is not there.
package compose
