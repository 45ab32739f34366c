#!/bin/bash
# A volume that grows while it is served: by SIGHUP, at a start, by a takeover; and does not shrink.
# New clients see the new size at once, those that are there go on and may use it; what is written
# beyond the old end is there after a kill.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"
ours || { say "only our server is asked"; exit 0; }

volume_size=1GiB
tier only disk 1GiB
format
serve
mib() { echo $(($(nbdinfo --size "$uri") >> 20)); }
# grown MIB: soon new clients see it.
grown() {
  for _ in $(seq 100); do
    [ "$(mib)" != "$1" ] || return 0
    sleep 0.05
  done
  fail "a new client sees $(mib) MiB, not $1"
}
# configured SIZE
configured() { sed -i "/^\[volume\]/,/^\[/s/^size = .*/size = \"$1\"/" "$config"; }
# wrote PATTERN OFFSET, has PATTERN OFFSET
wrote() { qemu-io -f raw -c "write -P $1 $2 1M" "$uri" | grep -q '^wrote' || fail "no write"; }
has() {
  qemu-io -f raw -c "read -P $1 $2 1M" "$uri" >"$work/io.txt" 2>&1 || fail "$(cat "$work/io.txt")"
  ! grep -qi 'fail\|mismatch' "$work/io.txt" || fail "at $2: $(cat "$work/io.txt")"
}

say "by SIGHUP, under use"
coproc holder {
  /usr/bin/python3 - "$uri" <<'PYTHON'
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
assert h.get_size() == 1 << 30
end = 3 << 30
def refused(offset):
    try:
        h.pwrite(b"x" * 4096, offset)
    except nbd.Error as error:
        assert error.errnum == 28, error
        return
    raise SystemExit("a write beyond the end was taken")
# As the kernel's client after its own resize: it asks beyond what the handshake said.
h.set_strict_mode(0)
refused((1 << 30) - 2048)
print("small", flush=True)
with open("/dev/fd/3") as commands:
    commands.readline()
    h.pwrite(b"new!" * 1024, end - 4096)
    assert h.pread(4096, end - 4096) == b"new!" * 1024
    assert h.pread(8192, (1 << 30) - 4096) == bytes(8192)
    refused(end)
    refused(end - 2048)
    print("large", flush=True)
    commands.readline()
h.shutdown()
PYTHON
} 3<&0
helpers+=("$holder_PID")
heard() { local line; read -r -t 30 line <&"${holder[0]}" && [ "$line" = "$1" ] ||
  fail "the client that holds on says: ${line:-nothing}"; }
heard small
configured 3GiB
kill -HUP "$server"
grown 3072
echo go >&"${holder[1]}"
heard large
[ "$(status .volume.size_bytes)" = $((3 << 30)) ] || fail "status: $(status .volume.size_bytes)"
wrote 0x31 2500M

say "a smaller size is told, and refused"
configured 2GiB
kill -HUP "$server"
said "the volume keeps its 3221225472 bytes: it cannot shrink to 2147483648"
[ "$(mib)" = 3072 ] || fail "the volume has shrunk to $(mib) MiB"

say "the size and the data are there after a kill"
kill_server
serve
said "volume.size in $config says 2GiB, but the volume has 3GiB"
[ "$(mib)" = 3072 ] || fail "after the kill the volume has $(mib) MiB"
has 0x31 2500M
has 0 2600M

say "at a start, after a kill and after a stop"
wrote 0x32 2700M
kill_server
configured 5GiB
serve
[ "$(mib)" = 5120 ] || fail "after the start the volume has $(mib) MiB"
has 0x32 2700M
wrote 0x33 5000M
stop_server
configured 6GiB
serve
[ "$(mib)" = 6144 ] || fail "after the start the volume has $(mib) MiB"
has 0x33 5000M

say "by a takeover; a successor that fails has made it larger, and the old server goes on"
configured 7GiB
takeover
grown 7168
has 0x33 5000M
wrote 0x34 7000M
sed '/^\[volume\]/,/^\[/s/^size = .*/size = "8GiB"/' "$config" >"$work/larger.toml"
# Its address is taken, which it finds out when it has opened the pool.
/usr/bin/python3 - "$work/port" <<'PYTHON' &
import socket, sys, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
open(sys.argv[1] + ".new", "w").write(str(s.getsockname()[1]))
import os; os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(100)
PYTHON
helpers+=("$!")
until [ -e "$work/port" ]; do sleep 0.02; done
sed -i "/^\[listen\]/a tcp = \"127.0.0.1:$(cat "$work/port")\"" "$work/larger.toml"
! timeout 30 "$THERMOCLINE" serve --config "$work/larger.toml" --takeover \
  >>"$work/successor.log" 2>&1 || fail "a successor without an address to listen on serves"
grep -q 'Address already in use' "$work/successor.log" || fail "$(cat "$work/successor.log")"
grown 8192
has 0x34 7000M

configured 5000TiB
kill -HUP "$server"
said 'volume.size: expected at most 4096TiB'
stop_server
"$THERMOCLINE" check --config "$config" >"$work/check.txt" 2>&1 &&
  fail "check took a configuration of 5000 TiB"
configured 8GiB
"$THERMOCLINE" check --config "$config" >"$work/check.txt" || fail "$(cat "$work/check.txt")"
