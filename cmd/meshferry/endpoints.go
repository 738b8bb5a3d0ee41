package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshferry/meshferry/registry"
)

func newEndpoints() *cobra.Command {
	var c client
	var f format
	var inbound bool
	cmd := &cobra.Command{
		Use:   "endpoints SERVICE",
		Short: "List the providers of a service",
		Long: `List every provider of a service that the agent knows: where it is, whether an
agent stands before it, its weight, and whether calls go there; then the local
providers of it, if there are any. The agent looks into its registries for a
service that nobody called yet. SERVICE is [group/]interface[:version].`,
		Example: "  meshferry endpoints com.example.GreetService\n  meshferry endpoints g1/com.example.GreetService:1.0.0 --inbound",
		Args:    oneService,
		RunE: func(cmd *cobra.Command, args []string) error {
			var e, local endpoints
			if printed, err := c.get(cmd, f, "/v1/endpoints", routeQuery(args[0], inbound), &e); printed || err != nil {
				return err
			}
			p := &printer{w: cmd.OutOrStdout()}
			e.print(p)
			if inbound {
				return p.err
			}
			if _, err := c.get(cmd, f, "/v1/endpoints", routeQuery(args[0], true), &local); err != nil {
				return err
			}
			if len(local.Endpoints) > 0 {
				p.line("\nOffered on this host, for calls that come in:\n")
				local.print(p)
			}
			return p.err
		},
	}
	c.flags(cmd)
	f.flag(cmd)
	cmd.Flags().BoolVar(&inbound, "inbound", false, "only the local providers, which calls from other hosts reach")
	return cmd
}

func routeQuery(service string, inbound bool) url.Values {
	q := url.Values{"service": {service}}
	if inbound {
		q.Set("direction", "inbound")
	}
	return q
}

// endpoints is what is shown of GET /v1/endpoints.
type endpoints struct {
	Service, Direction, State, Reason string

	Endpoints  []candidate
	Registries registryStates
}

func (e endpoints) print(p *printer) {
	p.facts("service", e.Service, "direction", e.Direction, "state", e.State, "reason", e.Reason, "registries", e.Registries.String())
	p.line("")
	candidates(p, e.Endpoints)
}

// registryStates are the registries that were asked.
type registryStates []struct{ Name, State, Age string }

// String names them, with what is wrong.
func (list registryStates) String() string {
	var all []string
	for _, r := range list {
		text := r.Name + " " + r.State
		switch r.State {
		case registry.Connected:
		case registry.Connecting:
			text += " for " + r.Age + ", so it has said nothing yet"
		default:
			text += " for " + r.Age + ", so this is what it said before"
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// candidate is one provider.
type candidate struct {
	Service, Protocol, Address, Host, Cluster, Locality, Origin, Application, Workload, Model, Reason, Warmup string

	Mesh, Used              bool
	Registries              []string
	Weight, EffectiveWeight int
	Share                   float64
	InFlight                int64
}

func candidates(p *printer, list []candidate) {
	var rows [][]string
	for _, c := range list {
		weight := strconv.Itoa(c.Weight)
		if c.EffectiveWeight != c.Weight {
			weight = fmt.Sprintf("%d of %d", c.EffectiveWeight, c.Weight)
		}
		rows = append(rows, []string{
			c.Address, c.Host, c.Cluster, c.Locality, c.Protocol, c.Service, yes(c.Used), fmt.Sprintf("%.0f%%", 100*c.Share), weight, c.Warmup, strconv.FormatInt(c.InFlight, 10),
			yes(c.Mesh), c.Origin, c.Application, c.Workload, strings.Join(c.Registries, ","), c.Model, c.Reason,
		})
	}
	p.list("No provider is known.", []string{
		"ADDRESS", "NAME", "CLUSTER", "LOCALITY", "PROTOCOL", "SERVICE", "USED", "SHARE", "WEIGHT", "WARM-UP", "IN FLIGHT",
		"MESH", "ORIGIN", "APPLICATION", "WORKLOAD", "REGISTRIES", "MODEL", "REASON",
	}, rows)
}
