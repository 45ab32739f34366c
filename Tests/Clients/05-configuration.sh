#!/bin/bash
# What `format` refuses before it writes: mistakes in the configuration, by file, line and key, and
# devices that carry something or are in use. With --force it says what it destroys, and no old
# signature is left.
source "$(dirname "$0")/common.bash"
bounded 120 "$@"
ours || { say "skipped: nothing of this is in a stand-in"; exit 0; }

volume_size=64MiB
log_size=128MiB
memory=192MiB

# planted PATTERN SED-SCRIPT: the good configuration with a mistake in it.
planted() {
  sed "$2" "$work/good.toml" >"$work/bad.toml"
  refused "$1" "$THERMOCLINE" format --config "$work/bad.toml"
}

say "the configuration"
tier fast fast.img 512MiB
tier slow slow.img 256MiB
write_config
cp "$config" "$work/good.toml"
file=$work/bad.toml
planted "$file:1: memory: expected a size .*found the integer 1" 's/^memory = .*/memory = 1/'
planted "$file:1: memory: expected at least 192MiB" '1s/192/100/'
planted "$file:4: volume.size: expected a multiple of 4KiB" 's/^size = "64MiB"/size = "65537KiB"/'
planted "$file:3: volume.nmae: expected one of the keys name, size, read_only, found the unknown" \
  '3s/name/nmae/'
planted "$file:6: listen.unix: expected an absolute path" 's/^unix = .*/unix = "nbd.sock"/'
planted "$file:8: log.size: expected at least 128MiB" '8s/128MiB/8MiB/'
planted "$file:12: tier\[0\].devices\[0\].size: expected a size" 's/"512MiB"/512/'
planted "$file:15: tier\[1\].devices\[0\].path: expected every device once" 's/slow.img/fast.img/'
planted 'tier: expected one to eight .* found none' '/^\[\[tier/,$d'
planted 'tier: expected one to eight .* found 9' \
  "\$a $(for i in 1 2 3 4 5 6 7; do
    printf '[[tier]]\\nname = "t%s"\\ndevices = [{ path = "%s" }]\\n' "$i" "/x$i"
  done)"
planted "$file:13: expected TOML, found a mistake" '13s/.*/[[tier/'
planted 'nothing at .*nowhere' 's/slow.img", size = "256MiB"/nowhere"/'
planted 'expected a device that exists' "s#$work/slow.img#/dev/no-such-disk#"
refused 'expected a readable configuration file' "$THERMOCLINE" serve --config "$work/none.toml"
[ ! -e "$work/fast.img" ] || fail "a refused format made a file"

say "one file under two names"
truncate -s 512M "$work/fast.img"
ln "$work/fast.img" "$work/slow.img"
planted "tier\[1\].devices\[0\].path: expected every device once, found .*the same as" \
  's/"256MiB"/"512MiB"/'
rm "$work/fast.img" "$work/slow.img"

say "devices that carry something"
truncate -s 512M "$work/fast.img"
truncate -s 256M "$work/slow.img"
mkfs.ext4 -q -F -L precious "$work/slow.img"
refused 'slow.img carries a filesystem \(ext4\) labelled "precious"' \
  "$THERMOCLINE" format --yes --config "$work/good.toml"
dumpe2fs -h "$work/slow.img" >/dev/null 2>&1 || fail "a refused format wrote something"
truncate -s 0 "$work/slow.img"
truncate -s 256M "$work/slow.img"
printf 'label: gpt\n,64M\n' | sfdisk --quiet "$work/slow.img"
refused 'slow.img carries a partition table \(gpt\)' \
  "$THERMOCLINE" format --yes --config "$work/good.toml"
"$THERMOCLINE" format --force --yes --config "$config" >"$work/format.log" 2>&1
grep -q 'slow.img carries a partition table (gpt). It will be destroyed.' "$work/format.log" ||
  fail "format does not say what it destroys: $(cat "$work/format.log")"
[ -z "$(blkid -p "$work/slow.img" || true)" ] || fail "a signature is left: $(blkid -p "$work/slow.img")"
refused 'slow.img carries device 1 of the Thermocline pool' \
  "$THERMOCLINE" format --yes --config "$config"

if [ "$(id -u)" = 0 ] && loop_device "$work/slow.img" 2>/dev/null; then
  say "devices in use"
  refused "is behind the loop device $loop" \
    "$THERMOCLINE" format --yes --force --config "$config"
  mkfs.ext4 -q -F "$loop"
  mkdir "$work/mount"
  mount "$loop" "$work/mount"
  mounts+=("$work/mount")
  sed "s#$work/slow.img\", size = \"256MiB\"#$loop\"#" "$config" >"$work/loop.toml"
  refused "$loop is mounted on $work/mount" \
    "$THERMOCLINE" format --yes --force --config "$work/loop.toml"
  umount "$work/mount"
  refused "$loop carries a filesystem" "$THERMOCLINE" format --yes --config "$work/loop.toml"
  forget_loop "$loop"
else
  say "left out without root or loop devices: mounted devices"
fi
