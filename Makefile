# Meshferry. `make help` lists the targets.
GO     ?= go
MVN    ?= mvn
RACE   ?= -race
MODULES = . sdk-lite/go sdk-lite/go/dubbogo
# gin's codec of MessagePack, and the pages of gRPC's traces with the templates they need: nobody uses them, and
# without them the agent is half as large.
TAGS   = nomsgpack,grpcnotrace
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.7.0

.DEFAULT_GOAL := help
.PHONY: help build quick test test-java test-nacos test-zookeeper test-xds test-matrix test-compose binaries java java-it lint demo demo-java demo-move demo-xds bench bench-xds bench-fleet bench-java fuzz clean

help: ## what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the agent, into bin/: one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '-s -w' -o bin/ ./cmd/meshferry

quick: ## the tests of daily work: no servers, no applications, under a minute
	$(GO) test -short ./agent/... ./registry ./registry/local/... ./rewrite/... ./xdsclient/... ./controlplane/... ./internal/... ./cmd/...
	cd sdk-lite/go && $(GO) test -short ./...

test: lint java ## all tests; installs and starts what they need (ZooKeeper, Nacos, Java Dubbo, dubbo-go applications)
	@set -e; for m in $(MODULES); do echo "== go test $$m"; (cd $$m && $(GO) test $(RACE) ./...); done
	@echo "== make demo-xds"; $(MAKE) --no-print-directory demo-xds
	@echo "== skipped: the docker-compose demo, which needs root and an engine; make test-compose runs it, or says why it cannot"

java: ## the thin Java SDK, with its tests against an agent in process
	@echo "== mvn package sdk-lite/java"; $(MVN) -q -B -f sdk-lite/java package

java-it: ## the thin Java SDK in real applications of each Dubbo line, behind real agents
	$(MVN) -q -B -f sdk-lite/java -Pit verify

test-nacos: ## registry/nacos on Nacos 2.3 and 3.1: also with servers that stop, start, are wiped, and ask for no login
	$(GO) test $(RACE) ./registry/nacos/... -count=1 -timeout 15m -long
	$(GO) test $(RACE) ./registry/nacos/... -count=1 -timeout 15m -long -nacos3

test-xds: ## rules end to end: shares, canary, faults, ejection, and the ADS server away for 30 s under load (make test: 10 s)
	$(GO) test ./demo/e2e -run '^TestXDS$$' -count=1 -v -timeout 10m -xds-outage 30s

test-java: ## the long suites with Java, in a network namespace: calls, restarts, Spring, zero-code, foreign addresses
	$(GO) test $(RACE) ./demo/e2e -run 'Java|ZeroCode|Foreign' -count=1 -timeout 30m -java

test-zookeeper: ## registry/zookeeper on ZooKeeper 3.4 to 3.8 (make test has 3.9)
	@set -e; for v in 3.4.14 3.5.10 3.6.4 3.7.2 3.8.4; do echo "== ZooKeeper $$v"; $(GO) test ./registry/zookeeper -count=1 -timeout 10m -args -zookeeper $$v; done

test-matrix: ## every kind of Java and Go application with every other, thin and unmodified; UPDATE=1 writes docs/compatibility.md
	$(GO) test ./demo/e2e -run '^TestMatrix$$|UnmodifiedJava' -count=1 -v -timeout 30m -matrix $(if $(UPDATE),-update)

test-compose: ## the docker-compose demo, from nothing to its end: own engine, own images; root on Debian; CI=true installs the engine
	$(GO) test ./demo/compose -count=1 -v -timeout 40m -compose

binaries: ## what images hold, into bin/image, for builds with BINARIES=prebuilt
	demo/compose/binaries.sh

lint: ## gofmt, go vet and staticcheck
	@f=$$(gofmt -l agent cmd controlplane demo internal registry rewrite sdk-lite xdsclient); [ -z "$$f" ] || { echo "gofmt would change:"; echo "$$f"; exit 1; }
	@set -e; for m in $(MODULES); do (cd $$m && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...); done

demo: ## one call through the mesh, step by step; REGISTRY=zookeeper://… or nacos://… for a real registry, KEEP=1 to play with it
	@$(GO) run ./demo $(if $(REGISTRY),--registry '$(REGISTRY)') $(if $(KEEP),--keep)

demo-java: ## the same, with applications in Java and Go mixed; the first time Maven fetches Dubbo
	@$(GO) run ./demo --java $(if $(REGISTRY),--registry '$(REGISTRY)') $(if $(KEEP),--keep)

demo-move: ## from ZooKeeper to Nacos while calls run and are counted; starts both registries
	@$(GO) run ./demo --move

demo-xds: ## a canary moved by editing one file while calls run and are counted; the control plane is killed meanwhile
	@$(GO) run ./demo --xds

bench: ## what a hop costs, beside a plain TCP relay; and the codec
	@$(GO) run ./demo/load bench
	@$(GO) test -run '^$$' -bench . -benchtime 1s ./agent/proxy/dubbo ./agent/route
	@$(GO) test -run '^$$' -bench Snapshot -benchtime 1x ./xdsclient

bench-java: ## what the thin Java SDK adds to the start of an application, beside ZooKeeper's
	$(GO) test ./demo/e2e -run '^TestJavaStart$$' -count=1 -v -timeout 20m -startups 11

bench-xds: ## the control plane with 10 000 services, 100 000 endpoints and 500 clients
	$(GO) test ./controlplane -run '^TestScale$$' -count=1 -v -scale -timeout 10m

bench-fleet: ## calls while 10 000 clusters with 100 000 endpoints load, and while they change; beside as much CPU time of another process
	@$(GO) run ./demo/load fleet

FUZZTIME ?= 10s
fuzz: ## every fuzz target, FUZZTIME each
	@set -e; for p in $$($(GO) list ./agent/... ./registry/... ./rewrite/... ./xdsclient/... ./controlplane/... ./cmd/...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz || true); do echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$p; done; done

clean: ## what was built and downloaded
	rm -rf bin .cache
