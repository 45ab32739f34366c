#!/bin/bash
# What no client says: malformed and boundary cases of the protocol, byte by byte (Tests/Wire). After
# each the server must serve the next client; at the end its pool is clean and it has not grown.
source "$(dirname "$0")/common.bash"
bounded 300 "$@"

volume_size=16GiB
tier only disk 2GiB
format
serve

"$root/Tests/Wire/matrix" "$socket" || fail "outcomes that the protocol does not allow"

# silent SOCKET COUNT ALLOWED SECONDS: opens so many connections that do not go on with their
# handshake. Beyond the limit they are closed at once; the others when their time is up.
silent() {
  python3 - "$@" <<'PYTHON'
import socket, sys, time
path, count, allowed, seconds = sys.argv[1], *map(int, sys.argv[2:])
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
deadline = time.time() + seconds * 1.5 + 1
while closed() < count and time.time() < deadline:
    time.sleep(0.1)
assert closed() == count, f"{count - closed()} are still there after {seconds} s"
PYTHON
}

say "200 connections that do not go on with their handshake"
silent "$socket" 200 32 10
nbdinfo --size "$uri" >/dev/null || fail "nobody is let in after silent peers are gone"

if ours; then
  resident=$(status .memory.resident_bytes)
  budget=$(status .memory.budget_bytes)
  [ "$resident" -le $((budget + (64 << 20))) ] || fail "$resident bytes resident, $budget allowed"
  stop_server
  "$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"
fi

ours || exit 0
say "the same limits, set otherwise"
cat >>"$config" <<'TOML'
[limits]
handshake_seconds = 2
connections_in_handshake = 3
connections = 5
options = 6
option_data = "8KiB"
string_bytes = 100
meta_queries = 3
requests_in_flight = 2
bytes_in_flight = "1MiB"
send_seconds = 2
payload = "1MiB"
TOML
serve
"$root/Tests/Wire/matrix" "$socket" --only limit --limit options=6 --limit option_data=8192 \
  --limit string_bytes=100 --limit meta_queries=3 --limit payload=1048576 ||
  fail "outcomes beside the limits that were set"
silent "$socket" 20 3 2
nbdinfo --json "$uri" | jq -e '.exports[0].block_size_maximum == 524288' >/dev/null ||
  fail "the payload advertised: $(nbdinfo "$uri")"

say "five connections, and no sixth"
python3 - "$root/Tests/Wire" "$socket" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
peers = [Wire(sys.argv[2]).go() for _ in range(5)]
try:
    Wire(sys.argv[2]).go()
    sys.exit("a sixth connection was served")
except (Closed, OSError):
    pass
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
assert Wire(sys.argv[2]).go().call(READ, 0, 512) == "done", "no room after one has gone"
PYTHON
stop_server

say "descriptors run out"
head -n "$(($(grep -n '^\[limits\]' "$config" | cut -d: -f1) - 1))" "$config" >"$work/plain.toml"
cp "$work/plain.toml" "$config"
serve
prlimit --pid "$server" --nofile="$(($(find "/proc/$server/fd" | wc -l) + 5))"
python3 - "$root/Tests/Wire" "$socket" <<'PYTHON'
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

say "who may use the socket"
sed -i "s#^unix = .*#&\nunix_mode = \"0666\"\nunix_users = [\"4711\"]#" "$config"
serve_refused() { ! nbdinfo --size "$uri" >/dev/null 2>&1; }
command=("$THERMOCLINE" serve --config "$config")
"${command[@]}" >>"$work/server.log" 2>&1 &
server=$!
until [ -S "$socket" ]; do sleep 0.05; done
[ "$(stat -c %a "$socket")" = 666 ] || fail "the socket's mode is $(stat -c %a "$socket")"
sleep 0.5
serve_refused || fail "a user who is not listed was served"
grep -q "turned away: not one of listen.unix_users" "$work/server.log" || fail "nothing was logged"
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
  chmod 755 "$work"
  setpriv --reuid 4711 --clear-groups nbdinfo --size "$uri" >/dev/null ||
    fail "a user who is listed was not served"
fi
stop_server
