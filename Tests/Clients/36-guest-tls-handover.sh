#!/bin/bash
# Encrypted connections handed over: the server runs in a virtual machine whose kernel can go on
# with a TLS session. Copies go on over two handovers, with each version and cipher that it may be;
# where the kernel cannot, the connection is closed and everything else goes on.
source "$(dirname "$0")/common.bash"
source "$(dirname "$0")/guest.bash"
bounded 420 "$@"
ours || { say "only our server is asked"; exit 0; }

truncate -s 1G "$work/disk"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=localhost \
  -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" \
  -keyout "$work/key.pem" -out "$work/certificate.pem" 2>/dev/null
{
  # The machine's clock is this one's.
  printf 'mkdir -p /tmp/pki\ncat >/tmp/key.pem <<PEM\n%s\nPEM\n' "$(cat "$work/key.pem")"
  printf 'cat >/tmp/pki/ca-cert.pem <<PEM\n%s\nPEM\n' "$(cat "$work/certificate.pem")"
  server_in_guest 8MiB 'listen = { unix = "/run/t/sock", tcp = "127.0.0.1:10809" }' \
    'tls = { mode = "required", certificate = "/tmp/pki/ca-cert.pem", key = "/tmp/key.pem" }'
  cat <<'JOB'
ip link set lo up
uri="nbds://127.0.0.1/test?tls-certificates=/tmp/pki"
serve
[ "$(/bin/nbdinfo --size "$uri")" = 8388608 ] || die "not served: $(cat /tmp/log*)"
dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null

sed 's/name = "test"/name = "wrong"/' /tmp/pool.toml >/tmp/wrong.toml
# over NAME POLICY: a stream that is kept open over two handovers, the second of them from kernel to
# kernel and after one that failed, and under load; all of it must be there.
over() {
  echo "GUEST: $1: $2"
  printf '[overrides]\n%s\n' "$2" >/tmp/policy
  {
    head -c 2000001 /tmp/data
    sleep 3
    tail -c +2000002 /tmp/data | head -c 3000000
    usleep 200000
    tail -c +5000002 /tmp/data
  } | GNUTLS_SYSTEM_PRIORITY_FILE=/tmp/policy /bin/nbdcopy --flush - "$uri" 2>/tmp/said &
  copy=$!
  sleep 1
  serve --takeover
  # A successor that fails: this one goes on with what the kernel encrypts.
  /bin/thermocline serve --config /tmp/wrong.toml --takeover >/tmp/wrong.log 2>&1 &&
    die "it serves another volume"
  grep -q "volume.name" /tmp/wrong.log || die "another failure: $(cat /tmp/wrong.log)"
  grep -q "this server goes on" /tmp/log$number || die "not asked: $(cat /tmp/log$number)"
  for i in $(seq 100); do
    /bin/thermocline status --config /tmp/pool.toml >/dev/null 2>&1 && break
    usleep 100000
  done
  sleep 1
  serve --takeover
  wait $copy || die "$1: nbdcopy: $(cat /tmp/said /tmp/log*)"
  grep -h "could not be handed over" /tmp/log* && die "$1: $(cat /tmp/log*)"
  /bin/nbdcopy --connections=1 "$uri" /tmp/back || die "$1: nbdcopy back: $(cat /tmp/log*)"
  cmp -n 8388608 /tmp/data /tmp/back || die "$1: the data is another"
  rm /tmp/back
}
over "TLS 1.3, AES-256" ""
over "TLS 1.3, ChaCha20" "tls-disabled-cipher = AES-256-GCM
tls-disabled-cipher = AES-128-GCM
tls-disabled-cipher = AES-128-CCM
tls-disabled-cipher = AES-256-CCM"

# Four at once, under load: TLS 1.2, AES-128.
printf '[overrides]\ndisabled-version = tls1.3\ntls-disabled-cipher = AES-256-GCM\n' >/tmp/policy
for c in AES-256-CCM CHACHA20-POLY1305 AES-256-CBC; do
  echo "tls-disabled-cipher = $c" >>/tmp/policy
done
GNUTLS_SYSTEM_PRIORITY_FILE=/tmp/policy /bin/nbdcopy --connections=4 --flush /tmp/data "$uri" \
  2>/tmp/said &
copy=$!
sleep 1
serve --takeover
wait $copy || die "nbdcopy: $(cat /tmp/said /tmp/log*)"
/bin/nbdcopy --connections=1 "$uri" /tmp/back || die "nbdcopy back: $(cat /tmp/log*)"
cmp -n 8388608 /tmp/data /tmp/back || die "the data is another"
grep -h "closed" /tmp/log* && die "connections ended in an unusual way"

# A cipher that the kernel does not know: that connection ends, with a line; the server goes on.
printf '[overrides]\ndisabled-version = tls1.3\n' >/tmp/policy
for c in AES-256-GCM AES-128-GCM CHACHA20-POLY1305 AES-128-CCM AES-256-CCM; do
  echo "tls-disabled-cipher = $c" >>/tmp/policy
done
sleep 4 | GNUTLS_SYSTEM_PRIORITY_FILE=/tmp/policy /bin/nbdcopy - "$uri" 2>/dev/null &
sleep 2
serve --takeover
grep -q "could not be handed over" /tmp/log$((number - 1)) ||
  die "closed without a line: $(cat /tmp/log*)"
[ "$(/bin/nbdinfo --size "$uri")" = 8388608 ] || die "not served: $(cat /tmp/log*)"

end_server
stop "ok"
JOB
} >"$work/job"
make_initramfs "virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  tls aead ctr gf128mul ghash-generic gcm libchacha chacha_generic libpoly1305 poly1305_generic
  chacha20poly1305" \
  "$THERMOCLINE" nbdinfo nbdcopy <"$work/job"
guest_command -m 1024 -drive "file=$work/disk,format=raw,if=virtio,cache=none"
timeout 400 "${command[@]}" || true
guest_said_ok
