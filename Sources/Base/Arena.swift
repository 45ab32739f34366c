/// The server's memory: one region, made at start, cut up once. Nothing is returned to it.
///
/// The region's owner (the server, or the simulator) makes it, may register it with the kernel
/// for direct I/O, and frees it after everything cut from it is gone.
package struct Arena: ~Copyable {
  package let base: UnsafeMutableRawPointer
  package let capacity: Int
  package private(set) var used = 0

  /// An arena over memory of the caller's, zero-filled and aligned to 4 KiB.
  package init(base: UnsafeMutableRawPointer, capacity: Int) {
    invariant(UInt(bitPattern: base) & 4095 == 0, "B1: an arena begins on a page")
    self.base = base
    self.capacity = capacity
  }

  /// The next `count` bytes, aligned to 4 KiB when they fill a page or more, to 64 bytes else.
  /// The memory plan was checked before, so running out is a programmer's error.
  package mutating func take(_ count: Int) -> UnsafeMutableRawPointer {
    let alignment = count >= 4096 ? 4096 : 64
    let start = (used + alignment - 1) & ~(alignment - 1)
    invariant(start + count <= capacity, "B2: the memory plan covers what is taken")
    used = start + count
    return base + start
  }

  /// Room for `count` values of a trivial type, zero-filled.
  package mutating func takeArray<T: BitwiseCopyable>(
    of type: T.Type, count: Int
  ) -> UnsafeMutablePointer<T> {
    let raw = take(max(1, count) * MemoryLayout<T>.stride)
    return raw.bindMemory(to: T.self, capacity: max(1, count))
  }

  /// What `take` would use for `count` bytes, at most: for memory plans.
  package static func cost(_ count: Int) -> Int { (count + 4095) & ~4095 + 4096 }
}
