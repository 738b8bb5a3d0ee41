package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshferry/meshferry/agent"
	"github.com/meshferry/meshferry/agent/config"
)

func newRun() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: `Run the agent in the foreground, until SIGTERM or SIGINT. It then withdraws what
it has published, lets calls in flight finish, and ends. A second signal ends it
at once. SIGHUP reads the settings again: registries, services, inbound.static,
protection, stop, probe and log.level change at once, the log names what needs a
restart.

A registry that is away delays nothing: the agent starts, says so, and goes on
trying.

Settings come from the flags, else from variables (MESHFERRY_OUTBOUND for
--outbound, MESHFERRY_PROBE_INTERVAL for probe.interval in the file), else from
the YAML file that --config or MESHFERRY_CONFIG names, else they have defaults.
Several registries in MESHFERRY_REGISTRY are separated by spaces. A password
belongs into a file (passwordFile) or into MESHFERRY_REGISTRY_<NAME>_PASSWORD.`,
		Example: `  meshferry run --registry zookeeper://10.0.0.9:2181,10.0.0.10:2181
  meshferry run --registry nacos://10.0.0.9:8848
  meshferry run --registry local:///tmp/registry --address 127.0.0.1
  meshferry run --config /etc/meshferry.yaml --log-format json`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Read(config.Given(cmd.Flags()))
			if err != nil {
				return err
			}
			var level slog.LevelVar
			level.Set(cfg.Log.Level)
			log := logger(cmd.ErrOrStderr(), cfg.Log.Format, &level)
			a, err := agent.New(cfg, version(), log)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context(), log, func() {
				next, err := config.Read(config.Given(cmd.Flags()))
				if err != nil {
					log.Error("configuration not reloaded, the old one stays", "err", err)
					return
				}
				level.Set(next.Log.Level)
				a.Reload(next)
			})
			defer stop()
			return a.Run(ctx)
		},
	}
	config.Flags(cmd.Flags())
	cmd.Flags().SortFlags = false
	return cmd
}

func logger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// echo is how long the same signal again is taken for the same request: timeout(1)
// and shells send it to a process and to its group.
const echo = 500 * time.Millisecond

// untilSignal ends the context at the first SIGTERM or SIGINT, and the process at
// the second. At SIGHUP it calls reload.
func untilSignal(parent context.Context, log *slog.Logger, reload func()) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var first os.Signal
		var at time.Time
		for {
			select {
			case s := <-signals:
				switch {
				case s == syscall.SIGHUP && ctx.Err() == nil:
					reload()
				case s == syscall.SIGHUP || s == first && time.Since(at) < echo:
				case first != nil:
					fmt.Fprintln(os.Stderr, "meshferry: second signal, ending at once")
					os.Exit(exitFailed)
				default:
					first, at = s, time.Now()
					log.Info("signal", "signal", s.String())
					cancel()
				}
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		cancel()
	}
}
