import Base
import DiskFormat
import Testing

/// 4 KiB of memory that a test encodes into and damages. It is never freed: a pointer to it may
/// outlive the value.
struct Block {
  let bytes: UnsafeMutableRawPointer

  init() {
    bytes = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
    bytes.zero(4096)
  }

  func flip(_ bit: Int) {
    let byte = UnsafeRawPointer(bytes).u8(bit >> 3)
    bytes.put8(bit >> 3, byte ^ 1 << UInt8(bit & 7))
  }

  /// The bits among `range` of bytes whose single flips `accepts` does not notice.
  func unnoticedFlips(_ range: Range<Int>, _ accepts: (UnsafeRawPointer) -> Bool) -> [Int] {
    (range.lowerBound * 8..<range.upperBound * 8).filter { bit in
      flip(bit)
      defer { flip(bit) }
      return accepts(bytes)
    }
  }

  /// Overwrites `count` bytes from `start`, at random places.
  func scramble(from start: Int, count: Int, _ random: inout Random) {
    for _ in 0..<count {
      bytes.put8(start + random.next(below: 4096 - start), UInt8(truncatingIfNeeded: random.next()))
    }
  }
}

let somePool = Identity(high: 0x0102_0304_0506_0708, low: 0x1112_1314_1516_1718)
let otherPool = Identity(high: 0x0102_0304_0506_0708, low: 0x1112_1314_1516_1719)
