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

say "200 connections that do not go on with their handshake"
python3 - "$socket" <<'PYTHON'
import socket, sys, time
silent = []
for _ in range(200):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(sys.argv[1])
    silent.append(peer)
# Beyond the limit they are closed at once; who comes later is served within the handshake's time.
time.sleep(0.5)
closed = 0
for peer in silent:
    peer.setblocking(False)
    try:
        greeting = peer.recv(18)
        closed += not greeting
    except (BlockingIOError, ConnectionResetError) as error:
        closed += isinstance(error, ConnectionResetError)
print(f"{closed} of 200 were turned away")
sys.exit(0 if closed == 200 - 32 else 1)
PYTHON
nbdinfo --size "$uri" >/dev/null || fail "nobody is let in after silent peers are gone"

if ours; then
  resident=$(status .memory.resident_bytes)
  budget=$(status .memory.budget_bytes)
  [ "$resident" -le $((budget + (64 << 20))) ] || fail "$resident bytes resident, $budget allowed"
  stop_server
  "$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"
fi
