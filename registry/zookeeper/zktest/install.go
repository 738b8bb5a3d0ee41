package zktest

import (
	"context"
	_ "embed"

	"github.com/meshferry/meshferry/internal/install"
)

//go:embed pom.xml
var pom []byte

// Install returns the folder of the server's jars, after fetching them with
// Maven if they are not in the cache yet. Progress goes to stderr.
func Install(ctx context.Context) (string, error) {
	return install.Jars(ctx, "zookeeper", pom)
}
