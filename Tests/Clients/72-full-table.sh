#!/bin/bash
# A pool that is all but full, and then single blocks all over a volume four times as large: each
# needs a home and a new chunk of the table. What was acknowledged finds its places; nothing sticks.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"
ours || { say "only our server is asked"; exit 0; }

log_size=128MiB
volume_size=4GiB
tier only disk 1GiB
format
serve

# drained: the log is folded in.
drained() {
  for _ in $(seq 300); do
    [ "$(status .log.used_bytes)" -gt 4096 ] || return 0
    sleep 0.1
  done
  fail "the log is not folded in: $(status .log); $(tail -n 3 "$work/server.log")"
}
cat >"$work/client.py" <<'PYTHON'
import errno, nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
MIB = 1 << 20
def write(data, offset):
    try:
        h.pwrite(data, offset)
        return True
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        return False
if sys.argv[2] == "fill":
    end = int(sys.argv[3])
    for step in MIB, 65536:
        while write(b"full" * (step // 4), end):
            end += step
    print(end)
elif sys.argv[2] == "room":
    h.trim(160 * 65536, 0)
elif sys.argv[2] == "scatter":
    # A chunk of the table describes 20 MiB.
    places = [920 * MIB + i * 20 * MIB for i in range(155)]
    done = sum(write(b"here" * 1024, place) for place in places)
    print(f"{done} of {len(places)} blocks written")
    assert done > 140, done
else:
    places = [920 * MIB + i * 20 * MIB for i in range(155)]
    found = sum(h.pread(4096, place) == b"here" * 1024 for place in places)
    assert found > 140, found
    # Space that is given back can be written again.
    h.trim(20 * MIB, 20 * MIB)
h.flush()
PYTHON
client() { /usr/bin/python3 "$work/client.py" "$uri" "$@" || fail "the client failed"; }
# What is promised on the way is free when it is folded in: again until nothing more fits.
end=0
for _ in 1 2 3 4 5; do
  before=$end
  end=$(client fill "$end")
  drained
  [ "$end" != "$before" ] || break
done
say "$((end >> 20)) MiB fit"
client room
drained
client scatter
drained
! grep -q "rolled back" "$work/server.log" || fail "$(grep "rolled back" "$work/server.log")"
client look
drained
client scatter
drained
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.txt" || fail "$(cat "$work/check.txt")"
