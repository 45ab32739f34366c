import Base
import Testing
import VolumeEngine

@Suite struct TombstoneSetTests {
  /// What covers each block: the tombstone's position, and its `keepsAllocated`.
  struct Model {
    var covers: [(position: UInt64, kept: Bool)?]

    init(blocks: Int) { covers = Array(repeating: nil, count: blocks) }

    mutating func insert(_ t: Tombstone) {
      for i in Int(t.start.rawValue)..<Int(t.end.rawValue) {
        covers[i] = (t.position.rawValue, t.keepsAllocated)
      }
    }
  }

  private func tombstone(
    _ start: Int, _ end: Int, _ position: Int, _ kept: Bool
  ) -> Tombstone {
    Tombstone(
      start: BlockIndex(UInt64(start)), end: BlockIndex(UInt64(end)),
      position: LogPosition(UInt64(position)), keepsAllocated: kept)
  }

  /// Whether the set is sorted, disjoint, and says of every block what the model says.
  private func agrees(_ set: borrowing TombstoneSet, _ model: Model) -> Bool {
    var end: UInt64 = 0
    for i in 0..<set.count {
      let t = set[i]
      if t.start >= t.end || t.start.rawValue < end { return false }
      end = t.end.rawValue
    }
    for (i, cover) in model.covers.enumerated() {
      let block = BlockIndex(UInt64(i))
      let found = set.find(block)
      if found?.position.rawValue != cover?.position { return false }
      if found?.keepsAllocated != cover?.kept { return false }
      if let found, found.start > block || found.end <= block { return false }
      var first = 0
      while first < set.count, set[first].end <= block { first += 1 }
      if set.firstIndex(endingAfter: block) != first { return false }
    }
    return true
  }

  /// All sequences of three intervals among 7 blocks. The third is at the position of the
  /// second, so that parts of one tombstone meet, too.
  @Test func everySmallLayout() {
    var intervals: [(Int, Int)] = []
    for start in 0..<7 { for end in start + 1...7 { intervals.append((start, end)) } }
    withArena(TombstoneSet.bytes(capacity: 7)) { arena in
      var set = TombstoneSet(capacity: 7, in: &arena)
      for a in intervals {
        for b in intervals {
          for c in intervals {
            set.removeAll()
            var model = Model(blocks: 9)
            for (i, interval) in [a, b, c].enumerated() {
              let t = tombstone(interval.0, interval.1, min(i, 1), i == 0)
              model.insert(t)
              guard set.insert(t), agrees(set, model) else {
                Issue.record("\(a) \(b) \(c) after \(i + 1)")
                return
              }
            }
          }
        }
      }
    }
  }

  @Test func partsOfOneTombstoneJoin() {
    withArena(TombstoneSet.bytes(capacity: 8)) { arena in
      var set = TombstoneSet(capacity: 8, in: &arena)
      check(set.insert(tombstone(0, 4, 1, false)))
      check(set.insert(tombstone(8, 12, 1, false)))
      check(set.insert(tombstone(4, 8, 1, false)))
      #expect(set.count == 1)
      #expect(set[0] == tombstone(0, 12, 1, false))
      check(set.insert(tombstone(12, 16, 1, true)))
      check(set.insert(tombstone(16, 20, 2, true)))
      #expect(set.count == 3)
    }
  }

  @Test func aFullSetChangesNothing() {
    withArena(TombstoneSet.bytes(capacity: 4)) { arena in
      var set = TombstoneSet(capacity: 4, in: &arena)
      check(set.insert(tombstone(0, 10, 1, false)))
      check(set.insert(tombstone(4, 6, 2, false)))
      #expect(set.count == 3)
      check(!set.insert(tombstone(2, 3, 3, false)))
      #expect(set.count == 3)
      #expect(set.find(BlockIndex(2))?.position == LogPosition(1))
      set.removeAll()
      #expect(set.count == 0)
      #expect(set.find(BlockIndex(2)) == nil)
      check(set.insert(tombstone(2, 3, 3, false)))
    }
  }

  @Test(arguments: [1, 2, 3]) func agreesWithModelAtRandom(seed: UInt64) {
    var random = Random(seed: seed)
    let blocks = 3000
    withArena(TombstoneSet.bytes(capacity: 300)) { arena in
      var set = TombstoneSet(capacity: 300, in: &arena)
      var model = Model(blocks: blocks)
      var refused = 0
      for position in 0..<1500 {
        let start = random.next(below: blocks)
        let longest = random.chance(20) ? blocks : 12
        let end = min(blocks, start + 1 + random.next(below: longest))
        let t = tombstone(start, end, position, random.chance(500))
        if set.insert(t) { model.insert(t) } else { refused += 1 }
        if position % 50 == 0 { check(agrees(set, model), "after \(position)") }
        if refused == 20 {
          set.removeAll()
          model = Model(blocks: blocks)
          refused = 0
        }
      }
      check(agrees(set, model))
    }
  }
}
