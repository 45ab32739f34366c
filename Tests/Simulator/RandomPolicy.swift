import Base
import VolumeEngine

/// A policy that wants anything at any time, by seed: no order of moves may change what a client
/// reads.
final class RandomPolicy: PlacementPolicy {
  /// Chances per thousand that a mapped extent the walk comes to should move.
  var moves: Int
  /// Chances per thousand that destage is sent elsewhere than where the extent lives.
  var restlessness: Int
  /// Bytes per second for moves; each tick may also say none, or without limit.
  var rate: UInt64
  private var random: Random

  init(moves: Int, restlessness: Int, rate: UInt64, random: Random) {
    self.moves = moves
    self.restlessness = restlessness
    self.rate = rate
    self.random = random
  }

  /// From now on nothing moves.
  func rest() {
    moves = 0
    restlessness = 0
  }

  func noteAccess(
    _ extent: ExtentIndex, bytes: Int, requestBytes: Int, isWrite: Bool, now: Instant
  ) {}

  func noteWanted(_ extent: ExtentIndex, now: Instant) {}
  func heat(of extent: ExtentIndex, now: Instant) -> Double { 0 }

  func preferredTier(
    for extent: ExtentIndex, current: TierIndex?, tiers: borrowing TierOccupancy, now: Instant
  ) -> TierIndex {
    if let current, !random.chance(restlessness) { return current }
    return TierIndex(random.below(tiers.count))
  }

  func proposedMove(
    for extent: ExtentIndex, current: TierIndex, tiers: borrowing TierOccupancy, now: Instant
  ) -> TierIndex? {
    guard random.chance(moves) else { return nil }
    return TierIndex(random.below(tiers.count))
  }

  func noteMoved(
    _ extent: ExtentIndex, from: TierIndex, to: TierIndex, succeeded: Bool, now: Instant
  ) {}

  func volumeGrew(to bytes: UInt64) {}
  func tick(tiers: borrowing TierOccupancy, now: Instant) -> UInt64 {
    if moves == 0 { return 0 }
    switch random.below(8) {
    case 0: return 0
    case 1: return 1 << 40
    default: return rate
    }
  }
}
