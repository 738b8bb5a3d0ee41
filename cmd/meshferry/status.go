package main

import (
	"strconv"

	"github.com/spf13/cobra"
)

func newStatus() *cobra.Command {
	var c client
	var f format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the agent, its registries and the local applications are",
		Long: `Show the running agent on one screen: its addresses, the connection to each
registry and whether it holds everything that is published, the local
applications with their leases, and then whatever is not as it should be, with
the reason.`,
		Example: "  meshferry status\n  meshferry status -o json --control 127.0.0.1:20883",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s status
			if printed, err := c.get(cmd, f, "/v1/status", nil, &s); printed || err != nil {
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

// status is what is shown of GET /v1/status.
type status struct {
	Agent, Version, State, Uptime, Address, Outbound string

	Extra      []struct{ Application, Address string }
	Registries []struct {
		Name, URL, State, Age, Session, Error, Compared string

		InSync             bool
		Published, Pending int
	}
	XDS       []struct{ Server, State, Age, Error string }
	Workloads []struct {
		Workload, Lease, TTL string
		Publications         []publication
		Subscriptions        []struct{ Service, State, Mode, Reason string }
	}
	Static    []staticApplication
	Protected []struct {
		Interface, Reason string
		Providers         int
	}
	Warnings []string
}

func (s status) print(p *printer) {
	facts := []string{"agent", s.Agent, "version", s.Version, "state", s.State, "uptime", s.Uptime, "address", s.Address}
	for _, x := range s.Extra {
		facts = append(facts, "  of "+x.Application, x.Address)
	}
	p.facts(append(facts, "outbound", s.Outbound)...)
	p.line("")
	var rows [][]string
	for _, r := range s.Registries {
		rows = append(rows, []string{r.Name, r.URL, r.State, r.Age, yes(r.InSync), strconv.Itoa(r.Published), strconv.Itoa(r.Pending), r.Compared, short(r.Session), r.Error})
	}
	p.list("No registry is set.", []string{"REGISTRY", "URL", "STATE", "SINCE", "IN SYNC", "PUBLISHED", "PENDING", "COMPARED", "SESSION", "ERROR"}, rows)
	rows = nil
	for _, x := range s.XDS {
		rows = append(rows, []string{x.Server, x.State, x.Age, x.Error})
	}
	p.section([]string{"ADS SERVER", "STATE", "SINCE", "ERROR"}, rows)
	p.line("")
	rows = nil
	var pending, around, troubled [][]string
	for _, w := range s.Workloads {
		for _, one := range w.Publications {
			pending = append(pending, one.pending()...)
			around = append(around, one.around()...)
		}
		for _, one := range w.Subscriptions {
			if one.State != "ready" && one.State != "protected" || one.Mode == "direct" { // what is protected has a table of its own
				troubled = append(troubled, []string{one.Service, one.State, one.Mode, w.Workload, one.Reason})
			}
		}
		rows = append(rows, []string{w.Workload, w.Lease, w.TTL, strconv.Itoa(len(w.Publications)), strconv.Itoa(len(w.Subscriptions))})
	}
	p.list("No local application has published or subscribed.", []string{"WORKLOAD", "LEASE", "TTL", "PUBLICATIONS", "SUBSCRIPTIONS"}, rows)
	p.section([]string{"REGISTERS ITSELF", "PORT", "STATE", "SERVICES", "FROM", "WHY"}, s.static())
	p.section([]string{"NOT PUBLISHED", "PORT", "REGISTRY", "WHY"}, pending)
	p.section([]string{"NOT THROUGH THE AGENT", "PORT", "REGISTRY", "WHY"}, around)
	p.section([]string{"CALLED", "STATE", "MODE", "WORKLOAD", "REASON"}, troubled)
	rows = nil
	for _, set := range s.Protected {
		rows = append(rows, []string{set.Interface, strconv.Itoa(set.Providers), set.Reason})
	}
	p.section([]string{"PROTECTED", "PROVIDERS", "REASON"}, rows)
	for _, w := range s.Warnings {
		p.line("\nwarning: %s", visible(w))
	}
}

// short keeps long names of sessions from breaking the table.
func short(s string) string {
	const most = 20
	if len(s) <= most {
		return s
	}
	return s[:most-1] + "…"
}

// staticApplication registers itself at the agent's address.
type staticApplication struct {
	Application, From, State, Reason string

	Port     int
	Services []string
}

func (s status) static() (rows [][]string) {
	for _, one := range s.Static {
		why := ""
		if one.State != "serving" {
			why = publication{Port: one.Port}.why(one.Reason, "")
		}
		rows = append(rows, []string{one.Application, port(one.Port), one.State, strconv.Itoa(len(one.Services)), one.From, why})
	}
	return rows
}

// section is a table after an empty line, or nothing when it would be empty.
func (p *printer) section(header []string, rows [][]string) {
	if len(rows) > 0 {
		p.line("")
		p.table(header, rows)
	}
}

// list is a table, or a sentence when it would be empty.
func (p *printer) list(none string, header []string, rows [][]string) {
	if len(rows) == 0 {
		p.line("%s", none)
		return
	}
	p.table(header, rows)
}
