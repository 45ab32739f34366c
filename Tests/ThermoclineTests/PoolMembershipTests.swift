import Base
import DiskFormat
import Testing
import thermocline

@Suite struct PoolMembershipTests {
  private static let pool = Identity(high: 1, low: 1)
  private static let other = Identity(high: 2, low: 2)

  private static func label(_ index: Int, tier: Int, of pool: Identity = pool) -> Label {
    Label(
      pool: pool, device: Identity(high: pool.high, low: UInt64(100 + index)),
      index: DeviceIndex(index), tier: TierIndex(tier), deviceCount: 3, size: 1 << 30)
  }

  /// Three devices in two tiers, as formatted.
  private static func whole() -> [PoolMembership.Candidate] {
    [("a", 0), ("b", 1), ("c", 1)].enumerated().map { index, device in
      PoolMembership.Candidate(
        path: device.0, tier: device.1, size: 1 << 30,
        finding: .label(label(index, tier: device.1)))
    }
  }

  private func refusals(_ change: (inout [PoolMembership.Candidate]) -> Void) -> [String] {
    var candidates = Self.whole()
    change(&candidates)
    return PoolMembership.judge(candidates).refusals
  }

  @Test func acceptsAWholePool() {
    let verdict = PoolMembership.judge(Self.whole())
    #expect(verdict.refusals.isEmpty && verdict.notes.isEmpty)
    #expect(verdict.pool == Self.pool)
    #expect(refusals { $0[2].size = 2 << 30 }.isEmpty)
  }

  @Test func survivesOneBadCopy() {
    var candidates = Self.whole()
    candidates[1].finding = .oneCopy(Self.label(1, tier: 1))
    let verdict = PoolMembership.judge(candidates)
    #expect(verdict.refusals.isEmpty)
    #expect(verdict.notes == ["b: one of the two copies of its label is damaged."])
  }

  @Test func namesSwappedDevices() {
    let found = refusals {
      $0.swapAt(1, 2)
      $0[1].path = "c"
      $0[2].path = "b"
    }
    #expect(found.count == 2)
    #expect(found[0].hasPrefix("c is swapped: it is device 2 of the pool, in tier 1;"))
    #expect(found[1].hasPrefix("b is swapped: it is device 1 of the pool, in tier 1;"))
    #expect(refusals { $0[1].tier = 0 }.first?.hasPrefix("b is swapped") == true)
  }

  @Test func namesTruncatedDevices() {
    #expect(
      refusals { $0[2].size = 1 << 30 - 4096 } == [
        "c is truncated: it has 1073737728 bytes, and had 1073741824 when it was formatted."
      ])
  }

  /// The odd one out is foreign, even when it is the first.
  @Test(arguments: [0, 1, 2]) func namesForeignDevices(index: Int) {
    let found = refusals {
      $0[index].finding = .label(Self.label(index, tier: index == 0 ? 0 : 1, of: Self.other))
    }
    #expect(found.count == 1)
    #expect(found[0].hasPrefix("\(["a", "b", "c"][index]) belongs to another pool"))
  }

  @Test func namesCopies() {
    #expect(
      refusals { $0[2].finding = $0[1].finding } == ["c is a copy of b: give one of them."])
  }

  @Test func namesWhatIsMissing() {
    #expect(refusals { $0.removeLast() }.first?.hasSuffix("device 2 is missing.") == true)
  }

  @Test func namesDevicesWithoutALabel() {
    #expect(refusals { $0[0].finding = .none }.first?.hasPrefix("a carries no pool") == true)
    #expect(refusals { $0[0].finding = .damaged }.first?.contains("both copies") == true)
    #expect(
      refusals { $0[0].finding = .unreadable(reason: "Input/output error") }
        == ["a: its label cannot be read: Input/output error."])
    let none = PoolMembership.judge(
      Self.whole().map {
        PoolMembership.Candidate(path: $0.path, tier: $0.tier, size: $0.size, finding: .none)
      })
    #expect(none.refusals.count == 3 && none.pool == nil)
  }
}
