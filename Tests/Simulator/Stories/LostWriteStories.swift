import Base
import DeviceIO
import DiskFormat
import VolumeEngine

/// A device that says it has written, and has not: what lies there instead is an older answer,
/// whole and valid in itself.
extension World {
  /// The third checkpoint goes where the first one was, and its page is lost. The page of the first
  /// must not be believed: its blocks read as errors, not as what they were.
  func tellOfLostPage() throws(Failure) {
    try begin()
    write(blocks: 0..<1)
    try drain()
    write(blocks: 1..<2)
    try drain()
    let entry = try firstPage()
    let device = entry.address.device
    let place = entry.twinOffset(page: 0, second: entry.choices & 1 == 0)
    var lost = 0
    devices.fate = {
      guard $0.kind == .write, $0.device == device, $0.offset <= place,
        place < $0.offset + UInt64($0.length)
      else { return nil }
      lost += 1
      return .lost
    }
    write(blocks: 2..<3)
    try drain()
    devices.fate = { _ in nil }
    if lost != 1 { throw Failure("The page was written \(lost) times.") }
    try shutDown()
    try begin()
    if report.unreadable != layout.blocks {
      throw Failure("\(report.unreadable) blocks of \(layout.blocks) could not be read.")
    }
  }

  /// Copy B stays what it was while checkpoints come and go, and what it names is used anew. Copy A
  /// is the younger one.
  func tellOfLostSuperblocks() throws(Failure) {
    try begin()
    write(blocks: 0..<4)
    try drain()
    devices.fate = {
      $0.offset == Layout.superblockOffsets.b && $0.device.index == 0 ? .lost : nil
    }
    for i in 1...4 {
      write(blocks: i..<i + 4)
      try drain()
    }
    devices.fate = { _ in nil }
    flush()
    try awaitReplies()
    die(.power) { $2 }
    try begin()
    try shutDown()
    try check()
  }

  /// Nobody can know whether the superblock whose write failed is there (it is not): only the same
  /// may follow, and until it is durable, no page that it or the one before names is written.
  func tellOfFailedSuperblock() throws(Failure) {
    try begin()
    write(blocks: 0..<4)
    try drain()
    var tries = 0
    devices.fate = {
      guard $0.offset == Layout.superblockOffsets.a, $0.kind == .writeThrough else { return nil }
      tries += 1
      return tries == 1 ? .failed : nil
    }
    write(blocks: 4..<8)
    try awaitReplies()
    engine.pointee.drainSoon()
    try settle("a second superblock", until: { [self] in
      tries > 0
        && devices.inFlight.contains { $0.operation.offset == Layout.superblockOffsets.a }
    })
    devices.fate = { _ in nil }
    die(.power) { $1 == Int(Layout.superblockOffsets.a) ? 0 : $2 }
    try begin()
    try shutDown()
    try check()
  }
}
