package import Base
package import DeviceIO
package import VolumeEngine

/// What the loop asks of a volume: the engine's face, so that the loop can be tested with a
/// volume in memory. The one generic seam; see `VolumeEngine.Volume` for the meaning of each.
package protocol ServedVolume: ~Copyable {
  /// Bytes.
  var size: UInt64 { get }
  /// Makes the volume larger; `size` says when it is.
  mutating func grow(to bytes: UInt64)
  var canAccept: Bool { get }
  mutating func submit(_ request: VolumeRequest)
  mutating func complete(_ completion: DeviceCompletion)
  mutating func step(now: Instant)
  mutating func nextOperation() -> DeviceOperation?
  mutating func nextReply() -> VolumeReply?
  var nextDeadline: Instant? { get }
  mutating func beginShutdown()
  var isShutDown: Bool { get }
  func statistics() -> VolumeStatistics
  func deviceStatistics(_ device: DeviceIndex) -> DeviceStatistics
  /// The next sentence for the operator, nil when there is none.
  mutating func takeNotice() -> VolumeNotice?
}

/// What an operator must know, and how loudly.
package struct VolumeNotice: Sendable {
  package var text: String
  /// Something is wrong, or was.
  package var isWarning: Bool

  package init(_ text: String, isWarning: Bool) {
    self.text = text
    self.isWarning = isWarning
  }
}
