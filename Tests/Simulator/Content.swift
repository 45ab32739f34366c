import Base

/// What clients write: every aligned 16 bytes name their version and place, so that a wrong read
/// names its origin.
///
/// The volume is a row of 8-byte words. An even word holds version (24 bits), block (24 bits) and
/// the pair's number in the block (8 bits), disguised by the seed's key; the odd word after it
/// is a checksum of the even one. Version 0 and every zeroing version are zeros.
struct Content: Sendable {
  private let key: UInt64

  init(seed: UInt64) {
    var random = Random(seed: seed ^ 0x436f_6e74_656e_7473)
    key = random.next() >> 8
  }

  /// No byte of a version is zero: a cell of one byte, too, is told from zeros.
  private static let ones: UInt64 = 0x0101_0101_0101_0101

  @inline(__always)
  private func even(_ word: UInt64, _ version: UInt32) -> UInt64 {
    let plain = UInt64(version) << 32 | (word >> 9 & 0xff_ffff) << 8 | word >> 1 & 0xff
    return Content.spread(plain ^ key)
  }

  /// 56 bits, seven to a byte, the lowest bit of each byte set.
  @inline(__always)
  private static func spread(_ bits: UInt64) -> UInt64 {
    var x = bits & 0xfff_ffff | (bits & 0xff_ffff_f000_0000) << 4
    x = x & 0x3fff_0000_3fff | (x & 0xfff_c000_0fff_c000) << 2
    x = x & 0x7f_007f_007f_007f | (x & 0x3f80_3f80_3f80_3f80) << 1
    return x << 1 | ones
  }

  /// What was spread.
  private static func gather(_ word: UInt64) -> UInt64 {
    var x = word >> 1 & 0x7f7f_7f7f_7f7f_7f7f
    x = x & 0x7f_007f_007f_007f | (x & 0x7f00_7f00_7f00_7f00) >> 1
    x = x & 0x3fff_0000_3fff | (x & 0x3fff_0000_3fff_0000) >> 2
    return x & 0xfff_ffff | (x & 0xfff_ffff_0000_0000) >> 4
  }

  @inline(__always)
  private func check(_ even: UInt64) -> UInt64 {
    let z = (even ^ even >> 29) &* 0xbf58_476d_1ce4_e5b9
    return (z ^ z >> 32) | Content.ones
  }

  @inline(__always)
  private func word(_ number: UInt64, _ version: UInt32) -> UInt64 {
    let first = even(number, version)
    return number & 1 == 0 ? first : check(first)
  }

  private func byte(_ offset: UInt64, _ version: UInt32) -> UInt8 {
    UInt8(truncatingIfNeeded: word(offset >> 3, version) >> (offset & 7 &* 8))
  }

  /// Writes version `version` of the bytes at `offset` of the volume to `memory`.
  func fill(
    _ memory: UnsafeMutableRawPointer, offset: UInt64, length: Int, version: UInt32
  ) {
    var at = 0
    while at < length && (offset &+ UInt64(at)) & 7 != 0 {
      memory.put8(at, byte(offset &+ UInt64(at), version))
      at += 1
    }
    while at + 8 <= length {
      memory.put64(at, word((offset &+ UInt64(at)) >> 3, version))
      at += 8
    }
    while at < length {
      memory.put8(at, byte(offset &+ UInt64(at), version))
      at += 1
    }
  }

  /// Whether `memory` holds exactly what `fill` writes.
  func matches(
    _ memory: UnsafeRawPointer, offset: UInt64, length: Int, version: UInt32
  ) -> Bool {
    var at = 0
    while at < length && (offset &+ UInt64(at)) & 7 != 0 {
      if memory.u8(at) != byte(offset &+ UInt64(at), version) { return false }
      at += 1
    }
    while at + 8 <= length {
      if memory.u64(at) != word((offset &+ UInt64(at)) >> 3, version) { return false }
      at += 8
    }
    while at < length {
      if memory.u8(at) != byte(offset &+ UInt64(at), version) { return false }
      at += 1
    }
    return true
  }

  /// Whether `memory` is all zeros.
  static func isZero(_ memory: UnsafeRawPointer, _ length: Int) -> Bool {
    var at = 0
    while at + 8 <= length {
      if memory.u64(at) != 0 { return false }
      at += 8
    }
    while at < length {
      if memory.u8(at) != 0 { return false }
      at += 1
    }
    return true
  }

  /// Says in words what `memory`, read from `offset`, really holds.
  func origin(_ memory: UnsafeRawPointer, offset: UInt64, length: Int) -> String {
    if Content.isZero(memory, length) { return "zeros" }
    var at = Int((16 &- offset & 15) & 15)
    var found: [String] = []
    var garbage = 0
    while at + 16 <= length {
      let first = memory.u64(at)
      if first == 0 && memory.u64(at + 8) == 0 {
        if found.last != "zeros" && found.count < 4 { found.append("zeros") }
      } else if memory.u64(at + 8) == check(first) {
        let plain = Content.gather(first) ^ key
        let block = plain >> 8 & 0xff_ffff
        let here = (offset &+ UInt64(at)) >> 12
        let place = block == here ? "" : " of block \(block)"
        let text = "version \(plain >> 32)\(place)"
        if found.last != text && found.count < 4 { found.append(text) }
      } else {
        garbage += 1
      }
      at += 16
    }
    if garbage > 0 { found.append("\(garbage * 16) bytes of garbage") }
    return found.isEmpty ? "\(length) bytes that name no version" : found.joined(separator: ", ")
  }
}

/// How the volume is cut into cells, the grain of the reference: every block at the same places,
/// some of them odd, so that ragged requests are told apart at a bounded price.
///
/// The blocks may be spread: of every `spread` extents of the volume the first is used, so that a
/// few extents touch many pages of the table.
struct CellLayout: Sendable {
  /// Offsets in a block where cells begin; the first is 0.
  let edges: [Int]
  /// Blocks in use, counted without the gaps.
  let blocks: Int
  let spread: Int

  init(edges: [Int], blocks: Int, spread: Int) {
    invariant(edges.first == 0, "S1: the first cell begins with its block")
    self.edges = edges
    self.blocks = blocks
    self.spread = spread
  }

  var perBlock: Int { edges.count }
  var count: Int { blocks * edges.count }
  /// Bytes of the volume.
  var volumeSize: UInt64 { end(before: count) }

  /// The byte offset in the volume where a cell begins.
  func offset(_ cell: Int) -> UInt64 {
    let (block, part) = cell.quotientAndRemainder(dividingBy: edges.count)
    let extent = (block >> 4) * spread
    return UInt64(extent << 16 | (block & 15) << 12 | edges[part])
  }

  func length(_ cell: Int) -> Int {
    let part = cell % edges.count
    return (part + 1 == edges.count ? 4096 : edges[part + 1]) - edges[part]
  }

  /// The byte offset where the cell before this one ends.
  func end(before cell: Int) -> UInt64 { offset(cell - 1) + UInt64(length(cell - 1)) }

  /// The first cell that begins at or after a byte offset of the volume.
  func firstCell(from offset: UInt64) -> Int {
    let (extent, gap) = Int(offset >> 16).quotientAndRemainder(dividingBy: spread)
    if gap != 0 { return min(count, ((extent + 1) << 4) * edges.count) }
    let block = extent << 4 | Int(offset >> 12 & 15)
    let rest = Int(offset & 4095)
    let part = edges.firstIndex { $0 >= rest } ?? edges.count
    return min(count, block * edges.count + part)
  }
}
