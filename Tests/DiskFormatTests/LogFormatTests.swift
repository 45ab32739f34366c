import Base
import DiskFormat
import Testing

@Suite struct SegmentHeaderTests {
  private let header = SegmentHeader(
    index: 3, serial: 1 << 60 + 5, start: LogPosition(1 << 50 + 4096), incarnation: 12)
  private let seed = PoolSeed(somePool)

  private func encoded() -> Block {
    let block = Block()
    header.encode(into: block.bytes, seed: seed)
    return block
  }

  @Test func roundTrip() throws {
    let block = encoded()
    #expect(try SegmentHeader.decode(block.bytes, index: 3, seed: seed) == header)
    #expect(throws: FormatError.badChecksum) {
      try SegmentHeader.decode(block.bytes, index: 3, seed: PoolSeed(otherPool))
    }
    #expect(throws: FormatError.mismatch(what: "header of segment 3 in segment 4")) {
      try SegmentHeader.decode(block.bytes, index: 4, seed: seed)
    }
    #expect(throws: FormatError.notFound) {
      try SegmentHeader.decode(Block().bytes, index: 0, seed: seed)
    }
  }

  @Test func everyFlippedBitIsNoticed() {
    let unnoticed = encoded().unnoticedFlips(0..<4096) {
      (try? SegmentHeader.decode($0, index: 3, seed: seed)) != nil
    }
    #expect(unnoticed == [])
  }
}

@Suite struct RecordHeaderTests {
  private let seed = PoolSeed(somePool)
  private let position = LogPosition(1 << 41 + 8192)

  private func closed(length: Int = 12288, entries: Int = 2) -> Block {
    let block = Block()
    RecordHeader.begin(
      block.bytes, position: position, incarnation: 7, previous: 0xabcd, epoch: Epoch(4))
    let check = RecordHeader.close(
      block.bytes, watermark: LogPosition(4096), length: length, entryCount: entries, seed: seed)
    #expect(check == RecordHeader.check(block.bytes))
    return block
  }

  private func isValid(
    _ p: UnsafeRawPointer, position: LogPosition? = nil, previous: UInt32 = 0xabcd,
    incarnation: UInt64 = 7, logBlock: Int = 4096, pool: Identity = somePool
  ) -> Bool {
    RecordHeader.isValid(
      p, position: position ?? self.position, previous: previous, incarnation: incarnation,
      logBlock: logBlock, seed: PoolSeed(pool))
  }

  @Test func fieldsAreRead() {
    let block = closed()
    let p = UnsafeRawPointer(block.bytes)
    #expect(RecordHeader.position(p) == position)
    #expect(RecordHeader.incarnation(p) == 7)
    #expect(RecordHeader.previous(p) == 0xabcd)
    #expect(RecordHeader.epoch(p) == Epoch(4))
    #expect(RecordHeader.watermark(p) == LogPosition(4096))
    #expect(RecordHeader.length(p) == 12288)
    #expect(RecordHeader.entryCount(p) == 2)
  }

  @Test func onlyTheExpectedRecordIsValid() {
    let block = closed()
    #expect(isValid(block.bytes))
    #expect(isValid(block.bytes, incarnation: 6))
    #expect(!isValid(block.bytes, incarnation: 8))
    #expect(!isValid(block.bytes, position: position + 4096))
    #expect(!isValid(block.bytes, previous: 0xabce))
    #expect(!isValid(block.bytes, logBlock: 8192))
    #expect(!isValid(block.bytes, pool: otherPool))
  }

  @Test func lengthsThatCannotBeAreRefused() {
    for length in [0, 1, 2048, 4097, RecordHeader.maxLength + 4096, 1 << 31] {
      #expect(!isValid(closed(length: length).bytes), "\(length)")
    }
    for length in [4096, 8192, RecordHeader.maxLength] {
      #expect(isValid(closed(length: length).bytes), "\(length)")
    }
    #expect(!isValid(closed(entries: 257).bytes))
  }

  @Test func anOpenRecordIsNotValid() {
    let block = Block()
    RecordHeader.begin(
      block.bytes, position: position, incarnation: 7, previous: 0xabcd, epoch: Epoch(4))
    #expect(!isValid(block.bytes))
  }

  @Test func everyFlippedBitIsNoticed() {
    #expect(closed().unnoticedFlips(0..<4096) { isValid($0) } == [])
  }
}

@Suite struct RingControlTests {
  private func made() -> Block {
    let block = Block()
    RingControl.begin(
      block.bytes, pool: somePool, ring: 55, incarnation: 6, size: 1 << 26,
      watermark: LogPosition(1 << 30))
    return block
  }

  private func isValid(_ p: UnsafeRawPointer) -> Bool {
    RingControl.isValid(p, pool: somePool, ring: 55, size: 1 << 26)
  }

  @Test func onlyTheExpectedRingIsValid() {
    let p = made()
    #expect(isValid(p.bytes))
    #expect(!RingControl.isValid(p.bytes, pool: otherPool, ring: 55, size: 1 << 26))
    #expect(!RingControl.isValid(p.bytes, pool: somePool, ring: 56, size: 1 << 26))
    #expect(!RingControl.isValid(p.bytes, pool: somePool, ring: 55, size: 1 << 25))
    #expect(!isValid(Block().bytes))
    #expect(RingControl.incarnation(p.bytes) == 6)
  }

  @Test func positionsMoveWithoutANewCheck() {
    let block = made()
    #expect(RingControl.watermark(block.bytes) == LogPosition(1 << 30))
    #expect(RingControl.closedEnd(block.bytes) == LogPosition(1 << 30))
    RingControl.setWatermark(block.bytes, LogPosition(1 << 31))
    RingControl.setClosedEnd(block.bytes, LogPosition(1 << 32))
    #expect(RingControl.watermark(block.bytes) == LogPosition(1 << 31))
    #expect(RingControl.closedEnd(block.bytes) == LogPosition(1 << 32))
    #expect(isValid(block.bytes))
  }

  @Test func everyFlippedBitOfTheIdentityIsNoticed() {
    #expect(made().unnoticedFlips(0..<64) { isValid($0) } == [])
  }
}
