#!/bin/bash
# Scale: recovery of a full 1 GiB log in under 2 s; a virtual volume of 64 TiB formatted in under
# 2 s and opened in under 1 s; resident memory within the configured memory and 64 MiB under load.
source "$(dirname "$0")/common.bash"
bounded 600 "$@"
ours || { say "skipped: nothing of this is in a stand-in"; exit 0; }

# resident: the process' resident bytes, shared pages of the ring included.
resident() { awk '/^Rss:/ { sum += $2 } END { print sum * 1024 }' "/proc/$server/smaps_rollup"; }

bytes() { numfmt --from=iec-i --suffix=B "$1" | tr -d B; }

check_memory() {
  local limit=$(($(bytes "$memory") + (64 << 20))) used=$1
  [ "$used" -le "$limit" ] ||
    fail "$2: $((used >> 20)) MiB are resident, memory is $memory and 64 MiB more is the limit"
  say "$2: $((used >> 20)) MiB resident, memory = $memory"
}

say "recovery of a full log"
memory=512MiB
log_size=1GiB
volume_size=4GiB
stoppable_device 5G
# The first tier holds hardly more than the log: homes are on the slow one.
tier fast disk 1088MiB
tier slow "$loop"
format --sparse
serve
fio --name=fill --ioengine=nbd --uri="$uri" --thread=1 --rw=randwrite --bs=4k --iodepth=64 \
  --size=4g --randrepeat=0 --time_based=1 --runtime=120 --output=/dev/null 2>/dev/null &
fio_pid=$!
helpers+=("$fio_pid")
# Nothing goes home while the slow tier stands still: the log fills until writers wait.
hold
used=0
peak=0
still=0
while [ $still -lt 25 ] && kill -0 "$fio_pid" 2>/dev/null; do
  before=$used
  used=$(status .log.used_bytes)
  now=$(resident)
  [ "$now" -le "$peak" ] || peak=$now
  still=$((used > before ? 0 : still + 1))
  sleep 0.2
done
kill -9 "$server"
release
wait "$server" 2>/dev/null || true
server=
kill "$fio_pid" 2>/dev/null || true
wait "$fio_pid" 2>/dev/null || true
check_memory "$peak" "under random writes"
[ $((used * 100 >> 30)) -ge 75 ] || fail "only $((used >> 20)) MiB of log were in use"
serve
say "recovered in $start_milliseconds ms with $((used >> 20)) MiB in the log"
[ "$start_milliseconds" -lt 2000 ] || fail "recovery took $start_milliseconds ms"
if [ -x "$THERMOCLINE_LOAD" ]; then
  qemu-io -f raw "$uri" -c 'discard 0 1g' -c 'discard 1g 1g' -c 'discard 2g 1g' \
    -c 'discard 3g 1g' >/dev/null
  "$THERMOCLINE_LOAD" model --uri "$uri" --seconds 15 &
  load=$!
  peak=0
  while kill -0 "$load" 2>/dev/null; do
    now=$(resident)
    [ "$now" -le "$peak" ] || peak=$now
    sleep 0.2
  done
  wait "$load"
  check_memory "$peak" "under 8 connections of depth 64"
fi
reported=$(status .memory.resident_bytes)
check_memory "$reported" "as the server reports it"
stop_server
forget_loop "$loop"
rm "$work/disk"

say "64 TiB"
tiers=()
memory=256MiB
log_size=128MiB
volume_size=64TiB
tier only disk 2GiB
start=${EPOCHREALTIME/./}
format --sparse
took=$(((${EPOCHREALTIME/./} - start) / 1000))
say "formatted in $took ms"
[ "$took" -lt 2000 ] || fail "formatting took $took ms"
serve
say "opened in $start_milliseconds ms"
[ "$start_milliseconds" -lt 1000 ] || fail "opening took $start_milliseconds ms"
[ "$(nbdinfo --size "$uri")" = $((64 << 40)) ] || fail "the size is $(nbdinfo --size "$uri")"
# Data at both ends and in between, then zeroing all of it.
/usr/bin/python3 - "$uri" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
size = h.get_size()
places = [0, size - 65536] + [size // 97 * i // 4096 * 4096 for i in range(1, 97)]
for i, place in enumerate(places):
    h.pwrite(bytes([i + 1]) * 65536, place)
h.flush()
for i, place in enumerate(places):
    assert h.pread(65536, place) == bytes([i + 1]) * 65536, place
h.shutdown()
PYTHON
kill_server
serve
say "after a kill: $start_milliseconds ms"
[ "$start_milliseconds" -lt 1000 ] || fail "opening after a kill took $start_milliseconds ms"
/usr/bin/python3 - "$uri" <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
size = h.get_size()
places = [0, size - 65536] + [size // 97 * i // 4096 * 4096 for i in range(1, 97)]
for i, place in enumerate(places):
    assert h.pread(65536, place) == bytes([i + 1]) * 65536, place
    assert h.pread(65536, place + (1 << 30 if place < size // 2 else -(1 << 30))) == bytes(65536)
# In pieces of 1 GiB below 4 GiB, as one request may be.
step = (4 << 30) - 65536
for offset in range(0, 64 << 30, step):
    h.trim(min(step, (64 << 30) - offset), offset)
assert h.pread(65536, 0) == bytes(65536)
h.shutdown()
PYTHON
check_memory "$(resident)" "64 TiB"
stop_server
