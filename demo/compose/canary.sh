#!/usr/bin/env bash
# Moves calls of the running docker-compose demo from the providers in Java to the one in Go by editing one file, with the control plane killed meanwhile.
#
#   XDS=control-plane:15010 docker compose --profile xds up -d --wait && demo/compose/canary.sh
#
# COMPOSE names the command; by default `docker compose`, else `docker-compose`.
# WITHIN is how many seconds it waits for anything. It ends with an error when something is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/../.."
export XDS=${XDS:-control-plane:15010}
WITHIN=${WITHIN:-120}
if [ -z "${COMPOSE:-}" ]; then
  if docker compose version >/dev/null 2>&1; then COMPOSE='docker compose'; else COMPOSE=docker-compose; fi
fi
compose() { $COMPOSE --profile xds "$@"; }
quietly() { compose "$@" >/dev/null 2>&1 || { echo "failed: compose $*" >&2; exit 1; }; }
say() { printf '\n== %s\n' "$*"; }
fail() { printf '\n!! %s\n' "$*" >&2; exit 1; }
explain() { compose exec -T vm3-agent /meshferry explain org.example.GreetService --method sayHello "$@"; }

file=demo/compose/routes/greet.yaml
calls=$(mktemp -d)
cp "$file" "$calls/greet.yaml"
trap 'cat "$calls/greet.yaml" > "$file"; rm -rf "$calls"' EXIT

# edit GO: so many of a hundred calls go to the provider in Go.
edit() { sed -E "s/(subset: java}, weight: )[0-9]+/\1$((100 - $1))/; s/(subset: go}, weight: )[0-9]+/\1$1/" "$calls/greet.yaml" > "$file"; }

# decides GO: waits until the agent of vm3 decides so.
decides() {
  local subset=go share out= end=$((SECONDS + WITHIN))
  share=$(awk "BEGIN {print $1 / 100}")
  [ "$1" != 0 ] || { subset=java; share=1; }
  while [ $SECONDS -lt $end ]; do
    out=$(explain -o json 2>&1 | tr -d ' \n') || true
    if grep -Eq "\"cluster\":\"[^\"]*\|$subset\|[^\"]*\"(,\"origin\":\"[^\"]*\")?,\"weight\":[0-9]+,\"share\":$share[,}]" <<<"$out"; then return; fi
    sleep 0.2
  done
  fail "the agent of vm3 does not send $1 % to Go: $out"
}

# shares COUNT GO: has the consumer in Go on vm3 make calls, and compares who answered with what is asked for, within 4.5 standard deviations.
shares() {
  compose exec -T vm3-consumer-go /probe calls -n "$1" -pause 5ms 127.0.0.1:8080 > "$calls/last"
  cat "$calls/last"
  check "$calls/last" "$2"
}
check() {
  awk -v p="$2" '/failed/ {bad = 1} / × / {n += $1; if (/→ vm2 \(Go\)/) go += $1}
    END {off = go - n * p / 100; d = 4.5 * sqrt(n * p / 100 * (1 - p / 100)); if (bad || n == 0 || off > d || off < -d) exit 1}' "$1" || fail "not $2 % to Go, or calls failed"
}

say "All calls of vm3 go to the providers in Java, by the rules in $file:"
edit 0; decides 0; shares 200 0

say "The file is edited: half to Go. Nobody is restarted."
edit 50; decides 50; shares 400 50

say "The control plane is killed. 400 calls meanwhile:"
compose exec -T vm3-consumer-go /probe calls -n 400 -pause 20ms 127.0.0.1:8080 > "$calls/during" & during=$!
quietly kill control-plane
wait $during; cat "$calls/during"; check "$calls/during" 50

say "It is started again; meanwhile the file was edited: everything to Go."
compose exec -T vm3-consumer-go /probe calls -n 400 -pause 20ms 127.0.0.1:8080 > "$calls/return" & during=$!
edit 100; quietly start control-plane; decides 100
wait $during; grep -q failed "$calls/return" && { cat "$calls/return"; fail "calls failed while the control plane came back"; }
shares 200 100
explain

say "Done."
