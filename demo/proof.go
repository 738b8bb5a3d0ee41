package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// counts is how many calls passed a place.
type counts struct{ outboundB, inboundA, provider, connections int }

func (d *demo) count(ctx context.Context, provider *application) (c counts, err error) {
	if c.outboundB, err = requests(ctx, d.b.at(d.b.control), "outbound"); err != nil {
		return c, fmt.Errorf("metrics of agent B: %w", err)
	}
	if c.inboundA, err = requests(ctx, d.a.at(d.a.control), "inbound"); err != nil {
		return c, fmt.Errorf("metrics of agent A: %w", err)
	}
	var stats struct {
		Calls       map[string]int
		Connections int
	}
	if err = get(ctx, provider.http, "/stats", &stats); err != nil {
		return c, err
	}
	for _, n := range stats.Calls {
		c.provider += n
	}
	c.connections = stats.Connections
	return c, nil
}

// counted waits until the calls since before are those wanted. A provider counts
// a call before it answers, an agent may count one just after.
func (d *demo) counted(ctx context.Context, provider *application, before, want counts) (got counts, err error) {
	err = d.await(ctx, nil, "the counters", func() error {
		now, err := d.count(ctx, provider)
		if err != nil {
			return err
		}
		got = counts{now.outboundB - before.outboundB, now.inboundA - before.inboundA, now.provider - before.provider, now.connections}
		if got.outboundB != want.outboundB || got.inboundA != want.inboundA || got.provider != want.provider {
			return fmt.Errorf("agent B outbound %d, agent A inbound %d, provider %d; want %d, %d, %d",
				got.outboundB, got.inboundA, got.provider, want.outboundB, want.inboundA, want.provider)
		}
		return nil
	})
	return got, err
}

const requestsMetric = "meshferry_requests_total"

// requests sums the requests of the service in one direction, from /metrics.
func requests(ctx context.Context, address, direction string) (int, error) {
	resp, err := fetch(ctx, address, "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return sum(resp.Body, requestsMetric, `direction="`+direction+`"`, service)
}

// sum adds the samples of a metric whose labels contain all the given texts.
func sum(r io.Reader, metric string, labels ...string) (int, error) {
	total := 0.0
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
lines:
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), metric+"{")
		if !ok {
			continue
		}
		end := strings.LastIndexByte(rest, '}')
		if end < 0 {
			return 0, fmt.Errorf("bad line %q", lines.Text())
		}
		for _, l := range labels {
			if !strings.Contains(rest[:end], l) {
				continue lines
			}
		}
		value, _, _ := strings.Cut(strings.TrimSpace(rest[end+1:]), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("bad line %q: %w", lines.Text(), err)
		}
		total += n
	}
	return int(total), lines.Err()
}

var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}} // no proxy from the environment

func fetch(ctx context.Context, address, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		resp.Body.Close()
		return nil, fmt.Errorf("GET %s: %s: %s", path, resp.Status, strings.TrimSpace(string(text)))
	}
	return resp, nil
}

// connected says whether an agent runs and has reached its registry.
func (d *demo) connected(ctx context.Context, h *host) error {
	var status struct {
		State      string
		Registries []struct{ Name, State, Error string }
	}
	if err := get(ctx, h.at(h.control), "/v1/status", &status); err != nil {
		return err
	}
	for _, r := range status.Registries {
		if r.State != registry.Connected {
			return fmt.Errorf("registry %s is %s %s", r.Name, r.State, r.Error)
		}
	}
	if status.State != "running" {
		return fmt.Errorf("it is %s", status.State)
	}
	return nil
}

func get(ctx context.Context, address, path string, into any) error {
	resp, err := fetch(ctx, address, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 8<<20)).Decode(into); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}
