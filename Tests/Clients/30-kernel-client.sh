#!/bin/bash
# The kernel's own NBD client: a small virtual machine attaches the volume over TCP with four
# connections, makes a filesystem, writes, trims, detaches, attaches again and compares.
#
# Debian's cloud kernel and busybox are downloaded once with apt-get (exactly these two packages,
# unpacked, never installed) into $CLIENT_TEST_CACHE. The machine is emulated: no KVM is needed.
source "$(dirname "$0")/common.bash"
bounded 420 "$@"

cache=${CLIENT_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/thermocline-clients}

# The one kernel that Debian's meta package asks for; nothing when apt has no lists.
kernel_package() {
  apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*-amd64\)$/\1/p' | head -n 1
}

# Downloads the two packages into the folder; false when not both came.
download() {
  local image
  image=$(kernel_package)
  [ -n "$image" ] || return 1
  rm -f "$cache"/*.deb
  say "downloading $image and busybox-static"
  (cd "$cache" && apt-get -qq download "$image" busybox-static >"$work/apt.log" 2>&1) || return 1
  [ "$(find "$cache" -maxdepth 1 -name '*.deb' | wc -l)" = 2 ]
}

fetch_packages() {
  mkdir -p "$cache"
  [ -e "$cache/complete" ] && return
  # Lists that are missing, or older than what the archive still has, are fetched anew.
  if ! download; then
    local as_root=()
    if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi
    "${as_root[@]}" apt-get -qq update >"$work/apt.log" 2>&1 && download ||
      fail "no kernel to boot: $(tail -n 3 "$work/apt.log")"
  fi
  # What an earlier, broken-off run left would mix kernels and modules.
  rm -rf "$cache/root"
  local package
  for package in "$cache"/*.deb; do
    dpkg -x "$package" "$cache/root"
    rm "$package"
  done
  touch "$cache/complete"
}

# in_guest PROGRAM: copies a program of this machine and its libraries.
in_guest() {
  local program library
  program=$(command -v "$1") || fail "$1 is not installed"
  install -D "$program" "$guest/bin/$1"
  for library in $(ldd "$program" | grep -o '/[^ ]*'); do
    [ -e "$guest$library" ] || install -D "$library" "$guest$library"
  done
}

make_initramfs() {
  guest=$work/guest
  mkdir -p "$guest"/{bin,box,dev,proc,sys,tmp,mnt,lib/modules,etc,run,var}
  cp "$cache/root/bin/busybox" "$guest/bin/busybox"
  ln -s busybox "$guest/bin/sh"
  ln -s /proc/mounts "$guest/etc/mtab"
  in_guest nbd-client
  in_guest mke2fs
  in_guest e2fsck
  local name
  for name in $modules; do
    find "$cache/root/lib/modules" -name "$name.ko" -exec cp {} "$guest/lib/modules/" \;
  done
  cat >"$guest/init" <<INIT
#!/bin/sh
exec >/dev/console 2>&1
export PATH=/bin:/box
/bin/busybox --install -s /box
mount -t devtmpfs none /dev; mount -t proc none /proc; mount -t sysfs none /sys
# Twice, so that their order does not matter; what the kernel has built in is not there.
for m in $modules $modules; do insmod /lib/modules/\$m.ko 2>/dev/null; done
port=$port
. /job
INIT
  cat >"$guest/job" <<'JOB'
# Paths where busybox has a program of the same name, which its shell would prefer.
stop() { echo "GUEST: $*"; busybox poweroff -f; busybox sleep 60; }
die() { stop "failed: $*"; }
attach() {
  /bin/nbd-client 10.0.2.2 $port /dev/nbd0 -N test -C 4 || die "nbd-client"
  for i in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(cat /sys/block/nbd0/size)" != 0 ] && return
    sleep 1
  done
  die "the device has no size"
}
detach() { /bin/nbd-client -d /dev/nbd0 || die "nbd-client -d"; sleep 1; }

ip link set lo up
ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up || die "no network"
attach
queue=/sys/block/nbd0/queue
echo "GUEST: attached, $(($(cat /sys/block/nbd0/size) / 2048)) MiB, \
$(cat $queue/discard_max_bytes) bytes of discard, write cache: $(cat $queue/write_cache)"
[ "$(cat $queue/write_cache)" = "write back" ] || die "the kernel would not flush"

# A filesystem with files of all sizes.
/bin/mke2fs -q -F -t ext4 /dev/nbd0 || die "mke2fs"
mount -t ext4 /dev/nbd0 /mnt || die "mount"
mkdir /mnt/d
for i in $(seq 1 200); do dd if=/dev/urandom of=/mnt/d/$i bs=$((i * 37)) count=5 2>/dev/null; done
dd if=/dev/urandom of=/mnt/big bs=1M count=48 2>/dev/null || die "writing"
sync
(cd /mnt && find . -type f | sort | xargs sha256sum) >/tmp/sums
rm /mnt/d/1*; grep -v ' ./d/1' /tmp/sums >/tmp/kept
fstrim /mnt || die "fstrim"
umount /mnt || die "umount"
detach
echo "GUEST: detached"

attach
/bin/e2fsck -fn /dev/nbd0 || die "e2fsck"
mount -t ext4 /dev/nbd0 /mnt || die "mount again"
(cd /mnt && sha256sum -c /tmp/kept >/tmp/found 2>&1) || die "files differ: $(grep -v OK /tmp/found)"
echo "GUEST: $(wc -l </tmp/kept) files compared"
umount /mnt
# Raw and direct: sectors of 512 bytes, not aligned to blocks.
dd if=/dev/urandom of=/tmp/odd bs=512 count=333 2>/dev/null
dd if=/tmp/odd of=/dev/nbd0 bs=512 seek=1999 oflag=direct 2>/dev/null || die "direct write"
dd if=/dev/nbd0 of=/tmp/back bs=512 skip=1999 count=333 iflag=direct 2>/dev/null ||
  die "direct read"
cmp /tmp/odd /tmp/back || die "sectors differ"
detach
stop "ok"
JOB
  chmod +x "$guest/init"
  (cd "$guest" && find . | "$cache/root/bin/busybox" cpio -o -H newc 2>/dev/null) |
    gzip -1 >"$work/initramfs"
}

fetch_packages
modules="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover
 net_failover virtio_net crc16 crc32c_generic libcrc32c mbcache jbd2 ext4 nbd"
modules=$(echo $modules)
port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
tcp=127.0.0.1:$port
ours || probe_uri=nbd://$tcp
volume_size=1GiB
tier only disk 2GiB
format
serve
make_initramfs

kernel=$(find "$cache/root/boot" -name 'vmlinuz-*' | head -n 1)
say "booting $(basename "$kernel")"
timeout 240 qemu-system-x86_64 -accel tcg -cpu max -m 512 -smp 2 -display none -no-reboot \
  -kernel "$kernel" -initrd "$work/initramfs" -append "console=ttyS0 quiet panic=-1" \
  -nic user,model=virtio-net-pci -serial "file:$work/console" -monitor none || true
grep -a '^GUEST' "$work/console" | tr -d '\r' || true
grep -aq '^GUEST: ok' "$work/console" || fail "the guest said: $(tail -n 25 "$work/console")"
say "the server still answers: $(nbdinfo --size "${probe_uri:-$uri}") bytes"
stop_server
