# The agent: one static binary, no root, nothing else. Needs BuildKit (Docker 23,
# or DOCKER_BUILDKIT=1).
#
#   docker build -t meshferry/agent .                                compiles in here
#   make binaries && docker build --build-arg BINARIES=prebuilt .    takes what this machine compiled; needs no network
#
# The state is in /var/lib/meshferry: give it a volume. The rest of the file
# system can be read-only, with a tmpfs for the control socket in /run/meshferry.
ARG BINARIES=build

# The tags leave out what nobody uses and is half of the binary; see the Makefile.
FROM golang:1.26.0-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -tags nomsgpack,grpcnotrace -ldflags '-s -w' -o /out/ ./cmd/meshferry && mkdir /out/state

FROM scratch AS prebuilt
COPY bin/image/agent/ /out/

FROM ${BINARIES} AS binaries

FROM scratch
COPY --from=binaries /out/meshferry /meshferry
COPY --from=binaries --chown=65532:65532 /out/state /var/lib/meshferry
COPY --from=binaries --chown=65532:65532 /out/state /run/meshferry
USER 65532:65532
ENV MESHFERRY_STATE_DIR=/var/lib/meshferry MESHFERRY_CONTROL_SOCKET=/run/meshferry/control.sock
VOLUME /var/lib/meshferry
ENTRYPOINT ["/meshferry"]
CMD ["run"]
