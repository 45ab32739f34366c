#!/bin/bash
# SIGHUP: the configuration is read again. What can change does so for new connections; what cannot
# is named; with a mistake nothing changes; and no client that is there notices.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"
ours || { say "only our server is asked"; exit 0; }

printf 'carol:%s\ndave:%s\n' "$(openssl rand -hex 32)" "$(openssl rand -hex 32)" >"$work/keys"
tier only disk 1GiB
format
cp "$config" "$work/base.toml"

# configured MODE CLIENT CONNECTIONS: the configuration so; SIGHUP is another step.
configured() {
  {
    cat "$work/base.toml"
    printf '[tls]\nmode = "%s"\nshared_keys = "%s"\nclients = ["%s"]\n' "$1" "$work/keys" "$2"
    printf '[limits]\nconnections = %s\n' "$3"
  } >"$config"
}
said() {
  for _ in $(seq 100); do
    [ "$(grep -c "$1" "$work/server.log")" -lt "${2:-1}" ] || return 0
    sleep 0.05
  done
  fail "the log does not say: $1"
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

say "a mistake changes nothing, and is named; so is what cannot change"
configured off carol 0
kill -HUP "$server"
said "limits.connections"
as dave || fail "dave is not let in any more"
sed -i 's/^memory = .*/memory = "300MiB"/' "$work/base.toml"
configured allowed carol 10
kill -HUP "$server"
said "memory has changed in .*: it waits for a restart"
said "the configuration was read again" 4
as carol || fail "carol is not let in again"

: >"$work/enough"
wait "$holder" || fail "the client that was there noticed"
stop_server
