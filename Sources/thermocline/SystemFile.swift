import CPlatform
import Glibc

/// Small files in which the kernel says things, and facts about paths.
enum SystemFile {
  /// The whole text of a file below `/proc` or `/sys`; nil when it cannot be read.
  static func read(_ path: String) -> String? {
    guard let stream = fopen(path, "re") else { return nil }
    defer { fclose(stream) }
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 16 << 10)
    while true {
      let count = fread(&piece, 1, piece.count, stream)
      if count == 0 { break }
      bytes += piece[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// The names in a directory; empty when it cannot be read.
  static func names(in path: String) -> [String] {
    guard let directory = opendir(path) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// The path without links; nil when there is nothing at it.
  static func resolved(_ path: String) -> String? {
    guard let result = realpath(path, nil) else { return nil }
    defer { free(result) }
    return String(cString: result)
  }

  /// This boot of the machine, as random(4) tells it.
  static func bootID() -> String {
    (read("/proc/sys/kernel/random/boot_id") ?? "").filter { !$0.isWhitespace }
  }
}

/// What stands at a path.
struct PathFacts: Equatable {
  enum Kind { case missing, blockDevice, regularFile, other }
  let kind: Kind
  /// Of the file or device itself, whatever its name: two paths with equal identities are one.
  let identity: (device: UInt64, number: UInt64)
  /// Bytes of a regular file.
  let size: UInt64

  init(_ path: String) {
    var status = stat()
    guard stat(path, &status) == 0 else {
      kind = .missing
      identity = (0, 0)
      size = 0
      return
    }
    switch status.st_mode & S_IFMT {
    case S_IFBLK: kind = .blockDevice
    case S_IFREG: kind = .regularFile
    default: kind = .other
    }
    identity = kind == .blockDevice
      ? (UInt64.max, UInt64(status.st_rdev)) : (UInt64(status.st_dev), UInt64(status.st_ino))
    size = UInt64(max(0, status.st_size))
  }

  static func == (a: PathFacts, b: PathFacts) -> Bool {
    a.kind == b.kind && a.identity == b.identity && a.size == b.size
  }

  func isSame(as other: PathFacts) -> Bool {
    kind != .missing && other.kind != .missing && identity == other.identity
  }

  /// `major:minor` of a block device, as `/sys/dev/block` names it.
  var deviceNumber: String? {
    guard kind == .blockDevice else { return nil }
    var major: UInt32 = 0
    var minor: UInt32 = 0
    platform_split_device(identity.number, &major, &minor)
    return "\(major):\(minor)"
  }
}
