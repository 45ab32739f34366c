#!/bin/bash
# What an operator sees: help, exit statuses, JSON of every report, the figures of `status`, what
# `check` and `inspect` say of a pool that is clean, damaged, in use or not there, and progress on a
# terminal only.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"
ours || { say "skipped: nothing of this is in a stand-in"; exit 0; }

volume_size=1GiB
log_size=128MiB
memory=192MiB
tier fast fast.img 512MiB
tier slow slow.img 1GiB

# ends STATUS COMMAND…: the program's exit status; what it says is kept in $work/out and $work/err.
ends() {
  local want=$1 status=0
  shift
  "$THERMOCLINE" "$@" >"$work/out" 2>"$work/err" </dev/null || status=$?
  [ "$status" = "$want" ] ||
    fail "exit status $status, not $want: thermocline $*: $(cat "$work/out" "$work/err")"
}

# says PATTERN: standard error matches, standard output is empty.
says() {
  [ ! -s "$work/out" ] || fail "a refusal is on standard output: $(cat "$work/out")"
  grep -Eq -- "$1" "$work/err" || fail "not said, /$1/: $(cat "$work/err")"
}

# json FILTER: the output is JSON for which the filter is true.
json() { jq -e "$1" "$work/out" >/dev/null || fail "not so, $1: $(cat "$work/out")"; }

say "help and command lines"
ends 0 --help
for word in format serve status check inspect 'Exit status'; do
  grep -q "$word" "$work/out" || fail "--help does not speak of $word"
done
for command in format serve status check inspect; do
  ends 0 "$command" --help
  grep -q 'Exit status: 0' "$work/out" || fail "$command --help does not tell its exit statuses"
  ends 64 "$command" --no-such-option
  says "$command --help"
done
ends 64 no-such-command
for command in format serve status check inspect; do
  ends 2 "$command" --config "$work/none.toml"
  says "none.toml: expected a readable configuration file.*--config"
done

say "a new pool"
write_config
ends 2 status --config "$config"
says 'no server answers on .*\.control'
says 'thermocline serve --config'
ends 0 format --sparse --yes --json --config "$config"
json '.volume_name == "test" and .volume_size_bytes == 1073741824
  and .log_size_bytes == 134217728 and (.devices | length) == 2
  and .devices[1].size_bytes == 1073741824 and (.pool | test("^[0-9a-f-]{36}$"))'
[ ! -s "$work/err" ] || fail "format --json says more: $(cat "$work/err")"
ends 2 format --yes --config "$config"
says 'fast.img carries device 0 of the Thermocline pool'
says 'add --force'
ends 0 check --json --config "$config"
json '.clean and .problems == [] and .extents == 0 and .pages > 0'

say "status"
# May be changed at any time.
sed -i 's/\(slow.img", size = "1GiB", rotational = \)false/\1true/' \
  "$config"
serve
ends 0 status --json --config "$config"
json '.volume == {name: "test", size_bytes: 1073741824, mapped_bytes: 0}'
json '[.tiers[] | .name, .index] == ["fast", 0, "slow", 1]'
json '[.tiers[] | .capacity_bytes > 0 and .used_bytes < .capacity_bytes] == [true, true]'
json '[.tiers[].devices[] | .state, .rotational] == ["in-use", false, "in-use", true]'
json '[.tiers[].devices[] | .read_errors, .write_errors, .checksum_errors] == [0, 0, 0, 0, 0, 0]'
json '.log.size_bytes == 134217728 and .log.used_bytes == 0'
json '.io | has("read_ops") and has("write_ops") and has("flush_ops") and has("read_bytes")
  and has("write_bytes") and (.served | has("log_bytes") and has("zero_bytes"))'
json '.io.served.tier_bytes == {fast: 0, slow: 0}'
json '.rebalance | has("promoted_bytes") and has("demoted_bytes") and has("pending_bytes")'
json '.memory.budget_bytes == 201326592 and .memory.resident_bytes > 0'
curl --silent --unix-socket "$socket.control" http://localhost/status >"$work/out"
json '.volume.name == "test"'
ends 0 status --config "$config"
grep -q 'slow.img *in-use' "$work/out" || fail "status: $(cat "$work/out")"

# Whole extents of 64 KiB, 48 MiB; a fresh server counts from zero.
qemu-io -f raw "$uri" -c 'write -P 7 0 32m' -c 'write -P 7 512m 16m' -c flush >/dev/null
soon "what was written is mapped, nothing else" '.volume.mapped_bytes == 50331648'
soon "an idle server's log is empty" '.log.used_bytes <= 65536'
qemu-io -f raw "$uri" -c 'read -P 7 0 1m' -c 'read -P 0 100m 1m' >/dev/null
soon "reads are counted where they were served" '.io.read_bytes == 2097152
  and .io.served.zero_bytes == 1048576
  and .io.served.log_bytes + .io.served.tier_bytes.fast == 1048576'
[ "$(status '.io | [.write_bytes, .flush_ops > 0]' | tr -d ' \n')" = '[50331648,true]' ] ||
  fail "writes are counted wrong: $(status .io)"
qemu-io -f raw "$uri" -c 'discard 512m 16m' -c flush >/dev/null
soon "what was trimmed is not mapped" '.volume.mapped_bytes == 33554432'

say "a pool in use"
ends 2 check --config "$config"
says "fast.img is in use by process $server \(thermocline\)"
ends 0 inspect --config "$config" label superblock
stop_server
serve
soon "the log is empty soon after a clean stop" \
  '.log.used_bytes <= 65536 and .volume.mapped_bytes == 33554432'
stop_server

say "check and inspect"
ends 0 check --config "$config"
head -n 1 "$work/out" | grep -qx clean || fail "check: $(cat "$work/out")"
[ ! -s "$work/err" ] || fail "check is not quiet in a pipe: $(cat "$work/err")"
ends 0 check --json --config "$config"
json '.clean and .extents == 512 and .blocks_verified == 8192 and .lost_blocks == 0'
ends 0 check --json --metadata-only --config "$config"
json '.clean and .extents == 512 and .blocks_verified == 0'
script --quiet --return --command "'$THERMOCLINE' check --config '$config'" /dev/null \
  >"$work/terminal" </dev/null || fail "check on a terminal: $(cat "$work/terminal")"
grep -q 'checking: .* of 32.0 MiB' "$work/terminal" || fail "no progress on a terminal"
for structure in label superblock log table; do
  ends 0 inspect --config "$config" "$structure"
  grep -q "^$structure" "$work/out" || fail "inspect $structure: $(cat "$work/out")"
done
ends 0 inspect --json --config "$config"
json '(.labels | length) == 4 and ([.labels[].verdict] | unique) == ["valid"]
  and ([.superblocks[].verdict] == ["valid", "valid"]) and .superblocks[0].content.clean
  and (.segments | length) > 0 and ([.pages[].records[]] | length) == 512 and .problems == []
  and .cut == []'
ends 0 inspect --json --limit 1 --config "$config" table
json '(.pages | length) == 1 and .cut == ["pages"]'
ends 0 inspect --json --offset 65536 --config "$config" table
json '[.pages[].records[].extent] == [1]'
home=$(jq -r '.pages[0].records[0].home' "$work/out")

say "damage"
printf x | dd of="$work/fast.img" bs=1 seek=$((${home##*:} + 5000)) conv=notrunc status=none
ends 1 check --config "$config"
head -n 1 "$work/out" | grep -qx damaged || fail "check: $(cat "$work/out")"
grep -q 'volume byte 69632, in slot .* does not match its checksum' "$work/out" ||
  fail "check does not name the block: $(cat "$work/out")"
ends 1 check --json --config "$config"
json '(.clean | not) and (.problems | length) == 1'
ends 0 check --metadata-only --config "$config"
truncate -s 1000M "$work/slow.img"
ends 2 check --config "$config"
says 'slow.img is truncated'
says 'inspect label --config'
mv "$work/slow.img" "$work/away"
ends 2 check --config "$config"
says 'slow.img does not exist'
