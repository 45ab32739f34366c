#!/bin/bash
# vsock, which virtual machines and their host talk by: the server runs in a virtual machine whose
# kernel has vsock's loopback, and clients copy there and back, also over a handover.
source "$(dirname "$0")/common.bash"
source "$(dirname "$0")/guest.bash"
bounded 300 "$@"
ours || { say "only our server is asked"; exit 0; }

truncate -s 1G "$work/disk"
{
  cat <<'JOB'
mkdir -p /run/t
cat >/tmp/pool.toml <<TOML
memory = "192MiB"
volume = { name = "test", size = "512MiB" }
listen = { unix = "/run/t/sock", vsock = 10809 }
log = { size = "128MiB", staging = "/run/t" }
[[tier]]
name = "only"
devices = [{ path = "/dev/vda", rotational = false }]
TOML
mount -t tmpfs -o mode=0700 none /run/t
/bin/thermocline format --yes --config /tmp/pool.toml >/tmp/log 2>&1 || die "format: $(cat /tmp/log)"
/bin/thermocline serve --config /tmp/pool.toml >/tmp/log 2>&1 &
server=$!
uri=nbd+vsock://1:10809/test
for i in $(seq 60); do
  /bin/nbdinfo --size $uri >/dev/null 2>&1 && break
  kill -0 $server 2>/dev/null || die "the server ended: $(cat /tmp/log)"
  sleep 1
done
[ "$(/bin/nbdinfo --size $uri)" = 536870912 ] || die "not served: $(cat /tmp/log)"
grep -q "serving on vsock:\*:10809" /tmp/log || die "log: $(cat /tmp/log)"
/bin/thermocline status --config /tmp/pool.toml | grep -q "nbd+vsock://2:10809/test" ||
  die "status: $(/bin/thermocline status --config /tmp/pool.toml)"
dd if=/dev/urandom of=/tmp/data bs=1M count=24 2>/dev/null
/bin/nbdcopy --flush /tmp/data $uri || die "nbdcopy: $(cat /tmp/log)"
/bin/thermocline serve --config /tmp/pool.toml --takeover >/tmp/log2 2>&1 &
next=$!
wait $server || die "the replaced server's status is $?: $(cat /tmp/log /tmp/log2)"
/bin/nbdcopy $uri /tmp/back || die "nbdcopy back: $(cat /tmp/log2)"
cmp -n 25165824 /tmp/data /tmp/back || die "the data is another"
kill $next
wait $next || die "the server's status is $?: $(cat /tmp/log2)"
/bin/thermocline check --config /tmp/pool.toml >/tmp/log 2>&1 || die "check: $(cat /tmp/log)"
stop "ok"
JOB
} >"$work/job"
PATH=$(dirname "$THERMOCLINE"):$PATH
make_initramfs "virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  vsock vmw_vsock_virtio_transport_common vsock_loopback" \
  thermocline nbdinfo nbdcopy <"$work/job"
guest_command -m 1024 -drive "file=$work/disk,format=raw,if=virtio,cache=none"
timeout 240 "${command[@]}" || true
guest_said_ok
