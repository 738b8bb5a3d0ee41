#!/usr/bin/env bash
# Moves things of the running docker-compose demo in and out, and shows what the consumers notice.
#
#   docker compose --profile zookeeper up -d --wait && demo/compose/tour.sh
#   PROFILE=nacos demo/compose/tour.sh                 the same with the other registry
#
# COMPOSE names the command; by default `docker compose`, else `docker-compose`.
# WITHIN is how many seconds something may take until consumers or agents notice it; the default has slow machines in mind.
# It ends with an error when something is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/../.."
PROFILE=${PROFILE:-zookeeper}
WITHIN=${WITHIN:-180}
if [ -z "${COMPOSE:-}" ]; then
  if docker compose version >/dev/null 2>&1; then COMPOSE='docker compose'; else COMPOSE=docker-compose; fi
fi
compose() { $COMPOSE --profile "$PROFILE" "$@"; }
quietly() { compose "$@" >/dev/null 2>&1 || { echo "failed: compose $*" >&2; exit 1; }; }
say() { printf '\n== %s\n' "$*"; }
fail() { printf '\n!! %s\n' "$*" >&2; exit 1; }

# calls COUNT HOST-SERVICE ADDRESS: has a consumer make calls and prints the ways they went.
calls() { compose exec -T "$2" /probe calls -n "$1" -pause "${PAUSE:-10ms}" "$3"; }
go_consumer() { calls "$1" vm3-consumer-go 127.0.0.1:8080; }
java_consumer() { calls "$1" vm3-consumer-go 127.0.0.1:8081; }
plain_consumer() { calls "$1" vm5-consumer 127.0.0.1:8080; }

# until_calls WHAT CONSUMER WANTED UNWANTED [NEVER]: makes calls until their ways hold every wanted text and no unwanted one, then prints them.
# The text NEVER ends it at once.
until_calls() {
  local what=$1 consumer=$2 wanted=$3 unwanted=$4 never=${5:-} out end=$((SECONDS + WITHIN))
  while [ $SECONDS -lt $end ]; do
    # A consumer that has just started does not answer yet.
    out=$("$consumer" 40 2>&1) || { sleep 0.5; continue; }
    [[ -z $never || $out != *"$never"* ]] || { printf '%s\n' "$out"; fail "$never, while waiting for: $what"; }
    local ok=1 w
    while IFS= read -r w; do [[ -z $w || $out == *"$w"* ]] || ok=0; done <<<"$wanted"
    while IFS= read -r w; do [[ -z $w || $out != *"$w"* ]] || ok=0; done <<<"$unwanted"
    if [ $ok = 1 ]; then printf '%s\n' "$out"; return; fi
    sleep 0.5
  done
  printf '%s\n' "${out:-}"
  fail "waited for: $what"
}
agents=$'(its agent) → the provider\'s agent → vm1 (Java)\n(its agent) → the provider\'s agent → vm2 (Go)\n(its agent) → vm4 (unmodified Java)'
mixed=$'(the provider\'s agent) → vm1 (Java)\n(the provider\'s agent) → vm2 (Go)\n→ vm4 (unmodified Java)'

# status HOST: the registry's line of the agent's status.
status() { compose exec -T "$1-agent" /meshferry status | awk '/^REGISTRY/ {on=1} on && NF {print "   " $0} on && !NF {exit}'; }
until_status() {
  local end=$((SECONDS + WITHIN))
  while [ $SECONDS -lt $end ]; do
    if compose exec -T "$1-agent" /meshferry status -o json | tr -d ' \n' | grep -q "$2"; then status "$1"; return; fi
    sleep 0.5
  done
  status "$1"; fail "the agent of $1 never said $2"
}

say "Who answers? The consumer in Go on vm3, the one in Java, and the one on vm5 that knows nothing of agents:"
until_calls "three providers" go_consumer "$agents" failed
until_calls "three providers" java_consumer "$agents" failed
until_calls "three providers" plain_consumer "$mixed" failed

say "The provider on vm2 moves out (it stops in order). 200 calls meanwhile:"
PAUSE=20ms go_consumer 200 > "${TMPDIR:-/tmp}/tour.$$" & during=$!
trap 'rm -f "${TMPDIR:-/tmp}/tour.$$"' EXIT
sleep 1; quietly stop vm2-provider
wait $during; cat "${TMPDIR:-/tmp}/tour.$$"
grep -q failed "${TMPDIR:-/tmp}/tour.$$" && fail "calls failed while a provider left"
say "And afterwards:"
until_calls "vm2 to be left out" go_consumer $'vm1 (Java)\nvm4' $'vm2\nfailed'
until_calls "vm2 to be left out" plain_consumer $'vm1 (Java)\nvm4' $'vm2\nfailed'

say "It moves in again (few calls at first: Dubbo's warm-up):"
quietly start vm2-provider
until_calls "vm2 to be back" java_consumer "$agents" failed

say "The agent of vm1 is killed: calls go to the other providers. 200 calls meanwhile (one in flight may be lost):"
PAUSE=20ms go_consumer 200 > "${TMPDIR:-/tmp}/tour.$$" & during=$!
sleep 1; quietly kill vm1-agent
wait $during; cat "${TMPDIR:-/tmp}/tour.$$"
until_calls "vm1 to be left out" go_consumer $'vm2 (Go)\nvm4' $'vm1\nfailed'
say "It starts again and finds its provider and its state:"
quietly start vm1-agent
until_calls "vm1 to be back" go_consumer "$agents" failed

say "The agent of vm3 is killed: its consumers call the providers' hosts themselves."
quietly kill vm3-agent
until_calls "direct calls" go_consumer "$mixed" $'its agent\nfailed'
until_calls "direct calls" java_consumer "$mixed" $'its agent\nfailed'
say "It starts again, and they come back to it by themselves:"
quietly start vm3-agent
until_calls "calls through the agent" go_consumer "$agents" $'(the provider\nfailed'
until_calls "calls through the agent" java_consumer "$agents" $'(the provider\nfailed'

say "The registry stops. Calls go on with the last known providers:"
quietly stop "$PROFILE"
until_status vm3 '"state":"\(away\|connecting\)"'
until_calls "three providers" go_consumer "$agents" "" failed
until_calls "three providers" java_consumer "$agents" "" failed
say "It is back; the agents, too:"
quietly start "$PROFILE"
for vm in vm1 vm2 vm3; do until_status $vm '"state":"connected".*"inSync":true'; done
until_calls "three providers" plain_consumer "$mixed" failed

say "Done: everything is as at the start."
