// Probe is what the containers of the demo have in the place of a shell.
//
//	probe hold                     wait for SIGTERM: it keeps a host's network namespace
//	probe registry URL             does the registry serve? zookeeper://host:port or nacos://host:port
//	probe dial HOST:PORT...        can each be connected to?
//	probe get URL                  print what GET answers
//	probe calls [-n 10] [-pause 0s] ADDRESS   have a consumer make calls, and count them by the way they went
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

const timeout = 2 * time.Second // of one connection or question

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("want hold, registry, dial, get or calls")
	}
	word, args := args[0], args[1:]
	switch {
	case word == "hold" && len(args) == 0:
		<-ctx.Done()
		return nil
	case word == "registry" && len(args) == 1:
		return serves(ctx, args[0])
	case word == "dial" && len(args) > 0:
		dial(ctx, args, out)
		return nil
	case word == "get" && len(args) == 1:
		return get(ctx, args[0], out)
	case word == "calls":
		f := flag.NewFlagSet("calls", flag.ContinueOnError)
		n := f.Int("n", 10, "so many calls")
		pause := f.Duration("pause", 0, "between two of them")
		if err := f.Parse(args); err != nil {
			return err
		}
		if f.NArg() != 1 {
			return errors.New("calls: want the address of a consumer's remote control")
		}
		return calls(ctx, "http://"+f.Arg(0)+"/call?n=1&method=sayHello", *n, *pause, out)
	}
	return fmt.Errorf("%q: no such word, or not these arguments", word)
}

// serves says why a registry does not serve, if it does not.
func serves(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if u.Scheme == "nacos" {
		return get(ctx, "http://"+u.Host+"/nacos/v1/console/health/readiness", io.Discard)
	}
	if u.Scheme != "zookeeper" {
		return fmt.Errorf("%s: want zookeeper:// or nacos://", address)
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "srvr"); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err == nil && !bytes.Contains(answer, []byte("\nMode: ")) {
		err = fmt.Errorf("%s answers %q", address, answer)
	}
	return err
}

func dial(ctx context.Context, addresses []string, out io.Writer) {
	for _, a := range addresses {
		d := net.Dialer{Timeout: timeout}
		c, err := d.DialContext(ctx, "tcp", a)
		switch {
		case err == nil:
			c.Close()
			fmt.Fprintln(out, a, "open")
		case errors.Is(err, syscall.ECONNREFUSED):
			fmt.Fprintln(out, a, "refused")
		default:
			fmt.Fprintln(out, a, "unreachable:", err)
		}
	}
}

func get(ctx context.Context, address string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("%s: %s: %s", address, resp.Status, bytes.TrimSpace(text))
	}
	_, err = io.Copy(out, resp.Body)
	return err
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy from the environment

// call is one line of a consumer's answer.
type call struct {
	OK    bool
	MS    float64
	Hops  string
	Error string
}

// calls prints each way and how many went it. Failed calls are a way, too: who
// watches decides what they mean.
func calls(ctx context.Context, address string, n int, pause time.Duration, out io.Writer) error {
	ways, longest := map[string]int{}, 0.0
	for i := range n {
		if i > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
			}
		}
		var text bytes.Buffer
		if err := get(ctx, address, &text); err != nil {
			return err
		}
		lines := bufio.NewScanner(&text)
		for lines.Scan() {
			var c call
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				return fmt.Errorf("%q: %w", lines.Text(), err)
			}
			longest = max(longest, c.MS)
			if !c.OK {
				c.Hops = "failed: " + c.Error
			}
			ways[c.Hops]++
		}
		if err := lines.Err(); err != nil {
			return err
		}
	}
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		fmt.Fprintf(out, "   %4d × %s\n", ways[way], way)
	}
	fmt.Fprintf(out, "          the longest took %.1f ms\n", longest)
	return nil
}
