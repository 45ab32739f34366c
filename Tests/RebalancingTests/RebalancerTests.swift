import Base
import Rebalancing
import Testing

@Suite struct RebalancerTests {
  /// Thirty visits each to `hot`, a minute apart, with a walk after every one.
  private func visit(_ pool: ModelPool, _ hot: Range<Int>, rounds: Int = 30) {
    for _ in 0..<rounds {
      pool.accessAll(hot)
      pool.advance(seconds: 60)
      pool.walk()
    }
  }

  @Test func hotRisesAndColdSinks() {
    let pool = ModelPool(extents: 1000, tierSlots: [100, 2000]) { $0.driveWritesPerDay = 10 }
    for extent in 0..<1000 { pool.place(extent, on: extent < 85 ? 0 : 1) }
    visit(pool, 500..<560)
    #expect(pool.count(on: 0, of: 500..<560) == 60)
    #expect(pool.count(on: 1, of: 0..<85) >= 50)
    #expect(pool.overfull == 0)
    let victims = Set(pool.moves.filter { $0.to == 1 }.map { $0.extent })
    #expect(victims.allSatisfy { $0 < 85 })
  }

  @Test func emptyFastTierServesAtTheSecondVisit() {
    let pool = ModelPool(extents: 1000, tierSlots: [100, 2000])
    for extent in 0..<1000 { pool.place(extent, on: 1) }
    pool.access(7)
    pool.advance(seconds: 60)
    pool.walk()
    #expect(pool.homes[7] == 1)
    pool.access(7)
    pool.advance(seconds: 1)
    pool.walk()
    #expect(pool.homes[7] == 0)
    #expect(pool.moves.count == 1)
  }

  @Test func accessesWithinTheGapAreOneVisit() {
    let pool = ModelPool(extents: 10, tierSlots: [100, 2000])
    pool.place(3, on: 1)
    for _ in 0..<50 {
      pool.access(3)
      pool.advance(seconds: 1)
    }
    pool.walk()
    #expect(pool.homes[3] == 1)
    #expect(abs(pool.policy.heat(of: ExtentIndex(3), now: pool.now) - 1) < 0.01)
  }

  @Test func newExtentsFillTheFastTierUpToItsMark() {
    let pool = ModelPool(extents: 1000, tierSlots: [100, 2000])
    pool.accessAll(0..<300, isWrite: true)
    for extent in 0..<300 { pool.destage(extent) }
    #expect(pool.tiers.usedSlots[0] == 90)
    #expect(pool.homes[0] == 0 && pool.homes[299] == 1)
  }

  @Test func fullTierDrainsItsColdestToTheLowMark() {
    let pool = ModelPool(extents: 1000, tierSlots: [100, 2000])
    for extent in 0..<98 { pool.place(extent, on: 0) }
    for _ in 0..<3 {
      pool.accessAll(0..<60)
      pool.advance(seconds: 30)
    }
    for _ in 0..<5 {
      pool.walk()
      pool.advance(seconds: 30)
    }
    #expect(pool.tiers.usedSlots[0] == 85)
    #expect(pool.count(on: 0, of: 0..<60) == 60)
  }

  @Test func equallyHotExtentsDoNotChangePlaces() {
    let pool = ModelPool(extents: 400, tierSlots: [100, 2000]) {
      $0.driveWritesPerDay = 1000
      $0.residency = Milliseconds(1000)
    }
    for extent in 0..<400 { pool.place(extent, on: extent < 88 ? 0 : 1) }
    visit(pool, 0..<400, rounds: 200)
    #expect(pool.moves.count < 40)
  }

  @Test func whatMovedStaysForItsResidency() {
    let pool = ModelPool(extents: 400, tierSlots: [20, 2000]) {
      $0.driveWritesPerDay = 1000
      $0.halfLife = Milliseconds(600_000)
    }
    for extent in 0..<400 { pool.place(extent, on: extent < 17 ? 0 : 1) }
    // The hot spot wanders faster than anything may follow.
    for round in 0..<200 {
      for _ in 0..<4 {
        pool.accessAll(round % 26 * 15..<round % 26 * 15 + 15)
        pool.advance(seconds: 15)
      }
      pool.walk()
    }
    #expect(!pool.moves.isEmpty)
    var last: [Int: (when: Instant, to: Int)] = [:]
    for move in pool.moves {
      if let before = last[move.extent], (move.to < move.from) != (before.to == 0) {
        #expect(move.when.since(before.when) >= 30 * 60 * 1_000_000_000)
      }
      last[move.extent] = (move.when, move.to)
    }
  }

  @Test func oneTierIsNeverAskedToMove() {
    let pool = ModelPool(extents: 100, tierSlots: [200])
    for extent in 0..<100 { pool.destage(extent) }
    visit(pool, 0..<50)
    #expect(pool.moves.isEmpty)
    #expect(pool.homes.allSatisfy { $0 == 0 })
  }

  @Test func promotionKeepsToTheDailyBudget() {
    let pool = ModelPool(extents: 20_000, tierSlots: [1000, 40_000]) {
      $0.residency = Milliseconds(1000)
      $0.halfLife = Milliseconds(600_000)
    }
    for extent in 0..<20_000 { pool.place(extent, on: 1) }
    // Each hour another thousand extents are hot: eight times the budget is asked for.
    for hour in 0..<48 {
      for _ in 0..<20 {
        pool.accessAll(hour * 400..<(hour + 1) * 400)
        pool.advance(seconds: 180)
        pool.walk()
      }
    }
    let perDay = Int(0.3 * 1000) * Size.extent
    let filling = 850 * Size.extent
    #expect(pool.promotedBytes > filling + perDay)
    #expect(pool.promotedBytes <= filling + 3 * perDay)
  }

  @Test(arguments: [65536, 1 << 20])
  func scansDoNotPollute(requestBytes: Int) {
    let pool = ModelPool(extents: 2000, tierSlots: [100, 4000])
    for extent in 0..<2000 { pool.place(extent, on: extent < 50 ? 0 : 1) }
    for _ in 0..<12 {
      for extent in 0..<2000 { pool.access(extent, bytes: 65536, requestBytes: requestBytes) }
      pool.advance(seconds: 600)
      pool.walk()
    }
    // What a scan touches before it is known as one may rise; nothing else.
    #expect(pool.moves.count <= 16)
    #expect(pool.count(on: 0, of: 100..<2000) == 0)
  }

  @Test func withoutReuseSwappingStops() {
    let pool = ModelPool(extents: 10_000, tierSlots: [200, 20_000]) {
      $0.driveWritesPerDay = 1000
      $0.residency = Milliseconds(1000)
      $0.halfLife = Milliseconds(3_600_000)
    }
    for extent in 0..<10_000 { pool.place(extent, on: 1) }
    var random = UInt64(7)
    // Every extent is visited twice within a minute and never again.
    for _ in 0..<1000 {
      for second in 0..<2 {
        var state = random
        for _ in 0..<20 {
          state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
          pool.access(Int(state >> 33) % 10_000)
        }
        pool.advance(seconds: 30)
        if second == 1 { random = state }
      }
      pool.walk()
    }
    // Filling the empty tier once is 170; without the check it goes on for ever.
    #expect(pool.moves.count { $0.to == 0 } < 600)
  }

  @Test func threeTiersSortThemselves() {
    let pool = ModelPool(extents: 900, tierSlots: [100, 300, 2000]) {
      $0.driveWritesPerDay = 20
      $0.residency = Milliseconds(60_000)
    }
    for extent in 0..<900 { pool.place(extent, on: 2) }
    for round in 0..<120 {
      pool.accessAll(0..<70)
      if round % 8 == 0 { pool.accessAll(100..<300) }
      pool.advance(seconds: 60)
      pool.walk()
    }
    #expect(pool.count(on: 0, of: 0..<70) == 70)
    #expect(pool.count(on: 2, of: 100..<300) == 0)
    #expect(pool.count(on: 2, of: 300..<900) == 600)
    #expect(pool.overfull == 0)
  }

  @Test func eightTiersAndOneSlotTiersHold() {
    let pool = ModelPool(extents: 64, tierSlots: [1, 1, 2, 2, 4, 4, 8, 200]) {
      $0.driveWritesPerDay = 1e6
    }
    for extent in 0..<64 { pool.place(extent, on: 7) }
    visit(pool, 0..<32)
    for tier in 0..<8 { #expect(pool.tiers.usedSlots[tier] <= pool.tiers.totalSlots[tier]) }
  }

  @Test func equalCallsGetEqualAnswers() {
    func run() -> [Int] {
      let pool = ModelPool(extents: 3000, tierSlots: [100, 400, 6000]) { $0.driveWritesPerDay = 3 }
      var state = UInt64(99)
      for _ in 0..<300 {
        for _ in 0..<200 {
          state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
          let extent = Int((state >> 40) % 3000)
          pool.access(extent / (1 + extent % 7))
          if state & 15 == 0 { pool.destage(extent) }
        }
        pool.advance(seconds: 20)
        pool.walk()
      }
      return pool.moves.map { $0.extent * 64 + $0.from * 8 + $0.to }
    }
    let first = run()
    #expect(first.count > 100)
    #expect(first == run())
  }

  @Test func wantedExtentsRiseAtTheNextPass() {
    let pool = ModelPool(extents: 100, tierSlots: [100, 2000])
    pool.place(42, on: 1)
    pool.policy.noteWanted(ExtentIndex(42), now: pool.now)
    pool.walk()
    #expect(pool.homes[42] == 0)
  }

  @Test func pauseStopsEverything() {
    let pool = ModelPool(extents: 100, tierSlots: [100, 2000])
    for extent in 0..<100 { pool.place(extent, on: 1) }
    pool.policy.isPaused = true
    visit(pool, 0..<50)
    #expect(pool.moves.isEmpty)
    #expect(pool.policy.tick(tiers: pool.tiers, now: pool.now) == 0)
    pool.policy.isPaused = false
    visit(pool, 0..<50, rounds: 3)
    #expect(pool.count(on: 0, of: 0..<50) == 50)
  }

  @Test func clientsComeFirst() {
    let pool = ModelPool(extents: 100, tierSlots: [100, 2000]) { $0.bytesPerSecond = 80_000_000 }
    pool.now.nanoseconds += 1_000_000_000
    #expect(pool.policy.tick(tiers: pool.tiers, now: pool.now) == 80_000_000)
    for _ in 0..<50 { pool.access(1, bytes: 1 << 20, requestBytes: 1 << 20) }
    pool.now.nanoseconds += 1_000_000_000
    #expect(pool.policy.tick(tiers: pool.tiers, now: pool.now) == 80_000_000 - 50 << 20)
    for _ in 0..<500 { pool.access(1, bytes: 1 << 20, requestBytes: 1 << 20) }
    pool.now.nanoseconds += 1_000_000_000
    #expect(pool.policy.tick(tiers: pool.tiers, now: pool.now) == 10_000_000)
  }
}
