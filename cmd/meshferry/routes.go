package main

import (
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshferry/meshferry/controlplane"
	"github.com/meshferry/meshferry/registry"
)

func newRoutes() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "Check and explain a folder of routes",
		Long: `Check and explain a folder of Istio's resources for the control plane, without
starting anything and without a registry.`,
		Example: `  meshferry routes check /etc/meshferry/routes
  meshferry routes explain com.example.GreetService --folder /etc/meshferry/routes --method sayHello`,
	}
	cmd.AddCommand(newRoutesCheck(), newRoutesExplain())
	return cmd
}

func newRoutesCheck() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "check FOLDER",
		Short: "Tell what of a folder would be refused, and why",
		Long: `Tell what of a folder would be refused, and why: one line for each mistake, with
file, line and field. Warnings are what has no effect. Exit code 1 if there is a
mistake.`,
		Example: "  meshferry routes check /etc/meshferry/routes",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, problems, err := controlplane.Check(args[0])
			if err != nil {
				return err
			}
			if f == formatJSON {
				if err := printJSON(cmd.OutOrStdout(), append(problems[:0:0], problems...)); err != nil {
					return err
				}
			} else {
				p := &printer{w: cmd.OutOrStdout()}
				for _, one := range problems {
					p.line("%s", visible(one.String()))
				}
				if p.err != nil {
					return p.err
				}
			}
			if n := len(problems.Errors()); n > 0 {
				return fmt.Errorf("the folder would be refused; mistakes: %d", n)
			}
			return nil
		},
	}
	f.flag(cmd)
	return cmd
}

func newRoutesExplain() *cobra.Command {
	var f format
	var folder, method, namespace string
	var attachments, labels []string
	cmd := &cobra.Command{
		Use:   "explain SERVICE",
		Short: "Tell which rule of a folder a call would take",
		Long: `Tell which rule of a folder a call would take: the routes in their order, why one
does not fit, and where the first that fits sends the call. SERVICE is
[group/]interface[:version]; the host by which it is named in the folder is shown.
Routes with sourceLabels are for callers whose agent has these labels.`,
		Example: `  meshferry routes explain com.example.GreetService --folder routes --method sayHello --attachment user=jason`,
		Args:    oneService,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := registry.ParseService(args[0])
			if err != nil {
				return usageError{err}
			}
			values, err := pairs("--attachment", attachments)
			if err != nil {
				return err
			}
			from := controlplane.Caller{Namespace: namespace}
			if from.Labels, err = pairs("--source-label", labels); err != nil {
				return err
			}
			c, problems, err := controlplane.Check(folder)
			if err == nil {
				err = problems.Err()
			}
			if err != nil {
				return err
			}
			e := controlplane.Explain(c, s, method, values, from)
			if f == formatJSON {
				return printJSON(cmd.OutOrStdout(), e)
			}
			p := &printer{w: cmd.OutOrStdout()}
			explainRoutes(p, e)
			return p.err
		},
	}
	f.flag(cmd)
	cmd.Flags().StringVar(&folder, "folder", ".", "folder of Istio's resources")
	cmd.Flags().StringVar(&method, "method", "", "method that is called")
	cmd.Flags().StringArrayVar(&attachments, "attachment", nil, "attachment key=value, repeatable")
	cmd.Flags().StringArrayVar(&labels, "source-label", nil, "label key=value of the caller's agent (xds.node.labels), repeatable")
	cmd.Flags().StringVar(&namespace, "source-namespace", "default", "namespace of the caller's agent (xds.node.namespace)")
	return cmd
}

func pairs(flag string, list []string) (map[string]string, error) {
	values := map[string]string{}
	for _, one := range list {
		k, v, ok := strings.Cut(one, "=")
		if !ok || k == "" {
			return nil, usageError{fmt.Errorf("%s wants key=value, not %q", flag, one)}
		}
		values[k] = v
	}
	return values, nil
}

func explainRoutes(p *printer, e controlplane.Explanation) {
	rule := e.Rule
	if rule == "" {
		rule = "none for this host: every service has a default route"
	}
	p.facts("service", e.Service, "host", e.Host, "path", e.Path, "rule", rule)
	p.line("")
	rows := [][]string{}
	for _, r := range e.Routes {
		what := "taken"
		if !r.Taken {
			what = r.Why
		}
		name := r.Name
		if name == "" {
			name = "(no name)"
		}
		rows = append(rows, []string{name, what})
	}
	p.table([]string{"ROUTE", "RESULT"}, rows)
	p.line("")
	if len(e.Others) > 0 {
		p.line("Only for other callers: %s", visible(strings.Join(e.Others, "; ")))
		p.line("")
	}
	switch {
	case !e.Taken:
		p.line("No route fits: the call would fail.")
		return
	case e.Status != 0:
		p.line("Answered at once, with status %d.", e.Status)
		return
	}
	rows = nil
	for _, to := range e.To {
		var labels []string
		for k, v := range to.Labels {
			labels = append(labels, k+"="+v)
		}
		sort.Strings(labels)
		rows = append(rows, []string{to.Cluster, fmt.Sprintf("%.4g %%", to.Percent), strings.Join(labels, ",")})
	}
	p.table([]string{"CLUSTER", "SHARE", "ENDPOINTS WITH"}, rows)
	retries := "none"
	if e.Retries > 0 {
		retries = fmt.Sprintf("%d, on %s", e.Retries, e.RetryOn)
	}
	faults := ""
	if e.Faults {
		faults = "injected"
	}
	p.line("")
	p.facts("time-out", e.Timeout, "retries", retries, "faults", faults)
}
