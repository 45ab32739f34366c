import Base
package import DeviceIO
import DiskFormat

/// What an offline check found.
package struct CheckReport: Sendable {
  /// Sentences, each naming the thing and what was expected; empty when the pool is clean.
  package var problems: [String] = []
  /// What an opening will mend by itself, such as one bad superblock copy after a power loss.
  package var notes: [String] = []
  package var pages = 0
  package var extents = 0
  package var logRecords = 0
  package var blocksVerified = 0
  /// Blocks that are marked lost: known damage, not an inconsistency.
  package var lostBlocks = 0
  package var isClean: Bool { problems.isEmpty }
}

/// Verification of a whole pool at rest; writes nothing. It may follow a crash: what the log
/// covers is not held against the homes.
///
/// - K1: every page reached matches its parent.
/// - K2: homes and chunks are disjoint, and outside the system areas.
/// - K3: the bitmaps name exactly what is reached.
/// - K4: the log's chain is whole up to the durable watermark.
/// - K5: (with data) every present block that the log does not cover matches its checksum.
package enum PoolCheck {
  package static func run(on devices: any WaitingDevices, verifyData: Bool) -> CheckReport {
    var state = CheckState(io: SyncIO(devices: devices))
    do {
      try state.run(verifyData: verifyData)
    } catch {
      state.report.problems.append(error.message)
    }
    return state.report
  }
}

private struct CheckState {
  let io: SyncIO
  var report = CheckReport()
  /// Per device, one bit a slot: reached.
  private var reached: [[UInt64]] = []
  private var covered = Set<UInt64>()
  private var ranges: [Range<UInt64>] = []

  init(io: SyncIO) { self.io = io }

  mutating func run(verifyData: Bool) throws(OpenError) {
    var events = EventQueue()
    let superblock = try PoolFormat.readSuperblock(io, repair: false, events: &events)
    while let event = events.pop() { report.notes.append(event.description) }
    let reader = TreeReader(io: io, superblock: superblock, failsOnError: false)
    reached = superblock.devices.map { [UInt64](repeating: 0, count: Int($0.slotCount / 64) + 1) }
    try checkLog(superblock)
    for d in superblock.devices.indices {
      try walk(
        reader, .bitmap, device: UInt8(d), root: superblock.devices[d].bitmapRoot,
        verifyData: false)
    }
    try walk(reader, .extents, device: 0, root: superblock.extentRoot, verifyData: verifyData)
    try checkBitmaps(reader)
  }

  // MARK: Log

  private mutating func checkLog(_ superblock: Superblock) throws(OpenError) {
    var replay = Replay(io: io, superblock: superblock, ring: nil)
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
          for i in 0..<entry.count {
            covered.insert(entry.extent.block(entry.first + i).rawValue)
          }
        case .placed:
          for i in 0..<Size.blocksPerExtent { covered.insert(entry.extent.block(i).rawValue) }
        case .deallocated, .zeroed:
          let start = entry.rangeStart.rawValue
          if entry.rangeCount <= 16 {
            for b in start..<start + entry.rangeCount { covered.insert(b) }
          } else {
            ranges.append(start..<start + entry.rangeCount)
          }
        }
      }
      if walk.found != RecordHeader.entryCount(header) {
        report.problems.append("log record at position \(at.rawValue) has damaged entries")
      }
      at = at + RecordHeader.length(header)
    }
  }

  // MARK: Trees

  private mutating func walk(
    _ reader: TreeReader, _ tree: TreeKind, device: UInt8, root: ChunkEntry, verifyData: Bool
  ) throws(OpenError) {
    // The callback cannot change `self` while `reader` walks: it collects, page by page.
    let state = Collector()
    try reader.walk(tree, device: device, root: root) { (visit) throws(OpenError) in
      switch visit {
      case .chunk(let slot): state.slots.append((slot, "a chunk of the \(tree) tree"))
      case .damaged(let a): state.problems.append(VolumeEvent.damagedPage(a).description)
      case .page(let a, let p):
        state.pages += 1
        guard tree == .extents, a.level == 0 else { return }
        state.collect(a, p)
      }
    }
    report.pages += state.pages
    report.extents += state.extents
    report.lostBlocks += state.lost
    report.problems += state.problems
    for (slot, what) in state.slots { reach(slot, what, reader) }
    if verifyData { verify(state.blocks) }
  }

  private mutating func reach(_ slot: SlotAddress, _ what: String, _ reader: TreeReader) {
    guard reader.isWithin(slot),
      slot.slot >= Allocator.systemSlots(reader.superblock, slot.device.index)
    else {
      report.problems.append("\(what) is at an impossible place, \(slot.rawValue)")
      return
    }
    let d = slot.device.index
    let bit = UInt64(1) << (slot.slot & 63)
    if reached[d][Int(slot.slot / 64)] & bit != 0 {
      report.problems.append("\(what) is in slot \(slot.slot) of device \(d), which is used twice")
    }
    reached[d][Int(slot.slot / 64)] |= bit
  }

  /// Reads the blocks that the log does not cover and compares their checksums.
  private mutating func verify(_ blocks: [(BlockIndex, SlotAddress, UInt32)]) {
    let buffer = AlignedBuffer(64 * Size.block)
    var waiting: [(BlockIndex, SlotAddress, UInt32)] = []
    func isCovered(_ b: UInt64) -> Bool {
      covered.contains(b) || ranges.contains { $0.contains(b) }
    }
    for block in blocks where !isCovered(block.0.rawValue) {
      waiting.append(block)
      if waiting.count == 64 { verifyGroup(&waiting, buffer) }
    }
    verifyGroup(&waiting, buffer)
  }

  private mutating func verifyGroup(
    _ group: inout [(BlockIndex, SlotAddress, UInt32)], _ buffer: AlignedBuffer
  ) {
    var operations: [DeviceOperation] = []
    for (i, (block, slot, _)) in group.enumerated() {
      operations.append(
        DeviceOperation(
          .read, device: slot.device, offset: slot.byteOffset + UInt64(block.inExtent << 12),
          length: Size.block, memory: buffer.base + i * Size.block, token: 0))
    }
    let results = io.attempt(operations)
    for (i, (block, slot, crc)) in group.enumerated() {
      report.blocksVerified += 1
      let good =
        results[i] >= 0 && Checksum.crc32c(buffer.base + i * Size.block, Size.block) == crc
      if !good {
        report.problems.append(
          "volume byte \(block.rawValue << 12), in slot \(slot.slot) of device "
            + "\(slot.device.rawValue), does not match its checksum")
      }
    }
    group.removeAll(keepingCapacity: true)
  }

  // MARK: Bitmaps

  private mutating func checkBitmaps(_ reader: TreeReader) throws(OpenError) {
    for d in reader.superblock.devices.indices {
      let slots = reader.superblock.devices[d].slotCount
      let state = Collector()
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
          if named != isReached, state.problems.count < 100 {
            state.problems.append(
              named
                ? "slot \(s) of device \(d) is in use, but nothing reaches it: a leak"
                : "slot \(s) of device \(d) is in use, but the bitmap says it is free")
          }
        }
      }
      report.problems += state.problems
    }
  }
}

/// What a walk gathers while it runs.
private final class Collector {
  var slots: [(SlotAddress, String)] = []
  var problems: [String] = []
  var blocks: [(BlockIndex, SlotAddress, UInt32)] = []
  var pages = 0
  var extents = 0
  var lost = 0

  func collect(_ a: PageAddress, _ p: UnsafeRawPointer) {
    for i in 0..<Page.recordsPerPage {
      let extent = ExtentIndex(a.index * UInt64(Page.recordsPerPage) + UInt64(i))
      let record = ExtentRecord(
        UnsafeMutableRawPointer(mutating: p + Page.header + i * ExtentRecord.bytes))
      lost += record.lost.nonzeroBitCount
      if record.home.isNone { continue }
      extents += 1
      slots.append((record.home, "extent \(extent.rawValue)"))
      if !record.secondHome.isNone {
        slots.append((record.secondHome, "the second home of extent \(extent.rawValue)"))
      }
      for b in 0..<Size.blocksPerExtent
      where record.present & ~record.lost & (1 << UInt16(b)) != 0 {
        let atSecond = record.atSecond & (1 << UInt16(b)) != 0
        blocks.append(
          (extent.block(b), atSecond ? record.secondHome : record.home, record.crc(b)))
      }
    }
  }
}
