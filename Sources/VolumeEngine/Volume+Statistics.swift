package import Base
import DiskFormat

/// What the engine tells about itself, and when it wants to be called again.
extension Volume {
  /// Whether a rule is to be broken, for the test of the tests.
  @inline(__always)
  func planted(_ bug: PlantedBug) -> Bool { _slowPath(options.planted == bug) }

  /// Counts and amounts now.
  package func statistics() -> VolumeStatistics {
    var s = counters
    s.sizeBytes = size
    let o = allocator.occupancy()
    for t in 0..<o.count {
      s.tierCapacityBytes[t] = o.totalSlots[t] << 16
      s.tierUsedBytes[t] = o.usedSlots[t] << 16
    }
    for d in 0..<allocator.deviceCount {
      s.mappedBytes += allocator.bitmap(DeviceIndex(d)).pointee.mappedCount << 16
    }
    // A damaged bitmap counts as all used, a damaged table may have chunks that nobody counts.
    s.mappedBytes -= min(s.mappedBytes, table.chunkCount << 16)
    s.logSizeBytes = log.geometry.areaSize
    let used = log.closedEnd - log.boundary
    s.logUsedBytes = UInt64(used)
    s.ringSizeBytes = UInt64(log.ring.size)
    s.ringUsedBytes = UInt64(max(0, log.unflushedBytes))
    s.generationsSealed = UInt64(log.generationCount - 1)
    s.pendingMoveBytes = scan.pendingBytes
    return s
  }

  /// One device's errors and slots.
  package func deviceStatistics(_ device: DeviceIndex) -> DeviceStatistics {
    var s = deviceCounters[device.index]
    let bitmap = allocator.bitmap(device)
    s.slotsTotal = bitmap.pointee.slotCount
    s.slotsUsed = bitmap.pointee.slotCount - bitmap.pointee.freeCount
    return s
  }

  /// How full the fullest of what bounds the log is, in thousandths.
  var pressure: Int {
    let g = log.current
    let index = g.pointee.index.isNearlyFull ? 250 : 0
    let tombstones = g.pointee.tombstones.count * 250 / max(1, g.pointee.sizes.tombstones)
    return max(log.fullness, (log.generationCount - 1) * 250 + max(index, tombstones))
  }

  /// Step again by then, even if nothing happens.
  package var nextDeadline: Instant? {
    var deadline: Instant? = lastTick + Milliseconds(1000)
    func by(_ t: Instant?, _ current: Instant?) -> Instant? {
      guard let t else { return current }
      guard let current else { return t }
      return t < current ? t : current
    }
    if !waiters.ready.isEmpty || !walkers.isEmpty { return now }
    if !table.frameWaiters.isEmpty { deadline = by(now + Milliseconds(1), deadline) }
    if !queued.isEmpty { deadline = by(now + Milliseconds(1), deadline) }
    if log.mustRestart { deadline = by(max(log.restartAt, now), deadline) }
    if let t = log.oldestUnflushed { deadline = by(t + Milliseconds(1000), deadline) }
    deadline = by(log.watermarkRecordAt, deadline)
    deadline = by(placed.repair.retryAt, deadline)
    deadline = by(batch.superblockRetryAt, deadline)
    if batch.retryAt > now { deadline = by(batch.retryAt, deadline) }
    if batch.phase == .idle, batch.moveCount > 0 {
      deadline = by(now + Milliseconds(50), deadline)
    }
    if batch.phase == .sweeping, batch.hasMoreNow { deadline = by(now, deadline) }
    let mayScan = allocator.tierCount > 1 && !scan.isWaiting && scan.tokens > 0
    if mayScan, batch.phase == .idle, batch.moveCount < 216 {
      deadline = by(max(scan.nextAt, now + Milliseconds(1)), deadline)
    }
    return deadline
  }
}
