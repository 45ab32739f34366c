#!/bin/bash
# What clients can say and ask about tiers: the contexts x-thermocline:tier and x-thermocline:heat
# tell where data lies and how hot it is, and CACHE makes cold data hot, which moves it up.
source "$(dirname "$0")/common.bash"
bounded 200 "$@"
ours || { say "only our server is asked"; exit 0; }

volume_size=600MiB
log_size=128MiB
tier fast disk0 300MiB
tier slow disk1 1GiB
format
serve
/usr/bin/python3 - "$uri" "$work/server.log" <<'PYTHON' || fail "the client says no"
import nbd, sys, time
MIB = 1 << 20
h = nbd.NBD()
for name in "tier", "heat":
    h.add_meta_context("x-thermocline:" + name)
h.connect_uri(sys.argv[1])

def status(name, offset, length):
    """Pairs of length and value."""
    found = []
    def take(context, at, entries, error):
        if context == "x-thermocline:" + name:
            found.extend(zip(entries[::2], entries[1::2]))
    h.block_status(length, offset, take)
    return found

def sums(name, offset, length):
    result, at = {}, offset
    while at < offset + length:
        for size, value in status(name, at, min(64 * MIB, offset + length - at)):
            size = min(size, offset + length - at)
            result[value] = result.get(value, 0) + size
            at += size
    return result

assert sums("tier", 0, 600 * MIB) == {0: 600 * MIB}
assert sums("heat", 0, 600 * MIB) == {0: 600 * MIB}
# A small write is in the log.
h.pwrite(b"l" * 4096, 599 * MIB)
assert status("tier", 599 * MIB, 4096)[0][1] == 255, status("tier", 599 * MIB, 4096)
for i in range(300):
    h.pwrite(b"d" * MIB, i * MIB)
h.flush()
deadline = time.monotonic() + 30
while True:
    tiers = sums("tier", 0, 300 * MIB)
    if 255 not in tiers or time.monotonic() > deadline:
        break
    time.sleep(0.2)
print({t: f"{size // MIB} MiB" for t, size in tiers.items()})
assert set(tiers) == {1, 2} and tiers[1] > 50 * MIB and tiers[2] > 100 * MIB, tiers

# Something on the slow tier, cold like all that was written once.
place = next(i for i in range(300) if sums("tier", i * MIB, MIB) == {2: MIB})
other = next(i for i in range(299, place, -1) if sums("tier", i * MIB, MIB) == {2: MIB})
before = max(sums("heat", place * MIB, MIB))
assert before == max(sums("heat", other * MIB, MIB)) < 2, before
h.cache(MIB, place * MIB)
after = min(sums("heat", place * MIB, MIB))
assert after > before and after >= 2, (before, after)
assert max(sums("heat", other * MIB, MIB)) == before
deadline = time.monotonic() + 120
while sums("tier", place * MIB, MIB) != {1: MIB}:
    assert time.monotonic() < deadline, sums("tier", place * MIB, MIB)
    time.sleep(0.5)
print("what was asked for is on the fast tier")
assert h.pread(MIB, place * MIB) == b"d" * MIB
PYTHON
