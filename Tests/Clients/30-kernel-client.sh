#!/bin/bash
# The kernel's own NBD client: a small virtual machine attaches the volume over TCP with four
# connections, makes a filesystem, writes, trims, detaches, attaches again and compares; then the
# volume grows under it, by a takeover. In the end it attaches encrypted, with a certificate.
source "$(dirname "$0")/common.bash"
source "$(dirname "$0")/guest.bash"
bounded 420 "$@"

port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
tcp=127.0.0.1:$port
ours || probe_uri=nbd://$tcp
volume_size=1GiB
tier only disk 2GiB
format
# The certificate of both ends, and its own authority.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=localhost \
  -addext "subjectAltName=DNS:localhost" -keyout "$work/key.pem" -out "$work/certificate.pem" \
  2>/dev/null
if ours; then
  printf '[tls]\nmode = "allowed"\nkey = "%s"\ncertificate = "%s"\nauthority = "%s"\n' \
    "$work/key.pem" "$work/certificate.pem" "$work/certificate.pem" >>"$config"
fi
serve

{
  printf 'cat >/tmp/key.pem <<PEM\n%s\nPEM\n' "$(cat "$work/key.pem")"
  printf 'cat >/tmp/certificate.pem <<PEM\n%s\nPEM\n' "$(cat "$work/certificate.pem")"
  echo "port=$port"
  echo "grows=$(! ours || echo yes)"
  cat <<'JOB'
# attach OPTION…: /dev/nbd0 is the volume.
attach() {
  /bin/nbd-client 10.0.2.2 $port /dev/nbd0 -N test "$@" || die "nbd-client"
  for i in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(cat /sys/block/nbd0/size)" != 0 ] && return
    sleep 1
  done
  die "the device has no size"
}
detach() { /bin/nbd-client -d /dev/nbd0 || die "nbd-client -d"; sleep 1; }

ip link set lo up
ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up || die "no network"
attach -C 4
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

attach -C 4
/bin/e2fsck -fn /dev/nbd0 || die "e2fsck"
mount -t ext4 /dev/nbd0 /mnt || die "mount again"
(cd /mnt && sha256sum -c /tmp/kept >/tmp/found 2>&1) || die "files differ: $(grep -v OK /tmp/found)"
echo "GUEST: $(wc -l </tmp/kept) files compared"
umount /mnt

# The volume grows under a mounted filesystem.
if [ -n "$grows" ]; then
mount -t ext4 /dev/nbd0 /mnt || die "mount to grow"
echo "GUEST: may grow"
for i in $(seq 60); do
  [ "$(/bin/nbdinfo --size nbd://10.0.2.2:$port/test)" = 2147483648 ] && break
  sleep 1
done
uri=nbd://10.0.2.2:$port/test
! /bin/thermocline grow-device /dev/nbd1 $uri || die "a device that is not attached has grown"
/bin/thermocline grow-device /dev/nbd0 $uri || die "grow-device"
[ "$(cat /sys/block/nbd0/size)" = 4194304 ] || die "it has $(cat /sys/block/nbd0/size) sectors"
/bin/resize2fs /dev/nbd0 >/tmp/resize 2>&1 || die "resize2fs: $(cat /tmp/resize)"
dd if=/dev/urandom of=/tmp/tail bs=1M count=1 2>/dev/null
echo "GUEST: grown to $(df -m /mnt | tail -n 1 | { read -r a b c; echo "$b"; }) MiB"
(cd /mnt && sha256sum -c /tmp/kept >/tmp/found 2>&1) || die "files differ after growth"
umount /mnt
/bin/e2fsck -fn /dev/nbd0 || die "e2fsck of the larger one"
dd if=/tmp/tail of=/dev/nbd0 bs=1M seek=2047 oflag=direct 2>/dev/null || die "write at the end"
# last_is_tail: the last MiB is what was written.
last_is_tail() {
  dd if=/dev/nbd0 of=/tmp/back bs=1M skip=2047 count=1 iflag=direct 2>/dev/null || die "read there"
  cmp /tmp/tail /tmp/back || die "the last MiB differs"
}
last_is_tail
fi
# Raw and direct: sectors of 512 bytes, not aligned to blocks.
dd if=/dev/urandom of=/tmp/odd bs=512 count=333 2>/dev/null
dd if=/tmp/odd of=/dev/nbd0 bs=512 seek=1999 oflag=direct 2>/dev/null || die "direct write"
dd if=/dev/nbd0 of=/tmp/back bs=512 skip=1999 count=333 iflag=direct 2>/dev/null ||
  die "direct read"
cmp /tmp/odd /tmp/back || die "sectors differ"
detach

if [ -n "$grows" ]; then
attach -certfile /tmp/certificate.pem -keyfile /tmp/key.pem -cacertfile /tmp/certificate.pem \
  -tlshostname localhost
last_is_tail
dd if=/dev/urandom of=/tmp/tail bs=1M count=1 2>/dev/null
dd if=/tmp/tail of=/dev/nbd0 bs=1M seek=2047 conv=fsync 2>/dev/null || die "write under TLS"
last_is_tail
echo "GUEST: encrypted, read and written"
detach
fi
stop "ok"
JOB
} >"$work/job"
make_initramfs "virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover
  net_failover virtio_net crc16 crc32c_generic libcrc32c mbcache jbd2 ext4 nbd" \
  nbd-client mke2fs e2fsck resize2fs nbdinfo "$THERMOCLINE" <"$work/job"
guest_command -nic user,model=virtio-net-pci
# The host's part: another server takes over when the guest says so, with a larger volume. The
# guest's four connections go on.
timeout 240 "${command[@]}" &
machine=$!
helpers+=("$machine")
if ours; then
  until grep -aq 'GUEST: may grow' "$work/console"; do
    kill -0 "$machine" 2>/dev/null || break
    sleep 0.2
  done
  sed -i '/^\[volume\]/,/^\[/s/^size = .*/size = "2GiB"/' "$config"
  takeover
fi
wait "$machine" || true
guest_said_ok
! ours || grep -q "CN=localhost" "$work/server.log" || fail "nobody came with the certificate"
say "the server still answers: $(nbdinfo --size "${probe_uri:-$uri}") bytes"
stop_server
