import Base
import DeviceIO
import DiskFormat
import VolumeEngine

extension World {
  /// The log segment at a byte of device 0; nil for a place outside of the log.
  private func segment(_ offset: Int) -> Int? {
    let area = Int(log.offset)..<Int(log.offset + log.areaSize)
    return area.contains(offset) ? (offset - area.lowerBound) / log.segmentSize : nil
  }

  /// The first life's record is written to segment 0, where it arrives though the device says no,
  /// and again to segment 1, where the power leaves its header alone: it never was. The second life
  /// writes the same positions to segment 0, which the power keeps from arriving, and uses segment
  /// 1 for later ones, which arrives. Now the first life's record is the first in the log again,
  /// whole, after the right predecessor: only its incarnation says that it is not of this log.
  func tellOfSamePositionsTwice() throws(Failure) {
    try begin()
    devices.fate = { [self] in
      let isRecord = segment(Int($0.offset)) == 0 && $0.offset != log.segmentOffset(0)
      return isRecord && $0.kind != .read ? .doneButFailed : nil
    }
    write(blocks: 0..<1)
    try settle("the second try", until: { [self] in
      devices.inFlight.contains {
        $0.operation.length > 4096 && segment(Int($0.operation.offset)) == 1
      }
    })
    devices.fate = { _ in nil }
    // Of the second try, headers only; the first was on its way before.
    die(.power) { [self] in segment($1) == 1 ? min($2, 4096) : $2 }

    try begin()
    for _ in 0..<3 {
      write(blocks: 1..<16)
      try awaitReplies()
    }
    flush()
    try settle("an append to segment 1", until: { [self] in
      devices.inFlight.contains { segment(Int($0.operation.offset)) == 1 }
    })
    die(.power) { [self] in segment($1) == 0 ? 0 : $2 }

    try begin()
    try shutDown()
    try check()
  }

  /// The flushed overlay goes to the extent's home, and arrives; that everything before it was
  /// durable is known to nobody after the power loss, so replay looks at what was placed.
  func tellOfPlacedAndPatched() throws(Failure) {
    try begin()
    write(blocks: 0..<16)
    try awaitReplies()
    write(blocks: 3..<4)
    flush()
    try awaitReplies()
    engine.pointee.drainSoon()
    let slots = Int(log.offset + log.areaSize)
    try settle("a write to a home", until: { [self] in
      devices.inFlight.contains {
        $0.operation.kind == .write && Int($0.operation.offset) >= slots
      }
    })
    die(.power) { $1 >= slots ? $2 : 0 }
    try begin()
    try shutDown()
    try check()
  }

  /// The FLUSH that meets the error fails, the next one succeeds: what was placed is safe by then.
  func tellOfPlacedAndForgotten() throws(Failure) {
    try begin()
    write(blocks: 0..<16)
    try awaitReplies()
    var isFirst = true
    devices.fate = {
      guard isFirst, $0.kind == .flush else { return nil }
      isFirst = false
      return .forgetful
    }
    // With data in the log, so that the flush covers something of it, too.
    write(blocks: 20..<21)
    flush()
    try awaitReplies()
    flush()
    try awaitReplies()
    devices.fate = { _ in nil }
    if isFirst || report.errors != 1 {
      throw Failure("\(report.errors) requests failed, and not the first flush.")
    }
    die(.power) { _, _, _ in 0 }
    try begin()
    try shutDown()
    try check()
  }

  /// The log is whole, but its last entry says that the second extent lies where the first one
  /// lives: the second is lost, the first is not.
  func tellOfSlotOfAnother() throws(Failure) {
    try begin()
    write(blocks: 0..<16)
    try drain()
    let home = ExtentRecord(page(try firstPage()) + Page.header).home
    write(blocks: 16..<32)
    try awaitReplies()
    let superblock = try superblock()
    die(.kill) { $2 }

    guard let ring = staging.open(pool: poolID, ring: superblock.ringID)?.baseAddress else {
      throw Failure("The staging ring is gone.")
    }
    let position = RingControl.closedEnd(ring)
    let size = options.memory.ringBytes
    let record = ring + RingControl.bytes + Int(position.rawValue) % size
    let entry = record + RecordHeader.entries
    let seed = Entry.seed(
      pool: PoolSeed(poolID), incarnation: RecordHeader.incarnation(record),
      position: RecordHeader.position(record), previous: RecordHeader.previous(record),
      ordinal: 0)
    guard let view = Entry.decode(record, offset: RecordHeader.entries, seed: seed),
      view.kind == .placed, view.extent.rawValue == 1, view.slot != home
    else { throw Failure("The ring's last entry is not what was placed.") }
    entry.put64(16, home.rawValue)
    Entry.seal(entry, size: view.size, seed: seed)

    for _ in 0..<2 {
      try begin()
      if report.unreadable != 16 {
        throw Failure("\(report.unreadable) blocks could not be read, not 16.")
      }
      count(\.unreadable, -16)
      try drain()
      try shutDown()
    }
    try check()
  }
}
