#!/bin/bash
# Many clients that say whatever they like and leave anyhow (Tests/Wire/storm), while one behaves,
# the configuration is read again and successors take over: who behaves is served on its one
# connection, and nothing is left of the others.
source "$(dirname "$0")/common.bash"
bounded 180 "$@"
ours || { say "only our server is asked"; exit 0; }

port=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
tcp=127.0.0.1:$port
volume_size=2GiB
memory=192MiB
tier fast disk 1GiB
tier slow disk2 3GiB
format
printf 'carol:%s\n' "$(openssl rand -hex 32)" >"$work/keys"
chmod 600 "$work/keys"
printf '[tls]\nmode = "allowed"\nshared_keys = "%s"\n' "$work/keys" >>"$config"
printf '[limits]\nhandshake_seconds = 3\nsend_seconds = 4\n' >>"$config"
serve
held() { find "/proc/$server/fd" | wc -l; }
# resident: KiB.
resident() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$server/status"; }
before=$(held)

# Who behaves: one connection, a question after the other.
python3 - "$root/Tests/Wire" "$socket" "$work/over" <<'PYTHON' &
import os, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
wire = Wire(sys.argv[2], 20).go()
longest = count = 0
while not os.path.exists(sys.argv[3]):
    began = time.monotonic()
    assert wire.call(FLUSH if count % 20 == 0 else READ, 0, 0 if count % 20 == 0 else 4096) == "done"
    longest = max(longest, time.monotonic() - began)
    count += 1
    time.sleep(0.02)
print(f"  {count} answers to who behaves, the longest after {longest:.2f} s", flush=True)
assert longest < 10
PYTHON
good=$!
helpers+=("$good")

seed=${STORM_SEED:-$RANDOM}
seconds=${STORM_SECONDS:-24}
say "seed $seed"
"$root/Tests/Wire/storm" "$socket" --tcp "$port" --size $((2 << 30)) --seed "$seed" \
  --seconds "$seconds" &
storm=$!
helpers+=("$storm")
# Successors come for a half of the time; the last one is looked at for the other.
handovers=0
resident=0
half=$((SECONDS + seconds / 2))
while kill -0 "$storm" 2>/dev/null; do
  sleep 1
  kill -0 "$good" 2>/dev/null || fail "who behaves is not served"
  kill -HUP "$server" || fail "the server is gone"
  sleep 1
  if [ "$SECONDS" -lt "$half" ]; then
    takeover
    handovers=$((handovers + 1))
  elif [ "$resident" = 0 ]; then
    resident=$(resident)
  fi
done
wait "$storm" || fail "the storm"
: >"$work/over"
wait "$good" || fail "who behaves saw it"
say "$handovers handovers"

# What is silent is cut off; then nothing is left.
soon "no connection is left" '.server.connections == 0'
soon "clients hold no memory" '.memory.client_used_bytes == 0 and .memory.client_bytes > 0'
for _ in $(seq 50); do
  [ "$(held)" -gt "$before" ] || break
  sleep 0.1
done
[ "$(held)" -le "$before" ] || fail "$(held) descriptors are open, $before were"
say "$(resident) KiB are resident, $resident KiB were half-way"
[ "$(resident)" -lt $((resident + 4096)) ] || fail "the process has grown"
if grep -qE ' (warning|error|critical): ' "$work/server.log"; then
  fail "$(grep -E ' (warning|error|critical): ' "$work/server.log" | head -n 3)"
fi
nbdcopy --allocated "$uri" /dev/null || fail "the volume cannot be read"
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "$(cat "$work/check.log")"
