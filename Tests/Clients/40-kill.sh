#!/bin/bash
# The kill rig: kill -9 at random moments under load, with the oracle in another process. What was
# acknowledged is there (C1), what was in flight is there whole or not at all (C3), a read never
# brings anything else, and what was read once after a recovery stays so (C4).
#
# KILLS=100 SEED=… (random, printed). The log is small against the load, so kills hit appends,
# destage, checkpoints and recovery itself; the first tier is small, so blocks move as well.
source "$(dirname "$0")/common.bash"
bounded "${LIMIT:-1500}" "$@"

kills=${KILLS:-100}
seed=${SEED:-$RANDOM$RANDOM}
volume_size=4GiB
log_size=128MiB
tier fast disk0 320MiB
tier slow disk1 1GiB
format
serve_command
if ! ours; then
  # nbdkit does not remove the socket of one that was killed.
  printf '#!/bin/sh\nrm -f %q\nexec %s\n' "$socket" "${command[*]@Q}" >"$work/serve"
  chmod +x "$work/serve"
  command=("$work/serve")
fi

say "$kills kills, seed $seed"
"$THERMOCLINE_LOAD" kill --uri "$uri" --kills "$kills" --seed "$seed" --log "$work/server.log" \
  -- "${command[@]}"
if ours; then
  "$THERMOCLINE" check --config "$config" >"$work/check.txt" ||
    fail "check: $(cat "$work/check.txt")"
  say "check: $(head -n 3 "$work/check.txt" | tr -s ' \n' ' ')"
fi
