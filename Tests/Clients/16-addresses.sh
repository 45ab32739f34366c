#!/bin/bash
# Where it listens, and for whom: the mode, the group and the users of the unix socket, addresses of
# IPv6, and TCP that notices a peer that is no more.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"
ours || { say "only our server is asked"; exit 0; }

volume_size=1GiB
tier only disk 1GiB
format
cp "$config" "$work/plain.toml"

# listening LINES: the configuration with these lines in [listen].
listening() {
  awk -v lines="$1" '{ print } /^unix = / { print lines }' "$work/plain.toml" >"$config"
}

# free_port ADDRESS: a port of it that nobody has; fails when there is no such address.
free_port() {
  python3 - "$1" <<'PYTHON'
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.bind((sys.argv[1], 0))
print(s.getsockname()[1])
PYTHON
}

say "a socket is its user's alone"
serve
[ "$(stat -c %a "$socket")" = 600 ] || fail "the socket's mode is $(stat -c %a "$socket")"
stop_server

say "who may use the socket"
listening 'unix_mode = "0666"
unix_users = ["4711"]'
# Nobody here can ask whether it serves already.
"$THERMOCLINE" serve --config "$config" >>"$work/server.log" 2>&1 &
server=$!
said "serving on unix:" 2
[ "$(stat -c %a "$socket")" = 666 ] || fail "the socket's mode is $(stat -c %a "$socket")"
! nbdinfo --size "$uri" >/dev/null 2>&1 || fail "a user who is not listed was served"
said "turned away: not one of listen.unix_users"
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
  chmod 755 "$work"
  setpriv --reuid 4711 --clear-groups nbdinfo --size "$uri" >/dev/null ||
    fail "a user who is listed was not served"
fi
stop_server

# group_is NAME NUMBER: with this group in the configuration, it is the socket's.
group_is() {
  listening "unix_mode = \"0660\"
unix_group = \"$1\""
  serve
  [ "$(stat -c '%g %a' "$socket")" = "$2 660" ] ||
    fail "the socket's group and mode are $(stat -c '%g %a' "$socket"), not $2 and 660"
}

say "the socket's group"
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
  group_is daemon "$(getent group daemon | cut -d: -f3)"
  stop_server
  group_is 4712 4712
  chmod 755 "$work"
  setpriv --reuid 4711 --regid 4712 --clear-groups nbdinfo --size "$uri" >/dev/null ||
    fail "one of the group was not served"
  ! setpriv --reuid 4711 --regid 4711 --clear-groups nbdinfo --size "$uri" >/dev/null 2>&1 ||
    fail "one of another group was served"
  stop_server

  say "the socket's owner"
  listening 'unix_owner = "4711"'
  serve
  [ "$(stat -c '%u %a' "$socket")" = "4711 600" ] ||
    fail "the socket's owner and mode are $(stat -c '%u %a' "$socket")"
  setpriv --reuid 4711 --clear-groups nbdinfo --size "$uri" >/dev/null ||
    fail "the owner was not served"
  ! setpriv --reuid 4712 --clear-groups nbdinfo --size "$uri" >/dev/null 2>&1 ||
    fail "another user was served"
else
  # Who is not root may give a socket to a group of its own.
  group_is "$(id -g)" "$(id -g)"
fi
stop_server
listening 'unix_group = "no-such-group"'
refused 'listen.unix_group' "$THERMOCLINE" serve --config "$config"

# kept_alive ADDRESS PORT: an idle connection on the server's side waits for its keep-alive timer,
# within the half minute after which the peer is asked; /proc/net/tcp tells of it: timer 2. And small
# replies are not held back.
kept_alive() {
  python3 - "$root/Tests/Wire" "$1" "$2" "$server" <<'PYTHON'
import ctypes, os, sys, time
sys.path.insert(0, sys.argv[1])
from nbdwire import *
host, port = sys.argv[2], int(sys.argv[3])
peer = Wire((host, port)).go()
assert peer.call(READ, 0, 512) == "done"
mine = peer.socket.getsockname()[1]


def entry():
    """What the kernel tells of the server's end."""
    with open("/proc/net/tcp6" if ":" in host else "/proc/net/tcp") as table:
        for line in list(table)[1:]:
            fields = line.split()
            ends = [int(field.rpartition(":")[2], 16) for field in fields[1:3]]
            if ends == [port, mine] and fields[3] == "01":
                return fields
    raise SystemExit("the connection is not in the kernel's table")


def timer():
    """The kind of timer and its hundredths of a second."""
    return tuple(int(part, 16) for part in entry()[5].split(":"))


# What was sent must be acknowledged first.
deadline = time.monotonic() + 5
while timer()[0] != 2:
    assert time.monotonic() < deadline, f"no keep-alive timer: {timer()}"
    time.sleep(0.1)
kind, left = timer()
assert left <= 3100, f"the peer is asked after {left / 100} s"


def of_server(inode):
    """The server's own socket, or None where this user may not look (pidfd_getfd)."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = f"/proc/{sys.argv[4]}/fd"
    number = next(int(f) for f in os.listdir(folder)
                  if os.readlink(f"{folder}/{f}") == f"socket:[{inode}]")
    copy = libc.syscall(438, libc.syscall(434, int(sys.argv[4]), 0), number, 0)
    return socket.socket(fileno=copy) if copy >= 0 else None


end = of_server(entry()[9])
if end is None:
    print("  whether replies are held back was not looked at")
else:
    assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "replies are held back"
PYTHON
}

say "TCP of IPv4"
port=$(free_port 127.0.0.1)
listening "tcp = \"127.0.0.1:$port\""
serve
[ "$(nbdinfo --size "nbd://127.0.0.1:$port")" = 1073741824 ] || fail "not served"
kept_alive 127.0.0.1 "$port"
stop_server

say "TCP of IPv6"
port=$(free_port ::1 2>/dev/null) || { say "this machine has no IPv6"; exit 0; }
listening "tcp = \"[::1]:$port\""
serve
[ "$(nbdinfo --size "nbd://[::1]:$port")" = 1073741824 ] || fail "not served"
kept_alive ::1 "$port"
status '.server.uris[]' | grep -qxF "nbd://[::1]:$port/test" || fail "$(status .server.uris)"
! nbdinfo --size "nbd://127.0.0.1:$port" >/dev/null 2>&1 || fail "IPv4 is served, too"
stop_server

say "all addresses of IPv6, where other machines reach it, only when allowed"
listening "tcp = \"[::]:$port\""
refused 'listen.*allow_plaintext' "$THERMOCLINE" serve --config "$config"
listening "tcp = \"[::]:$port\"
allow_plaintext = true"
serve
[ "$(nbdinfo --size "nbd://[::1]:$port")" = 1073741824 ] || fail "not served"
stop_server
