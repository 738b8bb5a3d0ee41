package main

import (
	"testing"

	"go.uber.org/goleak"
)

// dubbo-go starts goroutines when it is imported.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) }
