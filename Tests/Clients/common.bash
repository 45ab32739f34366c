# What the client tests share: a pool in a folder of its own, a server that is started, killed and
# stopped by its process id, and the removal of everything on the way out.
#
#   source "$(dirname "$0")/common.bash"
#   bounded 300 "$@"            # ends the test after so many seconds
#   tier fast disk0 512MiB      # a tier named fast on the file $work/disk0, made by format
#   format; serve; …
#
# THERMOCLINE and THERMOCLINE_LOAD name the programs (default: the release build's).
# STAND_IN=nbdkit serves a plain file by nbdkit instead: the scripts themselves can be tried, and
# what only our server has is left out (see `ours`).

set -Eeuo pipefail
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
THERMOCLINE=${THERMOCLINE:-$root/.build/release/thermocline}
THERMOCLINE_LOAD=${THERMOCLINE_LOAD:-$root/.build/release/thermocline-load}
STAND_IN=${STAND_IN:-}
test_name=$(basename "$0" .sh)

volume_size=4GiB
memory=256MiB
log_size=256MiB
tcp=
server=
tiers=()
loops=()
mounts=()
helpers=()

# bounded SECONDS ARGUMENTS…: runs the rest of the script under a time limit.
bounded() {
  local limit=$1
  shift
  if [ -z "${CLIENT_TEST_BOUNDED:-}" ]; then
    CLIENT_TEST_BOUNDED=1 exec timeout --kill-after=60 "$limit" "$BASH" "$0" "$@"
  fi
  work=$(mktemp -d "${TMPDIR:-/var/tmp}/thermocline-client.XXXXXX")
  staging=$(mktemp -d /dev/shm/thermocline-client.XXXXXX)
  socket=$work/nbd.sock
  uri="nbd+unix:///?socket=$socket"
  config=$work/pool.toml
  began=$SECONDS
  trap finish EXIT
  trap 'failed_at "$LINENO" "$BASH_COMMAND"' ERR
  trap 'say "out of time"; exit 124' TERM
}

say() { printf '%s: %s\n' "$test_name" "$*"; }

fail() {
  say "FAILED: $*" >&2
  exit 1
}

failed_at() { say "FAILED at line $1: $2" >&2; }

# True when the server under test is ours.
ours() { [ -z "$STAND_IN" ]; }

finish() {
  local status=$? item
  trap - EXIT ERR
  set +e
  # One that was stopped can neither end nor be unmounted.
  for item in "${helpers[@]}"; do kill -CONT "$item" 2>/dev/null; done
  for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do
    mountpoint -q "${mounts[i]}" && { umount "${mounts[i]}" || umount -l "${mounts[i]}"; } 2>&1
  done
  for item in "${loops[@]}"; do losetup -d "$item" 2>/dev/null; done
  for item in "${helpers[@]}"; do kill -9 "$item" 2>/dev/null; done
  [ -n "$server" ] && kill -9 "$server" 2>/dev/null
  if [ "$status" != 0 ] && [ -s "$work/server.log" ]; then
    say "the server's last lines:"
    tail -n 15 "$work/server.log"
  fi
  wait 2>/dev/null
  if [ -z "${KEEP:-}" ]; then
    rm -rf --one-file-system "$work" "$staging"
  else
    say "kept: $work $staging"
  fi
  [ "$status" = 0 ] && say "ok, $((SECONDS - began)) s"
  exit "$status"
}

# tier NAME DEVICE [SIZE] [DEVICE [SIZE]]…: adds a tier. A device with a SIZE is a file that
# format makes; a relative path lies in the test's folder.
tier() {
  local name=$1 list='' path
  shift
  while [ $# -gt 0 ]; do
    path=$1
    shift
    [[ $path == /* ]] || path=$work/$path
    list+="${list:+, }{ path = \"$path\""
    if [ $# -gt 0 ] && [[ $1 == *iB ]]; then
      list+=", size = \"$1\""
      shift
    fi
    # Whatever the kernel says of this machine's disk: writes are placed where devices do not seek.
    list+=", rotational = false }"
  done
  tiers+=("$(printf '[[tier]]\nname = "%s"\ndevices = [%s]' "$name" "$list")")
}

# stoppable_device SIZE: sets $loop, a disk that stands still while its server is stopped, so that
# nothing leaves the log: hold and release.
stoppable_device() {
  truncate -s "$1" "$work/slow"
  mkdir "$work/fuse"
  nbdfuse "$work/fuse" --command nbdkit -s --exit-with-parent file "$work/slow" \
    2>>"$work/nbdfuse.log" &
  device_server=$!
  helpers+=("$device_server")
  mounts+=("$work/fuse")
  for _ in $(seq 100); do
    [ -f "$work/fuse/nbd" ] && break
    sleep 0.1
  done
  loop_device "$work/fuse/nbd"
}

hold() { kill -STOP "$device_server"; }
release() { kill -CONT "$device_server"; }

write_config() {
  {
    printf 'memory = "%s"\n[volume]\nname = "test"\nsize = "%s"\n' "$memory" "$volume_size"
    printf '[listen]\nunix = "%s"\n' "$socket"
    [ -z "$tcp" ] || printf 'tcp = "%s"\n' "$tcp"
    printf '[log]\nsize = "%s"\nstaging = "%s"\n' "$log_size" "$staging"
    printf '%s\n' "${tiers[@]}"
  } >"$config"
}

# format [OPTIONS]: writes the configuration and makes the pool.
format() {
  write_config
  if ours; then
    "$THERMOCLINE" format --yes --config "$config" "$@" >>"$work/format.log" 2>&1 || {
      cat "$work/format.log" >&2
      return 1
    }
  else
    truncate -s "${volume_size%iB}" "$work/stand-in"
  fi
}

# The command that serves the pool, as an array.
serve_command() {
  if ours; then
    command=("$THERMOCLINE" serve --config "$config")
  else
    command=(nbdkit --foreground --pidfile "$work/stand-in.pid" -U "$socket" file "$work/stand-in")
    [ -z "$tcp" ] ||
      command=(nbdkit --foreground -p "${tcp##*:}" -i "${tcp%:*}" file "$work/stand-in")
  fi
}

# serve [SECONDS]: starts the server and waits until clients are let in. Sets $server and
# $start_milliseconds.
serve() {
  local patience=${1:-60} start=${EPOCHREALTIME/./} command
  ours || rm -f "$socket"
  serve_command
  "${command[@]}" >>"$work/server.log" 2>&1 &
  server=$!
  until nbdinfo --size "${probe_uri:-$uri}" >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || fail "the server ended while starting"
    [ $(((${EPOCHREALTIME/./} - start) / 1000000)) -lt "$patience" ] ||
      fail "the server does not let anyone in after $patience s"
    sleep 0.02
  done
  start_milliseconds=$(((${EPOCHREALTIME/./} - start) / 1000))
}

# kill_server: as a crash does. stop_server: in order, within a minute.
kill_server() {
  kill -9 "$server"
  wait "$server" 2>/dev/null || true
  server=
}

stop_server() {
  local status=0
  kill -TERM "$server"
  for _ in $(seq 600); do
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  kill -0 "$server" 2>/dev/null && fail "the server does not stop on SIGTERM"
  wait "$server" || status=$?
  server=
  ours && [ "$status" != 0 ] && fail "the server's exit status is $status"
  return 0
}

# status FILTER: a figure of `status --json`, by a filter of jq.
status() { "$THERMOCLINE" status --json --config "$config" | jq -r "$1"; }

# takeover: a new process takes over; the old one must end with status 0.
takeover() {
  local old=$server
  "$THERMOCLINE" serve --config "$config" --takeover "$@" >>"$work/server.log" 2>&1 &
  server=$!
  for _ in $(seq 600); do
    kill -0 "$old" 2>/dev/null || break
    sleep 0.05
  done
  ! kill -0 "$old" 2>/dev/null || fail "the old process is still there"
  wait "$old" || fail "the old process's exit status is $?"
  kill -0 "$server" || fail "the new process is gone"
}

# soon WHAT FILTER: within 20 s the filter of jq says true of `status --json`.
soon() {
  for _ in $(seq 200); do
    [ "$(status "$2")" != true ] || return 0
    sleep 0.1
  done
  fail "$1: $("$THERMOCLINE" status --json --config "$config")"
}

# said PATTERN [COUNT]: within 20 s the server's log has the pattern so often.
said() {
  for _ in $(seq 400); do
    [ "$(grep -c -- "$1" "$work/server.log")" -lt "${2:-1}" ] || return 0
    sleep 0.05
  done
  fail "the log does not say: $1"
}

# loop_device FILE [SECTOR]: attaches FILE; sets $loop. It is detached at the end.
loop_device() {
  loop=$(losetup --find --show --sector-size "${2:-512}" "$1")
  loops+=("$loop")
}

# forget_loop DEVICE: detaches it now.
forget_loop() {
  local item kept=()
  losetup -d "$1"
  for item in "${loops[@]}"; do [ "$item" = "$1" ] || kept+=("$item"); done
  loops=("${kept[@]}")
}

# refused PATTERN COMMAND…: the command must fail, and say something that matches.
refused() {
  local pattern=$1 text
  shift
  if text=$("$@" 2>&1); then fail "not refused: $*: $text"; fi
  grep -Eq -- "$pattern" <<<"$text" || fail "$* was refused, but without /$pattern/: $text"
  say "refused as it should be: $(head -n 1 <<<"$text")"
}
