package zktest

import (
	"bytes"
	"context"
	_ "embed"

	"github.com/meshferry/meshferry/internal/install"
)

//go:embed pom.xml
var pom []byte

// Newest is the version that is run unless another is asked for.
const Newest = "3.9.5"

// Install returns the folder of the server's jars, after fetching them with
// Maven if they are not in the cache yet. Progress goes to stderr.
func Install(ctx context.Context) (string, error) { return installVersion(ctx, Newest) }

func installVersion(ctx context.Context, version string) (string, error) {
	return install.Jars(ctx, "zookeeper", bytes.ReplaceAll(pom, []byte(Newest), []byte(version)))
}
