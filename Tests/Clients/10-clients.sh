#!/bin/bash
# Foreign clients: libnbd's tools, nbdsh, nbdfuse, fio, qemu-img and qemu-io read and write the
# volume, and agree with each other about what is in it, also after a restart.
source "$(dirname "$0")/common.bash"
bounded 300 "$@"

volume_size=1GiB
tier only disk 2GiB
format
serve

say "nbdinfo"
nbdinfo --json "$uri" >"$work/info.json"
jq -e '.exports[0] | .["export-size"] == 1073741824 and .can_flush and .can_fua and .can_trim
  and .can_zero and .can_multi_conn and .is_read_only == false' "$work/info.json" >/dev/null ||
  fail "nbdinfo: $(cat "$work/info.json")"
if ours; then
  jq -e '.structured and (.exports[0] | .can_cache and .can_df and .can_fast_zero
    and (.contexts | index("base:allocation") != null))' "$work/info.json" >/dev/null ||
    fail "nbdinfo: $(cat "$work/info.json")"
  # An empty volume is one hole that reads as zeros (type 3).
  nbdinfo --map --json "$uri" | jq -e 'length == 1 and .[0].type == 3' >/dev/null ||
    fail "the map of an empty volume: $(nbdinfo --map "$uri")"
  nbdinfo --list "$uri" | grep -q 'export="test"' || fail "the export is not listed"
  qemu-nbd --list --socket="$socket" | grep -q "export: 'test'" || fail "qemu-nbd lists it not"
fi

say "nbdcopy there and back"
# 192 MiB: data, a hole, data.
head -c 96M /dev/urandom >"$work/source"
truncate -s 160M "$work/source"
head -c 32M /dev/urandom >>"$work/source"
cp --sparse=always "$work/source" "$work/padded"
truncate -s 1G "$work/padded"
nbdcopy --flush "$work/padded" "$uri"
nbdcopy "$uri" "$work/back"
cmp "$work/padded" "$work/back"
nbdinfo --map --json "$uri" |
  jq -e 'map(select(.type == 0) | .length) | add >= 128 * 1048576 and add <= 130 * 1048576' \
    >/dev/null || fail "the map does not show 128 MiB of data: $(nbdinfo --map "$uri")"

say "nbdsh"
[ "$(PATH=/usr/bin:$PATH nbdsh -u "$uri" -c 'print(h.pread(4, 0))')" = "bytearray($(head -c 4 "$work/padded" |
  /usr/bin/python3 -c 'import sys; print(sys.stdin.buffer.read())'))" ] || fail "nbdsh reads otherwise"
/usr/bin/python3 - "$uri" <<'PYTHON'
import os, sys, nbd

def connect():
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    h.connect_uri(sys.argv[1])
    return h

a, b = connect(), connect()
base = 1 << 29
# Any alignment, seen by the other connection at once.
for offset, length in ((0, 1), (511, 2), (4095, 4098), (65535, 3), (100001, 300007)):
    data = os.urandom(length)
    a.pwrite(data, base + offset)
    assert b.pread(length, base + offset) == data, (offset, length)
# Flush on one connection covers the other's writes; FUA is taken.
a.pwrite(b"\x5a" * 8192, base, nbd.CMD_FLAG_FUA)
b.flush()
# Zeroing and trimming, with edges.
before = a.pread(1 << 20, base)
a.zero(70000, base + 1000)
assert b.pread(1 << 20, base) == before[:1000] + bytes(70000) + before[71000:]
a.pwrite(b"\xa5" * (1 << 20), base)
a.trim(1 << 20, base)
a.flush()
assert b.pread(1 << 20, base) == bytes(1 << 20)
# The map shows the hole, and the data after it.
a.pwrite(b"\x11" * 65536, base + (1 << 20))
found = []
a.block_status((1 << 20) + 65536, base, lambda name, offset, entries, error: found.extend(entries))
assert found[1] & 2 and found[0] >= 1 << 20 and found[-1] & 2 == 0, found
# Errors do not end the connection.
size = a.get_size()
a.set_strict_mode(0)
for attempt in (lambda: a.pread(4096, size), lambda: a.pwrite(bytes(4096), size - 1)):
    try:
        attempt()
        raise SystemExit("a request past the end was carried out")
    except nbd.Error as error:
        pass
assert a.pread(65536, base + (1 << 20)) == b"\x11" * 65536
a.shutdown()
b.shutdown()
PYTHON

if ours; then
say "all contexts at once: what is mapped, how deep, on which tier, how hot"
/usr/bin/python3 - "$uri" <<'PYTHON'
import nbd, sys
names = ["base:allocation", "qemu:allocation-depth", "x-thermocline:tier", "x-thermocline:heat"]
h = nbd.NBD()
for name in names:
    h.add_meta_context(name)
h.connect_uri(sys.argv[1])
assert all(h.can_meta_context(name) for name in names)
size = h.get_size()
base = size - (16 << 20)
h.trim(16 << 20, base)
h.pwrite(b"x" * (1 << 20), base + (1 << 20))
h.zero(1 << 20, base + (3 << 20), nbd.CMD_FLAG_NO_HOLE)
for _ in range(3):
    h.pread(4096, base + (1 << 20))
found = {}


def heard(name, offset, entries, error):
    assert offset == base and name not in found, name
    pieces, at = [], 0
    for length, flags in zip(entries[::2], entries[1::2]):
        pieces.append((at >> 20, (at + length) >> 20, flags))
        at += length
    assert at <= 16 << 20
    found[name] = pieces


h.block_status(16 << 20, base, heard)
assert sorted(found) == sorted(names), found
assert found[names[0]] == [(0, 1, 3), (1, 2, 0), (2, 3, 3), (3, 4, 2), (4, 16, 3)], found
assert found[names[1]] == [(0, 1, 0), (1, 2, 1), (2, 3, 0), (3, 4, 1), (4, 16, 0)], found
assert [p[:2] for p in found[names[2]]] == [(0, 1), (1, 2), (2, 16)], found
assert found[names[2]][1][2] in (1, 255), found
assert found[names[3]][0][1] <= 16 and all(p[2] < 100 for p in found[names[3]]), found
# A request of one descriptor has one for each context.
found = {}
h.block_status(16 << 20, base, heard, nbd.CMD_FLAG_REQ_ONE)
assert all(len(found[name]) == 1 for name in names), found
h.trim(16 << 20, base)
h.shutdown()
PYTHON
nbdinfo --map=x-thermocline:tier "$uri" >"$work/tiers.txt"
grep -Eq " (1|255)\b" "$work/tiers.txt" || fail "no tier: $(cat "$work/tiers.txt")"
fi

say "fio writes and verifies"
fio --name=verify --ioengine=nbd --uri="$uri" --thread=1 --rw=randrw --bsrange=512-128k \
  --bs_unaligned=1 --offset=640m --size=128m --io_size=128m --iodepth=32 --verify=crc32c \
  --verify_fatal=1 --verify_state_save=0 --randrepeat=0 --output="$work/fio.txt" || fail "$(cat "$work/fio.txt")"

say "qemu-img converts and compares"
qemu-img convert -n -f raw -O raw "$work/padded" "$uri"
qemu-img compare -q -f raw -F raw "$work/padded" "$uri"
qemu-img convert -f raw -O qcow2 "$uri" "$work/back.qcow2"
qemu-img compare -q -f raw -F qcow2 "$work/padded" "$work/back.qcow2"

say "qemu-io writes and reads patterns"
patterns() {
  qemu-io -f raw "$uri" -c "$1" >"$work/qemu-io.txt" 2>&1 || fail "$1: $(cat "$work/qemu-io.txt")"
  if grep -q 'Pattern verification failed' "$work/qemu-io.txt"; then
    fail "$1: $(cat "$work/qemu-io.txt")"
  fi
}
patterns 'write -P 0x41 800m 1m'
patterns 'write -P 0x42 838864896 513'
patterns 'read -P 0x42 838864896 513'
patterns 'read -P 0x41 838865409 4000'
patterns 'write -z 838926336 128k'
patterns 'read -P 0 838926336 128k'
patterns 'discard 839057408 64k'
patterns 'read -P 0 839057408 64k'
patterns 'writev -P 0x43 839909376 4k 8k 512 64k'
patterns 'read -P 0x43 839909376 78336'
patterns 'aio_write -P 0x44 840957952 256k'
patterns 'read -P 0x44 840957952 256k'
patterns 'flush'

if [ -x "$THERMOCLINE_LOAD" ]; then
  say "eight connections of depth 64 against a model"
  # The model knows an empty volume.
  qemu-io -f raw "$uri" -c 'discard 0 1g' >/dev/null
  "$THERMOCLINE_LOAD" model --uri "$uri" --seconds 10
fi

if [ -c /dev/fuse ] && command -v nbdfuse >/dev/null; then
  say "nbdfuse: the volume as a file"
  mkdir "$work/fuse"
  nbdfuse "$work/fuse/volume" "$uri" 2>"$work/nbdfuse.log" &
  nbdfuse_pid=$!
  mounts+=("$work/fuse")
  for _ in $(seq 100); do
    [ ! -f "$work/fuse/volume" ] || break
    sleep 0.1
  done
  [ "$(stat -c %s "$work/fuse/volume")" = 1073741824 ] || fail "nbdfuse: $(cat "$work/nbdfuse.log")"
  # Written through the file, read past it; and the other way round, where nothing is cached yet.
  head -c 24000001 /dev/urandom >"$work/part"
  through() { dd bs=1M conv=notrunc,fsync "$@" status=none; }
  through if="$work/part" of="$work/fuse/volume" oflag=seek_bytes seek=700000123
  nbdcopy "$uri" "$work/past"
  cmp -n 24000001 "$work/part" "$work/past" 0 700000123 || fail "nbdfuse writes other data"
  through if="$work/part" of="$work/past" oflag=seek_bytes seek=900000321
  nbdcopy "$work/past" "$uri"
  cmp "$work/past" "$work/fuse/volume" || fail "nbdfuse reads other data"
  fusermount3 -u "$work/fuse"
  wait "$nbdfuse_pid" || fail "nbdfuse ends with $?: $(cat "$work/nbdfuse.log")"
else
  say "no FUSE here: nbdfuse was not tried"
fi

say "after a restart"
nbdcopy "$uri" "$work/before"
stop_server
serve
nbdcopy "$uri" "$work/after"
cmp "$work/before" "$work/after"
stop_server

ours || exit 0
say "a volume that seeks: only when all its devices do"
tiers=()
tier fast disk1 512MiB
tier slow disk2 1GiB disk3 1GiB
format
cp "$config" "$work/still.toml"
# turns EXPECTED FILES…: whether clients are told that it does, when these files rotate.
turns() {
  local expected=$1 file
  shift
  cp "$work/still.toml" "$config"
  for file in "$@"; do
    sed -i "s#\(/$file\"[^}]*rotational = \)false#\1true#" "$config"
  done
  [ "$(grep -o 'rotational = true' "$config" | wc -l)" = $# ] || fail "not configured: $*"
  serve
  nbdinfo --json "$uri" | jq -e ".exports[0].is_rotational == $expected" >/dev/null ||
    fail "is_rotational is not $expected, with ${*:-nothing} rotating"
  stop_server
}
turns false
turns false disk2 disk3
turns false disk1 disk2
turns true disk1 disk2 disk3
