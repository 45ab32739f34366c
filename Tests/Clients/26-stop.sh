#!/bin/bash
# A stop ends in its time: when the batch under way has not ended by then, the next start goes on as
# after a kill, and nothing is lost. With time enough it leaves a clean pool.
source "$(dirname "$0")/common.bash"
bounded 180 "$@"
ours || { say "only our server is asked"; exit 0; }

memory=512MiB
log_size=1GiB
volume_size=4GiB
stoppable_device 5G
# The first tier holds hardly more than the log: homes are on the slow one.
tier fast disk 1088MiB
tier slow "$loop"
format --sparse
printf '[limits]\nstop_seconds = 1\n' >>"$config"
serve

say "a batch that does not end, since its device stands still"
hold
head -c 128M /dev/urandom >"$work/data"
# Short requests, so that they go into the log.
nbdcopy --request-size=65536 "$work/data" "$uri"
# After two idle seconds a batch begins.
sleep 4
start=${EPOCHREALTIME/./}
kill -TERM "$server"
for _ in $(seq 100); do
  grep -q "the batch under way has not ended after 1 s" "$work/server.log" && break
  sleep 0.1
done
took=$(((${EPOCHREALTIME/./} - start) / 1000))
# A process does not end before its I/O has.
release
wait "$server" || fail "the server's exit status is $?"
server=
say "it let go after $took ms"
[ "$took" -lt 5000 ] || fail "it waited $took ms for the batch"

say "nothing is lost, and with time the pool is clean"
sed -i 's/^stop_seconds = .*/stop_seconds = 60/' "$config"
serve
grep -Eq "recovered [1-9][0-9]* log entries" "$work/server.log" || fail "nothing was recovered"
/usr/bin/python3 - "$uri" "$work/data" <<'PYTHON' || fail "the data is another"
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
data = open(sys.argv[2], "rb").read()
assert all(h.pread(16 << 20, i << 24) == data[i << 24 : (i + 1) << 24] for i in range(8))
PYTHON
stop_server
tail -n 1 "$work/server.log" | grep -q "stopped cleanly" || fail "it did not stop cleanly"
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"

say "a stop with clients in the midst of things"
serve
# One writes until it is cut off, and knows what was answered; one stops in a payload; one takes no
# reply. The first is answered to its end, and hears of the stop; the others are cut off after 10 s.
/usr/bin/python3 - "$root/Tests/Wire" "$socket" "$work/answered" "$work/sign" <<'PYTHON' &
import select, sys
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
# The one in the midst of its payload is cut off at once; the one that takes nothing after 10 s.
try:
    stuck.take(1)
except (Closed, OSError):
    pass
poll = select.poll()
poll.register(greedy.socket, 0)
assert poll.poll(30_000), "nothing was heard of a stop"
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
forget_loop "$loop"
