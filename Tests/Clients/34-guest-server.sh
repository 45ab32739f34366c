#!/bin/bash
# The server in a virtual machine, by the addresses of one machine: the kernel's client attaches the
# unix socket with four connections and has a filesystem on it; vsock, of which this kernel has the
# loopback, is copied to and back. Both over a handover.
source "$(dirname "$0")/common.bash"
source "$(dirname "$0")/guest.bash"
bounded 300 "$@"
ours || { say "only our server is asked"; exit 0; }

truncate -s 1G "$work/disk"
{
  server_in_guest 512MiB 'listen = { unix = "/run/t/sock", vsock = 10809 }'
  cat <<'JOB'
serve
uri=nbd+vsock://1:10809/test
[ "$(/bin/nbdinfo --size $uri)" = 536870912 ] || die "not served: $(cat /tmp/log*)"
grep -q "serving on vsock:\*:10809" /tmp/log1 || die "log: $(cat /tmp/log*)"
/bin/thermocline status --config /tmp/pool.toml | grep -q "nbd+vsock://2:10809/test" ||
  die "status: $(/bin/thermocline status --config /tmp/pool.toml)"
dd if=/dev/urandom of=/tmp/data bs=1M count=24 2>/dev/null
/bin/nbd-client -unix /run/t/sock /dev/nbd0 -N test -C 4 || die "nbd-client"
/bin/mke2fs -q -F -t ext4 /dev/nbd0 || die "mke2fs"
mount -t ext4 -o discard /dev/nbd0 /mnt || die "mount"
cp /tmp/data /mnt/before && sync || die "writing"
serve --takeover
cp /mnt/before /mnt/after && rm /mnt/before && sync || die "writing over a takeover"
echo 3 >/proc/sys/vm/drop_caches
cmp /tmp/data /mnt/after || die "the file is another"
umount /mnt && /bin/nbd-client -d /dev/nbd0 || die "detaching"
dmesg | grep -i "nbd0.*error\|I/O error" && die "the kernel saw an error"
echo "GUEST: four connections to the unix socket, over a takeover"

/bin/nbdcopy --flush /tmp/data $uri || die "nbdcopy: $(cat /tmp/log*)"
serve --takeover
/bin/nbdcopy $uri /tmp/back || die "nbdcopy back: $(cat /tmp/log*)"
cmp -n 25165824 /tmp/data /tmp/back || die "the data is another"
end_server
stop "ok"
JOB
} >"$work/job"
make_initramfs "virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  crc16 crc32c_generic libcrc32c mbcache jbd2 ext4 nbd
  vsock vmw_vsock_virtio_transport_common vsock_loopback" \
  "$THERMOCLINE" nbdinfo nbdcopy nbd-client mke2fs <"$work/job"
guest_command -m 1024 -drive "file=$work/disk,format=raw,if=virtio,cache=none"
timeout 240 "${command[@]}" || true
guest_said_ok
