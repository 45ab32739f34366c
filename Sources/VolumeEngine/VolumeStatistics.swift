import Base

/// Counts since start and amounts now, as the control plane sees them: a plain value, copied out
/// of the engine once a second or on demand.
package struct VolumeStatistics: Sendable {
  package var readOps: UInt64 = 0
  package var writeOps: UInt64 = 0
  package var flushOps: UInt64 = 0
  package var trimOps: UInt64 = 0
  package var readBytes: UInt64 = 0
  package var writeBytes: UInt64 = 0
  /// Bytes of reads answered from the log, as zeros, and from each tier.
  package var servedLogBytes: UInt64 = 0
  package var servedZeroBytes: UInt64 = 0
  package var servedTierBytes = InlineArray<8, UInt64>(repeating: 0)

  /// Bytes of the volume.
  package var sizeBytes: UInt64 = 0
  /// Bytes of the homes of extents, whole ones of 64 KiB. What only the log holds has none yet.
  package var mappedBytes: UInt64 = 0
  package var tierCapacityBytes = InlineArray<8, UInt64>(repeating: 0)
  package var tierUsedBytes = InlineArray<8, UInt64>(repeating: 0)
  package var logSizeBytes: UInt64 = 0
  package var logUsedBytes: UInt64 = 0
  package var ringSizeBytes: UInt64 = 0
  package var ringUsedBytes: UInt64 = 0
  package var generationsSealed: UInt64 = 0

  package var promotedBytes: UInt64 = 0
  package var demotedBytes: UInt64 = 0
  package var pendingMoveBytes: UInt64 = 0
  package var destagedBytes: UInt64 = 0
  package var checkpoints: UInt64 = 0
  package var appends: UInt64 = 0
  package var appendedBytes: UInt64 = 0
  package var deviceFlushes: UInt64 = 0
  /// Bytes of writes that went straight to slots.
  package var placedBytes: UInt64 = 0

  package init() {}
}

/// One device's health and errors.
package struct DeviceStatistics: Sendable {
  package var readErrors: UInt64 = 0
  package var writeErrors: UInt64 = 0
  package var checksumErrors: UInt64 = 0
  package var slotsTotal: UInt64 = 0
  package var slotsUsed: UInt64 = 0
  package init() {}
}
