import Glibc

/// What the kernel says about this process' memory.
package enum ProcessMemory {
  /// Bytes of resident pages, shared ones included; 0 where `/proc` cannot be read.
  package static func residentBytes() -> UInt64 {
    let file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return 0 }
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: 256)
    let count = Glibc.read(file, &bytes, bytes.count)
    guard count > 0 else { return 0 }
    return residentBytes(
      statm: String(decoding: bytes[..<count], as: UTF8.self), pageSize: UInt64(getpagesize()))
  }

  /// The second number of `statm` (proc(5)) in bytes.
  package static func residentBytes(statm: String, pageSize: UInt64) -> UInt64 {
    let numbers = statm.split(separator: " ")
    guard numbers.count > 1, let pages = UInt64(numbers[1]) else { return 0 }
    return pages * pageSize
  }
}
