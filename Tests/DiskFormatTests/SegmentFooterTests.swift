import Base
import DiskFormat
import Testing

@Suite struct SegmentFooterTests {
  private let seed = PoolSeed(somePool)
  private let area = 4096

  /// A closed record of `count` data entries of one block each, and where they end.
  private func record(at position: LogPosition, count: Int) -> (Block, Int) {
    let block = Block()
    RecordHeader.begin(
      block.bytes, position: position, incarnation: 7, previous: 5, epoch: Epoch(1))
    var offset = RecordHeader.entries
    for i in 0..<count {
      let entry = block.bytes + offset
      Entry.begin(entry, .data, count: 1, first: i % 16, target: UInt64(i))
      entry.put32(16, UInt32(i) &* 0x9e37_79b9)
      let entrySeed = Entry.seed(
        pool: seed, incarnation: 7, position: position, previous: 5, ordinal: i)
      Entry.seal(entry, size: Entry.size(.data, count: 1), seed: entrySeed)
      offset += Entry.size(.data, count: 1)
    }
    _ = RecordHeader.close(
      block.bytes, watermark: LogPosition(0), length: 4096 * (count + 1), entryCount: count,
      seed: seed)
    return (block, offset)
  }

  private func footer(end: LogPosition) -> SegmentFooter {
    SegmentFooter(
      index: 3, serial: 9, start: LogPosition(8192), end: end, incarnation: 7,
      watermark: LogPosition(4096), previous: 5, check: 6)
  }

  private func filled(_ counts: [Int]) -> (Block, SegmentFooter) {
    let block = Block()
    var place = SegmentFooter.header
    var position = LogPosition(8192)
    for count in counts {
      let (record, end) = record(at: position, count: count)
      place = SegmentFooter.add(
        record.bytes, entryBytes: end - RecordHeader.entries, to: block.bytes, at: place,
        area: area)!
      position = position + 4096 * (count + 1)
    }
    let footer = footer(end: position)
    footer.encode(into: block.bytes, used: place, seed: seed)
    return (block, footer)
  }

  @Test func roundTrip() throws {
    let counts = [3, 0, 1, 17]
    let (block, footer) = filled(counts)
    let decoded = try SegmentFooter.decode(block.bytes, area: area, index: 3, seed: seed)
    #expect(decoded == footer)
    var place = SegmentFooter.header
    for count in counts {
      let record = try #require(FooterRecord.next(block.bytes, &place))
      #expect(record.length == 4096 * (count + 1) && record.entryCount == count)
      var at = 0
      for i in 0..<count {
        let entry = try #require(
          Entry.decode(record.entries + at, room: record.entryBytes - at, seed: nil))
        #expect(entry.extent == ExtentIndex(UInt64(i)) && entry.first == i % 16)
        #expect(entry.crc(0) == UInt32(i) &* 0x9e37_79b9)
        at += entry.size
      }
      #expect(at == record.entryBytes)
    }
    #expect(FooterRecord.next(block.bytes, &place) == nil)
  }

  @Test func whatDoesNotFitIsLeftOut() {
    let block = Block()
    let (record, end) = record(at: LogPosition(0), count: 100)
    let bytes = end - RecordHeader.entries
    let place = area - bytes - SegmentFooter.recordHeader
    let fits = SegmentFooter.add(
      record.bytes, entryBytes: bytes, to: block.bytes, at: place, area: area)
    #expect(fits == area)
    let tooLate = SegmentFooter.add(
      record.bytes, entryBytes: bytes, to: block.bytes, at: place + 1, area: area)
    #expect(tooLate == nil)
  }

  @Test func anotherPoolOrPlaceIsRefused() {
    let (block, _) = filled([2])
    #expect(throws: FormatError.badChecksum) {
      try SegmentFooter.decode(block.bytes, area: area, index: 3, seed: PoolSeed(otherPool))
    }
    #expect(throws: FormatError.mismatch(what: "footer of segment 3 in segment 4")) {
      try SegmentFooter.decode(block.bytes, area: area, index: 4, seed: seed)
    }
    #expect(throws: FormatError.notFound) {
      try SegmentFooter.decode(Block().bytes, area: area, index: 3, seed: seed)
    }
  }

  @Test func everyFlippedBitInUseIsNoticed() {
    let (block, _) = filled([3, 5])
    let used = Int(UnsafeRawPointer(block.bytes).u32(12))
    let unnoticed = block.unnoticedFlips(0..<used) {
      (try? SegmentFooter.decode($0, area: area, index: 3, seed: seed)) != nil
    }
    #expect(unnoticed == [])
  }
}
