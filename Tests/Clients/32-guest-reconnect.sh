#!/bin/bash
# A virtual machine outlives its server: QEMU's own NBD client with reconnect-delay serves the
# guest's disk, and the server is killed three times under load. The guest sees no error, only time,
# and finds everything that it wrote.
#
# RECONNECT_DELAY=0 (seconds; 60) must make it fail: then the guest sees what happened.
source "$(dirname "$0")/common.bash"
source "$(dirname "$0")/guest.bash"
bounded 240 "$@"

volume_size=1GiB
tier only disk 2GiB
format
serve

make_initramfs "virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  crc16 crc32c_generic libcrc32c mbcache jbd2 ext4" mke2fs e2fsck <<'JOB'
[ -b /dev/vda ] || die "no disk"
echo "GUEST: $(($(cat /sys/block/vda/size) / 2048)) MiB, $(cat /sys/block/vda/queue/write_cache)"
# A filesystem at the start of the disk; the last 256 MiB are written raw.
/bin/mke2fs -q -F -t ext4 /dev/vda 512M || die "mke2fs"
mount -t ext4 /dev/vda /mnt || die "mount"

# Direct writes of a megabyte each, compared at once, without a pause until told to stop.
raw() {
  local i=0 at
  dd if=/dev/urandom of=/tmp/pattern bs=64k count=33 2>/dev/null
  while [ ! -e /tmp/stop ]; do
    at=$((768 * 16 + i % 64 * 16))
    dd if=/tmp/pattern of=/tmp/out bs=64k skip=$((i % 17)) count=16 2>/dev/null
    dd if=/tmp/out of=/dev/vda bs=64k seek=$at count=16 oflag=direct conv=notrunc 2>/dev/null ||
      { echo "writing $i" >/tmp/raw; return; }
    dd if=/dev/vda of=/tmp/back bs=64k skip=$at count=16 iflag=direct 2>/dev/null ||
      { echo "reading $i" >/tmp/raw; return; }
    cmp -s /tmp/out /tmp/back || { echo "comparing $i" >/tmp/raw; return; }
    md5sum </tmp/out >/tmp/raw.$((i % 64))
    i=$((i + 1))
  done
  echo "ok, $i" >/tmp/raw
}
raw &

# Files of all sizes; after each round all are read again from the disk.
for round in 1 2 3 4 5 6 7; do
  echo "GUEST: round $round"
  mkdir /mnt/$round || die "mkdir in round $round"
  for i in $(seq 1 25); do
    dd if=/dev/urandom of=/mnt/$round/$i bs=$((i * 517)) count=9 2>/dev/null ||
      die "writing in round $round"
  done
  (cd /mnt && md5sum $round/* >>/tmp/sums)
  sync
  echo 3 >/proc/sys/vm/drop_caches
  (cd /mnt && md5sum -c /tmp/sums >/tmp/found 2>&1) || die "files differ: $(grep -v OK /tmp/found)"
done
touch /tmp/stop
wait
read -r verdict </tmp/raw
case $verdict in ok*) ;; *) die "raw: $verdict" ;; esac
for i in $(seq 0 63); do
  [ -e /tmp/raw.$i ] || continue
  dd if=/dev/vda bs=64k skip=$((768 * 16 + i * 16)) count=16 iflag=direct 2>/dev/null | md5sum |
    cmp -s - /tmp/raw.$i || die "megabyte $i differs"
done
umount /mnt || die "umount"
/bin/e2fsck -fn /dev/vda >/tmp/fsck 2>&1 || die "e2fsck: $(cat /tmp/fsck)"
dmesg | grep -Ei 'I/O error|EXT4-fs (error|warning)|JBD2.*error' && die "the kernel saw errors"
stop "ok, $(wc -l </tmp/sums) files, ${verdict#ok, } megabytes"
JOB

# The console has the line.
console() { grep -aq "^GUEST: $1" "$work/console"; }

# awaits SECONDS LINE: waits for a line of the guest, while it lives.
awaits() {
  local limit=$((SECONDS + $1))
  until console "$2"; do
    if ! kill -0 "$machine" 2>/dev/null && ! console "$2"; then
      guest_said_ok
      fail "the guest ended without '$2'"
    fi
    [ "$SECONDS" -lt "$limit" ] || fail "no '$2': $(tail -n 25 "$work/console")"
    sleep 0.05
  done
}

guest_command -nic none \
  -blockdev "driver=nbd,node-name=disk,export=test,server.type=unix,server.path=$socket,\
reconnect-delay=${RECONNECT_DELAY:-60}" -device virtio-blk-pci,drive=disk
"${command[@]}" >"$work/qemu.log" 2>&1 &
machine=$!
helpers+=("$machine")

for round in 2 4 6; do
  awaits 120 "round $round"
  # Anywhere in its writing; once with requests in the socket for certain.
  sleep "0.$((RANDOM % 5))"
  if [ "$round" = 4 ]; then
    kill -STOP "$server"
    sleep 0.5
  fi
  kill_server
  console ok && fail "the guest was done before the kill"
  # A killed server owns its disk until its last writes have landed. A start waits five seconds for
  # that, which is not always enough on a disk that others use as well.
  ours && flock --wait 60 "$work/disk" true
  # The guest goes on asking meanwhile.
  sleep "0.$((RANDOM % 10))"
  serve
  say "killed and started in round $round"
done
awaits 120 '\(ok\|failed\)'
guest_said_ok
stop_server
ours || exit 0
"$THERMOCLINE" check --config "$config" >"$work/check.log" || fail "check: $(cat "$work/check.log")"
