#!/usr/bin/env bash
# What BINARIES=prebuilt images hold, compiled by the Go and Maven of this machine into bin/image.
set -euo pipefail
cd "$(dirname "$0")/../.."
rm -rf bin/image
mkdir -p bin/image/agent/state bin/image/go bin/image/java
export CGO_ENABLED=0
go build -trimpath -tags nomsgpack,grpcnotrace -ldflags '-s -w' -o bin/image/agent/ ./cmd/meshferry # as in the Dockerfile
go build -trimpath -ldflags '-s -w' -o bin/image/go/ ./demo/app ./demo/compose/probe
mvn -q -B -f demo/java/pom.xml -Punmodified -pl plain,unmodified -am package -Dmaven.test.skip=true
cp -r demo/java/plain/target/lib bin/image/java/thin
cp demo/java/plain/target/*.jar bin/image/java/thin/
cp -r demo/java/unmodified/target/lib bin/image/java/unmodified
