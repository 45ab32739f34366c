import Base
import DeviceIO
import DiskFormat

/// One extent on its way home: what the generation says of it, where it goes, what is still to be
/// read and written.
///
///     decide ─► reading (log, old home) ─► writing (home) ─► record changed ─► done
///                  │                          │ failed
///                  └ a block is lost          └──► again, in a fresh slot
struct DestageJob {
  enum Phase: UInt8 { case free, reading, writing }

  var phase = Phase.free
  var extent = ExtentIndex(0)
  var frame: FrameIndex = -1
  var pending: Int32 = 0
  var failed = false
  var failedDevice: UInt8 = 0
  var attempts: UInt8 = 0
  /// Blocks with content from the log; zeroed, deallocated; zeroed, allocation kept; lost.
  var data: UInt16 = 0
  var zero: UInt16 = 0
  var keep: UInt16 = 0
  var lost: UInt16 = 0
  /// Blocks that later units of the batch will see to.
  var later: UInt16 = 0
  /// Blocks copied from the old home into a fresh slot.
  var carried: UInt16 = 0
  /// Blocks that are written from the unit's memory, without a copy in the job's buffer.
  var direct: UInt16 = 0
  /// Fresh slot to write to; none: patch in place.
  var fresh = SlotAddress.none
  /// Some block's entry was skipped for a younger one.
  var isSuperseded = false
  var wasMove = false
  var isVoluntary = false
  var fromTier = TierIndex(UInt8(0))
  var positions = [16 of LogPosition](repeating: LogPosition(0))
  var crcs = [16 of UInt32](repeating: 0)
  /// Where placed blocks are read from; none for those in the log.
  var slots = [16 of SlotAddress](repeating: .none)
  var pin: UInt8 = 0
}

extension Volume {
  func jobBuffer(_ j: Int) -> UnsafeMutableRawPointer { batch.buffers + j * Size.extent }

  /// Begins the work on an extent; false when no job is free now.
  mutating func startJob(_ extent: ExtentIndex, _ frame: FrameIndex) -> Bool {
    var j = 0
    while j < Pools.jobs, batch.jobs[j].phase != .free { j += 1 }
    guard j < Pools.jobs else { return false }
    batch.jobs[j] = DestageJob()
    batch.jobs[j].extent = extent
    batch.jobs[j].frame = frame
    let record = table.record(frame, extent)
    if batch.hasGeneration, adoptPlaced(extent, record) { return true }
    gather(j)
    let job = batch.jobs[j]
    let move = batch.move(of: extent)
    if batch.jobs[j].isSuperseded, job.data == 0, record.home.isNone {
      batch.keptPromises += allocator.slotsPerExtent
    }
    if job.data | job.zero | job.keep | job.lost == 0, move == nil { return true }
    guard chooseHome(j, record, move) else {
      // No slot anywhere: reservations make this a matter of moves alone.
      return true
    }
    if batch.jobs[j].data | batch.jobs[j].carried == 0 {
      changeRecord(j)
      return true
    }
    table.cache[frame].pins += 1
    batch.activeJobs += 1
    beginJobReads(j)
    return true
  }

  /// What the generation says of each block, newer durable entries taken into account.
  private mutating func gather(_ j: Int) {
    guard batch.hasGeneration else { return }
    let extent = batch.jobs[j].extent
    for i in 0..<Size.blocksPerExtent {
      let block = extent.block(i)
      guard let cell = log.findInGeneration(0, block) else { continue }
      guard !isSuperseded(block) else {
        batch.jobs[j].isSuperseded = true
        continue
      }
      let bit = UInt16(1) << UInt16(i)
      guard batch.unit.contains(cell.position) else {
        if cell.position >= batch.unit.end { batch.jobs[j].later |= bit }
        continue
      }
      switch cell.kind {
      case .payload:
        batch.jobs[j].data |= bit
        batch.jobs[j].positions[i] = cell.position
        batch.jobs[j].crcs[i] = cell.crc
      case .zero: batch.jobs[j].zero |= bit
      case .reservedZero: batch.jobs[j].keep |= bit
      case .placed:
        batch.jobs[j].data |= bit
        batch.jobs[j].slots[i] = cell.slot
        batch.jobs[j].crcs[i] = cell.crc
      case .lost: batch.jobs[j].lost |= bit
      }
    }
  }

  /// Whether a younger generation has a durable entry for the block.
  func isSuperseded(_ block: BlockIndex) -> Bool {
    var i = 1
    while i < log.generationCount {
      if let cell = log.findInGeneration(i, block) {
        if planted(.skippedForVolatile) || cell.position < batch.durable { return true }
      }
      i += 1
    }
    return false
  }

  // MARK: Homes

  /// Decides where the extent goes; false: it cannot be done now, nothing is changed.
  private mutating func chooseHome(
    _ j: Int, _ record: ExtentRecord, _ move: TierIndex?
  ) -> Bool {
    let job = batch.jobs[j]
    let remaining =
      record.present & ~(job.data | job.zero | job.keep | job.lost | job.later)
    let hasContent = (remaining | job.data) != 0
    guard hasContent || job.keep != 0 else { return true }
    let home = record.home
    let epoch = batch.hasGeneration ? log.generation(0).pointee.epoch : record.birth
    let isForeign = !home.isNone && !isWithinDevice(home)
    let isOlder = record.birth != epoch && !planted(.olderEpochPatched)
    let mustBeFresh = home.isNone || isOlder || isForeign
    if mustBeFresh {
      let tier = policy.preferredTier(
        for: job.extent, current: nil, tiers: allocator.occupancy(), now: now)
      guard let slot = allocator.allocate(preferred: tier, near: batch.hint) else {
        batch.isRolledBack = true
        return false
      }
      take(j, slot, carrying: isForeign ? 0 : remaining, from: record)
      if isForeign { batch.jobs[j].lost |= remaining }
      return true
    }
    let current = allocator.tier(home.device)
    var wanted = move
    if wanted == nil, job.data != 0 {
      let preferred = policy.preferredTier(
        for: job.extent, current: current, tiers: allocator.occupancy(), now: now)
      if preferred != current { wanted = preferred }
    }
    let mergesBase = record.atSecond != 0
    if let wanted, wanted != current || mergesBase, allocator.available > 0,
      let slot = allocator.allocate(tier: wanted, near: batch.hint)
    {
      take(j, slot, carrying: remaining, from: record)
      batch.jobs[j].wasMove = true
      batch.jobs[j].isVoluntary = true
      batch.jobs[j].fromTier = current
    } else if move != nil, let move {
      policy.noteMoved(job.extent, from: current, to: move, succeeded: false, now: now)
    }
    return true
  }

  private mutating func take(
    _ j: Int, _ slot: SlotAddress, carrying remaining: UInt16, from record: ExtentRecord
  ) {
    batch.jobs[j].fresh = slot
    batch.jobs[j].carried = remaining
    for i in 0..<Size.blocksPerExtent where remaining & (1 << UInt16(i)) != 0 {
      batch.jobs[j].crcs[i] = record.crc(i)
    }
    batch.hint = SlotAddress(device: slot.device, slot: slot.slot + 1)
  }

  // MARK: Reading

  private mutating func beginJobReads(_ j: Int) {
    batch.jobs[j].phase = .reading
    batch.jobs[j].failed = false
    batch.jobs[j].direct = 0
    batch.jobs[j].pending = 1
    let job = batch.jobs[j]
    let record = table.record(job.frame, job.extent)
    let buffer = jobBuffer(j)
    // The last try goes block by block: one bad sector costs one block.
    let isLast = job.attempts >= 3
    batch.jobs[j].pin = pins.enter()
    var i = 0
    while i < Size.blocksPerExtent {
      let bit = UInt16(1) << UInt16(i)
      var n = 1
      if job.data & bit != 0, !job.slots[i].isNone {
        let slot = job.slots[i]
        while !isLast, i + n < 16, job.data & (1 << UInt16(i + n)) != 0, job.slots[i + n] == slot
        { n += 1 }
        orderJobRead(j, slot.device, slot.byteOffset + UInt64(i << 12), i, n)
      } else if job.data & bit != 0 {
        let position = job.positions[i]
        let run = directRun(job, from: i)
        if run > 0 {
          batch.jobs[j].direct |= UInt16(truncatingIfNeeded: (1 << run - 1) << i)
          n = run
        } else if log.isInRing(position) {
          (buffer + i << 12).copyMemory(
            from: log.ring.pointer(at: position), byteCount: Size.block)
        } else if job.attempts == 0, let payload = batch.payload(at: position) {
          (buffer + i << 12).copyMemory(from: payload, byteCount: Size.block)
        } else if let offset = log.segments.deviceOffset(position) {
          while !isLast, i + n < 16, job.data & (1 << UInt16(i + n)) != 0,
            job.positions[i + n] == position + n << 12,
            log.segments.deviceOffset(job.positions[i + n]) == offset + UInt64(n << 12)
          { n += 1 }
          orderJobRead(j, DeviceIndex(0), offset, i, n)
        } else {
          batch.jobs[j].failed = true
        }
      } else if job.carried & bit != 0 {
        let atSecond = record.atSecond & bit != 0
        let home = atSecond ? record.secondHome : record.home
        while !isLast, i + n < 16, job.carried & (1 << UInt16(i + n)) != 0,
          (record.atSecond & (1 << UInt16(i + n)) != 0) == atSecond
        { n += 1 }
        if isWithinDevice(home) {
          orderJobRead(j, home.device, home.byteOffset + UInt64(i << 12), i, n)
        }
      }
      i += n
    }
    endJobRead(j)
  }

  /// How many blocks, from the `i`-th on, can be written to the old home as they lie in the unit's
  /// memory: all that are written there at once, or none.
  private func directRun(_ job: DestageJob, from i: Int) -> Int {
    guard job.fresh.isNone, job.attempts == 0, i == 0 || job.data & (1 << UInt16(i - 1)) == 0
    else { return 0 }
    var n = 0
    while i + n < Size.blocksPerExtent, job.data & (1 << UInt16(i + n)) != 0 {
      guard job.slots[i + n].isNone, job.positions[i + n] == job.positions[i] + n << 12,
        batch.payload(at: job.positions[i + n]) != nil
      else { return 0 }
      n += 1
    }
    return n
  }

  /// Where a block that a job writes lies in memory.
  func source(_ j: Int, _ i: Int) -> UnsafeMutableRawPointer {
    if batch.jobs[j].direct & (1 << UInt16(i)) != 0,
      let payload = batch.payload(at: batch.jobs[j].positions[i])
    {
      return UnsafeMutableRawPointer(mutating: payload)
    }
    return jobBuffer(j) + i << 12
  }

  private mutating func orderJobRead(
    _ j: Int, _ device: DeviceIndex, _ offset: UInt64, _ first: Int, _ n: Int
  ) {
    batch.jobs[j].pending += 1
    order(
      DeviceOperation(
        .read, device: device, offset: offset, length: n << 12,
        memory: jobBuffer(j) + first << 12,
        token: Token.make(.jobRead, j, Int(device.rawValue))))
  }

  mutating func finishJobRead(_ j: Int, _ device: Int, ok: Bool) {
    invariant(batch.jobs[j].phase == .reading, "V1: a job's read ends while it reads")
    if !ok {
      batch.jobs[j].failed = true
      batch.jobs[j].failedDevice = UInt8(device)
      deviceCounters[device].readErrors += 1
    } else {
      lastSuccess[device] = now
    }
    endJobRead(j)
  }

  private mutating func endJobRead(_ j: Int) {
    batch.jobs[j].pending -= 1
    guard batch.jobs[j].pending == 0 else { return }
    pins.leave(batch.jobs[j].pin)
    let bad = mismatches(j)
    if bad != 0 || batch.jobs[j].failed {
      guard batch.jobs[j].attempts >= 3 else {
        batch.jobs[j].attempts += 1
        beginJobReads(j)
        return
      }
      if batch.jobs[j].failed, !batch.jobs[j].isVoluntary, !mayGiveUp(j) {
        // An error is not a complete read with a wrong checksum: nothing is lost, it is done again.
        failJob(j)
        return
      }
      giveUp(j, bad)
      if batch.jobs[j].attempts == 0, batch.jobs[j].data != 0 {
        beginJobReads(j)
        return
      }
      if batch.jobs[j].data | batch.jobs[j].carried == 0 {
        changeRecord(j)
        endJob(j)
        return
      }
    }
    beginJobWrites(j)
  }

  /// An unreadable block is given up only after many tries, and only when its device answers
  /// otherwise: a device that is away loses nothing.
  private func mayGiveUp(_ j: Int) -> Bool {
    batch.rollBacks >= 6
      && now.since(lastSuccess[Int(batch.jobs[j].failedDevice)]) < 2_000_000_000
  }

  /// The job cannot be done now: the batch is rolled back and done again later.
  private mutating func failJob(_ j: Int) {
    if !batch.jobs[j].fresh.isNone { allocator.release(batch.jobs[j].fresh) }
    batch.isRolledBack = true
    endJob(j)
  }

  /// Blocks of the buffer that do not match their checks.
  private func mismatches(_ j: Int) -> UInt16 {
    let wanted = batch.jobs[j].data | batch.jobs[j].carried
    var bad: UInt16 = 0
    for i in 0..<16 where wanted & (1 << UInt16(i)) != 0 {
      if Checksum.crc32c(source(j, i), Size.block) != batch.jobs[j].crcs[i] {
        bad |= 1 << UInt16(i)
      }
    }
    return bad
  }

  /// The last copy of some blocks cannot be read: a move is abandoned, a destage loses them.
  private mutating func giveUp(_ j: Int, _ bad: UInt16) {
    let job = batch.jobs[j]
    if job.isVoluntary && (job.carried & bad != 0 || job.failed) {
      allocator.release(job.fresh)
      batch.jobs[j].fresh = .none
      batch.jobs[j].carried = 0
      batch.jobs[j].wasMove = false
      if job.failed {
        // What the log holds is read again, without the move.
        batch.jobs[j].isVoluntary = false
        batch.jobs[j].attempts = 0
        return
      }
    } else {
      batch.jobs[j].carried &= ~bad
      batch.jobs[j].lost |= job.carried & bad
    }
    batch.jobs[j].lost |= job.data & bad
    batch.jobs[j].data &= ~bad
    if batch.jobs[j].lost != 0 { note(.lostBlocks(job.extent, mask: batch.jobs[j].lost)) }
  }
}
