package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/meshferry/meshferry/agent/api"
	"github.com/meshferry/meshferry/registry"
)

func newEnv() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print what puts an unmodified application behind the agent",
		Long: `Print the environment that puts an application behind the agent which cannot be
rebuilt with the thin SDK. There is one for Java Dubbo.`,
		Example: "  meshferry env java --application shop --port 20880 --service com.example.StockService",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newEnvJava())
	return cmd
}

func newEnvJava() *cobra.Command {
	e := envJava{format: "env"}
	cmd := &cobra.Command{
		Use:   "java",
		Short: "Print the environment of an unmodified Java Dubbo application",
		Long: `Print the variables that put an unmodified Java Dubbo application (3.x or 2.7,
protocol dubbo) behind the running agent.

With --application and --port it is a provider: it registers itself, at the
agent's address in the place of its own (DUBBO_IP_TO_REGISTRY,
DUBBO_DUBBO_PORT_TO_REGISTRY), and other hosts call the agent. No registry knows then
where the application really listens, so the agent is told, and keeps it in its
state directory, also over restarts, until --remove takes it back. The agent's
own file is not touched; the same can be written there by hand, as
inbound.static. With --bind 127.0.0.1 the provider listens on loopback only, and
nobody but the agent reaches it.

Dubbo 2.7 (seen from 2.7.15 on) binds the port that it registers, which is the
agent's. With --dubbo 2.7 it does so at a loopback address, by default 127.0.0.1;
each application on the host needs one of its own (--bind). The agent must then
listen at one address: run it with --inbound ADDRESS:20882 in the place of 0.0.0.0.

With --service, which can be repeated, it is a consumer: each of its references
to that interface calls the agent and asks no registry
(-Ddubbo.reference.<interface>.url). Group, version and time-out stay those of
the reference. The options are in JAVA_TOOL_OPTIONS, which every JVM reads.

Start the application with these variables; take them away to go back. Formats:
  env      NAME=value, for env files of containers
  shell    for eval in a shell; keeps what JAVA_TOOL_OPTIONS holds
  systemd  a drop-in for the application's unit
  options  everything as -D options, one a line, for 'java @file'`,
		Example: `  meshferry env java --application shop --port 20880
  eval "$(meshferry env java --application shop --port 20880 --format shell \
           --service com.example.StockService --service com.example.PriceService)"
  meshferry env java --application oldshop --dubbo 2.7 --bind 127.0.0.2
  meshferry env java --service com.example.StockService --format systemd \
      > /etc/systemd/system/cart.service.d/meshferry.conf
  meshferry env java --application shop --remove`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.check(); err != nil {
				return usageError{err}
			}
			if e.remove {
				return e.forget(cmd)
			}
			return e.print(cmd)
		},
	}
	cmd.Flags().StringVar(&e.application, "application", "", "the application's Dubbo name; with --port: it is a provider")
	cmd.Flags().IntVar(&e.port, "port", 0, "port on which the provider really listens (dubbo.protocol.port)")
	cmd.Flags().StringVar(&e.bind, "bind", "", "loopback address on which the provider shall listen")
	cmd.Flags().StringVar(&e.dubbo, "dubbo", "3", "the provider's version, 3 or 2.7; 2.7 needs no --port")
	cmd.Flags().StringArrayVar(&e.services, "service", nil, "interface that it calls, repeatable")
	cmd.Flags().StringVar(&e.format, "format", e.format, "env, shell, systemd or options")
	cmd.Flags().BoolVar(&e.dryRun, "dry-run", false, "print only; the agent is not told")
	cmd.Flags().BoolVar(&e.remove, "remove", false, "the agent forgets --application")
	e.client.flags(cmd)
	cmd.Flags().SortFlags = false
	return cmd
}

// envJava is one command line.
type envJava struct {
	client         client
	application    string
	port           int
	bind, dubbo    string
	services       []string
	format         string
	dryRun, remove bool
}

func (e *envJava) check() error {
	if e.remove {
		if e.application == "" || e.port != 0 || e.bind != "" || len(e.services) > 0 || e.dryRun {
			return fmt.Errorf("--remove wants --application and nothing else")
		}
		return nil
	}
	switch {
	case e.application == "" && e.port == 0 && len(e.services) == 0:
		return fmt.Errorf("a provider needs --application and --port, a consumer --service")
	case e.dubbo != "3" && e.dubbo != "2.7":
		return fmt.Errorf("--dubbo wants 3 or 2.7, not %q", e.dubbo)
	case e.dubbo == "2.7" && e.port != 0:
		return fmt.Errorf("leave --port out: Dubbo 2.7 listens on the port that it registers, which is the agent's")
	case e.application != "" && e.port == 0 && e.dubbo != "2.7":
		return fmt.Errorf("--port is missing: on which port does %s really listen (dubbo.protocol.port)?", e.application)
	case e.port != 0 && e.application == "":
		return fmt.Errorf("--application is missing: what is the Dubbo name of the application at port %d?", e.port)
	case e.application == "" && (e.bind != "" || e.dubbo == "2.7"):
		return fmt.Errorf("--application is missing")
	case e.port < 0 || e.port > 65535:
		return fmt.Errorf("--port %d is not in 1..65535", e.port)
	}
	if ip, err := netip.ParseAddr(e.bind); e.bind != "" && (err != nil || !ip.Is4() || !ip.IsLoopback()) {
		return fmt.Errorf("--bind wants a loopback address, 127.0.0.1 to 127.255.255.254, not %q", e.bind)
	}
	switch e.format {
	case "env", "shell", "systemd", "options":
	default:
		return fmt.Errorf("--format wants env, shell, systemd or options, not %q", e.format)
	}
	for _, text := range e.services {
		s, err := registry.ParseService(text)
		if err == nil {
			err = registry.CheckInterface(s.Interface)
		}
		if err == nil && (s.Group != "" || s.Version != "") {
			err = fmt.Errorf("name the interface only (%s): group and version stay those of the application's references", s.Interface)
		}
		if err == nil && strings.ContainsFunc(s.Interface, func(c rune) bool {
			return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("._$", c)
		}) {
			err = fmt.Errorf("%q is no Java interface", s.Interface)
		}
		if err != nil {
			return fmt.Errorf("--service: %w", err)
		}
	}
	return nil
}

// agentPlaces is where the agent takes calls, and what it was just told.
type agentPlaces struct {
	Address, Outbound string
	Extra             []struct{ Application, Address string }
	Applications      []struct {
		Application, State, Reason, Host string

		Port int
	}
}

func (e *envJava) print(cmd *cobra.Command) error {
	var a agentPlaces
	if _, err := e.client.get(cmd, formatText, "/v1/status", url.Values{}, &a); err != nil {
		return err
	}
	for _, x := range a.Extra {
		if x.Application == e.application {
			a.Address = x.Address // it has an inbound port of its own
		}
	}
	at := a.Address
	variables, options, err := e.variables(a)
	if err != nil {
		return err
	}
	note := &printer{w: cmd.ErrOrStderr()}
	if e.application != "" && !e.dryRun {
		body := map[string]any{"application": e.application, "port": e.port}
		if e.bind != "" {
			body["host"] = e.bind
		}
		if err := e.client.post(cmd, "/v1/static", body, &a); err != nil {
			if e.dubbo == "2.7" {
				err = fmt.Errorf("%w\nDubbo 2.7 listens on the port that it registers: run the agent with --inbound %s, so that %s:%d is free for %s", err, at, e.bind, e.port, e.application)
			}
			return err
		}
		for _, one := range a.Applications {
			note.line("# The agent serves %s at %s and calls it at %s:%d.", visible(e.application), at, visible(one.Host), one.Port)
			if one.State != "serving" {
				note.line("# Nothing answers there yet (%s): start %s with these variables.", visible(one.Reason), visible(e.application))
			}
		}
		note.line("# To go back: start it without them, then 'meshferry env java --application %s --remove'.", visible(e.application))
	}
	if note.err != nil {
		return note.err
	}
	return write(cmd.OutOrStdout(), e.format, variables, options)
}

// variables are those of the provider side, and the options of the consumer side.
func (e *envJava) variables(a agentPlaces) (variables [][2]string, options []string, err error) {
	if e.application != "" {
		host, port, err := net.SplitHostPort(a.Address)
		if err != nil {
			return nil, nil, fmt.Errorf("the agent's address %q: %w", a.Address, err)
		}
		// NetUtils#isInvalidLocalHost
		if strings.HasPrefix(host, "127.") || host == "localhost" || host == "0.0.0.0" {
			return nil, nil, fmt.Errorf("the agent's address is %s, which Java refuses to register: run the agent with --address set to what other hosts dial", host)
		}
		// The port is that of protocol dubbo alone (ServiceConfig#getValueFromConfig): what
		// the agent does not speak, triple or rest, stays where it is.
		variables = append(variables, [2]string{"DUBBO_IP_TO_REGISTRY", host}, [2]string{"DUBBO_DUBBO_PORT_TO_REGISTRY", port})
		if e.dubbo == "2.7" { // ServiceConfig#findConfigedPorts
			e.bind = cmp.Or(e.bind, "127.0.0.1")
			if e.port, err = strconv.Atoi(port); err != nil {
				return nil, nil, fmt.Errorf("the agent's address %q: %w", a.Address, err)
			}
			variables = append(variables, [2]string{"DUBBO_DUBBO_PORT_TO_BIND", port}) // what versions before 2.7.15 do not do by themselves
		}
		if e.bind != "" { // Java refuses 127.*, but not this form of it
			variables = append(variables, [2]string{"DUBBO_DUBBO_IP_TO_BIND", "::ffff:" + e.bind})
		}
	}
	if len(e.services) > 0 {
		outbound, err := netip.ParseAddrPort(a.Outbound)
		if err != nil {
			return nil, nil, fmt.Errorf("the agent's outbound address: %w", err)
		}
		for _, iface := range e.services {
			options = append(options, "-Ddubbo.reference."+iface+".url="+api.JavaReference(outbound, iface))
		}
	}
	return variables, options, nil
}

// toolOptions is read by every JVM at its start.
const toolOptions = "JAVA_TOOL_OPTIONS"

// write prints in one of the formats. No value holds a blank, a quote or a
// backslash: they are addresses and interfaces that were checked.
func write(w io.Writer, format string, variables [][2]string, options []string) error {
	p := &printer{w: w}
	joined := strings.Join(options, " ")
	switch format {
	case "env":
		for _, v := range variables {
			p.line("%s=%s", v[0], v[1])
		}
		if joined != "" {
			p.line("%s=%s", toolOptions, joined)
		}
	case "shell":
		for _, v := range variables {
			p.line("export %s='%s'", v[0], v[1])
		}
		if joined != "" {
			p.line(`export %[1]s="${%[1]s:+$%[1]s }"'%[2]s'`, toolOptions, joined)
		}
	case "systemd":
		if joined != "" {
			variables = append(variables, [2]string{toolOptions, joined})
		}
		p.line("[Service]")
		for _, v := range variables {
			p.line("Environment=%s", strconv.Quote(v[0]+"="+strings.ReplaceAll(v[1], "%", "%%")))
		}
	case "options":
		for _, v := range variables {
			p.line("-D%s=%s", v[0], v[1])
		}
		for _, o := range options {
			p.line("%s", o)
		}
	}
	return p.err
}

func (e *envJava) forget(cmd *cobra.Command) error {
	var a agentPlaces
	if err := e.client.post(cmd, "/v1/static/remove", map[string]any{"application": e.application}, &a); err != nil {
		return err
	}
	note := &printer{w: cmd.ErrOrStderr()}
	if len(a.Applications) == 0 {
		note.line("# The agent did not know %s.", visible(e.application))
	} else {
		note.line("# The agent has forgotten %s. If it still runs with the variables, calls to it fail now: start it without them.", visible(e.application))
	}
	return note.err
}
