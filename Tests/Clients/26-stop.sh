#!/bin/bash
# A stop ends in its time: when the batch under way has not ended by then, the next start goes on as
# after a kill, and nothing is lost. With time enough it leaves a clean pool.
source "$(dirname "$0")/common.bash"
bounded 180 "$@"
ours || { say "only our server is asked"; exit 0; }

memory=512MiB
log_size=1GiB
volume_size=4GiB
tier only disk 8GiB
format
printf '[limits]\nstop_seconds = 1\n' >>"$config"
serve

say "a batch that one second does not end"
fio --name=fill --ioengine=nbd --uri="$uri" --thread=1 --rw=randwrite --bs=4k --iodepth=64 \
  --size=3g --randrepeat=0 --time_based=1 --runtime=6 --output=/dev/null 2>/dev/null
head -c 16M /dev/urandom >"$work/data"
# Short requests, so that they go into the log.
nbdcopy --request-size=65536 "$work/data" "$uri"
used=$(status .log.used_bytes)
start=${EPOCHREALTIME/./}
stop_server
took=$(((${EPOCHREALTIME/./} - start) / 1000))
say "stopped in $took ms with $((used >> 20)) MiB in the log"
grep -q "the batch under way has not ended after 1 s" "$work/server.log" || fail "it ended in time"
[ "$took" -lt 8000 ] || fail "the stop took $took ms"

say "nothing is lost, and with time the pool is clean"
sed -i 's/^stop_seconds = .*/stop_seconds = 60/' "$config"
serve
grep -Eq "recovered [1-9][0-9]* log entries" "$work/server.log" || fail "nothing was recovered"
/usr/bin/python3 - "$uri" "$work/data" <<'PYTHON' || fail "the data is another"
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
assert h.pread(16 << 20, 0) == open(sys.argv[2], "rb").read()
PYTHON
stop_server
tail -n 1 "$work/server.log" | grep -q "stopped cleanly" || fail "it did not stop cleanly"
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"

say "a stop with clients in the midst of things"
serve
# One writes until it is cut off, and knows what was answered; one stops in a payload; one takes no
# reply. The first is answered to its end, and hears of the stop; the others are cut off after 10 s.
/usr/bin/python3 - "$root/Tests/Wire" "$socket" "$work/answered" "$work/sign" <<'PYTHON' &
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
path, answered, sign = sys.argv[2:]
MIB = 1 << 20
stuck = Wire(path, 60).go()
stuck.send(stuck.pack(WRITE, 1 << 30, 32 * MIB) + bytes(100_000))
greedy = Wire(path, 60).go()
greedy.send(b"".join(greedy.pack(READ, i * MIB, MIB) for i in range(100)))
writer = Wire(path, 60).go()
done = 0
try:
    while done < 200_000:
        data = done.to_bytes(8, "big") * 512
        assert writer.write(done * 4096, data) == "done"
        done += 1
        if done == 1000:
            open(sign, "w").close()
except (Closed, OSError):
    pass
with open(answered, "w") as file:
    file.write(str(done))
PYTHON
client=$!
helpers+=("$client")
until [ -e "$work/sign" ]; do sleep 0.02; done
start=${EPOCHREALTIME/./}
stop_server
took=$(((${EPOCHREALTIME/./} - start) / 1000))
wait "$client" || fail "the client failed"
answered=$(cat "$work/answered")
say "stopped in $took ms; $answered writes were answered"
[ "$took" -lt 25000 ] || fail "the stop took $took ms"
tail -n 1 "$work/server.log" | grep -q "stopped cleanly" || fail "it did not stop cleanly"
serve
/usr/bin/python3 - "$uri" "$answered" <<'PYTHON' || fail "an answered write is missing"
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
count = int(sys.argv[2])
assert 1000 <= count < 200_000, count
for i in range(count):
    assert h.pread(4096, i * 4096) == i.to_bytes(8, "big") * 512, i
PYTHON
stop_server
