#!/bin/bash
# Handover: under load a new process takes the running server's listening sockets and connections,
# again and again; no client sees an error or connects again. A successor that cannot start, that
# dies in the midst, or that never says a word leaves the old one serving.
source "$(dirname "$0")/common.bash"
bounded 240 "$@"
ours || { say "only our server is asked"; exit 0; }

tcp=127.0.0.1:$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
volume_size=2GiB
tier fast disk 1GiB
tier slow disk2 3GiB
format
serve

# One client does nothing but hold on: before, between and after it writes and reads.
coproc holder {
  /usr/bin/python3 - "$uri" <<'PYTHON'
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.add_meta_context("x-thermocline:tier")
h.connect_uri(sys.argv[1])
base = h.get_size() - (64 << 20)
done = 0
print("there", flush=True)
with open("/dev/fd/3") as commands:
    for line in commands:
        data = bytes([done % 251 + 1]) * 65536
        h.pwrite(data, base + done * 65536, nbd.CMD_FLAG_FUA)
        done += 1
        for i in range(done):
            assert h.pread(65536, base + i * 65536) == bytes([i % 251 + 1]) * 65536, i
        names = set()
        h.block_status(65536, base, lambda name, offset, entries, error: names.add(name))
        assert names == {"base:allocation", "x-thermocline:tier"}, names
        print("ok", flush=True)
h.shutdown()
print("bye", flush=True)
PYTHON
} 3<&0
heard() { local line; read -r -t 30 line <&"${holder[0]}" && [ "$line" = "$1" ] ||
  fail "the client that holds on says: ${line:-nothing}"; }
ask_holder() { echo go >&"${holder[1]}" && heard ok; }
helpers+=("$holder_PID")
heard there
ask_holder

say "ten handovers under load, on both kinds of address"
fio --name=load --ioengine=nbd --uri="$uri" --thread=1 --rw=randrw --bsrange=512-256k \
  --bs_unaligned=1 --iodepth=32 --size=256m --io_size=256m --rate=8m,8m \
  --verify=crc32c --verify_fatal=1 --verify_state_save=0 --randrepeat=0 \
  --output="$work/fio.txt" &
fio_pid=$!
helpers+=("$fio_pid")
fio --name=tcp --ioengine=nbd --uri="nbd://$tcp" --thread=1 --rw=randwrite --bs=1m \
  --iodepth=16 --offset=1g --size=256m --time_based=1 --runtime=15 --fsync=8 \
  --output="$work/tcp.txt" &
tcp_pid=$!
helpers+=("$tcp_pid")
sleep 1
for i in $(seq 10); do
  start=${EPOCHREALTIME/./}
  takeover
  say "handover $i: $(((${EPOCHREALTIME/./} - start) / 1000)) ms"
  ask_holder
  # A new client is let in by the same sockets.
  [ "$(nbdinfo --size "nbd://$tcp")" = $((2 << 30)) ] || fail "a new client is not served"
done
wait "$fio_pid" || fail "fio saw it: $(tail -n 20 "$work/fio.txt")"
wait "$tcp_pid" || fail "fio saw it: $(tail -n 20 "$work/tcp.txt")"
if grep -q "could not be handed over" "$work/server.log"; then
  fail "a connection was lost: $(grep "could not be" "$work/server.log")"
fi
[ "$(grep -c "serves in this one's place" "$work/server.log")" = 10 ] || fail "not ten handovers"

say "clients that come in the midst of it, and in the midst of a handshake or of a payload"
python3 - "$root/Tests/Wire" "$socket" "$work/sign" <<'PYTHON' &
import os, socket, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
path, sign = sys.argv[2:]
late = Wire(path)
names = [b"x-thermocline:heat", b"base:allocation", b"qemu:allocation-depth"]
wide = Wire(path).go(EXTENDED, names)
found = wide.status(1 << 30, 1 << 24)
assert set(found) == set(wide.contexts.values()) and len(found) == 3, found
half = Wire(path).go()
data = os.urandom(1 << 20)
whole = half.pack(WRITE, 0, len(data), cookie=7) + data
half.send(whole[:1000])
short = Wire(path).go()
request = short.pack(READ, 0, 512, cookie=8)
short.send(request[:9])
open(sign, "w").close()
for i in range(1, 20):
    time.sleep(0.05)
    half.send(whole[1000 * i:1000 * (i + 1)])
half.send(whole[20000:])
assert half.answer(0, cookie=7)[0] == "done"
while not os.path.exists(sign + ".done"):
    time.sleep(0.05)
short.send(request[9:])
assert short.answer(512, cookie=8)[0] == "done"
# Extended headers and the contexts in their order, as they were negotiated; two of the three by a
# payload.
again = wide.status(1 << 30, 1 << 24)
assert set(again) == set(found) and again[wide.contexts[names[1]]] == found[wide.contexts[names[1]]]
some = sorted(wide.contexts[name] for name in names[:2])
payload = struct.pack(">QII", 1 << 30, *some)
assert sorted(wide.status(0, 0, PAYLOAD_LEN, payload)) == some
late.go()
assert late.call(READ, 0, 512) == "done"
PYTHON
peer=$!
helpers+=("$peer")
until [ -e "$work/sign" ]; do sleep 0.02; done
takeover
: >"$work/sign.done"
wait "$peer" || fail "a client in the midst of something saw it"
ask_holder

say "a successor that cannot start, dies, or is silent: the old one goes on"
old=$server
sed 's/^memory = .*/memory = "4MiB"/' "$config" >"$work/wrong.toml"
! "$THERMOCLINE" serve --config "$work/wrong.toml" --takeover >>"$work/server.log" 2>&1 ||
  fail "it serves with 4 MiB"
ask_holder
# It knows too late: another pool's device.
sed "s#\"$work/disk2\"#\"$work/disk3\"#" "$config" >"$work/wrong.toml"
truncate -s 3G "$work/disk3"
! "$THERMOCLINE" serve --config "$work/wrong.toml" --takeover >>"$work/server.log" 2>&1 ||
  fail "it serves another pool"
ask_holder
grep -q "this server goes on" "$work/server.log" || fail "nothing was said"
# A peer that asks, takes everything and hangs up.
python3 - "$socket.control" <<'PYTHON'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"GET /takeover HTTP/1.1\r\nHost: x\r\n\r\n")
s.recv(100)
PYTHON
ask_holder
kill -0 "$old" || fail "the old process has ended"
status .volume.name >/dev/null || fail "no status"
takeover
ask_holder

# stopped_successor: its process is stopped as soon as it has asked.
stopped_successor() {
  local asked
  asked=$(grep -c "a successor takes over" "$work/server.log")
  "$THERMOCLINE" serve --config "$config" --takeover >>"$work/server.log" 2>&1 &
  successor=$!
  helpers+=("$successor")
  until [ "$(grep -c "a successor takes over" "$work/server.log")" -gt "$asked" ]; do
    sleep 0.002
  done
  kill -STOP "$successor"
}

say "a successor that serves another pool"
sed "s#\"$work/disk2\?\"#\"$work/other\"#; /name = \"slow\"/,\$d" "$config" >"$work/other.toml"
sed -i '${/\[\[tier\]\]/d}' "$work/other.toml"
truncate -s 1G "$work/other"
"$THERMOCLINE" format --config "$work/other.toml" --yes >"$work/format.log" 2>&1 ||
  fail "format: $(cat "$work/format.log")"
! timeout 30 "$THERMOCLINE" serve --config "$work/other.toml" --takeover >"$work/other.log" 2>&1 ||
  fail "it serves another pool"
grep -q "these devices are pool" "$work/other.log" || fail "$(cat "$work/other.log")"
ask_holder

say "a server that goes on does so with what it has: the limits that SIGHUP brought, and a socket \
whose name is gone"
cp "$config" "$work/plain.toml"
printf '[limits]\nconnections = 2\n' >>"$config"
kill -HUP "$server"
said "the configuration was read again"
cp "$work/plain.toml" "$config"
sed 's#^unix = .*#&\nunix_mode = "0666"#' "$config" >"$work/wider.toml"
python3 - "$work/taken" <<'PYTHON' &
import os, socket, sys, time
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(s.getsockname()[1]))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(120)
PYTHON
helpers+=("$!")
until [ -e "$work/taken" ]; do sleep 0.02; done
sed -i "s#^tcp = .*#tcp = \"127.0.0.1:$(cat "$work/taken")\"#" "$work/wider.toml"
! timeout 30 "$THERMOCLINE" serve --config "$work/wider.toml" --takeover >"$work/other.log" 2>&1 ||
  fail "it serves an address that is in use"
ask_holder
[ "$(stat -c %a "$socket")" = 600 ] || fail "the mode of who failed stayed: $(stat -c %a "$socket")"
rm "$socket"
! timeout 30 "$THERMOCLINE" serve --config "$work/other.toml" --takeover >"$work/other.log" 2>&1 ||
  fail "it serves another pool"
ask_holder
python3 - "$root/Tests/Wire" "${tcp%:*}" "${tcp##*:}" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
address = (sys.argv[2], int(sys.argv[3]))
second = Wire(address).go()
try:
    Wire(address).go()
    sys.exit("three connections are let in, where two may be")
except (Closed, OSError):
    pass
assert second.call(READ, 0, 512) == "done"
PYTHON
takeover
ask_holder
[ "$(nbdinfo --size "$uri")" = $((2 << 30)) ] || fail "the socket has no name"

say "a successor that is told to stop before it serves"
stopped_successor
kill -TERM "$successor"
kill -CONT "$successor"
status=0
wait "$successor" || status=$?
[ "$status" = 2 ] || fail "the exit status of a successor that was told to stop is $status"
ask_holder
kill -0 "$server" || fail "the old process has ended"

say "a successor that hangs is killed, and the old one goes on"
"$THERMOCLINE" serve --config "$config" --takeover --handover-seconds 2 >>"$work/server.log" 2>&1 &
patient=$!
for _ in $(seq 600); do kill -0 "$server" 2>/dev/null || break; sleep 0.05; done
server=$patient
ask_holder
# Stopped as soon as it has asked: it may own the devices, and does not serve.
stopped_successor
ask_holder
! kill -0 "$successor" 2>/dev/null || fail "the successor that hung is still there"
grep -q "process $successor, does not end: it is killed" "$work/server.log" || fail "nothing was said"

say "a successor with other addresses"
more=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -i "s#^tcp = .*#tcp = [\"127.0.0.1:$more\", \"[::1]:$more\"]\nunix_mode = \"0666\"#" "$config"
takeover
ask_holder
[ "$(nbdinfo --size "nbd://127.0.0.1:$more")" = $((2 << 30)) ] || fail "a new address is not served"
[ "$(nbdinfo --size "nbd://[::1]:$more")" = $((2 << 30)) ] || fail "IPv6 is not served"
! nbdinfo --size "nbd://$tcp" 2>/dev/null || fail "an address that is not wanted is served"
[ "$(stat -c %a "$socket")" = 666 ] || fail "the socket's mode is $(stat -c %a "$socket")"

say "a stop in order, and the pool is clean"
exec {holder[1]}>&-
heard bye
stop_server
[ ! -e "$socket" ] || fail "the socket's name was left"
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"

say "a peer that says STARTTLS, and then nothing, holds nobody up for long"
printf 'carol:%s\n' "$(openssl rand -hex 32)" >"$work/keys"
printf '[tls]\nmode = "allowed"\nshared_keys = "%s"\n' "$work/keys" >>"$config"
serve
python3 - "$root/Tests/Wire" "$socket" "$work/silent" <<'PYTHON' &
import sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
w = Wire(sys.argv[2], 60)
w.greet()
w.option(5)
assert w.reply()[0] == 1, "no ACK"
open(sys.argv[3], "w").close()
while not w.is_closed():
    time.sleep(0.05)
PYTHON
peer=$!
helpers+=("$peer")
until [ -e "$work/silent" ]; do sleep 0.02; done
start=${EPOCHREALTIME/./}
takeover
took=$(((${EPOCHREALTIME/./} - start) / 1000))
say "the handover took $took ms"
[ "$took" -lt 5000 ] || fail "it waited for the peer"
wait "$peer" || fail "the peer failed"
stop_server
