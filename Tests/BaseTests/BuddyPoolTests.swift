import Base
import Testing

@Suite struct BuddyPoolTests {
  /// Buffers in use, in the order they were allocated.
  struct Model {
    var buffers: [(start: Int, bytes: Int)] = []
    var used: Int { buffers.reduce(0) { $0 + BuddyPool.roundedSize($1.bytes) } }

    func overlaps(_ start: Int, _ bytes: Int) -> Bool {
      buffers.contains {
        start < $0.start + BuddyPool.roundedSize($0.bytes)
          && $0.start < start + BuddyPool.roundedSize(bytes)
      }
    }

    /// Whether an aligned range of the rounded size is unused: then buddies, joined whenever
    /// they can be, must offer it.
    func hasRoom(_ bytes: Int, capacity: Int) -> Bool {
      let size = BuddyPool.roundedSize(bytes)
      var start = 0
      while start + size <= capacity {
        if !overlaps(start, size) { return true }
        start += size
      }
      return false
    }
  }

  private func exercise(units: Int, largest: Int, steps: Int, seed: UInt64) {
    let capacity = units * 4096
    withArena(BuddyPool.bytes(capacity: capacity, largest: largest)) { arena in
      var pool = BuddyPool(capacity: capacity, largest: largest, in: &arena)
      var random = Random(seed: seed)
      var model = Model()
      for _ in 0..<steps {
        if random.chance(550) {
          let order = random.next(below: (largest / 4096).trailingZeroBitCount + 1)
          let bytes = (4096 << order) - random.next(below: 2048)
          let room = model.hasRoom(bytes, capacity: capacity)
          guard let buffer = pool.allocate(bytes) else {
            #expect(!room, "\(bytes) bytes of \(capacity), seed \(seed)")
            continue
          }
          let start = buffer - pool.base
          #expect(start % BuddyPool.roundedSize(bytes) == 0)
          #expect(start >= 0 && start + BuddyPool.roundedSize(bytes) <= capacity)
          #expect(!model.overlaps(start, bytes))
          model.buffers.append((start, bytes))
        } else if !model.buffers.isEmpty {
          let freed = model.buffers.remove(at: random.next(below: model.buffers.count))
          pool.free(pool.base + freed.start, freed.bytes)
        }
        #expect(pool.freeBytes == capacity - model.used)
      }
      for buffer in model.buffers { pool.free(pool.base + buffer.start, buffer.bytes) }
      #expect(pool.freeBytes == capacity)
      for _ in 0..<capacity / largest { #expect(pool.allocate(largest) != nil) }
    }
  }

  @Test func agreesWithModelOnEverySmallArea() {
    for units in 1...24 {
      for order in 0...4 {
        exercise(
          units: units, largest: 4096 << order, steps: 200, seed: UInt64(units * 8 + order))
      }
    }
  }

  @Test func agreesWithModelOnLargeArea() {
    exercise(units: 2048 + 17, largest: 1 << 20, steps: 2000, seed: 1)
  }

  @Test func aBufferIsNotFreedTwice() async {
    await #expect(processExitsWith: .failure) {
      withArena(BuddyPool.bytes(capacity: 1 << 16, largest: 1 << 16)) { arena in
        var pool = BuddyPool(capacity: 1 << 16, largest: 1 << 16, in: &arena)
        let buffer = pool.allocate(4096)!
        pool.free(buffer, 4096)
        pool.free(buffer, 4096)
      }
    }
  }

  @Test func aBufferIsFreedWithItsSize() async {
    await #expect(processExitsWith: .failure) {
      withArena(BuddyPool.bytes(capacity: 1 << 16, largest: 1 << 16)) { arena in
        var pool = BuddyPool(capacity: 1 << 16, largest: 1 << 16, in: &arena)
        pool.free(pool.allocate(8192)!, 4096)
      }
    }
  }
}
