// Command load measures what a hop costs: a dubbo2 load generator, an echo server
// and a plain TCP relay to compare with.
//
//	load bench                           everything in one run, as a table
//	load fleet                           calls beside a control plane with 10 000 clusters, as a table
//	load echo  --listen 127.0.0.1:20880  answer every request with its own body
//	load relay --listen A --to B         copy bytes in user space, one upstream for each downstream
//	load run   --to A --service S --connections 8 --depth 32 --for 5s
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

const usage = `usage: load bench|fleet|echo|relay|run [flags]; load <command> -h lists its flags`

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("%s", usage)
	}
	f := flag.NewFlagSet("load "+args[0], flag.ExitOnError)
	listen := "127.0.0.1:20880"
	var to string
	o := options{Service: "meshferry.bench.Echo", Connections: 8, Depth: 32, Bytes: 100, For: 5 * time.Second}
	var b bench
	fl := fleet{clusters: 10_000, endpoints: 10, rate: 100}
	var cores string
	switch args[0] {
	case "echo", "relay":
		f.StringVar(&listen, "listen", listen, "addresses to listen on, with commas between")
	case "run":
		f.StringVar(&o.Service, "service", o.Service, "service key: [group/]interface[:version]")
		f.IntVar(&o.Connections, "connections", o.Connections, "number of connections")
		f.IntVar(&o.Depth, "depth", o.Depth, "calls in flight on each connection")
		f.IntVar(&o.Bytes, "bytes", o.Bytes, "size of the argument")
		f.DurationVar(&o.For, "for", o.For, "how long to measure, after a fifth of it to warm up")
	case "bench":
		f.StringVar(&b.agent, "agent", "", "the meshferry binary (default: built from this repository)")
		f.StringVar(&b.other, "compare", "", "a second meshferry binary, measured in the same rounds")
		f.DurationVar(&b.each, "for", 2*time.Second, "how long to measure each cell")
		f.IntVar(&b.rounds, "rounds", 3, "rounds, interleaved; the median counts")
		f.IntVar(&b.bytes, "bytes", o.Bytes, "size of the argument")
		f.StringVar(&b.only, "only", "", "cells to run, as depth x connections with commas between, 32x8 say (default: all)")
		f.StringVar(&b.ways, "ways", "", "ways to measure beside the relay, with commas between, agent say (default: all)")
	case "fleet":
		f.StringVar(&fl.agent, "agent", "", "the meshferry binary (default: built from this repository)")
		f.StringVar(&fl.other, "compare", "", "a second meshferry binary, measured in the same rounds")
		f.IntVar(&fl.clusters, "clusters", fl.clusters, "clusters of the control plane")
		f.IntVar(&fl.endpoints, "endpoints", fl.endpoints, "endpoints of each")
		f.IntVar(&fl.rate, "changes", fl.rate, "endpoints that change in a second; 0: only the first load")
		f.BoolVar(&fl.sotw, "sotw", false, "state of the world instead of incremental ADS")
		f.DurationVar(&fl.each, "for", 3*time.Second, "how long to measure each cell; the first load should take a part of it")
		f.IntVar(&fl.rounds, "rounds", 3, "rounds, each with a new agent; the median counts")
		f.IntVar(&fl.bytes, "bytes", o.Bytes, "size of the argument")
		f.StringVar(&fl.only, "only", "1x1,32x8", "cells to run, as depth x connections with commas between")
	case "ads": // the control plane of fleet
		f.IntVar(&fl.clusters, "clusters", fl.clusters, "clusters")
		f.IntVar(&fl.endpoints, "endpoints", fl.endpoints, "endpoints of each")
	case "burn": // the control of fleet
		f.StringVar(&cores, "cores", "", "how many cores to use, one number for each 50 ms, with spaces between")
	case "help", "-h", "-help", "--help":
		fmt.Println(usage)
		return nil
	default:
		return fmt.Errorf("unknown command %q; %s", args[0], usage)
	}
	if args[0] == "relay" || args[0] == "run" || args[0] == "ads" {
		f.StringVar(&to, "to", "", "address to connect to")
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if f.Lookup("to") != nil && to == "" {
		return fmt.Errorf("%s: --to is needed", args[0])
	}
	switch args[0] {
	case "echo":
		return serve(ctx, listen, echo)
	case "relay":
		return serve(ctx, listen, relay(to))
	case "fleet":
		return fl.run(ctx, os.Stdout)
	case "ads":
		return ads(ctx, fl.clusters, fl.endpoints, to, os.Stdin, os.Stdout)
	case "burn":
		var list []float64
		for text := range strings.FieldsSeq(cores) {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return fmt.Errorf("burn: --cores: %w", err)
			}
			list = append(list, n)
		}
		burn(ctx, list)
		return nil
	case "run":
		o.To = to
		r, err := generate(ctx, o)
		if err != nil {
			return err
		}
		fmt.Println(r)
		return nil
	default:
		return b.run(ctx, os.Stdout)
	}
}

// serve accepts until ctx ends, and says on standard output that it is ready.
func serve(ctx context.Context, addresses string, handle func(net.Conn)) error {
	errs := make(chan error, 1)
	for address := range strings.SplitSeq(addresses, ",") {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					errs <- err
					return
				}
				go handle(c)
			}
		}()
	}
	fmt.Println("ready")
	select {
	case <-ctx.Done():
		return nil
	case err := <-errs:
		return err
	}
}
