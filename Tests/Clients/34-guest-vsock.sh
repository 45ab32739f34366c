#!/bin/bash
# vsock, which virtual machines and their host talk by: the server runs in a virtual machine whose
# kernel has vsock's loopback, and clients copy there and back, also over a handover.
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
/bin/nbdcopy --flush /tmp/data $uri || die "nbdcopy: $(cat /tmp/log*)"
serve --takeover
/bin/nbdcopy $uri /tmp/back || die "nbdcopy back: $(cat /tmp/log*)"
cmp -n 25165824 /tmp/data /tmp/back || die "the data is another"
end_server
stop "ok"
JOB
} >"$work/job"
make_initramfs "virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  vsock vmw_vsock_virtio_transport_common vsock_loopback" \
  "$THERMOCLINE" nbdinfo nbdcopy <"$work/job"
guest_command -m 1024 -drive "file=$work/disk,format=raw,if=virtio,cache=none"
timeout 240 "${command[@]}" || true
guest_said_ok
