import Base
import DeviceIO
import DiskFormat

/// The batch: the one writer of homes and pages. It folds the oldest sealed generation and the
/// due moves into homes and table, makes the table durable, then drops the generation.
///
///     idle ──► waiting for durability ──► sweeping ──► writing pages ──► flushing
///      ▲                                   ▲   │ cache or lists full        │
///      │                                   │   └──────────────(partial)─────┤
///      │ grace ◄── committed ◄── superblock B ◄── superblock A ◄────────────┘
///      └─────────────── rolled back ◄── a flush failed, before superblock A
///
/// | transition | function |
/// |---|---|
/// | idle → waiting, sweeping | `pumpBatch`, `beginBatch` |
/// | sweeping | `Sweep.pumpSweep`, one job an extent (`DestageJob`) |
/// | writing pages → flushing → superblocks → committed | `Checkpoint` |
/// | idle → superblocks → idle: the volume grows | `considerBatch`, `Checkpoint` |
/// | rolled back | `rollBack` |
///
/// Invariants:
/// - B1: a generation is taken whole, all of it below the watermark, or not at all; a checkpoint
///   in between keeps the boundary, so that the log still says everything.
/// - B2: an entry is skipped only for a younger one that is durable.
/// - B3: a home is patched in place only where the log covers what a torn write could damage.
/// - B4: once superblock A is submitted, only that same superblock is written.
/// - B5: a slot or segment is reused only after the checkpoint that forgot it, and its readers.
/// - B6: what was written since a device's last good flush is not trusted after a failed one.
///
/// The generation is folded in unit by unit (`BatchUnit`), each swept in address order, so that
/// neighbours get neighbouring slots. Payload still in the ring is copied from there.
struct Batch: ~Copyable {
  private let anchor = Anchor()
  enum Phase: UInt8 {
    case idle, waiting, sweeping, pages, flushing, superblockA, superblockB, grace
  }

  var phase = Phase.idle
  var hasGeneration = false
  var isPartial = false
  /// Everything below is durable and may be folded in.
  var durable = LogPosition(0)
  // The units.
  let unitBytes: Int
  let unitBuffers: UnsafeMutableRawPointer
  var units = [2 of BatchUnit](repeating: BatchUnit())
  var unitNumber = 0
  /// Payload is read unit by unit, not block by block.
  var readsUnits = false
  /// Cells of the index looked through for the unit; `Int.max` when that is done.
  var collected = Int.max
  static var collectStep: Int { 4096 }
  static var mostMoves: Int { 256 }
  /// The extents to visit, sorted.
  let work: UnsafeMutablePointer<UInt64>
  let workCapacity: Int
  var workCount = 0
  var workCursor = 0
  var prefetchCursor = 0
  /// Due moves, sorted by extent: extent, target tier.
  var moves = [256 of Move](repeating: Move())
  var moveCount = 0

  // The sweep.
  var sweepPage: UInt64 = 0
  var pageFrame: FrameIndex = -1
  var pageExtent: UInt64 = 0
  var sweepEnded = false
  /// The last turn of the sweep ended because its budget of work was spent.
  var hasMoreNow = false
  var jobs: UnsafeMutablePointer<DestageJob>
  var activeJobs = 0
  let buffers: UnsafeMutableRawPointer
  var hint = SlotAddress.none

  // The checkpoint.
  var bitmapDevice = 0
  var level = 0
  var pageWrites = 0
  /// Where the search for dirty pages goes on.
  var frameCursor = 0
  var flushMask: UInt64 = 0
  /// Devices written to since the last checkpoint, one bit each.
  var touched: UInt64 = 0
  let superblockPage: UnsafeMutableRawPointer
  var superblockRetryAt: Instant?
  var pending: PendingSuperblock = .checkpoint
  /// Promises of extents that got no home because younger entries, which rely on them, supersede
  /// all: the next generation takes them over.
  var keptPromises: UInt64 = 0
  /// Slots that the checkpoint being built forgets, and those it newly names.
  let freed: UnsafeMutablePointer<SlotAddress>
  let gained: UnsafeMutablePointer<SlotAddress>
  let listCapacity: Int
  var freedCount = 0
  var gainedCount = 0
  /// Segments of the dropped generation, free after the grace.
  let segments: UnsafeMutablePointer<Int32>
  var segmentCount = 0
  var isRolledBack = false
  /// Roll-backs since the last checkpoint: from the third on the batch counts as stuck.
  var rollBacks = 0
  var isStuck: Bool { rollBacks >= 3 }
  var retryAt = Instant(nanoseconds: 0)

  /// Bytes a second that recent batches folded in.
  var rate = 0
  var startedAt = Instant(nanoseconds: 0)
  var bytesDone = 0
  var lastSealCheck = Instant(nanoseconds: 0)

  struct Move {
    var extent: UInt64 = 0
    var target = TierIndex(UInt8(0))
  }

  enum PendingSuperblock { case checkpoint, growth, shutdown }

  init(log: LogGeometry, unitBytes: Int, in arena: inout Arena) {
    workCapacity = Batch.workCapacity(log)
    self.unitBytes = unitBytes
    unitBuffers = arena.take(2 * unitBytes)
    work = arena.takeArray(of: UInt64.self, count: workCapacity)
    listCapacity = 2 * workCapacity + 4096
    freed = arena.takeArray(of: SlotAddress.self, count: listCapacity)
    gained = arena.takeArray(of: SlotAddress.self, count: listCapacity)
    segments = arena.takeArray(of: Int32.self, count: log.segmentCount + 8)
    jobs = arena.take(Pools.jobs * MemoryLayout<DestageJob>.stride)
      .bindMemory(to: DestageJob.self, capacity: Pools.jobs)
    jobs.initialize(repeating: DestageJob(), count: Pools.jobs)
    buffers = arena.take(Pools.jobs * Size.extent)
    superblockPage = arena.take(Layout.metadataBlock)
  }

  private static func workCapacity(_ log: LogGeometry) -> Int {
    IndexSizes(log).extents + collectStep + mostMoves
  }

  /// What `init` takes from the arena, at most.
  static func bytes(_ log: LogGeometry, unitBytes: Int) -> Int {
    let work = workCapacity(log)
    return Arena.cost(2 * unitBytes) + Arena.cost(work * 8) + 2 * Arena.cost((2 * work + 4096) * 8)
      + Arena.cost(log.segmentCount * 4 + 32) + Arena.cost(Pools.jobs * Size.extent)
      + Arena.cost(Pools.jobs * MemoryLayout<DestageJob>.stride) + 16384
  }

  /// Nothing under way that may free space.
  var isQuiet: Bool { phase == .idle && !hasGeneration && freedCount == 0 }

  /// The target tier of a due move of this extent.
  func move(of extent: ExtentIndex) -> TierIndex? {
    for i in 0..<moveCount where moves[i].extent == extent.rawValue { return moves[i].target }
    return nil
  }
}

extension Volume {
  /// Brings the batch forward as far as it goes.
  mutating func pumpBatch() {
    switch batch.phase {
    case .idle: considerBatch()
    case .waiting:
      if log.watermark >= log.generation(0).pointee.end { beginBatch() }
    case .sweeping: pumpSweep()
    case .pages: pumpPages()
    case .flushing: break
    case .superblockA, .superblockB: pumpSuperblock()
    case .grace: pumpGrace()
    }
  }

  private mutating func considerBatch() {
    if wantedSize > superblock.volumeSize, !isStopping { return beginSuperblock(.growth) }
    guard !isStopping || freeRequestCount < Pools.requests, now >= batch.retryAt else { return }
    considerSeal()
    if log.generationCount > 1 {
      batch.hasGeneration = true
      batch.phase = .waiting
      log.syncTarget = max(log.syncTarget, log.generation(0).pointee.end)
      if log.watermark >= log.generation(0).pointee.end { beginBatch() }
    } else if isMoveDue {
      beginBatch()
    }
  }

  /// Seals the open generation when it is full, when space is wanted, or when the volume has been
  /// idle for two seconds, so that the log drains.
  private mutating func considerSeal() {
    guard log.generationCount == 1, log.current.pointee.hasEntries else {
      if log.generationCount == 1 { isDrainWanted = false }
      return
    }
    let isIdle = now.since(lastWrite) > 2_000_000_000
    if isDrainWanted || isIdle || log.isSealDue || log.fullness >= 900 { _ = log.seal() }
  }

  private mutating func beginBatch() {
    batch.phase = .sweeping
    batch.durable = log.watermark
    if batch.hasGeneration {
      let g = log.generation(0)
      invariant(g.pointee.state == .sealed, "B1: only a sealed generation is folded in")
      invariant(g.pointee.end <= batch.durable, "B1: all of it is durable")
    }
    batch.pageFrame = -1
    batch.keptPromises = 0
    beginUnits()
    batch.startedAt = now
    batch.bytesDone = 0
    pumpSweep()
  }

  // MARK: The table's slots

  /// A slot for a chunk of pages: on the first tier with room.
  mutating func allocateForTable() -> SlotAddress? {
    guard batch.gainedCount < batch.listCapacity,
      let slot = allocator.allocate(preferred: TierIndex(0), near: .none)
    else { return nil }
    adoptSlot(slot)
    return slot
  }

  /// The checkpoint being built names this slot.
  mutating func adoptSlot(_ slot: SlotAddress) {
    allocator.setMapped(slot)
    invariant(batch.gainedCount < batch.listCapacity, "B7: the lists were looked at before")
    batch.gained[batch.gainedCount] = slot
    batch.gainedCount += 1
  }

  /// The checkpoint being built does not name this slot any more.
  mutating func forgetSlot(_ slot: SlotAddress) {
    guard isWithinDevice(slot), allocator.bitmap(slot.device).pointee.isMapped(slot.slot) else {
      return
    }
    allocator.clearMapped(slot)
    invariant(batch.freedCount < batch.listCapacity, "B7: the lists were looked at before")
    batch.freed[batch.freedCount] = slot
    batch.freedCount += 1
    if planted(.slotFreedEarly) { allocator.release(slot) }
  }

  /// Whether cache and lists have room for one more page of jobs; else a partial checkpoint.
  var isBatchCramped: Bool {
    batch.freedCount + 128 > batch.listCapacity || batch.gainedCount + 256 > batch.listCapacity
      || table.cache.dirtyCount * 2 > table.cache.frameCount
      || table.cache.heldCount * 2 > table.cache.frameCount
  }

  // MARK: Failure

  /// A device's flush failed: what the batch wrote there since the last good one is not trusted.
  mutating func batchPoisoned(_ d: Int) {
    guard batch.touched & (1 << UInt64(d)) != 0 else {
      if batch.phase == .flushing { batchFlushFinished(d) }
      return
    }
    switch batch.phase {
    case .sweeping, .pages, .flushing: batch.isRolledBack = true
    case .idle, .waiting, .superblockA, .superblockB, .grace: return
    }
    if batch.phase == .flushing { rollBackIfDue() }
  }

  /// Gives the batch up as if it had never begun: the table goes back to the durable checkpoint.
  mutating func rollBackIfDue() {
    guard batch.isRolledBack, batch.activeJobs == 0, batch.pageWrites == 0, batch.unitsAreIdle
    else { return }
    if batch.phase == .flushing {
      for d in 0..<allocator.deviceCount where flushes[d].isInFlight && flushes[d].forBatch {
        return
      }
    }
    batch.isRolledBack = false
    batch.rollBacks += 1
    note(.batchRolledBack)
    unpinSweepPage()
    table.cache.forgetChanges()
    table.extentRoot = superblock.extentRoot
    table.extentRootFlips = 0
    table.chunkCount = superblock.chunkCount
    for d in 0..<allocator.deviceCount {
      table.bitmapRoots[d] = superblock.devices[d].bitmapRoot
      table.bitmapRootFlips[d] = 0
      flushes[d].batchAsks = false
    }
    for i in 0..<batch.freedCount { allocator.setMapped(batch.freed[i]) }
    for i in 0..<batch.gainedCount { allocator.clearMapped(batch.gained[i]) }
    disownPlaced()
    // What was gained is free again once nobody reads it.
    for i in 0..<batch.gainedCount { batch.freed[i] = batch.gained[i] }
    batch.freedCount = batch.gainedCount
    batch.gainedCount = 0
    batch.touched = 0
    batch.moveCount = 0
    batch.retryAt = now + Milliseconds(1000)
    batch.isPartial = false
    batch.hasGeneration = false
    batch.segmentCount = 0
    batch.phase = .grace
    pumpGrace()
  }
}
