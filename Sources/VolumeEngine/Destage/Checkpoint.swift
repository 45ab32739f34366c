import Base
import DeviceIO
import DiskFormat

/// Making the table durable: bitmaps into pages, pages to their unused twins level by level,
/// flushes, superblock A, superblock B. Then what it forgot may go.
extension Volume {
  mutating func beginCheckpoint() {
    batch.phase = .pages
    batch.bitmapDevice = 0
    batch.level = 0
    batch.frameCursor = 0
    pumpPages()
  }

  mutating func pumpPages() {
    guard batch.phase == .pages else { return }
    if batch.isRolledBack {
      rollBackIfDue()
      return
    }
    guard copyBitmaps() else { return }
    while batch.level <= 3 {
      writeDirtyPages(level: batch.level)
      guard batch.pageWrites == 0 else { return }
      batch.frameCursor = 0
      if table.cache.nextDirty(from: 0, level: batch.level) == nil { batch.level += 1 }
    }
    beginBatchFlush()
  }

  /// Puts the allocation bits that changed into their pages; false: waits.
  private mutating func copyBitmaps() -> Bool {
    while batch.bitmapDevice < allocator.deviceCount {
      let bitmap = allocator.bitmap(DeviceIndex(batch.bitmapDevice))
      guard let page = bitmap.pointee.nextDirty(from: 0) else {
        batch.bitmapDevice += 1
        continue
      }
      let a = PageAddress(
        .bitmap, level: 0, device: UInt8(batch.bitmapDevice), index: UInt64(page))
      switch requireForWrite(a, overwrite: true) {
      case .ready(let f):
        let target = table.cache.page(f) + Page.header
        bitmap.pointee.copyMappedBits(page: page, to: target)
        if planted(.busyBitsWritten) { bitmap.pointee.addBusyBits(page: page, to: target) }
        bitmap.pointee.clearDirty(page)
      case .wait(let f):
        if !waiters.isWaiting(Pools.sweepWaiter) { wait(Pools.sweepWaiter, for: f) }
        return false
      case .noFrame:
        // Pages of the lowest level may go first: they need nothing of the bitmaps.
        writeDirtyPages(level: 0)
        return false
      case .absent, .damaged, .failed, .noSlot:
        batch.isRolledBack = true
        rollBackIfDue()
        return false
      }
    }
    // A chunk made for a rebuilt directory may have changed a bitmap that was done.
    for d in 0..<allocator.deviceCount
    where allocator.bitmap(DeviceIndex(d)).pointee.nextDirty(from: 0) != nil {
      batch.bitmapDevice = d
      return copyBitmaps()
    }
    return true
  }

  private mutating func writeDirtyPages(level: Int) {
    while batch.pageWrites < 64, orders.room > 64,
      let f = table.cache.nextDirty(from: batch.frameCursor, level: level)
    {
      batch.frameCursor = Int(f) + 1
      guard !table.cache[f].isBeingWritten else { continue }
      table.cache[f].isBeingWritten = true
      batch.pageWrites += 1
      writePage(f, checkpoint: superblock.serial + 1)
    }
    if batch.pageWrites == 0 { batch.frameCursor = 0 }
  }

  mutating func finishBatchPageWrite(_ f: FrameIndex, ok: Bool) {
    table.cache[f].isBeingWritten = false
    batch.pageWrites -= 1
    if ok {
      finishPageWrite(f)
    } else {
      batch.isRolledBack = true
    }
    pumpBatch()
  }

  private mutating func beginBatchFlush() {
    batch.phase = .flushing
    batch.flushMask = batch.touched
    if batch.flushMask == 0 || planted(.superblockBeforePages) {
      beginSuperblock(.checkpoint)
      return
    }
    for d in 0..<allocator.deviceCount where batch.flushMask & (1 << UInt64(d)) != 0 {
      flushes[d].batchAsks = true
      pumpFlush(d)
    }
  }

  /// A flush that the batch asked for has ended well.
  mutating func batchFlushFinished(_ d: Int) {
    guard batch.phase == .flushing else { return }
    batch.flushMask &= ~(1 << UInt64(d))
    if batch.isRolledBack {
      rollBackIfDue()
    } else if batch.flushMask == 0 {
      beginSuperblock(.checkpoint)
    }
  }

  // MARK: Superblocks

  /// Composes the next superblock and orders copy A.
  mutating func beginSuperblock(_ what: Batch.PendingSuperblock) {
    batch.pending = what
    superblock.serial += 1
    superblock.watermark = log.watermark
    superblock.nextSegmentSerial = log.segments.nextSerial
    switch what {
    case .checkpoint:
      let drops =
        batch.hasGeneration && (!batch.isPartial || planted(.generationDroppedEarly))
      let first = log.generation(drops ? 1 : 0)
      superblock.boundary = first.pointee.start
      superblock.boundaryCRC = first.pointee.previousCRC
      superblock.extentRoot = table.extentRoot
      superblock.chunkCount = table.chunkCount
      for d in 0..<allocator.deviceCount {
        superblock.devices[d].bitmapRoot = table.bitmapRoots[d]
      }
    case .growth: superblock.volumeSize = wantedSize
    case .shutdown:
      superblock.isClean = true
      superblock.ringID = 0
    }
    superblock.encode(into: batch.superblockPage)
    batch.phase = .superblockA
    orderSuperblock()
  }

  private mutating func orderSuperblock() {
    batch.superblockRetryAt = nil
    let offset =
      batch.phase == .superblockA ? Layout.superblockOffsets.a : Layout.superblockOffsets.b
    order(
      DeviceOperation(
        planted(.superblocksTogether) ? .write : .writeThrough, device: DeviceIndex(0),
        offset: offset, length: Layout.metadataBlock,
        memory: batch.superblockPage, token: Token.make(.superblock, 0)))
  }

  /// A failed superblock write is tried again, the same bytes, until it succeeds.
  mutating func pumpSuperblock() {
    guard let at = batch.superblockRetryAt, now >= at else { return }
    orderSuperblock()
  }

  mutating func finishSuperblock(ok: Bool) {
    guard ok else {
      deviceCounters[0].writeErrors += 1
      note(.writeError(DeviceIndex(0)))
      devicePoisoned(0)
      if planted(.checkpointBuiltAnew), batch.phase == .superblockA, batch.pending == .checkpoint {
        batch.phase = .flushing
        batch.isRolledBack = true
        rollBackIfDue()
        return
      }
      batch.superblockRetryAt = now + Milliseconds(100)
      return
    }
    if batch.phase == .superblockA, !planted(.reuseAfterSuperblockA) {
      batch.phase = .superblockB
      orderSuperblock()
      return
    }
    switch batch.pending {
    case .checkpoint: commit()
    case .growth: finishGrowth()
    case .shutdown:
      batch.phase = .idle
      staging.remove(pool: superblock.pool, ring: ringID)
      isShutDown = true
    }
  }

  /// The checkpoint is durable.
  private mutating func commit() {
    counters.checkpoints += 1
    batch.rollBacks = 0
    counters.destagedBytes += UInt64(batch.bytesDone)
    let elapsed = max(1, now.since(batch.startedAt) / 1000)
    if batch.bytesDone > 1 << 20 {
      let rate = Int(UInt64(batch.bytesDone) * 1_000_000 / elapsed)
      batch.rate = batch.rate == 0 ? rate : (3 * batch.rate + rate) / 4
    }
    batch.bytesDone = 0
    batch.startedAt = now
    batch.touched = 0
    batch.gainedCount = 0
    placed.adoptedCount = 0
    table.cache.forgetFlips()
    table.extentRootFlips = 0
    for d in 0..<allocator.deviceCount { table.bitmapRootFlips[d] = 0 }
    let drops = batch.hasGeneration && (!batch.isPartial || planted(.generationDroppedEarly))
    if drops { dropGeneration() }
    if !batch.isPartial { batch.moveCount = 0 }
    batch.phase = .grace
    pumpGrace()
  }

  private mutating func dropGeneration() {
    let g = log.generation(0)
    placed.noteDropped(g)
    let kept = min(batch.keptPromises, g.pointee.reservedSlots)
    allocator.reserved -= g.pointee.reservedSlots - kept
    log.generation(1).pointee.reservedSlots += kept
    batch.keptPromises = 0
    g.pointee.state = .free
    log.oldest = (log.oldest + 1) & (Log.maxGenerations - 1)
    log.generationCount -= 1
    while let index = log.segments.dropOldest(below: log.boundary) {
      batch.segments[batch.segmentCount] = Int32(index)
      batch.segmentCount += 1
    }
    batch.hasGeneration = false
  }

  /// What the checkpoint forgot is free once every read that may have seen it has ended.
  mutating func pumpGrace() {
    guard batch.phase == .grace else { return }
    guard pins.beginGrace(), pins.finishGrace() else { return }
    collectOwned()
    for i in 0..<batch.freedCount where !planted(.slotFreedEarly) {
      // What the log still names is released when its generation is dropped (PL4).
      if !placed.owned.contains(batch.freed[i]) { allocator.release(batch.freed[i]) }
    }
    batch.freedCount = 0
    releaseDropped()
    for i in 0..<batch.segmentCount { log.segments.addFree(Int(batch.segments[i])) }
    batch.segmentCount = 0
    if batch.isPartial {
      batch.isPartial = false
      batch.phase = .sweeping
      pumpSweep()
    } else {
      batch.phase = .idle
    }
    pumpQueue()
  }

  // MARK: Growth

  /// Makes the volume larger, to a valid size (`Superblock.isVolumeSize`) in bytes; with one that
  /// is not larger it stays as it is. Between two batches both superblocks are written; then `size`
  /// says so. Until then another wish replaces this one.
  package mutating func grow(to bytes: UInt64) {
    wantedSize = bytes
    if planted(.grownEarly), wantedSize > size { size = wantedSize }
  }

  private mutating func finishGrowth() {
    batch.phase = .idle
    note(.grown(from: size, to: superblock.volumeSize))
    size = superblock.volumeSize
    allocator.grow(superblock)
    policy.volumeGrew(to: size)
  }

  // MARK: Shutdown

  package mutating func beginShutdown() { isStopping = true }

  /// When all requests are answered and all is durable, the clean superblock ends the story.
  mutating func pumpShutdown() {
    guard !isShutDown, freeRequestCount == Pools.requests, batch.phase == .idle else { return }
    if log.isOpen { log.closeRecord() }
    log.syncTarget = max(log.syncTarget, log.closedEnd)
    pumpLog()
    guard log.watermark == log.closedEnd, batch.phase == .idle, ordersInFlight == 0 else { return }
    beginSuperblock(.shutdown)
  }
}
