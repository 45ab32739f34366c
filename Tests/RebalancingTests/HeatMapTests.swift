import Base
import Rebalancing
import Testing

/// Heat against the plain sum it stands for, over years, and the map's size.
@Suite struct HeatMapTests {
  private func make(_ extents: Int, heatBytes: Int) -> Rebalancer {
    Rebalancer(
      RebalancerSettings(volumeSize: UInt64(extents * Size.extent), heatBytes: heatBytes),
      now: Instant(nanoseconds: 0))
  }

  @Test func granulesGrowUntilTheVolumeFits() {
    #expect(make(1024, heatBytes: 4096).extentsPerGranule == 1)
    #expect(make(1025, heatBytes: 4096).extentsPerGranule == 2)
    #expect(make(1 << 30, heatBytes: 32 << 20).extentsPerGranule == 128)
    #expect(make(1, heatBytes: 4).extentsPerGranule == 1)
  }

  @Test func aGrowingVolumeKeepsItsHeat() {
    let policy = make(1000, heatBytes: 4096)
    let now = Instant(nanoseconds: 0)
    func visit(_ extent: Int) {
      policy.noteAccess(
        ExtentIndex(UInt64(extent)), bytes: 1, requestBytes: 1, isWrite: false, now: now)
    }
    func heat(_ extent: Int) -> Double { policy.heat(of: ExtentIndex(UInt64(extent)), now: now) }
    visit(7)
    visit(998)
    // Within the same cells: there is room for 24 more.
    policy.volumeGrew(to: UInt64(1024 * Size.extent))
    #expect(policy.extentsPerGranule == 1 && heat(7) > 0.9 && heat(8) == 0 && heat(1023) == 0)
    // To cells of four extents each.
    policy.volumeGrew(to: UInt64(4000 * Size.extent))
    #expect(policy.extentsPerGranule == 4)
    #expect(heat(4) == heat(7) && heat(7) > 0.9 && heat(998) > 0.9)
    #expect(heat(8) == 0 && heat(3999) == 0)
    visit(3999)
    #expect(heat(3999) > 0.9)
  }

  @Test func heatFollowsTheSumItStandsFor() {
    let policy = make(4, heatBytes: 16)
    let day: UInt64 = 86_400_000_000_000
    var visits: [UInt64] = []
    var now: UInt64 = 0
    var state = UInt64(5)
    // Some 1,300 days of irregular visits: the levels are rebased more than a dozen times.
    for _ in 0..<4000 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      now += 5_000_000_000_000 + (state >> 12) % (day * 2 / 3)
      let moment = Instant(nanoseconds: now)
      policy.noteAccess(
        ExtentIndex(2), bytes: 4096, requestBytes: 4096, isWrite: false, now: moment)
      visits.append(now)
      // Two sweeps, so that the mark of this access is gone before its number comes round again.
      for minutes in [40, 80] {
        _ = policy.tick(
          tiers: TierOccupancy(count: 1), now: moment + Milliseconds(UInt64(minutes) * 60_000))
      }
      var sum = 0.0
      for visit in visits.suffix(200) { sum += power(Double(now - visit) / Double(3 * day)) }
      let heat = policy.heat(of: ExtentIndex(2), now: moment)
      #expect(abs(heat - sum) < 0.03 * sum)
    }
    #expect(policy.heat(of: ExtentIndex(3), now: Instant(nanoseconds: now)) == 0)
  }

  @Test func heatFadesToNothing() {
    let policy = make(4, heatBytes: 16)
    policy.noteAccess(
      ExtentIndex(0), bytes: 1, requestBytes: 1, isWrite: false, now: Instant(nanoseconds: 0))
    let year: UInt64 = 365 * 86_400_000_000_000
    let later = Instant(nanoseconds: year)
    _ = policy.tick(tiers: TierOccupancy(count: 1), now: later)
    #expect(policy.heat(of: ExtentIndex(0), now: later) < 1e-9)
  }

  @Test func streamsWeighAnEighth() {
    let policy = make(4, heatBytes: 16)
    let now = Instant(nanoseconds: 0)
    policy.noteAccess(ExtentIndex(1), bytes: 65536, requestBytes: 1 << 20, isWrite: false, now: now)
    #expect(abs(policy.heat(of: ExtentIndex(1), now: now) - 0.125) < 0.001)
  }

  /// 2 to the power of −x, by halving and a short series.
  private func power(_ x: Double) -> Double {
    var value = 1.0
    var term = 1.0
    let y = -(x - x.rounded(.down)) * 0.693_147_180_559_945
    for i in 1..<20 {
      term *= y / Double(i)
      value += term
    }
    for _ in 0..<Int(x) { value /= 2 }
    return value
  }
}
