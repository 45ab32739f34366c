/// Who uses a device or file now: filesystems, swap, loop devices, mapped devices. The locks that
/// opening takes are what really keeps others away; this names the user before they are tried.
package enum DeviceUse {
  /// Clauses such as `is mounted on /srv`; empty when nobody is seen to use it.
  package static func reasons(_ path: String) -> [String] {
    let facts = PathFacts(path)
    var reasons = mounts(of: facts).map { "is mounted on \($0)" }
    if swapAreas().contains(where: { PathFacts($0).isSame(as: facts) }) {
      reasons.append("is in use as swap")
    }
    if facts.kind == .regularFile {
      reasons += loopDevices(over: facts).map { "is behind the loop device \($0)" }
    }
    if let number = facts.deviceNumber {
      reasons += SystemFile.names(in: "/sys/dev/block/\(number)/holders").map {
        "is part of the mapped device \($0)"
      }
    }
    return reasons
  }

  /// One line of `/proc/self/mountinfo` (proc(5)).
  package struct Mount: Equatable {
    /// `major:minor`.
    package var device: String
    package var point: String
    /// What was mounted; for filesystems over several devices the only mention of one.
    package var source: String

    package init?(_ line: Substring) {
      let fields = line.split(separator: " ").map(String.init)
      guard let dash = fields.firstIndex(of: "-"), dash >= 6, fields.count > dash + 2 else {
        return nil
      }
      device = fields[2]
      point = Mount.unescape(fields[4])
      source = Mount.unescape(fields[dash + 2])
    }

    /// Blanks and backslashes stand as three octal digits.
    static func unescape(_ text: String) -> String {
      var bytes: [UInt8] = []
      var rest = Array(text.utf8)[...]
      while let byte = rest.first {
        let digits = rest.dropFirst().prefix(3)
        if byte == UInt8(ascii: "\\"), digits.count == 3,
          let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
        {
          bytes.append(value)
          rest = rest.dropFirst(4)
        } else {
          bytes.append(byte)
          rest = rest.dropFirst()
        }
      }
      return String(decoding: bytes, as: UTF8.self)
    }
  }

  /// Where the device, a partition of it, or the disk it is a partition of, is mounted.
  private static func mounts(of facts: PathFacts) -> [String] {
    guard let number = facts.deviceNumber, let place = sysfsPlace(number) else { return [] }
    let lines = (SystemFile.read("/proc/self/mountinfo") ?? "").split(separator: "\n")
    return lines.compactMap { Mount($0) }.filter { mount in
      if PathFacts(mount.source).isSame(as: facts) { return true }
      guard let other = sysfsPlace(mount.device) else { return false }
      return other == place || other.hasPrefix(place + "/") || place.hasPrefix(other + "/")
    }.map(\.point)
  }

  /// Partitions lie in the directory of their disk.
  private static func sysfsPlace(_ number: String) -> String? {
    SystemFile.resolved("/sys/dev/block/\(number)")
  }

  private static func swapAreas() -> [String] {
    (SystemFile.read("/proc/swaps") ?? "").split(separator: "\n").dropFirst().compactMap {
      $0.split(separator: " ").first.map { Mount.unescape(String($0)) }
    }
  }

  private static func loopDevices(over facts: PathFacts) -> [String] {
    SystemFile.names(in: "/sys/block").filter { $0.hasPrefix("loop") }.compactMap { name in
      guard let file = SystemFile.read("/sys/block/\(name)/loop/backing_file") else { return nil }
      let path = file.split(separator: "\n").first.map(String.init) ?? ""
      return PathFacts(path).isSame(as: facts) ? "/dev/\(name)" : nil
    }
  }
}
