import Base
import Testing
import VolumeEngine

@Suite struct LogIndexTests {
  private func withIndex<R>(
    cells: Int, extents: Int = 64, _ body: (inout LogIndex) throws -> R
  ) rethrows -> R {
    let bytes = LogIndex.bytes(cellCapacity: cells, extentCapacity: extents)
    return try withArena(bytes) { arena in
      var index = LogIndex(cellCapacity: cells, extentCapacity: extents, in: &arena)
      index.begin(at: LogPosition(0))
      return try body(&index)
    }
  }

  private func cell(_ number: Int, base: UInt64 = 0) -> LogCell {
    let kind = LogCellKind(rawValue: UInt8(number % 5 + 1))!
    return LogCell(
      kind: kind, position: LogPosition((base >> 12 + UInt64(number)) << 12),
      crc: UInt32(truncatingIfNeeded: mix64(UInt64(number))),
      placed: kind == .placed ? number % (1 << 20) : 0)
  }

  /// Whether the index says of the block what `want` is.
  private func says(_ index: borrowing LogIndex, _ block: UInt64, _ want: LogCell?) -> Bool {
    let got = index.find(BlockIndex(block))
    return got?.kind == want?.kind && got?.position == want?.position && got?.crc == want?.crc
      && got?.placed == want?.placed
  }

  /// All sequences of 6 insertions among 7 blocks, in the smallest table: 117,649.
  @Test func everySmallLayout() {
    let blocks: [UInt64] = [0, 1, 4, 5, 9, 64, 1 << 40 - 1]
    withIndex(cells: 8) { index in
      for layout in 0..<(7 * 7 * 7 * 7 * 7 * 7) {
        var model = [Int?](repeating: nil, count: 7)
        var rest = layout
        index.begin(at: LogPosition(0))
        for number in 0..<6 {
          model[rest % 7] = number
          guard index.insert(BlockIndex(blocks[rest % 7]), cell(number)) else {
            Issue.record("no room in layout \(layout)")
            return
          }
          rest /= 7
        }
        var right = index.count == model.count { $0 != nil }
        for (i, number) in model.enumerated() {
          right = right && says(index, blocks[i], number.map { cell($0) })
        }
        right = right && says(index, 2, nil)
        if !right {
          Issue.record("layout \(layout)")
          return
        }
      }
    }
  }

  @Test func aFullIndexChangesNothingButWhatItHas() {
    withIndex(cells: 16) { index in
      for i in 0..<14 {
        check(index.hasRoom(forBlocks: 14 - i))
        check(!index.hasRoom(forBlocks: 15 - i))
        #expect(index.isNearlyFull == (i >= 12))
        check(index.insert(BlockIndex(UInt64(i * 7)), cell(i)))
      }
      check(!index.insert(BlockIndex(1000), cell(99)))
      #expect(index.count == 14)
      check(says(index, 1000, nil))
      check(index.insert(BlockIndex(7), cell(50)))
      for i in 0..<14 { check(says(index, UInt64(i * 7), cell(i == 1 ? 50 : i))) }
    }
  }

  /// Fills to the brim, in runs as clients write them, twice, with a base that is not aligned.
  @Test(arguments: [1, 4, 16, 300]) func agreesWithDictionary(run: Int) {
    var random = Random(seed: UInt64(run))
    withIndex(cells: 1 << 13, extents: 1 << 13) { index in
      for base in [0, 7 << 40 + 12345] as [UInt64] {
        index.begin(at: LogPosition(base))
        #expect(index.count == 0 && index.extentCount == 0)
        var model: [UInt64: Int] = [:]
        var number = 0
        while index.hasRoom(forBlocks: run) {
          let start = random.next() >> UInt64(24 + random.next(below: 26))
          for i in 0..<UInt64(run) {
            let block = min(start + i, 1 << 40 - 1)
            model[block] = number
            check(index.insert(BlockIndex(block), cell(number, base: base)))
            number += 1
          }
        }
        #expect(index.count == model.count)
        check(index.isNearlyFull)
        for (block, number) in model { check(says(index, block, cell(number, base: base))) }
        for _ in 0..<5000 {
          let block = random.next() >> UInt64(24 + random.next(below: 30))
          check(says(index, block, model[block].map { cell($0, base: base) }))
        }
      }
    }
  }

  @Test func extremeValues() {
    withIndex(cells: 8) { index in
      let base: UInt64 = 5 << 12 + 1
      index.begin(at: LogPosition(base))
      let last = LogCell(
        kind: .lost, position: LogPosition((5 + UInt64(UInt32.max)) << 12), crc: .max,
        placed: 1 << 20 - 1)
      let first = LogCell(kind: .payload, position: LogPosition(5 << 12), crc: 0)
      check(index.insert(BlockIndex(1 << 40 - 1), last))
      check(index.insert(BlockIndex(0), first))
      check(says(index, 1 << 40 - 1, last))
      check(says(index, 0, first))
    }
  }

  @Test func extentsAgreeWithSet() {
    var random = Random(seed: 11)
    withIndex(cells: 8192, extents: 512) { index in
      for _ in 0..<2 {
        index.begin(at: LogPosition(0))
        var model: Set<UInt64> = []
        while index.hasRoom(forBlocks: 1) {
          let extent = random.next() >> UInt64(28 + random.next(below: 30))
          let new = model.insert(extent).inserted
          #expect(index.insertExtent(ExtentIndex(extent)) == new)
          #expect(index.extentCount == model.count)
          #expect(index.isNearlyFull == (model.count >= 384))
        }
        #expect(model.count == 447)
        for _ in 0..<2000 {
          let extent = random.next() >> UInt64(28 + random.next(below: 34))
          #expect(index.containsExtent(ExtentIndex(extent)) == model.contains(extent))
        }
      }
    }
  }

  /// The extents of the cells in a stretch of positions, looked through in steps.
  @Test func extentsOfAStretchOfPositions() {
    withArena(LogIndex.bytes(cellCapacity: 1024, extentCapacity: 64)) { arena in
      var index = LogIndex(cellCapacity: 1024, extentCapacity: 64, in: &arena)
      index.begin(at: LogPosition(1 << 20))
      var random = Random(seed: 5)
      var wanted: Set<UInt64> = []
      let stretch = LogPosition(1 << 20 + 100 << 12)..<LogPosition(1 << 20 + 300 << 12)
      for i in 0..<500 {
        let block = UInt64(i) << 30 | random.next() & 0x3fff_ffff
        let position = LogPosition(1 << 20 + UInt64(i) << 12)
        let cell = LogCell(kind: .payload, position: position, crc: 0)
        let isIn = index.insert(BlockIndex(block), cell)
        #expect(isIn)
        if stretch.contains(position) { wanted.insert(block >> 4) }
      }
      var copied = [UInt64](repeating: 0, count: 1024)
      var count = 0
      for first in stride(from: 0, to: index.cellCapacity, by: 128) {
        let before = count
        count += copied.withUnsafeMutableBufferPointer { target in
          index.copyExtents(ofCells: first..<first + 128, into: target.baseAddress! + before) {
            stretch.contains($0)
          }
        }
      }
      #expect(count >= wanted.count && Set(copied[..<count]) == wanted)
    }
  }

  @Test func aPositionBelowTheBaseStops() async {
    await #expect(processExitsWith: .failure) {
      withArena(LogIndex.bytes(cellCapacity: 8, extentCapacity: 8)) { arena in
        var index = LogIndex(cellCapacity: 8, extentCapacity: 8, in: &arena)
        index.begin(at: LogPosition(8192))
        let cell = LogCell(kind: .zero, position: LogPosition(4096), crc: 0)
        _ = index.insert(BlockIndex(0), cell)
      }
    }
  }
}
