import Base

/// What one pass of the engine's walk learns, and the thresholds the next pass decides by.
///
/// The walk tells the heat and tier of every mapped extent. It is counted into two histograms a
/// tier, in sixteenths of a half-life: *victims* (may leave) and *candidates* (may rise). At the
/// pass's end the hottest candidates below a tier are matched, first with its free room, then with
/// its coldest victims, as long as a candidate has more than twice its victim's heat.
struct PassPlan: ~Copyable {
  static let buckets = 1024
  /// One half-life and the width of a bucket: more than twice the heat, whatever the rounding.
  private static let twice = 17

  /// The result for one tier, in force during the next pass.
  struct Gate {
    /// A candidate needs this level to come in; above every level when nobody may.
    var enter = 0
    /// Extents that may still come in during this pass.
    var admissions = UInt64.max
    /// Victims below this level make room for hotter ones, this many.
    var leave = 0
    var evictions: UInt64 = 0
    /// Victims below this level go while the tier drains.
    var drain = 0
    /// Whether the high or the low watermark bounds what comes in.
    var swapping = false
  }

  var gates = InlineArray<8, Gate>(repeating: Gate())
  private let victims: UnsafeMutablePointer<UInt32>
  private let candidates: UnsafeMutablePointer<UInt32>

  init() {
    victims = .allocate(capacity: 8 * Self.buckets)
    candidates = .allocate(capacity: 8 * Self.buckets)
    victims.initialize(repeating: 0, count: 8 * Self.buckets)
    candidates.initialize(repeating: 0, count: 8 * Self.buckets)
  }

  // SAFETY: both allocations are made in `init` and owned by this value alone.
  deinit {
    victims.deallocate()
    candidates.deallocate()
  }

  func countVictim(_ tier: Int, level: Int) { victims[tier * Self.buckets + level >> 6] += 1 }
  func countCandidate(_ tier: Int, level: Int) { candidates[tier * Self.buckets + level >> 6] += 1 }

  /// Ends a pass: derives the gates of all tiers and clears the histograms.
  mutating func finish(
    tiers: TierOccupancy, marks: Watermarks, swapsPayBack: Bool
  ) {
    var ceiling = Self.buckets
    for tier in 0..<tiers.count - 1 {
      gates[tier] = gate(
        tier, tiers: tiers, marks: marks, swapsPayBack: swapsPayBack, ceiling: ceiling)
      ceiling = min(ceiling, (gates[tier].enter + 63) >> 6)
    }
    clear()
  }

  /// Begins anew, as before the first pass: free room only.
  mutating func reset() {
    gates = InlineArray(repeating: Gate())
    clear()
  }

  private func clear() {
    victims.update(repeating: 0, count: 8 * Self.buckets)
    candidates.update(repeating: 0, count: 8 * Self.buckets)
  }

  private func gate(
    _ tier: Int, tiers: TierOccupancy, marks: Watermarks,
    swapsPayBack: Bool, ceiling: Int
  ) -> Gate {
    var gate = Gate(enter: 65536, admissions: 0)
    let used = tiers.usedSlots[tier]
    var free = marks.low[tier] > used ? marks.low[tier] - used : 0
    var hot = ceiling
    var hotLeft: UInt64 = 0
    var cold = -1
    var coldLeft: UInt64 = 0
    while true {
      while hotLeft == 0 && hot > 0 {
        hot -= 1
        hotLeft = candidateCount(below: tier, tiers.count, hot)
      }
      if hotLeft == 0 {
        if free > 0 {
          gate.enter = 0
          gate.admissions += free
        }
        break
      }
      if free == 0 {
        if !swapsPayBack { break }
        while coldLeft == 0 && cold + 1 < Self.buckets {
          cold += 1
          coldLeft = UInt64(victims[tier * Self.buckets + cold])
        }
        if coldLeft == 0 || hot < cold + Self.twice { break }
      }
      let count = min(hotLeft, free > 0 ? free : coldLeft)
      hotLeft -= count
      gate.enter = hot << 6
      gate.admissions += count
      if free > 0 {
        free -= count
      } else {
        coldLeft -= count
        gate.swapping = true
        gate.leave = (cold + 1) << 6
        gate.evictions += count
      }
    }
    gate.drain = drainLevel(tier, used: used, marks: marks)
    return gate
  }

  private func candidateCount(below tier: Int, _ count: Int, _ bucket: Int) -> UInt64 {
    var sum: UInt64 = 0
    for lower in tier + 1..<count { sum += UInt64(candidates[lower * Self.buckets + bucket]) }
    return sum
  }

  /// The level below which enough victims lie to bring the tier under its low watermark.
  private func drainLevel(
    _ tier: Int, used: UInt64, marks: Watermarks
  ) -> Int {
    let low = marks.low[tier]
    let excess = max(used > low ? used - low : 0, marks.high[tier] - low)
    var sum: UInt64 = 0
    for bucket in 0..<Self.buckets {
      sum += UInt64(victims[tier * Self.buckets + bucket])
      if sum >= excess { return (bucket + 1) << 6 }
    }
    return 65536
  }
}

/// The watermarks of each tier, in slots. The last tier has none: it holds what nobody else does.
struct Watermarks {
  var high = InlineArray<8, UInt64>(repeating: 0)
  var low = InlineArray<8, UInt64>(repeating: 0)

  init(_ tiers: TierOccupancy, highPercent: Int, lowPercent: Int) {
    for tier in 0..<tiers.count {
      let total = tiers.totalSlots[tier]
      let last = tier == tiers.count - 1
      high[tier] = last ? total : Self.part(total, highPercent)
      low[tier] = last ? total : Self.part(total, lowPercent)
    }
  }

  private static func part(_ total: UInt64, _ percent: Int) -> UInt64 {
    total / 100 * UInt64(percent) + total % 100 * UInt64(percent) / 100
  }
}
