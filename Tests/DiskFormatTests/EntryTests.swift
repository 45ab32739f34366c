import Base
import DiskFormat
import Testing

@Suite struct EntryTests {
  /// What an entry is made from.
  private struct Sample {
    var kind: EntryKind
    var count = 0
    var first = 0
    var target: UInt64 = 0
    var rangeCount: UInt64 = 0
  }

  private let seed = Entry.seed(
    pool: PoolSeed(somePool), incarnation: 3, position: LogPosition(1 << 40), previous: 9,
    ordinal: 2)

  private func crc(_ i: Int) -> UInt32 { 0x0101_0101 &* UInt32(i + 1) }

  @discardableResult
  private func put(_ sample: Sample, _ block: Block, at offset: Int = 128) -> Int {
    let p = block.bytes + offset
    let size = Entry.size(sample.kind, count: sample.count)
    Entry.begin(p, sample.kind, count: sample.count, first: sample.first, target: sample.target)
    switch sample.kind {
    case .data: for i in 0..<sample.count { p.put32(16 + 4 * i, crc(i)) }
    case .placed:
      p.put64(16, SlotAddress(device: DeviceIndex(1), slot: 77).rawValue)
      for i in 0..<16 { p.put32(24 + 4 * i, crc(i)) }
    case .deallocated, .zeroed: p.put64(16, sample.rangeCount)
    case .lost: break
    }
    Entry.seal(p, size: size, seed: seed)
    return size
  }

  private func decode(_ block: Block, at offset: Int = 128, seed: UInt32? = nil) -> EntryView? {
    Entry.decode(block.bytes, offset: offset, seed: seed ?? self.seed)
  }

  private let lastExtent: UInt64 = 1 << 36 - 1
  private var samples: [Sample] {
    var all: [Sample] = []
    for first in 0..<16 {
      for count in 1...16 - first {
        all.append(Sample(kind: .data, count: count, first: first, target: UInt64(first)))
        all.append(Sample(kind: .lost, count: count, first: first, target: lastExtent))
      }
    }
    all.append(Sample(kind: .placed, count: 16, target: 5))
    for kind in [EntryKind.deallocated, .zeroed] {
      all.append(Sample(kind: kind, target: 3, rangeCount: 1 << 40 - 3))
      all.append(Sample(kind: kind, target: 1 << 40 - 1, rangeCount: 1))
    }
    return all
  }

  @Test func roundTripOfEveryShape() throws {
    for sample in samples {
      let block = Block()
      let size = put(sample, block)
      let view = try #require(decode(block))
      #expect(view.kind == sample.kind && view.size == size)
      switch sample.kind {
      case .data, .lost, .placed:
        #expect(view.extent == ExtentIndex(sample.target))
        #expect(view.first == sample.first && view.count == sample.count)
        let checks = sample.kind == .lost ? 0 : sample.count
        for i in 0..<checks { #expect(view.crc(i) == crc(i)) }
        let slot = SlotAddress(device: DeviceIndex(1), slot: 77)
        #expect(view.slot == (sample.kind == .placed ? slot : .none))
      case .deallocated, .zeroed:
        #expect(view.rangeStart == BlockIndex(sample.target))
        #expect(view.rangeCount == sample.rangeCount)
      }
    }
  }

  @Test func everyFlippedBitIsNoticed() {
    for sample in samples {
      let block = Block()
      let size = put(sample, block)
      let unnoticed = block.unnoticedFlips(128..<128 + size) {
        Entry.decode($0, offset: 128, seed: seed) != nil
      }
      #expect(unnoticed == [], "\(sample)")
    }
  }

  @Test func anEntryOfAnotherPlaceIsRefused() {
    let block = Block()
    put(Sample(kind: .data, count: 4, first: 1, target: 8), block)
    func seeded(
      pool: Identity = somePool, incarnation: UInt64 = 3, position: UInt64 = 1 << 40,
      previous: UInt32 = 9, ordinal: Int = 2
    ) -> EntryView? {
      decode(
        block,
        seed: Entry.seed(
          pool: PoolSeed(pool), incarnation: incarnation, position: LogPosition(position),
          previous: previous, ordinal: ordinal))
    }
    #expect(seeded() != nil)
    #expect(seeded(pool: otherPool) == nil)
    #expect(seeded(incarnation: 4) == nil)
    #expect(seeded(position: 1 << 40 + 4096) == nil)
    #expect(seeded(previous: 8) == nil)
    #expect(seeded(ordinal: 3) == nil)
  }

  @Test func anEntryLiesInItsBlock() {
    let sample = Sample(kind: .data, count: 16, target: 1)
    let size = Entry.size(.data, count: 16)
    let block = Block()
    put(sample, block, at: 4096 - size)
    #expect(decode(block, at: 4096 - size) != nil)
    for offset in [-16, 0, 127, 4096 - 15, 4096, 1 << 40] {
      #expect(decode(block, at: offset) == nil)
    }
    // Whole, but its length would leave the block.
    let start = 4096 - 16
    Entry.begin(block.bytes + start, .data, count: 16, first: 0, target: 1)
    #expect(decode(block, at: start) == nil)
  }

  @Test func whatCannotBeIsRefused() {
    let refused = [
      Sample(kind: .data, count: 0, target: 1), Sample(kind: .data, count: 16, first: 1),
      Sample(kind: .lost, count: 1, first: 16), Sample(kind: .lost, count: 255, first: 255),
      Sample(kind: .data, count: 1, target: 1 << 36), Sample(kind: .placed, count: 17),
      Sample(kind: .zeroed, target: 0, rangeCount: 0),
      Sample(kind: .zeroed, target: 1 << 40, rangeCount: 1),
      Sample(kind: .deallocated, target: 5, rangeCount: 1 << 40 - 4),
      Sample(kind: .deallocated, target: 5, rangeCount: .max),
      Sample(kind: .deallocated, target: .max, rangeCount: 1),
    ]
    for sample in refused {
      let block = Block()
      put(sample, block)
      #expect(decode(block) == nil, "\(sample)")
    }
  }

  /// Whatever lies behind a true check: a view of the block, or nothing.
  @Test func anyBytesAreDecodedOrRefused() {
    var random = Random(seed: 8)
    var decoded = 0
    let block = Block()
    for _ in 0..<20_000 {
      block.bytes.zero(4096)
      block.scramble(from: 0, count: 200, &random)
      let offset = 128 + random.next(below: 3900)
      let p = block.bytes + offset
      p.put32(4, UInt32(truncatingIfNeeded: random.next()) & 0x1f1f_1f07)
      if random.chance(500) { p.put64(8, random.next() >> 30) }
      guard let kind = EntryKind(rawValue: UnsafeRawPointer(p).u8(4)) else { continue }
      let size = Entry.size(kind, count: Int(UnsafeRawPointer(p).u8(5)))
      guard offset + size <= 4096 else { continue }
      Entry.seal(p, size: size, seed: seed)
      guard let view = decode(block, at: offset) else { continue }
      decoded += 1
      #expect(view.size == size && view.first + view.count <= 16 || view.rangeCount > 0)
      #expect(view.extent.rawValue <= lastExtent)
      #expect(view.rangeStart.rawValue + view.rangeCount <= 1 << 40)
    }
    #expect(decoded > 100)
  }
}
