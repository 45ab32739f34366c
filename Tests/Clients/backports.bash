# QEMU's tools from Debian's backports, which speak extended headers. To be read after common.bash.
# One package, qemu-utils, is downloaded once with apt-get into $CLIENT_TEST_CACHE and unpacked,
# never installed.
#
#   source "$(dirname "$0")/backports.bash"
#   fetch_qemu
#   "$qemu/qemu-img" …

backports=${CLIENT_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/thermocline-clients}/backports

# Sets $qemu to the folder of its programs.
fetch_qemu() {
  qemu=$backports/root/usr/bin
  [ ! -e "$backports/complete" ] || return 0
  rm -rf "$backports"
  mkdir -p "$backports"/{lists,cache/archives/partial}
  echo "deb http://deb.debian.org/debian bookworm-backports main" >"$backports/sources.list"
  # Lists and caches of its own: those of the machine stay as they are.
  cat >"$backports/apt.conf" <<CONF
Dir::Etc::SourceList "$backports/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$backports/lists/";
Dir::Cache "$backports/cache/";
CONF
  [ "$(id -u)" != 0 ] || echo 'APT::Sandbox::User "root";' >>"$backports/apt.conf"
  say "downloading qemu-utils of bookworm-backports"
  (export APT_CONFIG=$backports/apt.conf
    cd "$backports" && apt-get -qq update && apt-get -qq download qemu-utils/bookworm-backports
  ) >"$work/apt.log" 2>&1 || fail "no qemu-utils of backports: $(tail -n 3 "$work/apt.log")"
  dpkg -x "$backports"/qemu-utils_*.deb "$backports/root"
  touch "$backports/complete"
}
