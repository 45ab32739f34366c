#!/bin/bash
# What either end of a handover may say wrong: a successor that is told nonsense ends and says why;
# a running server that hears nonsense goes on, when the other end is gone, and keeps nothing of it.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"
ours || { say "only our server is asked"; exit 0; }

volume_size=1GiB
tier only disk 1GiB
format
cat >"$work/words.py" <<'PYTHON'
import json, os, socket, struct, sys
MAGIC = 0x4F484854


def frame(text, magic=MAGIC, length=None):
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("=II", magic, len(data) if length is None else length) + data


def say(peer, data, descriptor=None):
    if descriptor is None:
        return peer.sendall(data)
    socket.send_fds(peer, [data], [descriptor])


CONNECTION = {"isTCP": False, "isEncrypted": False, "window": [], "negotiated": {
    "stage": "transmission", "sendsZeroes": True, "isFixed": True, "style": "simple",
    "contexts": [], "options": 1, "isReadOnly": False, "advertisedPayload": 33554432}}
# What is said, whether a descriptor comes with it, and what its hearer says of it.
WRONG = [
    (frame({"kind": "end"}, magic=1), False, "recvmsg"),
    (frame(b"", length=1 << 21), False, "recvmsg"),
    (frame(b"x", length=100), False, "recvmsg"),
    (frame(b"not JSON"), True, "is not understood"),
    (frame(b"\xff\x00{}"), False, "is not understood"),
    (frame({"kind": "dance"}), True, "is not understood"),
    (frame({"kind": 7}), False, "is not understood"),
    (frame([]), False, "is not understood"),
    (frame({"kind": "listener"}), False, "not understood"),
    (frame({"kind": "connection"}), True, "not understood"),
    (frame({"kind": "connection", "connection": CONNECTION}), False, "not understood"),
    (frame({"kind": "connection", "connection": {**CONNECTION, "window": [256]}}), True,
     "is not understood"),
    (frame({"kind": "connection", "connection": {**CONNECTION, "negotiated": 1}}), True,
     "is not understood"),
    (frame({"kind": "end", "manager": "x"}), False, "is not understood"),
    (frame({"kind": "go"}), False, "not understood"),
]
PYTHON

say "a successor that is told nonsense"
cat >"$work/predecessor.py" <<'PYTHON'
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from words import *
program, config, path = sys.argv[2:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
nothing = os.open("/dev/null", os.O_RDWR)
cases = WRONG + [(b"", False, "ended while it handed over"),
                 (frame({"kind": "listener"}), True, "non-socket"),
                 (frame({"kind": "stop", "reason": "no"}), False, "not understood")]
for said, comes, heard in cases:
    child = subprocess.Popen([program, "serve", "--config", config, "--takeover"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    peer, _ = listener.accept()
    assert peer.recv(1000).startswith(b"GET /takeover ")
    if said:
        say(peer, said, nothing if comes else None)
    peer.shutdown(socket.SHUT_WR)
    text = child.communicate(timeout=30)[0].decode()
    assert child.returncode == 2 and heard in text, (said, child.returncode, text)
    peer.close()
print(f"  {len(cases)} times it ended, with exit status 2")
listener.close()
os.unlink(path)
PYTHON
python3 "$work/predecessor.py" "$work" "$THERMOCLINE" "$config" "$socket.control" ||
  fail "a successor that was told nonsense"

say "a running server that hears nonsense"
serve
cat >"$work/successor.py" <<'PYTHON'
import sys, time
sys.path[:0] = sys.argv[1:3]
from words import *
from nbdwire import *
path, server = sys.argv[3:]


def held():
    return len(os.listdir(f"/proc/{server}/fd"))


def takeover():
    """Asks, and takes everything."""
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path + ".control")
    peer.sendall(b"GET /takeover HTTP/1.1\r\nHost: x\r\n\r\n")
    taken = b""
    while b'"end"' not in taken:
        data, files, _, _ = socket.recv_fds(peer, 1 << 16, 16)
        assert data
        taken += data
        for file in files:
            os.close(file)
    return peer


good = Wire(path, 30).go()
assert good.write(0, b"a" * 4096) == "done"
before = held()
nothing = os.open("/dev/null", os.O_RDWR)
cases = WRONG + [(b"", False, ""), (frame({"kind": "stop"}), True, "")]
for said, comes, _ in cases:
    peer = takeover()
    if said:
        say(peer, said, nothing if comes else None)
    peer.close()
    assert good.call(READ, 0, 4096) == "done", said
    deadline = time.monotonic() + 5
    while held() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held() <= before, (said, held(), before)
# Until the other end is gone the devices may be its own.
peer = takeover()
say(peer, frame(b"not JSON") + frame(b"") + b"x" * 100)
good.request(READ, 0, 4096, cookie=5)
good.socket.settimeout(3)
try:
    good.answer(4096, cookie=5)
    sys.exit("it serves while the other end is there")
except TimeoutError:
    pass
peer.close()
good.socket.settimeout(30)
assert good.answer(4096, cookie=5)[0] == "done"
assert good.read(0, 4096) == b"a" * 4096
print(f"  {len(cases) + 1} times it went on")
PYTHON
python3 "$work/successor.py" "$work" "$root/Tests/Wire" "$socket" "$server" ||
  fail "a server that heard nonsense: $(tail -n 5 "$work/server.log")"
takeover
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"
