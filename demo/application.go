package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// application is a running demo/app.
type application struct {
	*child
	http string // its remote control
	port int
}

// startApplication starts demo/app in a role and waits until it says that it is
// ready.
func (d *demo) startApplication(ctx context.Context, bin, role string, args ...string) (*application, error) {
	args = append([]string{role, "--cache", filepath.Join(d.dir, "cache-"+role), "--interface", service}, args...)
	return d.launch(ctx, role, filepath.Join(bin, "app"), args...)
}

// launch starts an application and waits until it says that it is ready.
func (d *demo) launch(ctx context.Context, role, program string, args ...string) (*application, error) {
	c, err := d.family.start(fmt.Sprintf("%s-%d", role, len(d.family.all())), d.dir, program, args...)
	if err != nil {
		return nil, err
	}
	address := make(chan string, 1)
	go func() {
		defer close(address)
		// Whatever else it says there, and Spring Boot logs there, is part of its log.
		log, err := os.OpenFile(c.log, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return
		}
		defer log.Close()
		for in := bufio.NewReader(c.out); ; {
			line, err := in.ReadString('\n')
			var ready struct{ Ready, HTTP string }
			if json.Unmarshal([]byte(line), &ready) == nil && ready.Ready == role {
				address <- ready.HTTP
			} else {
				log.WriteString(line)
			}
			if err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("the %s did not become ready: %w", role, context.Cause(ctx))
	case at, ok := <-address:
		if !ok {
			<-c.ended // it closed its output, or it is not ours
			return nil, fmt.Errorf("the %s ended before it was ready: %w\n%s", role, c.result(), c.tail(20))
		}
		return &application{child: c, http: at}, nil
	}
}

// line is one line of the ledger of demo/app.
type line struct {
	OK            bool
	MS            float64
	Answer, Error string
}

// call makes n calls and gives the answers.
func (a *application) call(ctx context.Context, n int) ([]line, error) {
	resp, err := fetch(ctx, a.http, fmt.Sprintf("/call?method=sayHello&n=%d", n))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.name, err)
	}
	defer resp.Body.Close()
	lines := make([]line, n)
	d := json.NewDecoder(resp.Body)
	for i := range lines {
		if err := d.Decode(&lines[i]); err != nil {
			return nil, fmt.Errorf("%s: answer %d of %d: %w", a.name, i+1, n, err)
		}
	}
	return lines, nil
}

// callWhenReady makes n calls once a first one has been answered. An unmodified
// dubbo-go consumer has no provider yet just after its start: its ZooKeeper
// registry loads them in the background. The first answered call is one of the n.
func (a *application) callWhenReady(ctx context.Context, n int) ([]line, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	for {
		first, err := a.call(ctx, 1)
		if err != nil {
			return nil, err
		}
		if first[0].OK {
			rest, err := a.call(ctx, n-1)
			return append(first, rest...), err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s found no provider: %s", a.name, first[0].Error)
		}
	}
}
