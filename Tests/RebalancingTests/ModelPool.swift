import Base
import Rebalancing

/// A pool as the policy sees it: extents with a tier each, a clock, and a walk that carries out
/// at once what is proposed. It counts, and checks the policy's promises after every move.
final class ModelPool {
  let policy: Rebalancer
  var tiers: TierOccupancy
  var homes: [Int?]
  var now = Instant(nanoseconds: 1_000_000_000_000)
  /// Moves in order: (when, extent, from, to).
  var moves: [(when: Instant, extent: Int, from: Int, to: Int)] = []
  var promotedBytes = 0
  var overfull = 0

  init(
    extents: Int, tierSlots: [UInt64], heatBytes: Int? = nil,
    _ adjust: (inout RebalancerSettings) -> Void = { _ in }
  ) {
    var settings = RebalancerSettings(
      volumeSize: UInt64(extents * Size.extent), heatBytes: heatBytes ?? extents * 4)
    adjust(&settings)
    policy = Rebalancer(settings, now: now)
    tiers = TierOccupancy(count: tierSlots.count)
    for (i, slots) in tierSlots.enumerated() { tiers.totalSlots[i] = slots }
    homes = Array(repeating: nil, count: extents)
    _ = policy.tick(tiers: tiers, now: now)
  }

  func place(_ extent: Int, on tier: Int) {
    if let old = homes[extent] { tiers.usedSlots[old] -= 1 }
    homes[extent] = tier
    tiers.usedSlots[tier] += 1
  }

  /// Writes an extent home where the policy wants it.
  func destage(_ extent: Int) {
    let current = homes[extent].map { TierIndex($0) }
    let wanted = policy.preferredTier(
      for: ExtentIndex(UInt64(extent)), current: current, tiers: tiers, now: now)
    if let current, current != wanted {
      carryOut(extent, to: wanted.index)
    } else {
      place(extent, on: wanted.index)
    }
  }

  func access(_ extent: Int, bytes: Int = 4096, requestBytes: Int = 4096, isWrite: Bool = false) {
    policy.noteAccess(
      ExtentIndex(UInt64(extent)), bytes: bytes, requestBytes: requestBytes, isWrite: isWrite,
      now: now)
  }

  /// One access to each of `extents`, in an order that no detector takes for a stream.
  func accessAll(_ extents: Range<Int>, isWrite: Bool = false) {
    for lane in 0..<5 {
      for extent in stride(from: extents.lowerBound + lane, to: extents.upperBound, by: 5) {
        access(extent, isWrite: isWrite)
      }
    }
  }

  func advance(seconds: Double) {
    now.nanoseconds += UInt64(seconds * 1e9)
    _ = policy.tick(tiers: tiers, now: now)
  }

  /// One pass of the walk over all that is mapped.
  func walk() { walk(homes.indices.filter { homes[$0] != nil }.map { UInt64($0) }) }

  /// One pass of the walk over `mapped`, in address order.
  func walk(_ mapped: [UInt64]) {
    for extent in mapped.lazy.map({ Int($0) }) {
      let tier = homes[extent]!
      if let to = policy.proposedMove(
        for: ExtentIndex(UInt64(extent)), current: TierIndex(tier), tiers: tiers, now: now)
      {
        carryOut(extent, to: to.index)
      }
    }
  }

  private func carryOut(_ extent: Int, to: Int) {
    let from = homes[extent]!
    place(extent, on: to)
    moves.append((now, extent, from, to))
    if to < from { promotedBytes += Size.extent }
    let high = tiers.totalSlots[to] * 9 / 10
    if to < tiers.count - 1 && tiers.usedSlots[to] > high { overfull += 1 }
    policy.noteMoved(
      ExtentIndex(UInt64(extent)), from: TierIndex(from), to: TierIndex(to), succeeded: true,
      now: now)
  }

  func count(on tier: Int, of extents: Range<Int>) -> Int {
    extents.count { homes[$0] == tier }
  }
}
