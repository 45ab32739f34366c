package import Base
import DeviceIO
import DiskFormat

/// What the log covers: blocks whose homes may be older, or half written, and are not held against
/// the pool.
package struct LogCover {
  private var blocks = Set<UInt64>()
  /// Ranges of blocks; after `finish` in order and apart.
  private var ranges: [Range<UInt64>] = []

  package init() {}

  /// A block is covered.
  package mutating func add(_ block: BlockIndex) { blocks.insert(block.rawValue) }

  /// `count` blocks are covered.
  package mutating func add(_ start: BlockIndex, count: UInt64) {
    let first = start.rawValue
    if count > 0 { ranges.append(first..<first + min(count, .max - first)) }
  }

  /// Nothing more is added.
  package mutating func finish() {
    ranges.sort { $0.lowerBound < $1.lowerBound }
    var merged: [Range<UInt64>] = []
    for range in ranges {
      if let last = merged.last, range.lowerBound <= last.upperBound {
        merged[merged.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        merged.append(range)
      }
    }
    ranges = merged
  }

  /// The blocks of an extent that are covered, one bit each.
  package func blocks(of extent: ExtentIndex) -> UInt16 {
    let first = extent.block(0).rawValue
    // The first range that ends behind the extent's start.
    var low = 0
    var high = ranges.count
    while low < high {
      let middle = (low + high) / 2
      if ranges[middle].upperBound <= first { low = middle + 1 } else { high = middle }
    }
    var mask: UInt16 = 0
    for i in 0..<Size.blocksPerExtent {
      let block = first + UInt64(i)
      while low < ranges.count, ranges[low].upperBound <= block { low += 1 }
      let isInRange = low < ranges.count && ranges[low].contains(block)
      if isInRange || !blocks.isEmpty && blocks.contains(block) { mask |= 1 << UInt16(i) }
    }
    return mask
  }
}

/// Blocks to be read and compared with their checksums, gathered until a number of extents can be
/// read at once: one operation an extent, from its first wanted block to its last.
struct ExtentReads {
  private struct Piece {
    var extent: ExtentIndex
    var slot: SlotAddress
    /// The wanted blocks, one bit each; not empty.
    var blocks: UInt16
    var checks: [16 of UInt32]

    var first: Int { blocks.trailingZeroBitCount }
    var end: Int { 16 - blocks.leadingZeroBitCount }
  }

  /// Extents read at once: 2 MiB.
  private static var most: Int { 32 }
  private let buffer = AlignedBuffer(32 * Size.extent)
  private var pieces: [Piece] = []

  mutating func add(
    _ extent: ExtentIndex, _ slot: SlotAddress, _ blocks: UInt16, _ record: ExtentRecord,
    _ io: SyncIO, _ report: inout CheckReport
  ) {
    guard blocks != 0 else { return }
    var piece = Piece(
      extent: extent, slot: slot, blocks: blocks, checks: [16 of UInt32](repeating: 0))
    for b in 0..<Size.blocksPerExtent { piece.checks[b] = record.crc(b) }
    pieces.append(piece)
    if pieces.count == Self.most { perform(io, &report) }
  }

  /// Reads and compares what was gathered.
  mutating func perform(_ io: SyncIO, _ report: inout CheckReport) {
    let results = io.attempt(
      pieces.enumerated().map { i, piece in
        operation(piece, piece.first..<piece.end, into: buffer.base + i * Size.extent)
      })
    for (i, piece) in pieces.enumerated() {
      let memory = buffer.base + i * Size.extent
      for b in piece.first..<piece.end where piece.blocks & (1 << UInt16(b)) != 0 {
        let block = memory + (b - piece.first) * Size.block
        var isRead = results[i] >= 0
        if !isRead {
          // One bad sector is not the fault of its neighbours.
          isRead = io.attempt([operation(piece, b..<b + 1, into: block)])[0] >= 0
        }
        report.blocksVerified += 1
        if isRead, Checksum.crc32c(block, Size.block) == piece.checks[b] { continue }
        report.note(
          "volume byte \(piece.extent.block(b).rawValue << 12), in slot \(piece.slot.slot) of "
            + "device \(piece.slot.device.rawValue), "
            + (isRead ? "does not match its checksum" : "cannot be read"))
      }
    }
    pieces.removeAll(keepingCapacity: true)
  }

  private func operation(
    _ piece: Piece, _ blocks: Range<Int>, into memory: UnsafeMutableRawPointer
  ) -> DeviceOperation {
    DeviceOperation(
      .read, device: piece.slot.device,
      offset: piece.slot.byteOffset + UInt64(blocks.lowerBound * Size.block),
      length: blocks.count * Size.block, memory: memory, token: 0)
  }
}
