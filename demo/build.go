package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// build makes the two programs in .cache/bin of the repository and gives that
// folder. Go's own cache makes it quick from the second time on. The applications
// in Java, if they are wanted, are in .cache, too.
func (d *demo) build(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/meshferry/meshferry").Output()
	if err != nil {
		return "", fmt.Errorf("run it in the repository of Meshferry: go list: %w", err)
	}
	root := strings.TrimSpace(string(out))
	bin := filepath.Join(root, ".cache", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	d.title("Build (a minute or two for the first time: dubbo-go is large).")
	for _, p := range []struct{ pkg, what string }{{"./cmd/meshferry", "agent"}, {"./demo/app", "provider and consumer, with dubbo-go"}} {
		begin := time.Now()
		cmd := exec.CommandContext(ctx, "go", "build", "-o", bin+string(filepath.Separator), p.pkg)
		cmd.Dir = root
		cmd.SysProcAttr = dieWithParent()
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &errs, &errs
		if err := d.watched(cmd, p.what, begin); err != nil {
			if ctx.Err() != nil {
				return "", context.Cause(ctx)
			}
			return "", fmt.Errorf("build of %s: %w\n%s", p.pkg, err, errs.String())
		}
		d.say("   %-38s %5.1f s", p.what, time.Since(begin).Seconds())
	}
	if d.java {
		return bin, d.buildJava(ctx)
	}
	return bin, nil
}

// watched runs a build and says every ten seconds that it still does.
func (d *demo) watched(cmd *exec.Cmd, what string, begin time.Time) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	progress := time.NewTicker(10 * time.Second)
	defer progress.Stop()
	for {
		select {
		case err := <-done:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return fmt.Errorf("go build: %s", exit)
			}
			return err
		case <-progress.C:
			d.say("   %-38s %5.0f s …", what, time.Since(begin).Seconds())
		}
	}
}
