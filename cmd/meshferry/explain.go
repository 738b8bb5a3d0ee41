package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newExplain() *cobra.Command {
	var c client
	var f format
	var inbound bool
	var method, application string
	var attachments, arguments []string
	cmd := &cobra.Command{
		Use:   "explain SERVICE",
		Short: "Tell where a call would go, and why",
		Long: `Tell where a call would go now and why: the group and version that are found, the
load balancing, the time-out, and of every provider whether it is used, and why
not; then the same for calls from other hosts, if the service is offered here.
The agent looks into its registries for a service that nobody called yet. SERVICE
is [group/]interface[:version]. No call is made.`,
		Example: `  meshferry explain com.example.GreetService --method sayHello
  meshferry explain com.example.GreetService --attachment group=g1 --attachment dubbo.tag=gray -o json`,
		Args: oneService,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := routeQuery(args[0], inbound)
			for name, value := range map[string]string{"method": method, "application": application} {
				if value != "" {
					q.Set(name, value)
				}
			}
			for _, a := range attachments {
				if k, _, ok := strings.Cut(a, "="); !ok || k == "" {
					return usageError{fmt.Errorf("--attachment wants key=value, not %q", a)}
				}
				q.Add("attachment", a)
			}
			for _, a := range arguments {
				if k, _, ok := strings.Cut(a, "="); !ok || strings.Trim(k, "0123456789") != "" || k == "" {
					return usageError{fmt.Errorf("--argument wants index=value, not %q", a)}
				}
				q.Add("argument", a)
			}
			var e, local explanation
			if printed, err := c.get(cmd, f, "/v1/explain", q, &e); printed || err != nil {
				return err
			}
			p := &printer{w: cmd.OutOrStdout()}
			e.print(p)
			if inbound {
				return p.err
			}
			q.Set("direction", "inbound")
			if _, err := c.get(cmd, f, "/v1/explain", q, &local); err != nil {
				return err
			}
			if len(local.Candidates) > 0 {
				p.line("\nOffered on this host, for calls that come in:\n")
				local.print(p)
			}
			return p.err
		},
	}
	c.flags(cmd)
	f.flag(cmd)
	cmd.Flags().StringVar(&method, "method", "", "method that is called")
	cmd.Flags().StringVar(&application, "application", "", "application that calls")
	cmd.Flags().StringArrayVar(&attachments, "attachment", nil, "attachment key=value, repeatable")
	cmd.Flags().StringArrayVar(&arguments, "argument", nil, "argument index=value, the first index is 0, repeatable")
	cmd.Flags().BoolVar(&inbound, "inbound", false, "only a call from another host to a local provider")
	return cmd
}

// explanation is what is shown of GET /v1/explain.
type explanation struct {
	Direction, Service, Method, State, Reason, Policy, PolicyWhy, Timeout, TimeoutWhy string

	Routed, Dedicated bool

	Routing, Source, Choice string
	Rules                   *ruled
	Groups                  []string
	Callers                 []struct {
		Application, Timeout string
		Processes            []int
	}
	Candidates []candidate
	Registries registryStates
}

func (e explanation) print(p *printer) {
	routed := "yes"
	if !e.Routed {
		routed = "no: a call would fail now"
	}
	dedicated := ""
	if e.Dedicated {
		dedicated = "one for each caller, because of callbacks"
	}
	var groups []string
	for _, g := range e.Groups {
		groups = append(groups, cmp.Or(g, "(none)"))
	}
	p.facts("service", e.Service, "method", e.Method, "direction", e.Direction, "state", e.State, "routed", routed, "reason", e.Reason, "decided by", because(e.Source, e.Routing), "choice", e.Choice, "registries", e.Registries.String(),
		"groups", strings.Join(groups, ", "), "load balancing", because(e.Policy, e.PolicyWhy), "time-out", because(e.Timeout, e.TimeoutWhy), "connections", dedicated)
	var callers [][]string
	for _, c := range e.Callers {
		known := "remote.application"
		if len(c.Processes) > 0 {
			known += ", process " + strings.Trim(fmt.Sprint(c.Processes), "[]")
		}
		callers = append(callers, []string{cmp.Or(c.Application, "(not named)"), cmp.Or(c.Timeout, "none"), known})
	}
	if len(callers) > 0 {
		p.line("")
		p.table([]string{"CALLER", "TIME-OUT", "KNOWN BY"}, callers)
	}
	if e.Rules != nil {
		e.Rules.print(p)
	}
	p.line("")
	candidates(p, e.Candidates)
}

// ruled is what rules say about the call.
type ruled struct {
	VirtualHost, Route, Origin, Timeout, Retry, Fault, DirectResponse string

	Match, PassedOver, Mirrors, Attachments, Unsupported []string
	Clusters                                             []struct {
		Cluster, Origin, Reason, Limits string
		Weight                          int
		Share                           float64
		Filters                         []struct {
			Name string
			Left int
		}
	}
}

func (r *ruled) print(p *printer) {
	p.facts("virtual host", r.VirtualHost, "route", r.Route, "written by", r.Origin, "matches", strings.Join(r.Match, "; "), "passed over", strings.Join(r.PassedOver, "; "),
		"route time-out", r.Timeout, "retries", r.Retry, "fault", r.Fault, "mirrors", strings.Join(r.Mirrors, ", "), "attachments", strings.Join(r.Attachments, "; "),
		"answer", r.DirectResponse, "not honoured", strings.Join(r.Unsupported, "; "))
	var rows [][]string
	for _, c := range r.Clusters {
		var left []string
		for _, f := range c.Filters {
			left = append(left, fmt.Sprintf("%d %s", f.Left, f.Name))
		}
		rows = append(rows, []string{c.Cluster, fmt.Sprint(c.Weight), fmt.Sprintf("%.1f%%", 100*c.Share), strings.Join(left, " → "), c.Limits, c.Origin, c.Reason})
	}
	if len(rows) > 0 {
		p.line("")
		p.table([]string{"CLUSTER", "WEIGHT", "SHARE", "ENDPOINTS", "LIMITS", "WRITTEN BY", "REASON"}, rows)
	}
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return strings.TrimSpace(what + " (" + why + ")")
}
