package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/agent/config"
)

// TestUnit holds docs/meshferry.service: systemd understands it, and the agent
// understands its command line and its variables.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("../../docs/meshferry.service")
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/local/bin/meshferry"
	start := regexp.MustCompile(`(?m)^ExecStart=` + program + ` (.*)$`).FindSubmatch(text)
	if start == nil {
		t.Fatal("no ExecStart")
	}
	cmd, args, err := newRoot().Find(strings.Fields(string(start[1])))
	if err != nil || cmd.Name() != "run" {
		t.Fatalf("%s: %v", start[1], err)
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Error(err)
	}
	env := []string{"MESHFERRY_REGISTRY=zookeeper://h"}
	for _, m := range regexp.MustCompile(`(?m)^Environment=(.*)$`).FindAllSubmatch(text, -1) {
		env = append(env, string(m[1]))
	}
	c, err := config.Load(config.Input{Env: env, UID: 998})
	if err != nil || c.StateDir != "/var/lib/meshferry" || c.Listeners.ControlSocket != config.Sockets(0, nil)[0] {
		t.Errorf("%+v, %v", c, err)
	}
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze")
	}
	unit := filepath.Join(t.TempDir(), "meshferry.service")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), program, self)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), verify, "verify", "--man=no", unit).CombinedOutput(); err != nil || strings.Contains(string(out), "meshferry.service") {
		t.Errorf("%v\n%s", err, out)
	}
}
