// Command meshferry is the agent and the tool that asks a running agent.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/grpclog"

	"github.com/meshferry/meshferry/agent/config"
)

// Exit codes.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2
	exitNotRunning = 3
)

// main: gRPC writes what it also returns as errors to stderr, in lines that are no log
// lines; those who get the errors log them.
func main() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitDone
	}
	for i, line := range strings.Split(strings.TrimSpace(err.Error()), "\n") {
		if i == 0 {
			line = "meshferry: " + line
		}
		fmt.Fprintln(stderr, line)
	}
	var usage usageError
	var away awayError
	switch {
	case errors.As(err, &usage), cmd == root: // root does nothing but refuse unknown commands
		fmt.Fprintf(stderr, "See '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	case errors.As(err, &away):
		return exitNotRunning
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "meshferry",
		Short: "A per-host agent for Dubbo applications",
		Long: `Meshferry is a per-host agent for Dubbo applications on plain hosts. It registers
local providers, finds remote ones, and carries the calls between them.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no agent answers.`,
		Example: `  meshferry run --registry zookeeper://10.0.0.9:2181
  meshferry status
  meshferry explain com.example.GreetService --method sayHello`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			var known []string
			cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
			err = fmt.Errorf("%w%s", err, config.SuggestFlag(unknown.GetSpecifiedName(), known))
		}
		return usageError{err}
	})
	root.AddCommand(newRun(), newStatus(), newServices(), newEndpoints(), newExplain(), newEnv(), newControlPlane(), newRoutes(), newAdapter(), newVersion())
	return root
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usage makes errors of an argument check usage errors.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// oneService wants exactly one argument.
func oneService(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("%s wants one service, like com.example.GreetService or group/com.example.GreetService:1.0.0; got %d arguments", cmd.Name(), len(args))}
	}
	return nil
}
