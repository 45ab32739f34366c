#!/bin/bash
# What no client says: malformed and boundary cases of the protocol, byte by byte (Tests/Wire); after
# each the next client is served. Then a map of very many pieces, zeroes over restarts, and
# clients that die and leave nothing behind; at the end the pool is clean and the server not grown.
source "$(dirname "$0")/common.bash"
bounded 300 "$@"
ours || { say "only our server is asked"; exit 0; }

port=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
tcp=127.0.0.1:$port
volume_size=16GiB
tier only disk 2GiB
format
serve
wire=$root/Tests/Wire

# SIGPIPE, number 13, is ignored: a peer that is gone is an error code.
ignored=$(sed -n 's/^SigIgn:[[:space:]]*//p' "/proc/$server/status")
[ $(((0x$ignored >> 12) & 1)) = 1 ] || fail "SIGPIPE is not ignored"
"$wire/matrix" "$socket" || fail "outcomes that the protocol does not allow"

say "a map of more pieces than one reply has"
python3 - "$wire" "$socket" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
MOST, BLOCK, COUNT, BASE, SIZE = 65536, 4096, 33500, 4 << 30, 1 << 30
writer = Wire(sys.argv[2]).go()
assert writer.call(TRIM, BASE, SIZE) == "done"
writer.many([(WRITE, BASE + 2 * i * BLOCK, BLOCK, 0, b"c" * BLOCK) for i in range(COUNT)])
rest = SIZE - 2 * COUNT * BLOCK
contexts = {b"base:allocation": (0, 3), b"qemu:allocation-depth": (1, 0)}
for style in (STRUCTURED, EXTENDED):
    w = Wire(sys.argv[2]).go(style, list(contexts))
    for name, (data, hole) in contexts.items():
        at, found, answers = BASE, [], []
        while at < BASE + SIZE:
            pieces = w.status(at, BASE + SIZE - at)[w.contexts[name]]
            answers.append(len(pieces))
            found += pieces
            at += sum(length for length, _ in pieces)
        assert 1 < len(answers) <= 20 and max(answers) <= MOST, f"{name}: {answers} descriptors"
        wanted = [(BLOCK, data), (BLOCK, hole)] * COUNT
        wanted[-1] = (BLOCK + rest, hole)
        assert found == wanted, f"{name}: another map"
    both = w.status(BASE, SIZE)
    assert len(both) == 2 and all(len(pieces) <= MOST for pieces in both.values())
assert writer.call(TRIM, BASE, SIZE) == "done"
PYTHON

say "a thousand maps of 4 GiB at once hold nobody up"
python3 - "$wire" "$socket" <<'PYTHON'
import sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
REQ_ONE, LENGTH = 8, (4 << 30) - 4096
other = Wire(sys.argv[2]).go()
maps = [Wire(sys.argv[2], 60).go(STRUCTURED, [b"base:allocation"]) for _ in range(8)]
# While the log knows of it, each block is looked up.
assert other.call(TRIM, 0, LENGTH) == "done"
for w in maps:
    w.send(b"".join(w.pack(BLOCK_STATUS, 0, LENGTH, REQ_ONE, i) for i in range(128)))
longest = 0
for i in range(40):
    began = time.monotonic()
    assert other.call(READ, i << 20, 4096) == "done"
    longest = max(longest, time.monotonic() - began)
print(f"  the longest of 40 reads took {longest * 1000:.0f} ms")
assert longest < 1, longest
for w in maps:
    for _ in range(128):
        w.message()
PYTHON

# zeroes make|look: makes, or looks at, data, holes, and zeroes that keep their space. Space is kept
# by the extent of 64 KiB: none has holes and such zeroes.
zeroes() {
  python3 - "$wire" "$socket" "$1" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
BASE, KIB, MAKE = 8 << 30, 1 << 10, sys.argv[3] == "make"
DATA, ZERO, HOLE = 0, 2, 3
# KiB of it, and what is there; the last two were never data.
PIECES = [(64, DATA), (128, HOLE), (64, DATA), (128, ZERO), (72, DATA), (8, HOLE), (56, DATA),
          (8, ZERO), (48, DATA), (64, HOLE), (64, ZERO), (320, HOLE)]
w = Wire(sys.argv[2]).go(STRUCTURED, [b"base:allocation"])
if MAKE:
    assert w.write(BASE, b"z" * (640 * KIB)) == "done"
wanted, data = [], b""
for length, kind in ((length * KIB, kind) for length, kind in PIECES):
    if MAKE and kind != DATA:
        flags = NO_HOLE if kind == ZERO else 0
        assert w.call(WRITE_ZEROES, BASE + len(data), length, flags) == "done"
    wanted.append((length, kind))
    data += (b"z" if kind == DATA else b"\0") * length
found = list(w.status(BASE, len(data)).values())[0]
assert found == wanted, f"{found}, not {wanted}"
assert w.read(BASE, len(data)) == data, "other data"
# Kept for all of an extent, of which a part is trimmed: the rest of it is still kept.
if MAKE:
    w.call(WRITE_ZEROES, BASE + len(data), 64 * KIB, NO_HOLE)
    w.call(TRIM, BASE + len(data) + 8 * KIB, 8 * KIB)
for at in (0, 4, 16, 60):
    found = list(w.status(BASE + len(data) + at * KIB, 4 * KIB).values())[0]
    assert found == [(4 * KIB, ZERO)], f"{at} KiB into an extent: {found}"
PYTHON
}

say "what was zeroed: from the log, from its home, after a restart, after a kill"
zeroes make
soon "an idle server's log is empty" '.log.used_bytes <= 65536'
zeroes look
stop_server
serve
zeroes look
zeroes make
kill_server
serve
zeroes look

say "300 clients that die"
descriptors() { find "/proc/$server/fd" -mindepth 1 | wc -l; }
soon "nobody is there" '.server.connections == 0'
sleep 1
before=$(descriptors)
python3 - "$wire" "$socket" "$port" <<'PYTHON'
import random, sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
path, tcp = sys.argv[2], ("127.0.0.1", int(sys.argv[3]))
KIB, MIB = 1 << 10, 1 << 20
UNWRITTEN, SCRATCH = 10 << 30, 11 << 30
CONTEXTS = [b"base:allocation", b"qemu:allocation-depth"]
draw = random.Random(4711)


def push(w, data):
    """Sends what the server takes within a moment."""
    w.socket.settimeout(0.1)
    try:
        w.socket.sendall(data)
    except OSError:
        pass


def in_the_handshake(w):
    asked = [(STRUCTURED_REPLY, b""), (SET_META, queries(CONTEXTS)), (LIST, b""), (GO, export())]
    data = struct.pack(">I", 3) + b"".join(
        struct.pack(">QII", IHAVEOPT, option, len(data)) + data for option, data in asked)
    push(w, data[:draw.randrange(len(data))])


def begin(w):
    w.go(draw.choice([SIMPLE, STRUCTURED, EXTENDED]), CONTEXTS[:draw.randrange(3)])
    return PAYLOAD_LEN if w.style == EXTENDED else 0


def some_requests(w, flag):
    """Requests of all kinds, whose replies nobody reads."""
    def one():
        kind = draw.choice([READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS])
        at, length = SCRATCH + draw.randrange(256) * 256 * KIB, draw.randrange(1, 64 * KIB)
        if kind == FLUSH:
            return w.pack(FLUSH)
        if kind == WRITE:
            return w.pack(WRITE, at, length, flag) + bytes(length)
        return w.pack(kind, at, length)
    return b"".join(one() for _ in range(draw.randrange(8)))


def in_a_header(w):
    data = some_requests(w, begin(w))
    header = w.pack(READ, SCRATCH, MIB)
    push(w, data + header[:draw.randrange(1, len(header))])


def in_a_payload(w):
    flag = begin(w)
    length = draw.randrange(MIB // 2 + 1, MIB + 1)
    at = UNWRITTEN + draw.randrange(256) * MIB
    data = b"never whole" * (MIB // 11 + 1)
    push(w, some_requests(w, flag) + w.pack(WRITE, at, length, flag)
         + data[:draw.randrange(length)])


def with_replies_unread(w):
    flag = begin(w)
    kind = BLOCK_STATUS if w.contexts and draw.randrange(2) else READ
    push(w, some_requests(w, flag) + b"".join(
        w.pack(kind, SCRATCH + i * MIB, MIB if kind == READ else 1 << 30) for i in range(100)))
    if draw.randrange(2):
        w.socket.settimeout(30)
        w.take(draw.randrange(16))


def die(w):
    """By RST on TCP; on a unix socket what is unread makes it one."""
    if w.socket.family != socket.AF_UNIX:
        w.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    w.close()


witness = Wire(path, 30).go()
endings = [in_the_handshake, in_a_header, in_a_payload, in_a_payload, with_replies_unread]
dying = []
for i in range(300):
    w = Wire(path if i % 2 else tcp, 30)
    endings[i // 2 % len(endings)](w)
    dying.append(w)
    if len(dying) > 8:
        die(dying.pop(draw.randrange(len(dying))))
    if i % 20 == 0:
        assert witness.write(0, bytes([i % 256]) * 5000) == "done"
        assert witness.read(0, 5000) == bytes([i % 256]) * 5000
for w in dying:
    die(w)
# Nothing of what they held is missing: more than all of it is asked for at once, again and again.
for _ in range(3):
    witness.send(b"".join(witness.pack(READ, SCRATCH, MIB, cookie=i) for i in range(64)))
    assert {error for error, _ in witness.answers(range(64), MIB).values()} == {"done"}
    witness.many([(WRITE, SCRATCH + i * MIB, MIB, 0, bytes(MIB)) for i in range(20)], 20)
# A write that was never whole, and so never answered, is there not at all or from its beginning on.
sent = b"never whole" * (MIB // 11 + 1)
for i in range(256):
    found = witness.read(UNWRITTEN + i * MIB, MIB).rstrip(b"\0")
    assert sent.startswith(found), "something that nobody wrote"
PYTHON
soon "all are gone" '.server.connections == 0'
for _ in $(seq 100); do
  now=$(descriptors)
  [ "$now" != "$before" ] || break
  sleep 0.1
done
[ "$now" = "$before" ] || fail "$now descriptors are open, $before were"
nbdinfo --size "$uri" >/dev/null || fail "nobody is let in when all have died"

resident=$(status .memory.resident_bytes)
budget=$(status .memory.budget_bytes)
[ "$resident" -le $((budget + (64 << 20))) ] || fail "$resident bytes resident, $budget allowed"
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"

cases=$(grep -c '^@case' "$root/Tests/Wire/matrix")
for file in README.md Tests/Wire/README.md; do
  grep -Eq "^Cases: $cases\.|: $cases cases of the protocol" "$root/$file" ||
    fail "$file is not of all $cases cases: see Tests/Wire/compare"
done

say "a volume that clients may only read"
sed -i '/^\[volume\]/a read_only = true' "$config"
serve
[ "$(nbdinfo --json "$uri" | jq '.exports[0].is_read_only')" = true ] || fail "it does not say so"
python3 - "$root/Tests/Wire" "$socket" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
w = Wire(sys.argv[2]).go(STRUCTURED, [b"base:allocation"])
before = w.read(0, 8192)
assert w.call(CACHE, 0, 1 << 20) == "done" and w.call(FLUSH) == "done"
assert len(w.status(0, 1 << 20)) == 1
assert w.write(0, b"x" * 4096) == "EPERM"
for command in TRIM, WRITE_ZEROES:
    assert w.call(command, 0, 4096) == "EPERM", command
assert w.read(0, 8192) == before
PYTHON
stop_server
