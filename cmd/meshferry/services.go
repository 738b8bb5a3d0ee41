package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func newServices() *cobra.Command {
	var c client
	var f format
	cmd := &cobra.Command{
		Use:   "services",
		Short: "List the services that local applications offer and call",
		Long: `List what local applications offer, with what other hosts see of it, and what
they call, with the number of providers that are known.`,
		Example: "  meshferry services\n  meshferry services -o json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s services
			if printed, err := c.get(cmd, f, "/v1/services", nil, &s); printed || err != nil {
				return err
			}
			p := &printer{w: cmd.OutOrStdout()}
			s.print(p)
			return p.err
		},
	}
	c.flags(cmd)
	f.flag(cmd)
	return cmd
}

// services is what is shown of GET /v1/services.
type services struct {
	Inbound  []publication
	Outbound []struct {
		Service, State, Reason string
		Providers              int
		Subscribers            []string
	}
}

func (s services) print(p *printer) {
	var rows [][]string
	for _, o := range s.Inbound {
		rows = append(rows, []string{o.Service, o.Protocol, port(o.Port), o.state(), o.Reason, o.Workload, addresses(o.Advertised)})
	}
	p.list("Nothing is offered here.", []string{"OFFERED", "PROTOCOL", "PORT", "STATE", "REASON", "WORKLOAD", "ADVERTISED AT"}, rows)
	p.line("")
	rows = nil
	for _, o := range s.Outbound {
		rows = append(rows, []string{o.Service, o.State, strconv.Itoa(o.Providers), strings.Join(o.Subscribers, ","), o.Reason})
	}
	p.list("Nothing is called from here.", []string{"CALLED", "STATE", "PROVIDERS", "SUBSCRIBERS", "REASON"}, rows)
}

func port(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// addresses are the hosts and ports of URLs, each once.
func addresses(urls []string) string {
	var list []string
	seen := map[string]bool{}
	for _, u := range urls {
		_, rest, _ := strings.Cut(u, "://")
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			rest = rest[:i]
		}
		if rest != "" && !seen[rest] {
			seen[rest] = true
			list = append(list, rest)
		}
	}
	return strings.Join(list, ",")
}
