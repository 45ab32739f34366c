package import Base

/// A segment's first block: which positions it holds. Written together with the segment's first
/// append; where ranges overlap, the higher serial wins.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | magic, check |
/// | 8 | 4 | index of the segment in the log |
/// | 16 | 8 + 8 | serial, position of its first record |
/// | 32 | 8 | incarnation that opened it |
package struct SegmentHeader: Equatable, Sendable {
  package var index: UInt32
  package var serial: UInt64
  package var start: LogPosition
  package var incarnation: UInt64

  static let magic: UInt32 = 0x4753_4354

  package init(index: UInt32, serial: UInt64, start: LogPosition, incarnation: UInt64) {
    self.index = index
    self.serial = serial
    self.start = start
    self.incarnation = incarnation
  }

  package func encode(into bytes: UnsafeMutableRawPointer, seed: PoolSeed) {
    bytes.zero(Layout.metadataBlock)
    bytes.put32(8, index)
    bytes.put64(16, serial)
    bytes.put64(24, start.rawValue)
    bytes.put64(32, incarnation)
    Frame.seal(bytes, magic: Self.magic, seed: seed)
  }

  package static func decode(
    _ bytes: UnsafeRawPointer, index: UInt32, seed: PoolSeed
  ) throws(FormatError) -> SegmentHeader {
    try Frame.verify(bytes, magic: magic, seed: seed)
    guard bytes.u32(8) == index else {
      throw .mismatch(what: "header of segment \(bytes.u32(8)) in segment \(index)")
    }
    return SegmentHeader(
      index: index, serial: bytes.u64(16), start: LogPosition(bytes.u64(24)),
      incarnation: bytes.u64(32))
  }
}

/// A record: a header block, then the payload of its *data* entries, block by block. At most
/// 256 KiB, begins on a log block, crosses neither the ring's nor a segment's end.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | magic, check of the closed header |
/// | 8 | 8 | position |
/// | 16 | 8 | incarnation |
/// | 24 | 4 | check of the previous record's header: the chain |
/// | 28 | 4 | epoch |
/// | 32 | 8 | durable watermark when it was closed |
/// | 40 | 4 + 4 | length in bytes, entries; both 0 while open |
/// | 128 | | entries |
///
/// While it is open, entries count one by one: each has its own check (`EntryChain`).
package enum RecordHeader {
  package static let magic: UInt32 = 0x4352_4354
  package static let entries = 128
  /// The longest record; also the size of an append.
  package static let maxLength = 256 << 10

  /// Begins an open record in its log block.
  package static func begin(
    _ p: UnsafeMutableRawPointer, position: LogPosition, incarnation: UInt64, previous: UInt32,
    epoch: Epoch
  ) {
    p.zero(Layout.metadataBlock)
    p.put64(8, position.rawValue)
    p.put64(16, incarnation)
    p.put32(24, previous)
    p.put32(28, epoch.rawValue)
  }

  /// Closes it; returns the check that the next record's header carries.
  package static func close(
    _ p: UnsafeMutableRawPointer, watermark: LogPosition, length: Int, entryCount: Int,
    seed: PoolSeed
  ) -> UInt32 {
    p.put64(32, watermark.rawValue)
    p.put32(40, UInt32(length))
    p.put32(44, UInt32(entryCount))
    return Frame.seal(p, magic: magic, seed: seed)
  }

  package static func position(_ p: UnsafeRawPointer) -> LogPosition { LogPosition(p.u64(8)) }
  package static func incarnation(_ p: UnsafeRawPointer) -> UInt64 { p.u64(16) }
  package static func previous(_ p: UnsafeRawPointer) -> UInt32 { p.u32(24) }
  package static func epoch(_ p: UnsafeRawPointer) -> Epoch { Epoch(p.u32(28)) }
  package static func watermark(_ p: UnsafeRawPointer) -> LogPosition { LogPosition(p.u64(32)) }
  package static func length(_ p: UnsafeRawPointer) -> Int { Int(p.u32(40)) }
  package static func entryCount(_ p: UnsafeRawPointer) -> Int { Int(p.u32(44)) }
  package static func check(_ p: UnsafeRawPointer) -> UInt32 { p.u32(4) }

  /// Whether a closed record's header is the one expected at `position` after the header whose
  /// check is `previous`, of an incarnation not below `incarnation`.
  package static func isValid(
    _ p: UnsafeRawPointer, position: LogPosition, previous: UInt32, incarnation: UInt64,
    logBlock: Int, seed: PoolSeed
  ) -> Bool {
    guard p.u32(0) == magic, p.u64(8) == position.rawValue, p.u32(24) == previous,
      p.u64(16) >= incarnation, p.u32(4) == Frame.checksum(p, seed: seed)
    else { return false }
    let length = Int(p.u32(40))
    return length >= logBlock && length <= maxLength && length % logBlock == 0
      && p.u32(44) <= UInt32(Layout.metadataBlock / 16)
  }
}

/// What an entry says.
package enum EntryKind: UInt8, Sendable {
  /// Blocks whose payload follows the header.
  case data = 1
  /// A whole extent that was written straight to its slot.
  case placed = 2
  /// A range that reads as zeros, deallocated.
  case deallocated = 3
  /// A range that reads as zeros and keeps its reservation.
  case zeroed = 4
  /// Blocks that are lost.
  case lost = 5
}

/// One decoded entry, a view into its header block.
package struct EntryView {
  package let kind: EntryKind
  /// data, placed, lost: the extent; else 0.
  package let extent: ExtentIndex
  /// data, lost: first block in the extent, and how many.
  package let first: Int
  package let count: Int
  /// ranges: first block and number of blocks.
  package let rangeStart: BlockIndex
  package let rangeCount: UInt64
  /// placed: where.
  package let slot: SlotAddress
  /// data, placed: where the CRCs lie in the header block.
  package let crcs: UnsafeRawPointer
  /// Bytes in the header block.
  package let size: Int

  package func crc(_ i: Int) -> UInt32 { crcs.u32(4 * i) }
}

/// Entries of a record: encoding, checking, walking.
///
///     0  check   4  kind   5  count   6  first   8  extent or first block
///     data: 16  CRCs     placed: 16  slot, 24  16 CRCs     ranges: 16  block count
package enum Entry {
  /// Bytes of an entry in the header block.
  package static func size(_ kind: EntryKind, count: Int = 0) -> Int {
    switch kind {
    case .data: 16 + 4 * count
    case .placed: 24 + 4 * Size.blocksPerExtent
    case .deallocated, .zeroed: 24
    case .lost: 16
    }
  }

  /// The seed of an entry's check: pool, incarnation, record position, the previous header's
  /// check and the entry's ordinal, else a lap-old entry at the same place looks true.
  package static func seed(
    pool: PoolSeed, incarnation: UInt64, position: LogPosition, previous: UInt32, ordinal: Int
  ) -> UInt32 {
    var words: (UInt64, UInt64, UInt32, UInt32) = (
      incarnation.littleEndian, position.rawValue.littleEndian, previous.littleEndian,
      UInt32(truncatingIfNeeded: ordinal).littleEndian
    )
    return withUnsafeBytes(of: &words) {
      Checksum.crc32c($0.baseAddress!, 24, seed: pool.rawValue)
    }
  }

  /// The fixed part of an entry; its CRCs, slot or count are put by the caller before `seal`.
  package static func begin(
    _ p: UnsafeMutableRawPointer, _ kind: EntryKind, count: Int, first: Int, target: UInt64
  ) {
    p.put32(4, UInt32(kind.rawValue) | UInt32(count) << 8 | UInt32(first) << 16)
    p.put64(8, target)
  }

  /// Completes an entry: from now on it counts.
  package static func seal(_ p: UnsafeMutableRawPointer, size: Int, seed: UInt32) {
    p.put32(0, Checksum.crc32c(p + 4, size - 4, seed: seed))
  }

  /// The entry at `offset` of a header block, nil when there is none that is whole and sensible.
  package static func decode(
    _ header: UnsafeRawPointer, offset: Int, seed: UInt32
  ) -> EntryView? {
    guard offset >= RecordHeader.entries else { return nil }
    return decode(header + offset, room: Layout.metadataBlock - offset, seed: seed)
  }

  /// The entry at `p`, of at most `room` bytes; without a seed its check, which belongs to its
  /// place in a record, is left aside: whoever copied it checks the copy.
  package static func decode(
    _ p: UnsafeRawPointer, room: Int, seed: UInt32?
  ) -> EntryView? {
    guard room >= 16 else { return nil }
    guard let kind = EntryKind(rawValue: p.u8(4)) else { return nil }
    let count = Int(p.u8(5))
    let first = Int(p.u8(6))
    let size = size(kind, count: count)
    guard size <= room else { return nil }
    if let seed, p.u32(0) != Checksum.crc32c(p + 4, size - 4, seed: seed) { return nil }
    let isRange = kind == .deallocated || kind == .zeroed
    if !isRange {
      guard count >= 1, first + count <= Size.blocksPerExtent,
        p.u64(8) < Layout.maxBlocks / UInt64(Size.blocksPerExtent)
      else { return nil }
    } else {
      guard p.u64(8) < Layout.maxBlocks, p.u64(16) >= 1,
        p.u64(16) <= Layout.maxBlocks - p.u64(8)
      else { return nil }
    }
    return EntryView(
      kind: kind, extent: ExtentIndex(isRange ? 0 : p.u64(8)), first: first, count: count,
      rangeStart: BlockIndex(isRange ? p.u64(8) : 0), rangeCount: isRange ? p.u64(16) : 0,
      slot: kind == .placed ? SlotAddress(rawValue: p.u64(16)) : .none,
      crcs: kind == .placed ? p + 24 : p + 16, size: size)
  }
}

/// The first page of a staging ring: whose it is and how far the log is durable. Its records
/// follow at *position mod ring size*.
///
///     0  magic  4  check of 8…63   8  pool   24  ring id   32  incarnation   40  ring size
///     64  durable watermark   72  end of the last closed record      (plain stores, 8 bytes each)
package enum RingControl {
  package static let magic: UInt32 = 0x4b52_4354
  package static let bytes = 4096

  /// Makes the control page of a ring whose log is durable, and closed, up to `watermark`.
  package static func begin(
    _ p: UnsafeMutableRawPointer, pool: Identity, ring: UInt64, incarnation: UInt64, size: Int,
    watermark: LogPosition
  ) {
    p.zero(bytes)
    p.putIdentity(8, pool)
    p.put64(24, ring)
    p.put64(32, incarnation)
    p.put64(40, UInt64(size))
    p.put64(64, watermark.rawValue)
    p.put64(72, watermark.rawValue)
    p.put32(4, Checksum.crc32c(p + 8, 56, seed: PoolSeed(pool).rawValue))
    p.put32(0, magic)
  }

  /// Whether this is the control page of that ring; `size` is that of the data part.
  package static func isValid(
    _ p: UnsafeRawPointer, pool: Identity, ring: UInt64, size: Int
  ) -> Bool {
    p.u32(0) == magic && p.u32(4) == Checksum.crc32c(p + 8, 56, seed: PoolSeed(pool).rawValue)
      && p.identity(8) == pool && p.u64(24) == ring && p.u64(40) == UInt64(size)
  }

  package static func incarnation(_ p: UnsafeRawPointer) -> UInt64 { p.u64(32) }
  package static func watermark(_ p: UnsafeRawPointer) -> LogPosition { LogPosition(p.u64(64)) }
  package static func closedEnd(_ p: UnsafeRawPointer) -> LogPosition { LogPosition(p.u64(72)) }
  package static func setWatermark(_ p: UnsafeMutableRawPointer, _ w: LogPosition) {
    p.put64(64, w.rawValue)
  }
  package static func setClosedEnd(_ p: UnsafeMutableRawPointer, _ w: LogPosition) {
    p.put64(72, w.rawValue)
  }
}
