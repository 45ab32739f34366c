#!/bin/bash
# Damage on the devices: one copy of a superblock or label is survived and said, both are a clear
# refusal; a damaged page of the table is EIO for exactly its blocks, a damaged block EIO for
# exactly itself; overwriting heals. Nothing ever reads as other data.
source "$(dirname "$0")/common.bash"
bounded 600 "$@"
ours || { say "skipped: nothing of this is in a stand-in"; exit 0; }

volume_size=1GiB
log_size=128MiB
tier only disk 2GiB
format --sparse
serve
# 64 MiB at the start, pushed out of the log by what follows.
head -c 64M /dev/urandom >"$work/data"
nbdcopy --connections=1 --threads=1 --flush "$work/data" "$uri"
qemu-io -f raw "$uri" -c 'write -P 0x77 256m 256m' -c 'write -P 0x78 256m 256m' -c flush >/dev/null
stop_server
cp --sparse=always "$work/disk" "$work/pristine"

inspect() { "$THERMOCLINE" inspect --json --config "$config" "$@" || true; }

# flip OFFSET [COUNT]: turns COUNT bytes of the device over.
flip() {
  /usr/bin/python3 - "$work/disk" "$1" "${2:-16}" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    bytes_ = file.read(int(sys.argv[3]))
    file.seek(int(sys.argv[2]))
    file.write(bytes(b ^ 0xff for b in bytes_))
PYTHON
}

restore() {
  cp --sparse=always "$work/pristine" "$work/disk"
  rm -rf "${staging:?}"/*
}

# failing BYTES: the ranges of 4 KiB blocks below BYTES that do not read, as "first-last", and
# whether all others are what was written.
failing() {
  /usr/bin/python3 - "$uri" "$work/data" "$1" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
data = open(sys.argv[2], "rb")
bad, runs = [], []
for block in range(int(sys.argv[3]) // 4096):
    want = data.read(4096)
    try:
        if h.pread(4096, block * 4096) != want:
            raise SystemExit(f"block {block} reads as something else")
    except nbd.Error as error:
        if error.errno != "EIO":
            raise SystemExit(f"block {block}: {error}")
        if runs and runs[-1][1] == block - 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
print(" ".join(f"{a}-{b}" for a, b in runs))
h.shutdown()
PYTHON
}

# overwritten WHEN: the first mebibyte is what was written over it.
overwritten() {
  local text
  text=$(qemu-io -f raw "$uri" -c 'read -P 0x66 0 1m' 2>&1)
  if grep -q failed <<<"$text"; then fail "what was overwritten is wrong $1: $text"; fi
}

check_finds() {
  local text status=0
  text=$("$THERMOCLINE" check --config "$config" 2>&1) || status=$?
  [ "$status" = 1 ] || fail "check ended with $status: $text"
  grep -Eq -- "$1" <<<"$text" || fail "check does not say /$1/: $text"
}

"$THERMOCLINE" check --config "$config" >/dev/null || fail "check finds fault with the sound pool"

inspect superblock label >"$work/places"
mapfile -t superblocks < <(jq -r '.superblocks[].byte_offset' "$work/places")
mapfile -t labels < <(jq -r '.labels[].byte_offset' "$work/places")
[ "${#superblocks[@]}" = 2 ] && [ "${#labels[@]}" = 2 ] || fail "inspect: $(cat "$work/places")"

for what in superblock label; do
  if [ $what = superblock ]; then places=("${superblocks[@]}"); else places=("${labels[@]}"); fi
  for place in "${places[@]}"; do
    restore
    flip "$((place + 100))"
    : >"$work/server.log"
    serve
    [ -z "$(failing $((64 << 20)))" ] || fail "$what: blocks are lost"
    grep -Eqi "$what" "$work/server.log" || fail "$what: not said: $(cat "$work/server.log")"
    stop_server
    say "one $what damaged at byte $place: survived; $(grep -Eim 1 "$what" "$work/server.log")"
    if [ $what = superblock ]; then
      # Recovery made both copies equal again.
      inspect superblock | jq -e '[.superblocks[].verdict] == ["valid", "valid"]' >/dev/null ||
        fail "the damaged superblock was not written again"
    fi
  done
  restore
  for place in "${places[@]}"; do flip "$((place + 100))"; done
  refused "$what" "$THERMOCLINE" serve --config "$config"
done

say "a page of the table"
restore
inspect table --offset 0 >"$work/table"
page=$(jq -r '.pages[0].byte_offset' "$work/table")
[ "$page" != null ] || fail "inspect table: $(cat "$work/table")"
flip "$((page + 200))"
check_finds 'page'
serve
# A page maps 40 extents of 64 KiB: blocks 0 to 639.
found=$(failing $((64 << 20)))
[ "$found" = 0-639 ] || fail "blocks 0-639 should be lost, lost are: $found"
say "blocks 0-639 answer EIO, all others are right"
qemu-io -f raw "$uri" -c 'write -P 0x66 0 1m' -c flush >/dev/null
overwritten "before a restart"
stop_server
serve
overwritten "after a restart"
# Enough writing that the lost page is destaged over.
qemu-io -f raw "$uri" -c 'write -P 0x79 256m 256m' -c flush >/dev/null
sleep 2
overwritten "after destage"
stop_server
say "overwritten blocks read again"

say "a block of data"
restore
inspect table --offset 2097152 >"$work/table"
home=$(jq -r '.pages[0].records[0].home' "$work/table")
[ "${home%%:*}" = 0 ] || fail "extent 32 has no home: $(cat "$work/table")"
# Block 3 of extent 32 is block 515 of the volume.
flip "$((${home##*:} + 3 * 4096 + 77))" 1
check_finds '(block|extent|checksum)'
serve
found=$(failing $((64 << 20)))
[ "$found" = 515-515 ] || fail "block 515 should be lost, lost are: $found"
[ "$(status '[.tiers[].devices[].checksum_errors] | add > 0')" = true ] ||
  fail "no checksum error is counted"
dd if="$work/data" of="$work/block" bs=4096 skip=515 count=1 status=none
/usr/bin/python3 - "$uri" "$work/block" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(open(sys.argv[2], "rb").read(), 515 * 4096)
h.flush()
h.shutdown()
PYTHON
[ -z "$(failing $((64 << 20)))" ] || fail "overwriting did not heal the block"
stop_server
serve
[ -z "$(failing $((64 << 20)))" ] || fail "the block is lost again after a restart"
stop_server
say "one flipped bit cost one block, and overwriting healed it"
