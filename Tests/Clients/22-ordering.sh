#!/bin/bash
# Order across connections. A client that gives a connection up (the kernel's does after a timeout)
# sends its requests again on another one, and goes on from there. So:
#
# - A FLUSH on one connection covers what was answered on the others, those that have ended as well:
#   it survives the loss of the staging ring, which stands for the loss of power here.
# - When a client has ended connection A, a write answered on B is newer than all of A's: nothing
#   that A had under way, in the engine or unread in its socket, lands on top of it.
#
# A is ended by close, by shutdown, with replies unread (a reset), and after half of its bytes and
# some silence. Over TCP an end waits behind bytes that the receiver has no room for, and no server
# can see it there: a shutdown comes after a few KiB only, more is ended by a reset.
#
# ROUNDS=100 SEED=… (random, printed) KINDS="long whole ragged zeroes" (all)
source "$(dirname "$0")/common.bash"
bounded 150 "$@"
ours || { say "skipped: a stand-in promises nothing of this"; exit 0; }

rounds=${ROUNDS:-100}
seed=${SEED:-$RANDOM$RANDOM}
kinds=${KINDS:-long whole ragged zeroes}
volume_size=4GiB
log_size=128MiB
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
tcp=127.0.0.1:$port
serve_options=()
serve_command() { command=("$THERMOCLINE" serve --config "$config" "${serve_options[@]}"); }

# A killed server owns its disk until its last writes have landed. A start waits five seconds for
# that, which is not always enough on a disk that others use as well.
kill_for_good() {
  kill_server
  flock --wait 60 "$work/disk" true
}

tier only disk 3GiB
format
serve
say "seed $seed"

# Writes on four connections, a FLUSH on a fifth; then writes one after another that no FLUSH
# covers, and the server is killed. What must be there is left in $work/model; `look` compares.
cat >"$work/flush.py" <<'PYTHON'
import os, pickle, random, signal, sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *

mode, path, seed, pid, model_file, loss = sys.argv[2:8]
draw = random.Random(seed)
MIB, BLOCK, AREA, TAIL = 1 << 20, 4096, 8 << 20, 64
AFTER = 4 * AREA


def work():
    model = bytearray(AFTER)
    writers = [Wire(path).go() for _ in range(4)]
    flusher = Wire(path).go()
    flusher.call(WRITE_ZEROES, 0, AFTER + TAIL * BLOCK)
    for turn in range(6):
        for number, a in enumerate(writers):
            # Each has an area of its own: what is newest there needs no thought.
            for _ in range(draw.randrange(1, 9)):
                length = draw.choice([512, BLOCK, 3 * BLOCK, 65536, 70000, MIB])
                at = number * AREA + draw.randrange((AREA - length) // 512) * 512
                data = bytes([draw.randrange(1, 256)]) * length
                if draw.random() < 0.2:
                    a.request(WRITE_ZEROES, at, length)
                    data = bytes(length)
                else:
                    a.request(WRITE, at, length, payload=data)
                # Answered before the next, which may overlap it.
                assert a.answer()[0] == "done"
                model[at:at + length] = data
        if turn % 2:
            writers[turn % 4].close()
            writers[turn % 4] = Wire(path).go()
        assert flusher.call(FLUSH) == "done"
    # No FLUSH behind these: each is durable when it is answered.
    for number, a in enumerate(writers):
        for length in 512, 70000, MIB:
            at = number * AREA + draw.randrange((AREA - length) // 512) * 512
            a.request(WRITE, at, length, flags=FUA, payload=b"\xf0" * length)
            assert a.answer()[0] == "done"
            model[at:at + length] = b"\xf0" * length
            a.request(WRITE_ZEROES, at + 100, 300, flags=FUA)
            assert a.answer()[0] == "done"
            model[at + 100:at + 400] = bytes(300)
    answered = draw.choice([0, 1 + draw.randrange(TAIL)])
    for i in range(answered):
        assert writers[i % 4].write(AFTER + i * BLOCK, bytes([1 + i]) * BLOCK) == "done"
    # Nothing more is written to the devices; the kill follows.
    os.kill(int(pid), signal.SIGSTOP)
    with open(model_file, "wb") as file:
        pickle.dump((bytes(model), answered), file)


def look():
    with open(model_file, "rb") as file:
        kept, answered = pickle.load(file)
    c = Wire(path).go()
    for at in range(0, AFTER, MIB):
        data = c.read(at, MIB)
        if data != kept[at:at + MIB]:
            i = next(i for i in range(MIB) if data[i] != kept[at + i])
            sys.exit(f"byte {at + i}, answered on one connection and flushed on another, "
                     f"is {data[i]:#x}, not {kept[at + i]:#x}")
    there = [c.read(AFTER + i * BLOCK, BLOCK) == bytes([1 + i]) * BLOCK for i in range(answered)]
    count = there.index(False) if False in there else answered
    print(f"what was flushed is there, and {count} of {answered} writes behind it")
    if any(there[count:]):
        sys.exit("a later write survived an earlier one that did not")
    if loss == "no" and count < answered:
        sys.exit("an answered write is gone, with the ring in its place")


work() if mode == "work" else look()
PYTHON

flush_script() {
  /usr/bin/python3 "$work/flush.py" "$root/Tests/Wire" "$1" "$socket" "$seed $turn" \
    "${server:-0}" "$work/model" "$loss"
}

say "a FLUSH on one connection, writes on others; and FUA without a FLUSH"
for turn in 1 2 3 4 5; do
  loss=yes
  [ "$turn" != 1 ] || loss=no
  flush_script work
  kill_for_good
  [ "$loss" = no ] || rm -rf "${staging:?}"/*
  serve_options=(--accept-lost-ring)
  serve
  serve_options=()
  flush_script look || fail "a FLUSH did not cover another connection, or FUA its request"
done

# `abandon` gives a connection up in each round, and overwrites by another what it was writing.
# Every round has a range of its own; all are read by `look`, when nobody is left who might write.
cat >"$work/ordering.py" <<'PYTHON'
import json, random, socket, struct, sys, time
from collections import Counter
sys.path.insert(0, sys.argv[1])
from nbdwire import *

mode, path, port, rounds, seed, kinds, plan_file = sys.argv[2:9]
draw = random.Random(seed)
MIB, BLOCK, RANGE, FIRST = 1 << 20, 4096, 2 << 20, 64 << 20
BASE, NEW = 0xB0, 0xEE


class TCP(Wire):
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.style = SIMPLE

    def wait_for_end(self, mine):
        """Until the server's kernel has got the end that was sent from the port `mine`."""
        pair = f":{int(port):04X}", f":{mine:04X}"
        is_there = True
        while is_there:
            with open("/proc/net/tcp") as table:
                rows = [line.split() for line in table]
            is_there = any(row[1].endswith(pair[0]) and row[2].endswith(pair[1])
                           and row[3] == "01" for row in rows)


def requests(a, kind, start, old):
    """What A asks for, as one stream; all of it within its range."""
    def write(offset, length):
        return a.pack(WRITE, start + offset, length) + bytes([old]) * length
    if kind == "long":
        # Cut into pieces by the server; its whole extents go past the log.
        at = draw.choice([0, 0, 65536, 4096 * draw.randrange(16), draw.randrange(4096)])
        return write(at, RANGE - at - draw.choice([0, draw.randrange(MIB)]))
    if kind == "whole":
        # Often more than may be in flight on one connection: the rest waits in its socket.
        return b"".join(write(BLOCK * draw.randrange(32), BLOCK * draw.choice([1, 1, 2]))
                        for _ in range(draw.randrange(20, 400)))
    if kind == "ragged":
        # Blocks covered in part: the rest of them is read first.
        return b"".join(write(BLOCK * draw.randrange(32) + draw.randrange(1, 4096),
                              draw.choice([200, 500, 5000]))
                        for _ in range(draw.choice([10, 50, 300])))
    return b"".join(
        a.pack(draw.choice([WRITE_ZEROES, WRITE_ZEROES, TRIM]),
               start + BLOCK * draw.randrange(32) + draw.randrange(1, 4096),
               draw.randrange(1, 32 * BLOCK))
        for _ in range(draw.randrange(1, 20)))


def abandon(a, ending, stream):
    """Sends all of the stream or a part, and ends the connection."""
    cut = draw.choice([len(stream), len(stream), draw.randrange(1, len(stream))])
    if ending == "half":
        cut = len(stream) // 2
    if ending == "tcp shutdown":
        cut = min(cut, 16 << 10)
    if ending == "reset":
        # Replies that nobody reads: the close is a reset.
        stream = a.pack(READ, FIRST, BLOCK) * 2 + stream
    a.send(stream[:cut])
    time.sleep(0.02 if ending == "half" else draw.choice([0, 0, draw.random() * 0.002]))
    mine = a.socket.getsockname()[1] if ending.startswith("tcp") else None
    if ending.endswith("shutdown"):
        a.socket.shutdown(socket.SHUT_WR)
    else:
        if mine:
            a.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        a.close()
    if mine:
        a.wait_for_end(mine)


def give_up():
    b = Wire(path).go()
    for start in range(FIRST, FIRST + int(rounds) * RANGE, MIB):
        assert b.write(start, bytes([BASE]) * MIB) == "done"
    # Others, so that a turn of the server has more to do than this.
    others = [Wire(path).go() for _ in range(20)]
    plan, ended = [], []
    for number in range(int(rounds)):
        start, old, kind = FIRST + number * RANGE, 1 + number % 100, draw.choice(kinds.split())
        ending = draw.choice(["close", "shutdown", "reset", "half", "tcp reset", "tcp shutdown"])
        at = start + BLOCK * draw.randrange(32)
        length = BLOCK * draw.choice([1, 1, 4, 16, 64, 256])
        a = TCP(int(port)).go() if ending.startswith("tcp") else Wire(path).go()
        stream = requests(a, kind, start, old)
        busy = others if draw.random() < 0.5 else []
        for other in busy:
            other.send(other.pack(READ, FIRST, 512) * 8)
        abandon(a, ending, stream)
        # A has ended. Once this is answered it is newer than anything of A's.
        assert b.write(at, bytes([NEW]) * length) == "done"
        for other in busy:
            for _ in range(8):
                assert other.answer(512)[0] == "done"
        plan.append((number, start, old, kind, ending, at, length))
        ended.append(a)
    with open(plan_file, "w") as file:
        json.dump(plan, file)


def look():
    c = Wire(path).go()
    tried, late, wrong = Counter(), Counter(), 0
    with open(plan_file) as file:
        plan = json.load(file)
    for number, start, old, kind, ending, at, length in plan:
        data = c.read(start, MIB) + c.read(start + MIB, MIB)
        newer = data[at - start:at - start + length]
        tried[kind] += 1
        if newer != bytes([NEW]) * length:
            late[f"{kind}, {ending}"] += 1
            if late.total() <= 3:
                i = next(i for i in range(length) if newer[i] != NEW)
                print(f"round {number} ({kind}, {ending}): byte {at + i} is {newer[i]:#x}; "
                      f"A wrote {old:#x}, then {NEW:#x} was answered on B")
        # What B did not write is as it was, or as A wrote it.
        beside = set(data[:at - start] + data[at - start + length:])
        if beside - {BASE, 0 if kind == "zeroes" else old}:
            print(f"round {number} ({kind}, {ending}): {sorted(beside)} beside the newer write")
            wrong += 1
    print("given up: " + ", ".join(f"{count} {kind}" for kind, count in sorted(tried.items())))
    for what, count in sorted(late.items()):
        print(f"landed late: {count} of {what}")
    sys.exit(1 if late or wrong else 0)


give_up() if mode == "give_up" else look()
PYTHON

ordering() {
  /usr/bin/python3 "$work/ordering.py" "$root/Tests/Wire" "$1" "$socket" "$port" "$rounds" \
    "$seed" "$kinds" "$work/plan"
}

# Waits until no connection is left, and the engine has had time to end what it had begun.
settle() {
  for _ in $(seq 100); do
    [ "$(status .server.connections)" = 0 ] && break
    sleep 0.1
  done
  sleep 0.5
}

# given_up WHAT: one pass, and the same again after a kill.
given_up() {
  say "$rounds connections given up, $1"
  ordering give_up
  settle
  ordering look || fail "a write of a connection that had ended landed on a newer one"
  kill_for_good
  serve
  ordering look >"$work/again" || fail "after a kill: $(cat "$work/again")"
}

given_up "with the limits as they are"
stop_server
# Four requests under way at once: most of what a connection asks for is unread when it ends.
printf '[limits]\nrequests_in_flight = 4\nbytes_in_flight = "1MiB"\n' >>"$config"
serve
seed="$seed again"
given_up "with four requests in flight at most"
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"
