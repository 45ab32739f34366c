internal import CPlatform
import Glibc

/// Who holds the `flock` of a file, as far as the kernel tells (`/proc/locks`, proc(5)).
package enum LockHolder {
  /// A phrase such as `process 4452 (thermocline)`; nil when no process is seen to hold it.
  static func describe(_ facts: stat) -> String? {
    guard let pid = process(facts) else { return nil }
    if hasEnded(pid) { return "process \(pid), which has ended, but whose last I/O has not" }
    let name = text("/proc/\(pid)/comm").prefix { $0 != "\n" }
    return name.isEmpty ? "process \(pid)" : "process \(pid) (\(name))"
  }

  /// Whether a process holds it that was killed: the kernel lets go when its I/O has ended.
  static func isGone(_ facts: stat) -> Bool { process(facts).map(hasEnded) ?? false }

  private static func hasEnded(_ pid: Int32) -> Bool { kill(pid, 0) != 0 && errno == ESRCH }

  private static func process(_ facts: stat) -> Int32? {
    var major: UInt32 = 0
    var minor: UInt32 = 0
    platform_split_device(UInt64(facts.st_dev), &major, &minor)
    return process(
      in: text("/proc/locks"), major: major, minor: minor, inode: UInt64(facts.st_ino))
  }

  /// The first holder of a lock on the file in a text of lines such as
  /// `1: FLOCK  ADVISORY  WRITE 4452 fd:01:1234 0 EOF`. Those who wait have an arrow before the
  /// kind; a holder in another process namespace has no number.
  package static func process(
    in locks: String, major: UInt32, minor: UInt32, inode: UInt64
  ) -> Int32? {
    func hex(_ number: UInt32) -> String {
      let digits = String(number, radix: 16)
      return digits.utf8.count < 2 ? "0" + digits : digits
    }
    let file = "\(hex(major)):\(hex(minor)):\(inode)"
    for line in locks.split(separator: "\n") {
      let fields = line.split(separator: " ")
      guard fields.count >= 6, fields[1] == "FLOCK", fields[5] == file,
        let pid = Int32(fields[4]), pid > 0
      else { continue }
      return pid
    }
    return nil
  }

  private static func text(_ path: String) -> String {
    guard let stream = fopen(path, "re") else { return "" }
    defer { fclose(stream) }
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 4096)
    while bytes.count < 1 << 20 {
      let count = fread(&piece, 1, piece.count, stream)
      if count == 0 { break }
      bytes += piece[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
