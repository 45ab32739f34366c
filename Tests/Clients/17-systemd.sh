#!/bin/bash
# The service manager: sockets that it passes on, what it is told, also when the configuration is
# read again and when a successor takes over, and the sample units.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"

ours || { say "only our server is asked"; exit 0; }
tier only disk 1GiB
format

say "sockets passed on; READY, RELOADING, MAINPID, WATCHDOG, STOPPING"
python3 - "$THERMOCLINE" "$config" "$work" "$root/Tests/Wire" <<'PYTHON'
import atexit, ctypes, os, signal, subprocess, sys, time
sys.path.insert(0, sys.argv[4])
from nbdwire import *

program, config, work = sys.argv[1:4]
passed = socket.socket(socket.AF_UNIX)
passed.bind(work + "/passed.sock")
passed.listen(16)
tcp = socket.socket(socket.AF_INET)
tcp.bind(("127.0.0.1", 0))
tcp.listen(16)
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(work + "/notify.sock")
manager.settimeout(20)
# The kernel says who sent a message; systemd heeds the main process only (NotifyAccess=main).
manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


started = []


@atexit.register
def leave_none():
    """When something fails, no server is left behind."""
    for process in started:
        os.kill(process, signal.SIGKILL)


def ended(process):
    """Waits for its end; how it ended."""
    status = os.waitpid(process, 0)[1]
    started.remove(process)
    return os.waitstatus_to_exitcode(status)


def start(*sockets):
    """As systemd does: descriptors from 3 on, and the process's own number in LISTEN_PID."""
    process = os.fork()
    if process:
        started.append(process)
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


def hear(wanted, sender):
    """All messages up to one with this line, which must be the sender's."""
    heard, deadline = [], time.monotonic() + 20
    while True:
        assert time.monotonic() < deadline, f"not heard: {wanted}"
        message, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(12))
        lines = message.decode().split("\n")
        heard.append(lines)
        if wanted in lines:
            pid = struct.unpack("3i", ancillary[0][2])[0]
            assert pid == sender, f"{wanted} comes from {pid}, not from {sender}"
            return heard


def size(uri):
    return subprocess.run(["nbdinfo", "--size", uri], capture_output=True, text=True).stdout.strip()


wanted = str(4 << 30)


def is_served():
    assert size(f"nbd+unix:///?socket={work}/passed.sock") == wanted, "not served on the path"
    assert size(f"nbd://127.0.0.1:{tcp.getsockname()[1]}") == wanted, "not served on the port"
    assert not os.path.exists(work + "/nbd.sock"), "the configured socket was opened, too"


def hear_watchdog(sender):
    hear("WATCHDOG=1", sender)
    began = time.monotonic()
    hear("WATCHDOG=1", sender)
    assert time.monotonic() - began < 5, "a watchdog of 30 s hears too seldom"


def hear_nothing_while_it_hangs(process):
    """The loop, which is the process's first thread, stands still; the others go on."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    seize, interrupt, detach = 0x4206, 0x4207, 17
    if libc.ptrace(seize, process, None, None) != 0:
        print("  not tried: no thread can be stopped here:", os.strerror(ctypes.get_errno()))
        return
    assert libc.ptrace(interrupt, process, None, None) == 0
    os.waitpid(process, 0x40000000)
    manager.setblocking(False)
    try:
        while True:
            manager.recv(4096)
    except BlockingIOError:
        pass
    time.sleep(4)
    try:
        sys.exit(f"heard from a server that hangs: {manager.recv(4096)}")
    except BlockingIOError:
        pass
    manager.settimeout(20)
    assert libc.ptrace(detach, process, None, None) == 0
    hear("WATCHDOG=1", process)


def stop(process):
    os.kill(process, signal.SIGTERM)
    hear("STOPPING=1", process)
    assert ended(process) == 0, "the server's exit status"
    assert os.path.exists(work + "/passed.sock"), "the manager's socket was removed"


process = start(passed, tcp)
hear("READY=1", process)
hear_watchdog(process)
hear_nothing_while_it_hangs(process)
is_served()

# SIGHUP, as Type=notify-reload sends it: RELOADING with the time, which must be after the signal's,
# then READY; with a mistake in the file as well, else systemd would wait for it.
with open(config) as file:
    good = file.read()
for text in good, "memory = 1\n" + good:
    with open(config, "w") as file:
        file.write(text)
    signalled = time.monotonic_ns() // 1000
    os.kill(process, signal.SIGHUP)
    lines = hear("RELOADING=1", process)[-1]
    stamps = [int(line[15:]) for line in lines if line.startswith("MONOTONIC_USEC=")]
    assert len(stamps) == 1, lines
    assert signalled <= stamps[0] <= time.monotonic_ns() // 1000, (signalled, stamps)
    hear("READY=1", process)
assert "the configuration was not changed" in open(work + "/server.log").read(), "the mistake"
with open(config, "w") as file:
    file.write(good)

# A successor that the manager did not start, and that has nothing of the manager's environment.
there = Wire(work + "/passed.sock").go()
with open(work + "/server.log", "a") as log:
    successor = subprocess.Popen(
        [program, "serve", "--config", config, "--takeover"], stderr=log,
        env={k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "LISTEN_FDS")})
started.append(successor.pid)
# The old one says it: it is the one that is listened to. Then the new one is the main process.
heard = hear(f"MAINPID={successor.pid}", process)
assert ended(process) == 0, "the replaced server's exit status"
# Nothing in between may look like an end: systemd would stop what is left.
assert not any("STOPPING=1" in lines for lines in heard), heard
hear_watchdog(successor.pid)
is_served()
assert there.call(READ, 0, 512) == "done", "who was there is not served any more"
there.close()
assert os.path.exists(work + "/passed.sock"), "the manager's socket was removed"
os.kill(successor.pid, signal.SIGHUP)
hear("RELOADING=1", successor.pid)
hear("READY=1", successor.pid)
stop(successor.pid)

# The sockets are still the manager's: what it starts next is served on them.
process = start(passed, tcp)
hear("READY=1", process)
is_served()
stop(process)

# Not listening, and reachable by others: refused, with the reason.
silent = socket.socket(socket.AF_UNIX)
anyone = socket.socket(socket.AF_INET)
anyone.bind(("0.0.0.0", 0))
anyone.listen(1)
for wrong, reason in (silent, "no listening stream socket"), (anyone, "reached by other machines"):
    process = start(wrong)
    assert ended(process) == 2, "it was not refused"
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
