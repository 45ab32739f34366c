#!/bin/bash
# No function of the data path copies a large struct: the compiler does so, without a word, for a
# struct that it could load as a value (see Sources/Base/Anchor.swift). Looks in the release binary
# for copies of a fixed size from 512 bytes on, but 4096, a block's payload.
#
# Exit status 1 names the functions; 77: another architecture, or no objdump.
set -euo pipefail

binary=${THERMOCLINE:-$(dirname "$0")/../../.build/release/thermocline}
[ "$(uname -m)" = x86_64 ] || { echo "only looks at x86_64"; exit 77; }
command -v objdump >/dev/null || { echo "no objdump"; exit 77; }

# What runs once in a server's life, or when people ask.
once='\.init|\binit\(|initializeWith|initialization expression|\.open\(|\.serve|PoolFormat|PoolCheck'
once+='|ServedPool|Replay|CheckState|Mailbox|Histogram|Snapshot|Statistics|statistics'

found=$(objdump -d --no-show-raw-insn "$binary" | awk '
  /^[0-9a-f]+ <.*>:$/ { name = $2; size = "" }
  /mov +\$0x[0-9a-f]+,%edx/ { match($0, /\$0x[0-9a-f]+/); size = substr($0, RSTART + 3, RLENGTH - 3) }
  /call/ {
    long = length(size) > 3 || length(size) == 3 && size >= "200"
    if (/memcpy|memmove/ && long && size != "1000") print "0x" size " bytes in " name
    size = ""
  }' | grep -E '12VolumeEngine|6Server|6RingIO' | sed 's/>:$//; s/</ /' |
  swift demangle --simplified --compact | grep -vE "$once" | sort | uniq -c || true)
if [ -n "$found" ]; then
  echo "large structs are copied:"
  echo "$found"
  exit 1
fi
echo "no large struct is copied"
