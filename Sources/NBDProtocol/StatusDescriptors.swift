/// Turns the engine's description of a range into the descriptors of a status chunk, in place.
package enum StatusDescriptors {
  /// Converts `count` pairs of native 64-bit words (bytes of length, flags) at `memory` into
  /// descriptors of `style` at the same place: 8 bytes each for structured replies, 16 for
  /// extended ones. Equal neighbours become one, empty ones vanish.
  ///
  /// With `limit`, only the first descriptor is kept and cut to so many bytes (REQ_ONE). A length
  /// beyond 32 bits ends a list of structured descriptors at a multiple of 4096: the client asks
  /// on from there ("`NBD_REPLY_TYPE_BLOCK_STATUS`").
  ///
  /// Returns how many descriptors there are.
  package static func encode(
    _ memory: UnsafeMutableRawPointer, count: Int, style: ReplyStyle, only limit: UInt64? = nil
  ) -> Int {
    let most: UInt64 = style == .extended ? .max : 0xffff_f000
    var written = 0
    var read = 0
    while read < count {
      var (length, flags) = pair(memory, read)
      read += 1
      while read < count {
        let next = pair(memory, read)
        guard next.flags == flags || next.length == 0 else { break }
        let (sum, overflow) = length.addingReportingOverflow(next.length)
        guard !overflow else { break }
        length = sum
        read += 1
      }
      if length == 0 { continue }
      if let limit { length = min(length, limit) }
      let isCut = length > most
      length = min(length, most)
      put(length, flags, at: written, memory, style)
      written += 1
      if isCut || limit != nil { break }
    }
    return written
  }

  /// Bytes of one descriptor on the wire.
  package static func size(_ style: ReplyStyle) -> Int { style == .extended ? 16 : 8 }

  private static func pair(
    _ memory: UnsafeMutableRawPointer, _ i: Int
  ) -> (length: UInt64, flags: UInt64) {
    (
      memory.loadUnaligned(fromByteOffset: 16 * i, as: UInt64.self),
      memory.loadUnaligned(fromByteOffset: 16 * i + 8, as: UInt64.self)
    )
  }

  /// Writing never overtakes reading: descriptor `i` ends where pair `i` does, or before.
  private static func put(
    _ length: UInt64, _ flags: UInt64, at i: Int, _ memory: UnsafeMutableRawPointer,
    _ style: ReplyStyle
  ) {
    if style == .extended {
      memory.putBig64(16 * i, length)
      memory.putBig64(16 * i + 8, flags)
    } else {
      memory.putBig32(8 * i, UInt32(truncatingIfNeeded: length))
      memory.putBig32(8 * i + 4, UInt32(truncatingIfNeeded: flags))
    }
  }
}
