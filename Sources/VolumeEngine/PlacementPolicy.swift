package import Base

/// The engine's questions to the policy. The engine says what happens and asks what is wanted;
/// it then does what its own checks allow (a full tier overflows to the next).
///
/// The policy is called on the loop's thread, per extent, and must be cheap: no allocation, no
/// clock, no randomness of its own.
package protocol PlacementPolicy: AnyObject {
  /// A client read or wrote `bytes` of an extent, as part of a request of `requestBytes`.
  func noteAccess(
    _ extent: ExtentIndex, bytes: Int, requestBytes: Int, isWrite: Bool, now: Instant)
  /// A client asked that the extent be near (NBD CACHE).
  func noteWanted(_ extent: ExtentIndex, now: Instant)
  /// Visits of the extent, as far as they still count: for people who ask.
  func heat(of extent: ExtentIndex, now: Instant) -> Double
  /// Where an extent that is written home now should live; `current` is nil when it has no home.
  func preferredTier(
    for extent: ExtentIndex, current: TierIndex?, tiers: borrowing TierOccupancy, now: Instant
  ) -> TierIndex
  /// The engine's background walk has come to a mapped extent: where should it move, if at all?
  func proposedMove(
    for extent: ExtentIndex, current: TierIndex, tiers: borrowing TierOccupancy, now: Instant
  ) -> TierIndex?
  /// A move was carried out (or given up, `succeeded` false).
  func noteMoved(
    _ extent: ExtentIndex, from: TierIndex, to: TierIndex, succeeded: Bool, now: Instant)
  /// The volume has `bytes` bytes from now on.
  func volumeGrew(to bytes: UInt64)
  /// Called about once a second: renew thresholds and budgets. Returns the bytes per second that
  /// background moves may use now; 0 pauses them.
  func tick(tiers: borrowing TierOccupancy, now: Instant) -> UInt64
}
