package import Base

/// The last part of a full segment: all its entries once more, so that a recovery need not walk
/// its records. It is only believed where everything it tells is durable; without one, or where it
/// does not fit, the records are walked.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | magic, check of bytes 8 to the end of the entries |
/// | 8 | 4 + 4 | index of the segment, bytes in use |
/// | 16 | 8 | serial of the segment |
/// | 24 | 8 + 8 | positions: of the first record, one past the last |
/// | 40 | 8 | incarnation of the records |
/// | 48 | 8 | durable watermark when the last one was closed |
/// | 56 | 4 + 4 | check of the header before the first record, of the last record's header |
/// | 64 | | records: length 4, entries 2, bytes of entries 2, check of the header 4; the entries |
///
/// 64 KiB of an 8 MiB segment take the entries of random writes of one block (45 KiB), and of a
/// flush after each of them (33 KiB).
package struct SegmentFooter: Equatable, Sendable {
  package var index: UInt32
  package var serial: UInt64
  package var start: LogPosition
  package var end: LogPosition
  package var incarnation: UInt64
  package var watermark: LogPosition
  package var previous: UInt32
  package var check: UInt32

  static let magic: UInt32 = 0x4653_4354
  /// Where the records begin.
  package static let header = 64
  package static let recordHeader = 12

  package init(
    index: UInt32, serial: UInt64, start: LogPosition, end: LogPosition, incarnation: UInt64,
    watermark: LogPosition, previous: UInt32, check: UInt32
  ) {
    self.index = index
    self.serial = serial
    self.start = start
    self.end = end
    self.incarnation = incarnation
    self.watermark = watermark
    self.previous = previous
    self.check = check
  }

  /// Writes the header before the records, which end at `used`.
  package func encode(into p: UnsafeMutableRawPointer, used: Int, seed: PoolSeed) {
    p.put32(8, index)
    p.put32(12, UInt32(used))
    p.put64(16, serial)
    p.put64(24, start.rawValue)
    p.put64(32, end.rawValue)
    p.put64(40, incarnation)
    p.put64(48, watermark.rawValue)
    p.put32(56, previous)
    p.put32(60, check)
    p.put32(0, Self.magic)
    p.put32(4, Checksum.crc32c(p + 8, used - 8, seed: seed.rawValue))
  }

  /// Reads the header of a footer in `area` bytes.
  package static func decode(
    _ p: UnsafeRawPointer, area: Int, index: UInt32, seed: PoolSeed
  ) throws(FormatError) -> SegmentFooter {
    guard area >= header, p.u32(0) == magic else { throw .notFound }
    let used = Int(p.u32(12))
    guard used >= header, used <= area,
      p.u32(4) == Checksum.crc32c(p + 8, used - 8, seed: seed.rawValue)
    else { throw .badChecksum }
    guard p.u32(8) == index else {
      throw .mismatch(what: "footer of segment \(p.u32(8)) in segment \(index)")
    }
    return SegmentFooter(
      index: index, serial: p.u64(16), start: LogPosition(p.u64(24)),
      end: LogPosition(p.u64(32)), incarnation: p.u64(40), watermark: LogPosition(p.u64(48)),
      previous: p.u32(56), check: p.u32(60))
  }

  /// Puts a record's description and entries at `place`; returns where the next one goes, nil when
  /// it does not fit below `area`. `record` is its closed header block.
  package static func add(
    _ record: UnsafeRawPointer, entryBytes: Int, to p: UnsafeMutableRawPointer, at place: Int,
    area: Int
  ) -> Int? {
    guard place + recordHeader + entryBytes <= area else { return nil }
    let target = p + place
    target.put32(0, UInt32(RecordHeader.length(record)))
    target.put16(4, UInt16(RecordHeader.entryCount(record)))
    target.put16(6, UInt16(entryBytes))
    target.put32(8, RecordHeader.check(record))
    (target + recordHeader).copyMemory(
      from: record + RecordHeader.entries, byteCount: entryBytes)
    return place + recordHeader + entryBytes
  }
}

/// One record as a footer tells it.
package struct FooterRecord {
  /// Bytes of the record in the log.
  package let length: Int
  package let entryCount: Int
  /// The check of its header.
  package let check: UInt32
  package let entries: UnsafeRawPointer
  package let entryBytes: Int

  /// The record described at `place` of a decoded footer, nil at its end or when it does not fit;
  /// `place` moves on.
  package static func next(_ footer: UnsafeRawPointer, _ place: inout Int) -> FooterRecord? {
    let used = Int(footer.u32(12))
    guard place + SegmentFooter.recordHeader <= used else { return nil }
    let p = footer + place
    let bytes = Int(p.u16(6))
    guard place + SegmentFooter.recordHeader + bytes <= used else { return nil }
    place += SegmentFooter.recordHeader + bytes
    return FooterRecord(
      length: Int(p.u32(0)), entryCount: Int(p.u16(4)), check: p.u32(8),
      entries: p + SegmentFooter.recordHeader, entryBytes: bytes)
  }
}
