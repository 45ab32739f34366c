#!/bin/bash
# SIGHUP: the configuration is read again. What can change does so for new connections; what cannot
# is named; with a mistake nothing changes; and no client that is there notices.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"
ours || { say "only our server is asked"; exit 0; }

printf 'carol:%s\ndave:%s\n' "$(openssl rand -hex 32)" "$(openssl rand -hex 32)" >"$work/keys"
tier only disk 1GiB
format
# Others may come as far as the socket: unix_users decides.
chmod 755 "$work"
sed '/^unix = /a unix_mode = "0666"' "$config" >"$work/base.toml"

# configured MODE CLIENT CONNECTIONS: the configuration so; SIGHUP is another step.
configured() {
  {
    cat "$work/base.toml"
    printf '[tls]\nmode = "%s"\nshared_keys = "%s"\nclients = ["%s"]\n' "$1" "$work/keys" "$2"
    printf '[limits]\nconnections = %s\n' "$3"
  } >"$config"
}
as() { nbdinfo --size "nbds+unix://$1@/?socket=$socket&tls-psk-file=$work/keys" >/dev/null 2>&1; }

configured allowed carol 10
serve
/usr/bin/python3 - "$uri" "$work" <<'PYTHON' &
import nbd, os, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(b"held" * 1024, 0)
open(sys.argv[2] + "/held", "w").close()
count = 0
while not os.path.exists(sys.argv[2] + "/enough"):
    assert h.pread(4096, 0) == b"held" * 1024
    count += 1
h.shutdown()
assert count > 100, count
PYTHON
holder=$!
helpers+=("$holder")
until [ -e "$work/held" ]; do sleep 0.02; done
as carol || fail "carol is not let in"
! as dave || fail "dave is let in"

say "another mode, another client, fewer connections"
configured required dave 2
kill -HUP "$server"
said "the configuration was read again"
as dave || fail "dave is not let in"
! as carol || fail "carol is still let in"
! nbdinfo --size "$uri" >/dev/null 2>&1 || fail "plaintext is still let in"
configured allowed dave 1
kill -HUP "$server"
said "the configuration was read again" 2
! nbdinfo --size "$uri" >/dev/null 2>&1 || fail "a second connection is let in"
configured allowed dave 10
kill -HUP "$server"
said "the configuration was read again" 3
nbdinfo --size "$uri" >/dev/null || fail "nobody is let in any more"

say "in the midst of handshakes"
coproc midst {
  python3 - "$root/Tests/Wire" "$socket" <<'PYTHON'
import sys
sys.path.insert(0, sys.argv[1])
from nbdwire import *
words = open("/dev/fd/3")
peers = [Wire(sys.argv[2], 60) for _ in range(3)]
for w in peers:
    w.greet()
    assert w.ask(LIST)[-1] == "ACK"
print("greeted", flush=True)
assert words.readline() == "required\n"
w = peers[0]
assert w.ask(GO, export()) == ["TLS_REQD"] and w.ask(LIST) == ["TLS_REQD"]
assert w.ask(STARTTLS) == ["ACK"]
print("told", flush=True)
assert words.readline() == "off\n"
w = peers[1]
assert w.ask(STARTTLS) == ["POLICY"], "off, and STARTTLS is let in"
assert w.enter().call(READ, 0, 512) == "done"
print("told", flush=True)
assert words.readline() == "allowed\n"
w = peers[2].enter()
assert w.call(READ, 0, 512) == "done"
print("over", flush=True)
PYTHON
} 3<&0
# hears LINE; with MODE: which is configured then, by the NUMBERth reading.
hears() {
  local line
  read -r -t 30 line <&"${midst[0]}" && [ "$line" = "$1" ] || fail "in the midst: ${line:-nothing}"
  [ $# -gt 1 ] || return 0
  configured "$2" dave 10
  kill -HUP "$server"
  said "the configuration was read again" "$3"
  echo "$2" >&"${midst[1]}"
}
hears greeted required 4
hears told off 5
hears told allowed 6
hears over

say "a mistake changes nothing, and is named; so is what cannot change"
configured off carol 0
kill -HUP "$server"
said "limits.connections"
as dave || fail "dave is not let in any more"
sed -i 's/^memory = .*/memory = "300MiB"/' "$work/base.toml"
configured allowed carol 10
kill -HUP "$server"
said "memory has changed in .*: it waits for a restart"
said "the configuration was read again" 7
as carol || fail "carol is not let in again"

# users NUMBER LIST: unix_users so, by the NUMBERth reading; an empty LIST: whoever comes.
users() {
  configured allowed carol 10
  [ -z "$2" ] || sed -i "/^unix = /a unix_users = $2" "$config"
  kill -HUP "$server"
  said "the configuration was read again" "$1"
}
mine() { nbdinfo --size "$uri" >/dev/null 2>&1; }
# other: 4711 asks, which root alone can let it do.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
  other() { setpriv --reuid 4711 --clear-groups nbdinfo --size "$uri" >/dev/null 2>&1; }
  other || fail "a user is turned away without a list"
else
  say "not root: another user is not tried"
  other() { return "$1"; }
fi

say "other users of the unix socket: the list is new connections'; who is there stays"
turned_away="turned away: not one of listen.unix_users"
users 8 '["4711"]'
! mine || fail "a user who is not on the list is let in"
said "$turned_away"
other 0 || fail "a user who is on the list is not let in"
users 9 "[\"$(id -un)\"]"
mine || fail "a user who is on the list now is not let in"
! other 1 || fail "a user who is not on the list any more is let in"
# A user who does not exist: the list stays as it was.
configured allowed carol 10
sed -i '/^unix = /a unix_users = ["no-such-user"]' "$config"
kill -HUP "$server"
said "the configuration was not changed.*listen.unix_users"
mine || fail "a mistake turned away a user who was on the list"
! other 1 || fail "a mistake let in a user who was not on the list"
users 10 ''
mine || fail "without a list a user is turned away"
other 0 || fail "without a list a user is turned away"
# It went on while nobody of its name would have been let in.
kill -0 "$holder" || fail "the client that was there is gone"

: >"$work/enough"
wait "$holder" || fail "the client that was there noticed"
stop_server
