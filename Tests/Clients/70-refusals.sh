#!/bin/bash
# Refusals: devices that are swapped, truncated, foreign, missing, copied or busy, pools that do not
# fit the configuration, a lost staging ring: all refused, by name, and nothing is changed. A full
# pool refuses writes, but for space that was kept.
source "$(dirname "$0")/common.bash"
bounded 600 "$@"
ours || { say "skipped: nothing of this is in a stand-in"; exit 0; }

volume_size=1GiB
log_size=128MiB
tier fast disk0 320MiB
tier slow disk1 1GiB disk2 1GiB
format --sparse
serve
qemu-io -f raw "$uri" -c 'write -P 0x31 0 64m' -c flush >/dev/null
stop_server
cp "$config" "$work/good.toml"
sha256sum "$work"/disk? >"$work/sums"
serve_refused() { refused "$1" timeout 60 "$THERMOCLINE" serve --config "$config"; }

# with SED-EXPRESSION: the good configuration, changed.
with() {
  sed "$1" "$work/good.toml" >"$config"
  cmp -s "$config" "$work/good.toml" && fail "$1 changes nothing"
  return 0
}

say "devices"
with 's/disk0/@/; s/disk1/disk0/; s/@/disk1/; s/320MiB/X/; s/1GiB" }, /320MiB" }, /; s/"X"/"1GiB"/'
sed -i 's/, size = "[^"]*"//' "$config"
serve_refused "disk1 is swapped.*device 1"
with 's/disk1/@/; s/disk2/disk1/; s/@/disk2/'
serve_refused "disk2 is swapped.*device 2"
with 's/, { path = "[^"]*disk2", [^}]* }//'
serve_refused "has 3 devices.*names 2.*device 2 is missing"
cp --sparse=always "$work/disk1" "$work/twin"
with 's/disk2/twin/'
serve_refused "twin is a copy of .*disk1|twin is swapped"
with 's/disk2/absent/'
sed -i 's/, size = "[^"]*"//' "$config"
serve_refused "absent"
truncate -s 1G "$work/blank"
with 's/disk2/blank/'
serve_refused "blank carries no pool"
cp --sparse=always "$work/disk2" "$work/short"
truncate -s 900M "$work/short"
with 's/disk2/short/; s/, size = "[^"]*"//g'
serve_refused "short is truncated"

say "another pool's device"
(
  config=$work/other.toml
  socket=$work/other.sock
  tiers=()
  tier fast other0 320MiB
  tier slow other1 1GiB other2 1GiB
  format --sparse
)
with 's/disk2/other2/'
serve_refused "other2 belongs to another pool"

say "the configuration"
with '/^\[volume\]/,/^\[/s/^name = .*/name = "other"/'
serve_refused "volume.name.*test.*other"
with '/^\[volume\]/,/^\[/s/^size = .*/size = "5000TiB"/'
serve_refused "volume.size.*4096TiB"
with 's/name = "slow"/name = "sluggish"/'
serve_refused 'tier\[1\].name.*slow.*sluggish'
with 's/^memory.*/memory = "64MiB"/'
serve_refused "memory.*64MiB"
with 's/^memory/memroy/'
serve_refused ':1: memroy'
with 's/size = "128MiB"/size = "256MiB"/'
serve_refused "log.size.*128MiB"
echo 'memory = "512MiB' >"$config"
serve_refused ':1:'

say "nothing was changed by any of it"
cp "$work/good.toml" "$config"
sha256sum --quiet -c "$work/sums" || fail "a refused start changed a device"

say "busy"
serve
refused "disk0 is in use" timeout 60 "$THERMOCLINE" serve --config "$config"
refused "in use" timeout 60 "$THERMOCLINE" format --yes --force --config "$config"
refused "in use" timeout 60 "$THERMOCLINE" check --config "$config"
qemu-io -f raw "$uri" -c 'read -P 0x31 0 64m' | grep -q failed && fail "the refused ones did harm"
stop_server

say "what is worth something"
refused "disk0 carries" "$THERMOCLINE" format --yes --config "$config"
truncate -s 1G "$work/filesystem"
mkfs.ext4 -q -F "$work/filesystem"
loop_device "$work/filesystem"
with "s#\"[^\"]*disk2\", size = \"1GiB\"#\"$loop\"#"
refused "$loop carries" "$THERMOCLINE" format --yes --config "$config"
mkdir "$work/mnt"
mount "$loop" "$work/mnt"
mounts+=("$work/mnt")
refused "$loop is mounted on" "$THERMOCLINE" format --yes --force --config "$config"
umount "$work/mnt"
e2fsck -fn "$loop" >/dev/null 2>&1 || fail "the filesystem was damaged by a refused format"

say "a lost staging ring"
cp "$work/good.toml" "$config"
serve
qemu-io -f raw "$uri" -c 'write -P 0x32 0 64m' >/dev/null
kill_server
rm -rf "${staging:?}"/*
serve_refused "[Rr]ing"
"$THERMOCLINE" serve --accept-lost-ring --config "$config" >>"$work/server.log" 2>&1 &
server=$!
for _ in $(seq 200); do
  nbdinfo --size "$uri" >/dev/null 2>&1 && break
  sleep 0.1
done
# Every block is the old or the new.
/usr/bin/python3 - "$uri" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for block in range(0, 64 << 20, 1 << 20):
    data = h.pread(1 << 20, block)
    for i in range(0, len(data), 4096):
        assert data[i:i + 4096] in (b"\x31" * 4096, b"\x32" * 4096), block + i
h.shutdown()
PYTHON
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.txt" || fail "check: $(cat "$work/check.txt")"
say "started with --accept-lost-ring, every block is the old or the new, check is clean"

say "a full pool refuses, but not what was zeroed with its space kept"
tiers=()
volume_size=4GiB
tier fast small0 320MiB
tier slow small1 512MiB
format
serve
# full fill|rest: takes all space but what is kept, and writes to half of that; to the other half.
full() {
  /usr/bin/python3 - "$uri" "$1" <<'PYTHON'
import errno, sys, time, nbd
MIB, KEPT = 1 << 20, 64 << 20
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])


def goes(what, *arguments):
    """Whether there is room for it."""
    try:
        what(*arguments)
        return True
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        return False


def kinds(length, offset):
    """The flags of base:allocation, one for each piece."""
    found = []
    h.block_status(length, offset, lambda name, at, entries, error: found.extend(entries[1::2]))
    return set(found)


def fill(at):
    """Writes on from there, the last extents one by one, until nothing goes any more."""
    for length in MIB, 65536:
        while goes(h.pwrite, b"f" * length, at):
            at += length
    return at


half = 0 if sys.argv[2] == "fill" else KEPT // 2
if half == 0:
    h.zero(KEPT, 0, nbd.CMD_FLAG_NO_HOLE)
    assert kinds(KEPT, 0) == {2}, "ZERO without HOLE"
    at, before = fill(KEPT), 0
    # What the log held is home after a while: is there room again?
    while at != before:
        h.flush()
        time.sleep(3)
        before, at = at, fill(at)
    print(f"{(at - KEPT) >> 20} MiB, and {KEPT >> 20} MiB that are kept")
    assert at > 4 * KEPT, "the pool is not that small"
last = h.get_size() - MIB
assert not goes(h.pwrite, b"f" * 65536, last), "it is not full"
assert not goes(h.zero, 65536, last, nbd.CMD_FLAG_NO_HOLE), "kept, where nothing is left"
assert kinds(KEPT - half, half) == {2}
# By long writes and by short ones, and over it once more.
for at in range(half, half + KEPT // 2, 2 * MIB):
    h.pwrite(b"k" * MIB, at)
    for i in range(MIB, 2 * MIB, 65536):
        h.pwrite(b"k" * 65536, at + i)
h.flush()
h.pwrite(b"K" * MIB, half)
assert kinds(KEPT // 2, half) == {0}
assert h.pread(KEPT // 2, half) == b"K" * MIB + b"k" * (KEPT // 2 - MIB), "other data"
if half == 0:
    assert h.pread(KEPT // 2, KEPT // 2) == bytes(KEPT // 2), "no zeros"
else:
    h.trim(16 * MIB, KEPT)
    deadline = time.monotonic() + 20
    while not goes(h.pwrite, b"n" * MIB, last):
        assert time.monotonic() < deadline, "a TRIM makes no room"
        time.sleep(0.2)
h.shutdown()
PYTHON
}
full fill
kill_server
serve
full rest
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.txt" || fail "check: $(cat "$work/check.txt")"
