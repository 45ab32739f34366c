#!/bin/bash
# The limits of [limits], by default and set otherwise: each reaches the server, what lies within is
# served, and what goes beyond costs no more than it may.
source "$(dirname "$0")/common.bash"
bounded 300 "$@"
ours || { say "only our server is asked"; exit 0; }

volume_size=16GiB
tier only disk 2GiB
format
cp "$config" "$work/plain.toml"
wire=$root/Tests/Wire

# with_limits LINES: the configuration with this [limits] table.
with_limits() { { cat "$work/plain.toml"; printf '[limits]\n%s\n' "$1"; } >"$config"; }

# silent SOCKET COUNT ALLOWED SECONDS: opens so many connections that do not go on with their
# handshake. Beyond the limit they are closed at once; the others when their time is up.
silent() {
  python3 - "$wire" "$server" "$@" <<'PYTHON'
import socket, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
server, path, count, allowed, seconds = sys.argv[2], sys.argv[3], *map(int, sys.argv[4:])


def resident():
    with open(f"/proc/{server}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def timed(action):
    start = time.monotonic()
    assert action() == b"\0" * 4096
    assert time.monotonic() - start < 1, time.monotonic() - start


held = Wire(path).go()
before = resident()
peers = []
for _ in range(count):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    peers.append(peer)


def closed():
    """How many have nothing but the greeting, and the end behind it."""
    number = 0
    for peer in peers:
        peer.setblocking(False)
        try:
            while peer.recv(18):
                pass
            number += 1
        except BlockingIOError:
            pass
        except ConnectionResetError:
            number += 1
    return number


time.sleep(0.5)
turned_away = closed()
print(f"{turned_away} of {count} were turned away")
assert turned_away == count - allowed
# Who is there goes on, who comes is let in: the oldest of those that hold a place makes room.
timed(lambda: held.read(0, 4096))
timed(lambda: Wire(path).go().read(0, 4096))
assert closed() == turned_away + 1, closed()
timed(lambda: held.read(0, 4096))
assert resident() - before < 4096, f"{resident() - before} KiB more"
deadline = time.time() + seconds * 1.5 + 1
while closed() < count and time.time() < deadline:
    time.sleep(0.1)
assert closed() == count, f"{count - closed()} are still there after {seconds} s"
PYTHON
}

# taken SOCKET LENGTH REQUESTS BYTES: a client sends more READs of LENGTH than may be in flight, and
# takes no reply. The server reads as much as may be in flight (so many requests, so many bytes),
# and what one send and the socket hold. All are answered in the end.
taken() {
  python3 - "$wire" "$@" <<'PYTHON'
import json, socket, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
path, length, requests, size = sys.argv[2], *map(int, sys.argv[3:])
with open("/proc/sys/net/core/wmem_default") as value:
    held = int(value.read())
least = min(requests * length, size)
most = least + min(least, 1 << 20) + held + 2 * length
count = 2 * most // length


def read_bytes():
    control = socket.socket(socket.AF_UNIX)
    control.connect(path + ".control")
    control.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = b"".join(iter(lambda: control.recv(65536), b""))
    return json.loads(text.partition(b"\r\n\r\n")[2])["io"]["read_bytes"]


before = read_bytes()
peer = Wire(path, 30).go()
peer.send(b"".join(peer.pack(READ, i * length, length, cookie=i) for i in range(count)))
deadline = time.monotonic() + 20
while read_bytes() - before < least:
    assert time.monotonic() < deadline, f"only {read_bytes() - before} bytes of {least} were read"
    time.sleep(0.05)
time.sleep(1)
taken = read_bytes() - before
print(f"  {taken >> 10} of {count * length >> 10} KiB were read")
assert taken <= most, f"{taken} bytes were read, {most} may be"
answers = peer.answers(range(count), length)
assert all(error == "done" for error, _ in answers.values())
PYTHON
}

# served COUNT: so many connections are served, and one more is closed; each that goes makes
# room for one.
served() {
  python3 - "$wire" "$socket" "$1" <<'PYTHON'
import sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
count = int(sys.argv[3])
peers = [Wire(sys.argv[2]).go() for _ in range(count)]


def is_let_in():
    try:
        return Wire(sys.argv[2]).go().call(READ, 0, 512) == "done"
    except (Closed, OSError):
        return False


assert not is_let_in(), f"connection {count + 1} was served"
assert all(peer.call(READ, 0, 512) == "done" for peer in peers)
peers.pop().socket.close()
deadline = time.monotonic() + 10
while not is_let_in():
    assert time.monotonic() < deadline, "no room after one has gone"
PYTHON
}

serve
say "200 connections that do not go on with their handshake shut nobody out"
silent "$socket" 200 32 10

say "128 requests in flight"
taken "$socket" 16384 128 67108864

say "100 connections, and no more"
served 100

say "twenty clients that read no reply, ten that stop in a payload, and ten in a request's header \
hold up nobody else"
python3 - "$wire" "$socket" <<'PYTHON'
import sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
MIB = 1 << 20
held = [Wire(sys.argv[2]).go() for _ in range(40)]
for i, w in enumerate(held[30:]):
    w.send(w.pack(READ, 0, 512, cookie=7)[:2 * i + 3])
for w in held[:20]:
    w.send(b"".join(w.pack(READ, i * MIB, MIB) for i in range(100)))
for w in held[20:30]:
    w.send(w.pack(WRITE, 0, 32 * MIB) + bytes(100_000))
time.sleep(0.5)
w = Wire(sys.argv[2], 20).go()
for length in (4096, MIB, 16 * MIB):
    assert w.write(1 << 30, b"f" * length) == "done", length
    assert w.read(1 << 30, length) == b"f" * length, length
# Who is only slow with a header is served when it is there.
for i, w in enumerate(held[30:]):
    w.send(w.pack(READ, 0, 512, cookie=7)[2 * i + 3:])
    assert w.answer(512, cookie=7)[0] == "done", i
PYTHON
stop_server

say "the same limits, set otherwise"
with_limits 'handshake_seconds = 2
connections_in_handshake = 3
connections = 5
options = 6
option_data = "8KiB"
string_bytes = 100
meta_queries = 3
meta_contexts = 2
requests_in_flight = 2
bytes_in_flight = "1MiB"
send_seconds = 2
payload = "1MiB"'
serve
"$wire/matrix" "$socket" --only limit --limit options=6 --limit option_data=8192 \
  --limit string_bytes=100 --limit meta_queries=3 --limit payload=1048576 ||
  fail "outcomes beside the limits that were set"
silent "$socket" 20 3 2
nbdinfo --json "$uri" | jq -e '.exports[0].block_size_maximum == 524288' >/dev/null ||
  fail "the payload advertised: $(nbdinfo "$uri")"

say "five connections, and no sixth"
served 5
python3 - "$wire" "$socket" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
peers = [Wire(sys.argv[2]).go() for _ in range(5)]
# More than two requests at once: the others wait in the socket, and all are answered.
peers[0].send(b"".join(peers[0].pack(READ, i * 4096, 4096, cookie=9) for i in range(50)))
assert all(peers[0].answer(4096, cookie=9)[0] == "done" for _ in range(50))
# Who stops in the midst of a payload is dropped; who is only silent is not.
import time
slow = peers.pop()
slow.send(slow.pack(WRITE, 0, 4096, cookie=9) + bytes(1000))
slow.socket.settimeout(10)
began = time.time()
assert slow.socket.recv(1) == b"", "the rest of a payload is waited for"
assert 1.5 < time.time() - began < 8, time.time() - began
assert peers[0].call(READ, 0, 512) == "done"
PYTHON

say "two seconds without progress in sending"
python3 - "$wire" "$socket" <<'PYTHON'
import sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *


def ask():
    peer = Wire(sys.argv[2], 10).go()
    peer.send(b"".join(peer.pack(READ, i << 19, 1 << 19, cookie=i) for i in range(40)))
    return peer


lazy, slow = ask(), ask()
began = time.monotonic()
# Who takes a little now and then is served to the end.
answer = 16 + (1 << 19)
taken = 0
while taken < 40 * answer and time.monotonic() - began < 5:
    taken += len(slow.socket.recv(answer))
    time.sleep(0.1)
while taken < 40 * answer:
    data = slow.socket.recv(1 << 20)
    assert data, f"closed after {taken} bytes of answers"
    taken += len(data)
assert slow.call(READ, 0, 512) == "done"
# Who took nothing has what had been sent, and no more.
rest = 0
try:
    while data := lazy.socket.recv(1 << 20):
        rest += len(data)
except ConnectionResetError:
    pass
assert rest < 40 * answer, "who takes nothing is waited for"
print(f"  {rest >> 10} KiB were sent to who took nothing")
PYTHON
grep -q "the client took no data for too long" "$work/server.log" || fail "the log says nothing"

say "two contexts, and no third"
python3 - "$wire" "$socket" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
names = [b"base:allocation", b"qemu:allocation-depth", b"x-thermocline:tier"]
w = Wire(sys.argv[2])
w.greet()
assert w.ask(STRUCTURED_REPLY) == ["ACK"]
# Asked for twice it counts once.
assert w.select([names[0], names[0], names[1]]) == "ACK" and set(w.contexts) == set(names[:2])
assert w.select(names) == "TOO_BIG" and not w.contexts
w.style = STRUCTURED
assert w.enter().status(0, 4096) == "EINVAL", "what was refused was selected"
w = Wire(sys.argv[2]).go(STRUCTURED, names[1:])
assert set(w.status(0, 4096)) == set(w.contexts.values()) and len(w.contexts) == 2
PYTHON
say "two requests in flight"
taken "$socket" 16384 2 1048576
stop_server

say "64 MiB in flight, of a memory for clients that leaves them to one"
with_limits 'client_memory = "320MiB"'
sed -i 's/^memory = .*/memory = "1GiB"/' "$config"
serve
taken "$socket" 1048576 128 67108864
stop_server

say "one MiB in flight, and a single request of more"
with_limits 'bytes_in_flight = "1MiB"'
serve
taken "$socket" 262144 128 1048576
python3 - "$wire" "$socket" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
assert Wire(sys.argv[2]).go().call(READ, 0, 32 << 20) == "done"
PYTHON
stop_server

say "three seconds for a handshake: in pieces, without an end, and behind STARTTLS"
printf 'carol:%s\n' "$(openssl rand -hex 32)" >"$work/keys"
chmod 600 "$work/keys"
with_limits 'handshake_seconds = 3'
printf '[tls]\nmode = "allowed"\nshared_keys = "%s"\n' "$work/keys" >>"$config"
serve
python3 - "$wire" "$socket" <<'PYTHON'
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
SECONDS = 3
failures = []


def slow():
    """Two seconds for the handshake; then there is no hurry any more."""
    for _ in range(5):
        began = time.monotonic()
        w = Wire(sys.argv[2])
        w.greet()
        option = struct.pack(">QII", IHAVEOPT, LIST, 0)
        for byte in option:
            w.send(bytes([byte]))
            time.sleep(2 / len(option))
        if time.monotonic() - began < SECONDS - 0.5:
            break  # not held up by this machine
    assert w.replies()[-1][0] == "ACK"
    w.enter()
    assert w.call(READ, 0, 512) == "done"
    time.sleep(max(0, began + 2 * SECONDS - time.monotonic()))
    assert w.call(READ, 0, 512) == "done", "the time of a handshake goes on behind it"


def cut(begin, byte):
    """Begins a handshake, sends the byte again and again, and waits for the end."""
    w = Wire(sys.argv[2], 0.1)
    began = time.monotonic()
    begin(w)
    while time.monotonic() - began < 3 * SECONDS - 1:
        w.send(byte)
        try:
            data = w.socket.recv(100)
            assert data == b"", data
        except ConnectionResetError:
            pass
        except TimeoutError:
            continue
        took = time.monotonic() - began
        assert took > SECONDS - 0.5, f"cut after {took:.1f} s"
        return
    raise AssertionError("not cut in time")


def in_an_option(w):
    w.greet()
    w.option(4711, length=60000)


def before_tls(w):
    w.greet()
    assert w.ask(STARTTLS) == ["ACK"]


def in_tls(w):
    before_tls(w)
    w.send(b"\x16\x03\x01\x02\x00")


def behind_options(w):
    w.greet()
    for _ in range(3):
        w.ask(LIST)


def noted(name, function, *arguments):
    try:
        function(*arguments)
    except BaseException as error:
        failures.append(f"{name}: {error!r}")


threads = [threading.Thread(target=noted, args=case) for case in (
    ("slow", slow),
    ("silent from the first", cut, lambda w: w.take(18), b""),
    ("silent behind options", cut, behind_options, b""),
    ("an option without an end", cut, in_an_option, b"x"),
    ("silent behind STARTTLS", cut, before_tls, b""),
    ("a TLS record without an end", cut, in_tls, b"\x01"))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit("; ".join(failures) or 0)
PYTHON
stop_server

say "descriptors run out"
cp "$work/plain.toml" "$config"
serve
prlimit --pid "$server" --nofile="$(($(find "/proc/$server/fd" | wc -l) + 5))"
python3 - "$wire" "$socket" <<'PYTHON'
import socket, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
first = Wire(sys.argv[2]).go()
many = []
for _ in range(20):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(sys.argv[2])
    many.append(peer)
time.sleep(1.5)
assert first.call(READ, 0, 512) == "done", "who was there is served"
for peer in many:
    peer.close()
deadline = time.time() + 10
while True:
    try:
        assert Wire(sys.argv[2], 3).go().call(READ, 0, 512) == "done"
        break
    except (Closed, OSError):
        assert time.time() < deadline, "nobody is let in after descriptors ran out"
PYTHON
stop_server
