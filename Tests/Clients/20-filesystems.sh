#!/bin/bash
# Filesystems: ext4, xfs and btrfs on the volume, through nbdfuse and a loop device. A real tree is
# copied in while the server is killed and started again; the filesystem must not notice. Then the
# server is stopped and started, the filesystem checked, and every file compared.
#
# The kill is invisible because nbdkit's retry filter stands between nbdfuse and the server: it
# connects again and repeats what was not answered. What was answered is never repeated, so a write
# that the server acknowledged and then forgot shows as a difference.
source "$(dirname "$0")/common.bash"
bounded 900 "$@"

tree=${TREE:-/usr/include}
volume_size=2GiB
tier only disk 3GiB
format

# attach: sets $device, a loop device on the volume.
attach() {
  mkdir -p "$work/fuse"
  nbdfuse "$work/fuse" --command nbdkit -s --exit-with-parent --filter=retry nbd \
    "uri=$uri" retries=40 retry-delay=1 retry-exponential=no 2>>"$work/nbdfuse.log" &
  nbdfuse_pid=$!
  mounts+=("$work/fuse")
  for _ in $(seq 100); do
    [ -f "$work/fuse/nbd" ] && break
    sleep 0.1
  done
  [ -f "$work/fuse/nbd" ] || fail "nbdfuse: $(cat "$work/nbdfuse.log")"
  loop_device "$work/fuse/nbd"
  device=$loop
}

detach() {
  forget_loop "$device"
  sync
  fusermount3 -u "$work/fuse" 2>/dev/null || umount "$work/fuse"
  wait "$nbdfuse_pid" || true
}

check_filesystem() {
  case $1 in
  ext4) e2fsck -fn "$device" ;;
  xfs) xfs_repair -n "$device" ;;
  btrfs) btrfs check --readonly "$device" ;;
  esac >"$work/check.txt" 2>&1 || fail "$1 is damaged: $(cat "$work/check.txt")"
}

say "the tree: $tree, $(du -sm "$tree" | cut -f1) MB, $(find "$tree" -type f | wc -l) files"
(cd "$tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/hashes"
mkdir -p "$work/mnt"
for kind in ext4 xfs btrfs; do
  serve
  attach
  case $kind in
  ext4) mkfs.ext4 -q -F "$device" ;;
  xfs) mkfs.xfs -q -f "$device" ;;
  btrfs) mkfs.btrfs -q -f "$device" 2>/dev/null ;;
  esac
  mount "$device" "$work/mnt"
  mounts+=("$work/mnt")

  cp -a "$tree" "$work/mnt/tree" &
  copy=$!
  helpers+=("$copy")
  kills=0
  # What the page cache holds back goes out while the server dies and comes back.
  for pause in 1 0.5 2; do
    sleep "$pause"
    sync -f "$work/mnt" &
    sync_pid=$!
    sleep 0.3
    kill_server
    kills=$((kills + 1))
    serve
    wait "$sync_pid" || fail "$kind: sync met an error"
  done
  wait "$copy" || fail "$kind: the copy met an error"
  sync -f "$work/mnt" || fail "$kind: sync met an error"
  (cd "$work/mnt/tree" && sha256sum --quiet -c "$work/hashes") || fail "$kind: files differ"
  umount "$work/mnt"
  check_filesystem "$kind"
  detach

  # Once more without any cache in between: after an orderly stop, and after a kill.
  for how in stop_server kill_server; do
    "$how"
    serve
    attach
    check_filesystem "$kind"
    mount "$device" "$work/mnt"
    (cd "$work/mnt/tree" && sha256sum --quiet -c "$work/hashes") ||
      fail "$kind: files differ after $how"
    if [ "$how" = stop_server ]; then
      rm -rf "$work/mnt/tree/x86_64-linux-gnu"
      fstrim "$work/mnt" || fail "$kind: fstrim"
      cp -a "$tree/." "$work/mnt/tree/"
    fi
    umount "$work/mnt"
    check_filesystem "$kind"
    detach
  done
  stop_server
  say "$kind: $kills kills unnoticed, clean, all hashes equal"
done
