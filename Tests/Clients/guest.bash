# What the tests with a virtual machine share: Debian's cloud kernel and busybox, an initramfs with
# a job in it, QEMU. To be read after common.bash.
#
#   source "$(dirname "$0")/guest.bash"
#   make_initramfs "virtio_pci nbd …" nbd-client mke2fs <<'JOB' … JOB
#   guest_command -nic user,model=virtio-net-pci
#   timeout 240 "${command[@]}" || true
#   guest_said_ok
#
# The two packages are downloaded once with apt-get (exactly these two, unpacked, never installed)
# into $CLIENT_TEST_CACHE. The machine is emulated: no KVM is needed.

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

# in_guest PROGRAM: copies a program of this machine (a name or a path) and its libraries to /bin.
in_guest() {
  local program library
  program=$(command -v "$1") || fail "$1 is not installed"
  install -D "$program" "$guest/bin/${1##*/}"
  for library in $(ldd "$program" | grep -o '/[^ ]*'); do
    [ -e "$guest$library" ] || install -D "$library" "$guest$library"
  done
}

# make_initramfs MODULES PROGRAM…: a system that runs the job on standard input, a shell script.
# The job has busybox's programs in PATH, the named ones in /bin, and the functions `stop` and
# `die`.
make_initramfs() {
  local modules name
  modules=$(echo $1)
  shift
  fetch_packages
  guest=$work/guest
  mkdir -p "$guest"/{bin,box,dev,proc,sys,tmp,mnt,lib/modules,etc,run,var}
  cp "$cache/root/bin/busybox" "$guest/bin/busybox"
  ln -s busybox "$guest/bin/sh"
  ln -s /proc/mounts "$guest/etc/mtab"
  for name in "$@"; do in_guest "$name"; done
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
# Paths where busybox has a program of the same name, which its shell would prefer.
stop() { echo "GUEST: \$*"; busybox poweroff -f; busybox sleep 60; }
die() { stop "failed: \$*"; }
. /job
INIT
  cat >"$guest/job"
  chmod +x "$guest/init"
  (cd "$guest" && find . | "$cache/root/bin/busybox" cpio -o -H newc 2>/dev/null) |
    gzip -1 >"$work/initramfs"
}

# server_in_guest SIZE LINE…: the part of a job that formats a volume of that size on /dev/vda, with
# these lines in its configuration, and says how to `serve [--takeover]` it and to `end_server`.
server_in_guest() {
  local size=$1
  shift
  printf 'cat >/tmp/pool.toml <<TOML\nmemory = "192MiB"\n'
  printf '%s\n' "volume = { name = \"test\", size = \"$size\" }" "$@" \
    'log = { size = "128MiB", staging = "/run/t" }' '[[tier]]' 'name = "only"' \
    'devices = [{ path = "/dev/vda", rotational = false }]' TOML
  cat <<'JOB'
mkdir -p /run/t
mount -t tmpfs -o mode=0700 none /run/t
/bin/thermocline format --yes --config /tmp/pool.toml >/tmp/log 2>&1 || die "format: $(cat /tmp/log)"
server=
number=0
# serve [--takeover]: the next server, whose log is /tmp/log$number; the one before is gone at the
# end.
serve() {
  number=$((number + 1))
  before=$server
  /bin/thermocline serve --config /tmp/pool.toml $1 >/tmp/log$number 2>&1 &
  server=$!
  if [ -n "$before" ]; then
    wait $before || die "the replaced server's status is $?: $(cat /tmp/log*)"
  fi
  for i in $(seq 100); do
    grep -q "serving on" /tmp/log$number && return
    kill -0 $server 2>/dev/null || die "the server ended: $(cat /tmp/log$number)"
    usleep 100000
  done
  die "not served: $(cat /tmp/log$number)"
}
end_server() {
  kill $server
  wait $server || die "the server's status is $?: $(cat /tmp/log$number)"
  /bin/thermocline check --config /tmp/pool.toml >/tmp/log 2>&1 || die "check: $(cat /tmp/log)"
}
JOB
}

# guest_command [OPTIONS OF QEMU]: the command that boots it, as an array; what it says comes to
# $work/console.
guest_command() {
  local kernel
  kernel=$(find "$cache/root/boot" -name 'vmlinuz-*' | head -n 1)
  say "booting $(basename "$kernel")"
  : >"$work/console"
  command=(qemu-system-x86_64 -accel tcg -cpu max -m 512 -smp 2 -display none -no-reboot
    -kernel "$kernel" -initrd "$work/initramfs" -append "console=ttyS0 quiet panic=-1"
    -serial "file:$work/console" -monitor none "$@")
}

# Fails unless the job ended well.
guest_said_ok() {
  grep -a '^GUEST' "$work/console" | tr -d '\r' || true
  grep -aq '^GUEST: ok' "$work/console" || fail "the guest said: $(tail -n 25 "$work/console")"
}
