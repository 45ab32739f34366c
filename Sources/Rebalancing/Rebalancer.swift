package import Base

/// The placement policy: which tier an extent should live on, and when moving it is worth it.
///
/// Pure: it is told what happens and what time it is, and answers. It allocates nothing after
/// `init`, reads no clock, draws no random number; equal calls get equal answers. It states
/// preferences only: whether a slot is to be had, and whether a move may happen now, is the
/// engine's business.
///
/// **One pass.** The engine's background walk comes to every mapped extent in address order and
/// asks `proposedMove`. Each answer follows from the extent's heat and the *gates* of the previous
/// pass; meanwhile the walk fills the histograms that the next gates come from:
///
///     accesses ──► HeatMap ──► walk: histograms ──► end of pass: gates ──► next walk: proposals
///                                 (per tier)       (enter, leave, drain)   (budget, watermarks)
///
/// | what happens | what follows |
/// |---|---|
/// | access after 10 s without one | one visit: heat + 1; in a stream heat + 1/8 |
/// | heat ≥ 1.5, not from streams alone | candidate: its second visit within a half-life |
/// | room below the low watermark | the hottest candidates fill it |
/// | no such room | a candidate with more than twice a victim's heat replaces it |
/// | tier above its high watermark | its coldest go down until it is below the low one |
/// | moved | not moved back for the least residency |
/// | moves of late served less than they cost | no swaps but small trials |
///
/// **Invariants**
/// - R1: every extent asked about lies in the volume the heat map was made for.
/// - R2: a tier is a tier of the pool; there are 1 to 8.
/// - R3: what rises by swapping never exceeds the tier's budget of drive writes a day, proposals
///   included. Filling free room is not charged: it happens once for each slot that became free.
/// - R4: nothing proposed takes a tier above its high watermark.
/// - R5: a swap pairs a candidate with a victim of less than half its heat.
/// - R6: an extent that moved is not proposed for the opposite direction before the least
///   residency is over.
/// - R7: a pool of one tier is never asked to move anything.
///
/// **Sources.** Figures from replaying nine block traces: visits instead of requests, half-life 3
/// days (1 to 7 is flat), admission at the second visit, twice the heat for a swap. Forward decay:
/// Cormode et al., ICDE 2009. Filling free room at once and admitting from a memory of what was
/// seen before: the ghost queues of ARC (Megiddo, Modha, FAST 2003). Swapping against the coldest
/// resident by heat classes is what dm-cache's multi-queue policy does with its levels.
package final class Rebalancer {
  package let settings: RebalancerSettings
  /// While true nothing may move.
  package var isPaused = false
  /// The most bytes a second that background moves may use; changed at run time.
  package var bytesPerSecond: UInt64

  private var heat: HeatMap
  private var streams: StreamDetector
  private var plan = PassPlan()
  private var budgets = InlineArray<8, MoveBudget>(repeating: MoveBudget())
  private var payBack = PayBack()
  private var draining = InlineArray<8, Bool>(repeating: false)
  /// Moves proposed in this pass and not yet heard of again.
  private var arriving = InlineArray<8, UInt64>(repeating: 0)
  private var leaving = InlineArray<8, UInt64>(repeating: 0)
  private var lastWalked: ExtentIndex?
  private var lastTick: Instant?
  private var foregroundBytes: UInt64 = 0
  private var sweepBegan: Instant
  private var swept = 0
  private let sweepNanoseconds: UInt64
  /// 1024 · log2 of the admission heat.
  private let admission: Int

  /// Makes the heat map (`settings.heatBytes` at most) and 64 KiB of histograms.
  package init(_ settings: RebalancerSettings, now: Instant) {
    self.settings = settings
    bytesPerSecond = settings.bytesPerSecond
    heat = HeatMap(
      extents: (settings.volumeSize + UInt64(Size.extent) - 1) / UInt64(Size.extent),
      bytes: settings.heatBytes, halfLife: settings.halfLife, visitGap: settings.visitGap,
      now: now)
    streams = StreamDetector(threshold: settings.streamBytes)
    admission = settings.admissionLevel
    let stampUnit = max(1, settings.visitGap.rawValue * 1_000_000 / 5)
    sweepNanoseconds = max(
      1,
      min(settings.residency.rawValue * 1_000_000 / 6, HeatMap.longestSweep * stampUnit))
    sweepBegan = now
  }

  /// The volume has `bytes` bytes from now on; its heat is kept.
  package func volumeGrew(to bytes: UInt64) {
    heat.grow(to: (bytes + UInt64(Size.extent) - 1) / UInt64(Size.extent))
    // A sweep begins anew: cells may have other places.
    swept = 0
    sweepBegan = lastTick ?? sweepBegan
  }

  // MARK: What happens

  /// A client read or wrote `bytes` of an extent, in a request of `requestBytes`.
  package func noteAccess(
    _ extent: ExtentIndex, bytes: Int, requestBytes: Int, isWrite: Bool, now: Instant
  ) {
    foregroundBytes &+= UInt64(bytes)
    let index = heat.cell(of: extent)
    let inStream = streams.note(extent, bytes: bytes, requestBytes: requestBytes)
    if heat[index].promoted { payBack.noteServed(bytes) }
    guard heat.touch(index, now: now) else { return }
    heat.add(index, halvings: inStream ? 3 : 0, now: now)
    if !inStream {
      var cell = heat[index]
      cell.pointed = true
      heat[index] = cell
    }
  }

  /// A client asked that the extent be near: it becomes a candidate, like any other from then on.
  package func noteWanted(_ extent: ExtentIndex, now: Instant) {
    let index = heat.cell(of: extent)
    var cell = heat[index]
    cell.level = min(65535, max(cell.level, heat.level(at: now) + HeatMap.perHalfLife))
    cell.pointed = true
    heat[index] = cell
  }

  /// A move was carried out, or given up.
  package func noteMoved(
    _ extent: ExtentIndex, from: TierIndex, to: TierIndex, succeeded: Bool, now: Instant
  ) {
    invariant(from.index < 8 && to.index < 8, "R2: a tier is a tier of the pool")
    if arriving[to.index] > 0 { arriving[to.index] -= 1 }
    if leaving[from.index] > 0 { leaving[from.index] -= 1 }
    guard succeeded else {
      if to < from { budgets[to.index].giveBack() }
      return
    }
    if to < from { payBack.noteMoved() }
    let index = heat.cell(of: extent)
    var cell = heat[index]
    cell.promoted = to < from
    cell.hold = 7
    heat[index] = cell
  }

  // MARK: What is wanted

  /// Where an extent that is written home now should live. A new one fills the fastest tier with
  /// room, so an empty fast tier serves at once; what streams write leaves the room between the
  /// watermarks to others. One that has a home rises with this write if it would rise anyway.
  package func preferredTier(
    for extent: ExtentIndex, current: TierIndex?, tiers: TierOccupancy, now: Instant
  ) -> TierIndex {
    invariant(tiers.count >= 1 && tiers.count <= 8, "R2: a pool has 1 to 8 tiers")
    if tiers.count == 1 { return TierIndex(0) }
    let marks = Watermarks(tiers, settings)
    let cell = heat[heat.cell(of: extent)]
    if let current {
      return riseTarget(cell, from: current.index, tiers: tiers, marks: marks, now: now) ?? current
    }
    for tier in 0..<tiers.count - 1 {
      let used = tiers.usedSlots[tier]
      if used < (cell.pointed ? marks.high[tier] : marks.low[tier]) { return TierIndex(tier) }
      let headroom = (tiers.totalSlots[tier] - marks.high[tier]) / 2
      if mayRise(cell, now: now) && cell.level >= plan.gates[tier].enter
        && used < marks.high[tier] + headroom
      {
        return TierIndex(tier)
      }
    }
    return TierIndex(tiers.count - 1)
  }

  /// The walk has come to a mapped extent: where it should move, if at all.
  package func proposedMove(
    for extent: ExtentIndex, current: TierIndex, tiers: TierOccupancy, now: Instant
  ) -> TierIndex? {
    invariant(tiers.count >= 1 && tiers.count <= 8, "R2: a pool has 1 to 8 tiers")
    invariant(current.index < tiers.count, "R2: a tier is a tier of the pool")
    if tiers.count == 1 { return nil }
    let marks = Watermarks(tiers, settings)
    if let last = lastWalked, extent <= last { finishPass(tiers: tiers, marks: marks) }
    lastWalked = extent
    let cell = heat[heat.cell(of: extent)]
    let tier = current.index
    if tier > 0 && mayRise(cell, now: now) { plan.countCandidate(tier, level: cell.level) }
    if tier < tiers.count - 1 && mayFall(cell) { plan.countVictim(tier, level: cell.level) }
    if isPaused { return nil }
    if let up = riseTarget(cell, from: tier, tiers: tiers, marks: marks, now: now) { return up }
    return fallTarget(cell, from: tier, tiers: tiers, marks: marks)
  }

  /// About once a second: budgets grow, old marks fade. Returns the bytes a second that moves may
  /// use: what clients leave of the limit, at least an eighth of it; all of it while a tier
  /// drains.
  package func tick(tiers: TierOccupancy, now: Instant) -> UInt64 {
    let elapsed = lastTick.map { now.since($0) } ?? 0
    lastTick = now
    sweep(now: now)
    if heat.rebase(now: now) > 0 { plan.reset() }
    if tiers.count == 1 { return 0 }
    payBack.decay(nanoseconds: elapsed)
    let marks = Watermarks(tiers, settings)
    var anyDraining = false
    for tier in 0..<tiers.count - 1 {
      budgets[tier].refill(
        capacity: Double(tiers.totalSlots[tier]) * Double(Size.extent),
        drivesPerDay: settings.driveWritesPerDay, nanoseconds: elapsed)
      if tiers.usedSlots[tier] >= marks.high[tier] { draining[tier] = true }
      if tiers.usedSlots[tier] <= marks.low[tier] { draining[tier] = false }
      anyDraining = anyDraining || draining[tier]
    }
    let busy = elapsed == 0 ? 0 : Double(foregroundBytes) * 1e9 / Double(elapsed)
    foregroundBytes = 0
    if isPaused { return 0 }
    if anyDraining { return bytesPerSecond }
    let left = Double(bytesPerSecond) - busy
    return max(bytesPerSecond / 8, left > 0 ? UInt64(left) : 0)
  }

  // MARK: What it knows

  /// The heat of the extent's granule in visits, for people who ask why.
  package func heat(of extent: ExtentIndex, now: Instant) -> Double {
    heat.heat(heat.cell(of: extent), now: now)
  }

  /// Extents that share one heat.
  package var extentsPerGranule: Int { 1 << heat.shift }

  // MARK: Decisions

  private func mayRise(_ cell: Cell, now: Instant) -> Bool {
    cell.pointed && cell.level >= heat.level(at: now) + admission
      && (cell.hold == 0 || cell.promoted)
  }

  private func mayFall(_ cell: Cell) -> Bool { cell.hold == 0 || !cell.promoted }

  private func riseTarget(
    _ cell: Cell, from tier: Int, tiers: TierOccupancy, marks: Watermarks,
    now: Instant
  ) -> TierIndex? {
    guard tier > 0 && mayRise(cell, now: now) else { return nil }
    for target in 0..<tier {
      let gate = plan.gates[target]
      let limit = gate.swapping ? marks.high[target] : marks.low[target]
      guard cell.level >= gate.enter && gate.admissions > 0
        && tiers.usedSlots[target] + arriving[target] < limit
      else { continue }
      let fillsRoom = tiers.usedSlots[target] + arriving[target] < marks.low[target]
      guard fillsRoom || budgets[target].take() else { continue }
      plan.gates[target].admissions -= 1
      arriving[target] += 1
      leaving[tier] += 1
      return TierIndex(target)
    }
    return nil
  }

  private func fallTarget(
    _ cell: Cell, from tier: Int, tiers: TierOccupancy, marks: Watermarks
  ) -> TierIndex? {
    guard tier < tiers.count - 1 && mayFall(cell) else { return nil }
    guard tiers.usedSlots[tier] > marks.low[tier] + leaving[tier] else { return nil }
    let gate = plan.gates[tier]
    let swap = gate.evictions > 0 && cell.level < gate.leave
    guard swap || (draining[tier] && cell.level < gate.drain) else { return nil }
    for target in tier + 1..<tiers.count
    where tiers.usedSlots[target] + arriving[target] < marks.high[target] {
      if swap { plan.gates[tier].evictions -= 1 }
      arriving[target] += 1
      leaving[tier] += 1
      return TierIndex(target)
    }
    return nil
  }

  private func finishPass(tiers: TierOccupancy, marks: Watermarks) {
    let trial = Double(tiers.totalSlots[0]) * Double(Size.extent) / 16
    plan.finish(tiers: tiers, marks: marks, swapsPayBack: payBack.allows(trial: trial))
    arriving = InlineArray(repeating: 0)
    leaving = InlineArray(repeating: 0)
  }

  /// Sweeps as much of the heat map as the time calls for, at most all of it.
  private func sweep(now: Instant) {
    let elapsed = min(now.since(sweepBegan), sweepNanoseconds)
    let goal = Int(Double(heat.count) * (Double(elapsed) / Double(sweepNanoseconds)))
    if goal > swept { heat.sweep(swept..<goal, now: now) }
    swept = max(goal, swept)
    if elapsed == sweepNanoseconds {
      sweepBegan = now
      swept = 0
    }
  }
}

extension Watermarks {
  init(_ tiers: TierOccupancy, _ settings: RebalancerSettings) {
    self.init(
      tiers, highPercent: settings.highPercent, lowPercent: settings.lowPercent)
  }
}
