#!/bin/bash
# Extended headers with a client that speaks them: QEMU 10 of Debian's backports (libnbd 1.14 does
# not).
source "$(dirname "$0")/common.bash"
source "$(dirname "$0")/backports.bash"
bounded 240 "$@"
ours || { say "only our server is asked"; exit 0; }

fetch_qemu
"$qemu/qemu-io" --version | head -n 1

# Larger than any length of 32 bits, so that one request is larger, too.
volume_size=24GiB
memory=384MiB
tier only disk 6GiB
format
serve

say "qemu-nbd --list: transactions of 64 bits"
"$qemu/qemu-nbd" --list -k "$socket" >"$work/list.txt"
grep -q 'transaction size: *64-bit' "$work/list.txt" || fail "$(cat "$work/list.txt")"
grep -q 'qemu:allocation-depth' "$work/list.txt" || fail "$(cat "$work/list.txt")"

image="driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=$socket,file.export=test"
image+=",file.server.path=$socket"

# io COMMAND…: qemu-io's commands on one connection; no pattern may differ.
io() {
  local arguments=() command
  for command in "$@"; do arguments+=(-c "$command"); done
  "$qemu/qemu-io" --image-opts "$image,discard=unmap" "${arguments[@]}" >"$work/io.txt" 2>&1 ||
    fail "$*: $(cat "$work/io.txt")"
  if grep -Eq 'Pattern verification failed|[Ee]rror|failed' "$work/io.txt"; then
    fail "$*: $(cat "$work/io.txt")"
  fi
}

say "patterns, on both sides of 4 GiB and of 16 GiB"
io 'write -P 0x41 4294963200 8k' 'write -P 0x42 17179865088 1m' 'write -f -P 0x43 512 4097' \
  'write -z 4294965248 2k' 'read -P 0x41 4294963200 2k' 'read -P 0 4294965248 2k' \
  'read -P 0x41 4294967296 4k' 'read -P 0x42 17179865088 1m' 'read -P 0x43 512 4097' \
  'read -P 0 20g 1m' 'flush'

say "the map"
"$qemu/qemu-img" map --output=json --image-opts "$image" >"$work/map.json"
jq -e 'map(select(.data)) | length >= 3 and (map(.length) | add) < 4194304' \
  "$work/map.json" >/dev/null || fail "$(cat "$work/map.json")"
jq -e 'map(.length) | add == 25769803776' "$work/map.json" >/dev/null || fail "$(cat "$work/map.json")"

say "a copy there and back, compared"
head -c 96M /dev/urandom >"$work/source"
truncate -s 8G "$work/source"
head -c 4M /dev/urandom >>"$work/source"
truncate -s 24G "$work/source"
"$qemu/qemu-img" convert -n --target-image-opts "$work/source" "$image"
"$qemu/qemu-img" compare -q --image-opts "driver=raw,file.filename=$work/source" "$image"

say "4 GiB - 1, and the whole volume, of data, in one request"
python3 - "$root/Tests/Wire" "$socket" <<'PYTHON'
import os, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *

size = 24 << 30
w = Wire(sys.argv[2]).go(EXTENDED)
compact = Wire(sys.argv[2]).go()
data = os.urandom(1 << 20)


def fill():
    """A block of data in every 4 MiB, and a whole MiB in every 128."""
    for at in range(0, size, 4 << 20):
        w.write(at, data if at % (128 << 20) == 0 else data[:4096])


def timed(what, wire, kind, offset, length, flags=0):
    began = time.monotonic()
    assert wire.call(kind, offset, length, flags) == "done", what
    took = time.monotonic() - began
    print(f"  {what}: {took * 1000:.1f} ms", flush=True)
    # Milliseconds; the rest is for a machine that others share.
    assert took < 0.25, what


for kind, name in ((TRIM, "TRIM"), (WRITE_ZEROES, "WRITE_ZEROES")):
    fill()
    w.write((4 << 30) - 4096, b"e" * 4096)
    timed(f"{name} of 4 GiB - 1", compact, kind, 0, (4 << 30) - 1)
    assert w.read(0, 4096) == bytes(4096) and w.read(4 << 30, 4096) == data[:4096]
    # The last block is covered in part: TRIM may leave it, zeroing leaves its last byte.
    edge = w.read((4 << 30) - 4096, 4096)
    assert edge[4095:] == b"e" and (kind == TRIM or edge[:4095] == bytes(4095)), edge
    timed(f"{name} of everything", w, kind, 0, size)
    for at in (4 << 30, 8 << 30, size - (4 << 20)):
        assert w.read(at, 1 << 20) == bytes(1 << 20), at
fill()
timed("WRITE_ZEROES of 4 GiB, space reserved", w, WRITE_ZEROES, 0, 4 << 30, NO_HOLE)
timed("TRIM of everything again", w, TRIM, 0, size)
PYTHON
"$qemu/qemu-img" map --output=json --image-opts "$image" >"$work/map.json"
jq -e 'map(select(.data)) | length == 0' "$work/map.json" >/dev/null || fail "$(cat "$work/map.json")"

say "a copy made by the server's map alone: backup of a running guest's disk"
io 'write -P 0x55 6g 1m'
"$qemu/qemu-img" convert -O qcow2 --image-opts "$image" "$work/copy.qcow2"
[ "$(stat -c %s "$work/copy.qcow2")" -lt $((8 << 20)) ] || fail "holes were copied"
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"
