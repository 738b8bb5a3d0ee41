package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/meshferry/meshferry/demo/e2e/javapeer"
	"github.com/meshferry/meshferry/internal/install"
	"github.com/meshferry/meshferry/internal/netns"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

// programs is the variable that names the folder of programs that are built.
const programs = "E2E_PROGRAMS"

// notAlone says why the long suites have no network of their own; they are not run
// then.
var notAlone error

// isolated runs this program again in a network namespace of its own: the ports of
// other runs, and addresses that come and go on this machine, are not seen there.
// Nothing can be downloaded there, so everything is installed before. done is false
// in the namespace, and where there can be none.
func isolated() (status int, done bool) {
	if netns.Inside() {
		if err := netns.Up(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1, true
		}
		return 0, false
	}
	if notAlone = netns.Available(); notAlone != nil {
		fmt.Fprintln(os.Stderr, "e2e: NOT TESTED: the long suites:", notAlone)
		return 0, false
	}
	err := again()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), true
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1, true
	}
	return 0, true
}

func again() error {
	begin := time.Now()
	dir, err := os.MkdirTemp("", "meshferry-e2e-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	built.dir = dir
	if build(); built.err != nil {
		return built.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	if _, err := zktest.Install(ctx); err != nil {
		return err
	}
	for _, line := range []javapeer.Line{javapeer.V27, javapeer.V32, javapeer.V33} {
		if _, err := javapeer.Install(ctx, line); err != nil {
			return err
		}
	}
	if _, err := install.Project(ctx, "sdk-lite-java", "sdk-lite/java"); err != nil {
		return err
	}
	for _, s := range springs {
		if _, err := s.install(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "e2e: everything is built and installed after %v; the tests begin, in a network namespace\n", time.Since(begin).Round(time.Second))
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), programs+"="+dir)
	wait, err := netns.Start(cmd)
	if err != nil {
		return err
	}
	return wait()
}

// alone skips a test that needs a network of its own and has none.
func alone(t *testing.T) {
	t.Helper()
	if notAlone != nil {
		t.Skip("NOT TESTED: ", notAlone)
	}
}
