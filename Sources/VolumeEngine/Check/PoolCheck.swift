import Base
package import DeviceIO
import DiskFormat

/// What an offline check found.
package struct CheckReport: Sendable {
  /// Sentences, each naming the thing and what was expected; empty when the pool is clean. A
  /// thousand at most.
  package var problems: [String] = []
  /// Problems beyond those thousand.
  package var unlistedProblems = 0
  /// What an opening will mend by itself, such as one bad superblock copy after a power loss.
  package var notes: [String] = []
  package var pages = 0
  package var extents = 0
  package var logRecords = 0
  package var blocksVerified = 0
  /// Blocks that are marked lost: known damage, not an inconsistency.
  package var lostBlocks = 0
  package var isClean: Bool { problems.isEmpty && unlistedProblems == 0 }

  mutating func note(_ problem: String) {
    if problems.count < 1000 { problems.append(problem) } else { unlistedProblems += 1 }
  }
}

/// Verification of a whole pool at rest; writes nothing. It may follow a crash: what the log
/// covers is not held against the homes.
///
/// - K1: every page reached matches its parent.
/// - K2: homes and chunks are disjoint, and outside the system areas.
/// - K3: the bitmaps name exactly what is reached.
/// - K4: the log's chain is whole up to the durable watermark.
/// - K5: (with data) every present block that the log does not cover matches its checksum.
/// - K6: the superblock knows how many slots the pages take.
/// - K7: a slot that an entry of the log names is nobody's home but its extent's.
///
/// Memory: a bit for each slot of the pool, and what the log holds; it does not grow with the data.
package enum PoolCheck {
  /// Checks the pool. `progress` hears of the bytes of mapped extents that were visited, and of
  /// how many there are by the bitmaps.
  package static func run(
    on devices: any WaitingDevices, verifyData: Bool,
    progress: (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }
  ) -> CheckReport {
    var state = CheckState(io: SyncIO(devices: devices), verifiesData: verifyData)
    do {
      try state.run(progress)
    } catch {
      state.report.note(error.message)
    }
    return state.report
  }
}

private struct CheckState {
  let io: SyncIO
  let verifiesData: Bool
  var report = CheckReport()
  /// Per device, one bit a slot: reached.
  private var reached: [[UInt64]] = []
  private var chunks: UInt64 = 0
  /// Slots that the bitmaps name.
  private var mapped: UInt64 = 0
  private var log = LogCover()
  /// Slots that entries of the log name, and their extents.
  private var placed: [SlotAddress: ExtentIndex] = [:]
  private var reads = ExtentReads()

  init(io: SyncIO, verifiesData: Bool) {
    self.io = io
    self.verifiesData = verifiesData
  }

  mutating func run(_ progress: (UInt64, UInt64) -> Void) throws(OpenError) {
    var events = EventQueue()
    let superblock = try PoolFormat.readSuperblock(io, repair: false, events: &events)
    while let event = events.pop() { report.notes.append(event.description) }
    let reader = TreeReader(io: io, superblock: superblock, failsOnError: false)
    reached = superblock.devices.map { [UInt64](repeating: 0, count: Int($0.slotCount / 64) + 1) }
    try checkLog(superblock)
    for d in superblock.devices.indices { try walkBitmap(reader, d) }
    try walkTable(reader, progress)
    let damaged = report.problems.count
    try checkBitmaps(reader)
    // What lies below a damaged page cannot be counted.
    if damaged == 0, chunks != superblock.chunkCount {
      report.note(
        "the superblock says that pages take \(superblock.chunkCount) slots; they take \(chunks)")
    }
  }

  // MARK: Log

  private mutating func checkLog(_ superblock: Superblock) throws(OpenError) {
    var replay = Replay(io: io, superblock: superblock, ring: nil, usesFooters: false)
    try replay.findEnd(planted: nil)
    var at = superblock.boundary
    let seed = PoolSeed(superblock.pool)
    while at < replay.end {
      let header = try replay.record(at: at)
      report.logRecords += 1
      var walk = EntryWalk(header, pool: seed, planted: nil)
      while let entry = walk.next() {
        switch entry.kind {
        case .data, .lost:
          for i in 0..<entry.count { log.add(entry.extent.block(entry.first + i)) }
        case .placed:
          for i in 0..<Size.blocksPerExtent { log.add(entry.extent.block(i)) }
          if placed.updateValue(entry.extent, forKey: entry.slot) != nil {
            report.note("two entries of the log name slot \(entry.slot.slot) of device "
              + "\(entry.slot.device.rawValue)")
          }
        case .deallocated, .zeroed: log.add(entry.rangeStart, count: entry.rangeCount)
        }
      }
      if walk.found != RecordHeader.entryCount(header) {
        report.note("log record at position \(at.rawValue) has damaged entries")
      }
      at = at + RecordHeader.length(header)
    }
    log.finish()
  }

  // MARK: Trees

  private mutating func walkBitmap(_ reader: TreeReader, _ d: Int) throws(OpenError) {
    let root = reader.superblock.devices[d].bitmapRoot
    try reader.walk(.bitmap, device: UInt8(d), root: root) { (visit) throws(OpenError) in
      switch visit {
      case .chunk(let slot): reachChunk(slot, "bitmap", reader)
      case .damaged(let a): report.note(VolumeEvent.damagedPage(a).description)
      case .page(let a, let p):
        report.pages += 1
        guard a.level == 0 else { return }
        for i in 0..<Page.bitsPerPage / 64 {
          mapped += UInt64(p.u64(Page.header + 8 * i).nonzeroBitCount)
        }
      }
    }
  }

  private mutating func walkTable(
    _ reader: TreeReader, _ progress: (UInt64, UInt64) -> Void
  ) throws(OpenError) {
    let total = (mapped - min(mapped, reader.superblock.chunkCount)) << 16
    try reader.walk(.extents, root: reader.superblock.extentRoot) { (visit) throws(OpenError) in
      switch visit {
      case .chunk(let slot): reachChunk(slot, "extents", reader)
      case .damaged(let a): report.note(VolumeEvent.damagedPage(a).description)
      case .page(let a, let p):
        report.pages += 1
        guard a.level == 0 else { return }
        checkRecords(a, p, reader)
        progress(min(UInt64(report.extents) << 16, total), total)
      }
    }
    reads.perform(io, &report)
  }

  private mutating func checkRecords(
    _ a: PageAddress, _ p: UnsafeRawPointer, _ reader: TreeReader
  ) {
    for i in 0..<Page.recordsPerPage {
      let extent = ExtentIndex(a.index * UInt64(Page.recordsPerPage) + UInt64(i))
      let record = ExtentRecord(
        UnsafeMutableRawPointer(mutating: p + Page.header + i * ExtentRecord.bytes))
      report.lostBlocks += record.lost.nonzeroBitCount
      if record.home.isNone { continue }
      report.extents += 1
      if let owner = placed[record.home], owner != extent {
        report.note(
          "the home of extent \(extent.rawValue) is the slot that the log names for extent "
            + "\(owner.rawValue)")
      }
      let isHome = reach(record.home, "extent \(extent.rawValue)", reader)
      var isSecond = false
      if !record.secondHome.isNone {
        isSecond = reach(
          record.secondHome, "the second home of extent \(extent.rawValue)", reader)
      }
      guard verifiesData else { continue }
      let blocks = record.present & ~record.lost & ~log.blocks(of: extent)
      if isHome {
        reads.add(extent, record.home, blocks & ~record.atSecond, record, io, &report)
      }
      if isSecond {
        reads.add(extent, record.secondHome, blocks & record.atSecond, record, io, &report)
      }
    }
  }

  private mutating func reachChunk(_ slot: SlotAddress, _ tree: String, _ reader: TreeReader) {
    chunks += 1
    _ = reach(slot, "a chunk of the \(tree) tree", reader)
  }

  /// Notes that the slot is in use; false when it cannot be one of the pool's.
  private mutating func reach(
    _ slot: SlotAddress, _ what: @autoclosure () -> String, _ reader: TreeReader
  ) -> Bool {
    guard reader.isWithin(slot),
      slot.slot >= Allocator.systemSlots(reader.superblock, slot.device.index)
    else {
      report.note("\(what()) is at an impossible place, \(slot.rawValue)")
      return false
    }
    let d = slot.device.index
    let bit = UInt64(1) << (slot.slot & 63)
    if reached[d][Int(slot.slot / 64)] & bit != 0 {
      report.note(
        "\(what()) is in slot \(slot.slot) of device \(d), which is used twice")
    }
    reached[d][Int(slot.slot / 64)] |= bit
    return true
  }

  // MARK: Bitmaps

  private mutating func checkBitmaps(_ reader: TreeReader) throws(OpenError) {
    for d in reader.superblock.devices.indices {
      let slots = reader.superblock.devices[d].slotCount
      var found = 0
      let bits = reached[d]
      try reader.walk(
        .bitmap, device: UInt8(d), root: reader.superblock.devices[d].bitmapRoot
      ) { (visit) throws(OpenError) in
        guard case .page(let a, let p) = visit, a.level == 0 else { return }
        for i in 0..<UInt64(Page.bitsPerPage) {
          let s = a.index * UInt64(Page.bitsPerPage) + i
          guard s < slots else { break }
          let named = p.u8(Page.header + Int(i >> 3)) & (1 << UInt8(i & 7)) != 0
          let isReached = bits[Int(s / 64)] & (1 << (s & 63)) != 0
          if named != isReached, found < 100 {
            found += 1
            report.note(
              named
                ? "slot \(s) of device \(d) is in use, but nothing reaches it: a leak"
                : "slot \(s) of device \(d) is in use, but the bitmap says it is free")
          }
        }
      }
    }
  }
}
