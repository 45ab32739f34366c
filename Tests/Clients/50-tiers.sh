#!/bin/bash
# Two and three tiers on loop devices with sectors of 512 and 4096 bytes; the data set is larger
# than the tiers above the last. All of it reads back while demotion runs, after a kill, and after a
# restart.
source "$(dirname "$0")/common.bash"
bounded 900 "$@"
ours || { say "skipped: nothing of this is in a stand-in"; exit 0; }

volume_size=900MiB
log_size=128MiB
say "making 900 MiB of data"
head -c 900M /dev/urandom >"$work/data"

# one_pool NAME:SIZE:SECTOR…: a pool of these tiers.
one_pool() {
  local spec name size sector number=0 devices=() passes=0 moved
  local round before after during=0
  tiers=()
  for spec in "$@"; do
    IFS=: read -r name size sector <<<"$spec"
    truncate -s "$size" "$work/disk$number"
    loop_device "$work/disk$number" "$sector"
    tier "$name" "$loop"
    devices+=("$loop")
    number=$((number + 1))
  done
  format
  serve
  # In two halves, so that the second finds the first tier full.
  nbdcopy --flush "$work/data" "$uri"
  # Read back over and over while the pool sorts itself.
  until [ "$(status '.rebalance.pending_bytes == 0 and .log.used_bytes * 2 < .log.size_bytes
      and (.tiers[0] | .used_bytes * 100 <= .capacity_bytes * 91)')" = true ]; do
    compare "while it sorts itself"
    passes=$((passes + 1))
    [ $passes -lt 60 ] || fail "$*: not at rest: $(status '{tiers, log, rebalance}')"
  done
  # What is on the last tier becomes hot: visits, more than ten seconds apart, until it moves up
  # and something cold moves down for it.
  for round in 1 2 3 4 5 6; do
    fio --name=heat --ioengine=nbd --uri="$uri" --thread=1 --rw=randread --bs=4k --iodepth=16 \
      --offset=640m --size=64m --io_size=24m --output=/dev/null
    compare "while heat moves"
    sleep 11
    [ "$(status '.rebalance | .promoted_bytes > 0 and .demoted_bytes > 0')" = true ] && break
    [ "$round" -lt 6 ] || fail "$*: nothing moves: $(status '{rebalance, tiers}')"
  done
  for _ in 1 2 3; do
    before=$(status '.rebalance | .promoted_bytes + .demoted_bytes')
    compare "while heat moves"
    after=$(status '.rebalance | .promoted_bytes + .demoted_bytes')
    [ "$after" -gt "$before" ] && during=$((during + 1))
  done
  promoted=$(status .rebalance.promoted_bytes)
  demoted=$(status .rebalance.demoted_bytes)
  kill_server
  serve
  compare "after a kill"
  say "$*: $((promoted >> 20)) MiB promoted, $((demoted >> 20)) MiB demoted before the kill"
  moved=$(status '[.tiers[] | "\(.name) \(.used_bytes / 1048576 | floor) MiB"] | join(", ")')
  [ "$(status '.tiers | last | .used_bytes > 300 * 1048576')" = true ] ||
    fail "$*: the last tier is too empty: $moved"
  errors=$(status '[.tiers[].devices[] | .read_errors + .write_errors + .checksum_errors] | add')
  [ "$errors" = 0 ] ||
    fail "$*: errors: $(status .tiers)"
  stop_server
  serve
  compare "after a restart"
  stop_server
  "$THERMOCLINE" check --config "$config" >"$work/check.txt" ||
    fail "$*: check: $(cat "$work/check.txt")"
  say "$*: $moved; $passes comparisons while it sorted itself, $during of 3 while data moved; clean"
  for name in "${devices[@]}"; do forget_loop "$name"; done
  rm -f "$work"/disk*
}

compare() {
  local text
  text=$(nbdcopy "$uri" - | cmp - "$work/data" 2>&1) || fail "data differ $1: $text"
}

one_pool fast:448M:512 slow:2G:4096
one_pool fast:320M:4096 middle:256M:512 slow:2G:4096
