package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	// Children die with the thread that started them (Pdeathsig): main must not
	// move to another one.
	runtime.LockOSThread()
	registry := flag.String("registry", "", "registry to use: zookeeper://host:2181; default: an embedded one")
	java := flag.Bool("java", false, "mix applications in Java with those in Go (needs Java 17 and Maven)")
	canary := flag.Bool("xds", false, "a canary by rules: the control plane, a folder, and two providers")
	move := flag.Bool("move", false, "move from ZooKeeper to Nacos while calls run; starts both (needs Java 17 and Maven)")
	keep := flag.Bool("keep", false, "keep running until interrupted, and say what to try")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	d := &demo{out: os.Stdout, registry: *registry, java: *java, keep: *keep}
	run := d.run
	switch {
	case *canary:
		run = d.runXDS
	case *move:
		run = d.runMove
	}
	err := run(ctx)
	d.close()
	switch {
	case err == nil:
		d.say("\nAll as told (%.1f s after the build). Everything that was started has ended.", time.Since(d.begun).Seconds())
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		d.say("\nInterrupted. Everything that was started has ended.")
		if !d.keep || !d.shown {
			os.Exit(130)
		}
	default:
		d.say("\nNOT AS TOLD: %v", err)
		d.explain()
		os.Exit(1)
	}
}
