package main

import "testing"

func TestRegistryStates(t *testing.T) {
	list := registryStates{{"main", "connected", "2m"}, {"old", "away", "5s"}, {"new", "connecting", "3s"}}
	const want = "main connected; old away for 5s, so this is what it said before; new connecting for 3s, so it has said nothing yet"
	if got := list.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
