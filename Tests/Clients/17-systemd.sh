#!/bin/bash
# The service manager: sockets that it passes on, what it is told, and the sample units.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"

ours || { say "only our server is asked"; exit 0; }
tier only disk 1GiB
format

say "sockets passed on, READY, WATCHDOG, STOPPING"
python3 - "$THERMOCLINE" "$config" "$work" <<'PYTHON'
import os, signal, socket, subprocess, sys, time

program, config, work = sys.argv[1:]
passed = socket.socket(socket.AF_UNIX)
passed.bind(work + "/passed.sock")
passed.listen(16)
tcp = socket.socket(socket.AF_INET)
tcp.bind(("127.0.0.1", 0))
tcp.listen(16)
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(work + "/notify.sock")
manager.settimeout(20)


def start(*sockets):
    """As systemd does: descriptors from 3 on, and the process's own number in LISTEN_PID."""
    process = os.fork()
    if process:
        return process
    copies = [os.dup(s.fileno()) for s in sockets]
    high = [os.dup2(c, 100 + i) for i, c in enumerate(copies)]
    for i, descriptor in enumerate(high):
        os.dup2(descriptor, 3 + i, inheritable=True)
    os.dup2(os.open(work + "/server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    environment = dict(
        os.environ, LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)),
        NOTIFY_SOCKET=work + "/notify.sock", WATCHDOG_USEC="30000000",
        WATCHDOG_PID=str(os.getpid()))
    os.execve(program, [program, "serve", "--config", config], environment)


def hear(wanted):
    heard = []
    while True:
        message = manager.recv(4096).decode()
        heard.append(message)
        if wanted in message.split("\n"):
            return heard


def size(uri):
    return subprocess.run(["nbdinfo", "--size", uri], capture_output=True, text=True).stdout.strip()


process = start(passed, tcp)
hear("READY=1")
hear("WATCHDOG=1")
began = time.monotonic()
hear("WATCHDOG=1")
assert time.monotonic() - began < 5, "a watchdog of 30 s hears too seldom"
wanted = str(4 << 30)
assert size(f"nbd+unix:///?socket={work}/passed.sock") == wanted, "not served on the path"
assert size(f"nbd://127.0.0.1:{tcp.getsockname()[1]}") == wanted, "not served on the port"
assert not os.path.exists(work + "/nbd.sock"), "the configured socket was opened, too"
os.kill(process, signal.SIGTERM)
hear("STOPPING=1")
assert os.waitpid(process, 0)[1] == 0, "the server's exit status"
assert os.path.exists(work + "/passed.sock"), "the manager's socket was removed"

# Not listening, and reachable by others: refused, with the reason.
silent = socket.socket(socket.AF_UNIX)
anyone = socket.socket(socket.AF_INET)
anyone.bind(("0.0.0.0", 0))
anyone.listen(1)
for wrong, reason in (silent, "no listening stream socket"), (anyone, "reached by other machines"):
    process = start(wrong)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2, "it was not refused"
    assert reason in open(work + "/server.log").read(), reason
PYTHON

if command -v systemd-analyze >/dev/null; then
  say "the sample units"
  mkdir "$work/units"
  for unit in thermocline.service thermocline.socket thermocline-nbd@.service; do
    sed "s#/usr/local/bin/thermocline#$THERMOCLINE#" "$root/Config/$unit" >"$work/units/$unit"
  done
  (cd "$work/units" && SYSTEMD_UNIT_PATH="$work/units:" systemd-analyze verify --man=no \
    "$work"/units/thermocline.service "$work"/units/thermocline.socket \
    "$work"/units/thermocline-nbd@nbd0.service) >"$work/verify.log" 2>&1 ||
    fail "systemd-analyze: $(cat "$work/verify.log")"
  [ ! -s "$work/verify.log" ] || fail "systemd-analyze: $(cat "$work/verify.log")"
else
  say "no systemd-analyze here: the sample units were not verified"
fi
