import Base
import DiskFormat

/// No command ends an epoch yet. What the older epoch wrote must not be patched: the first write
/// into its extent goes to a fresh slot, and the rest of the extent with it.
extension World {
  func tellOfTwoEpochs() throws(Failure) {
    try begin()
    write(blocks: 0..<4)
    try drain()
    try shutDown()
    let old = try firstHome()

    try endEpoch()
    guard try openThroughCrashes() else { throw Failure("The pool does not open.") }
    write(blocks: 1..<2)
    try drain()
    try shutDown()
    let new = try firstHome()
    if new.slot == old.slot { throw Failure("The home of an older epoch was patched in place.") }
    if new.birth.rawValue != old.birth.rawValue + 1 {
      throw Failure("The new home's birth epoch is \(new.birth.rawValue).")
    }
    let kept = devices.devices[old.slot.device.index].current + Int(old.slot.byteOffset)
    for (i, crc) in old.checks.enumerated()
    where Checksum.crc32c(kept + i << 12, Size.block) != crc {
      throw Failure("Block \(i) of the old home has changed.")
    }
    try begin()
    try shutDown()
    try check()
  }

  /// Where the table says the volume's first extent lives, its epoch, and its first four checks.
  private func firstHome() throws(Failure) -> (
    slot: SlotAddress, birth: Epoch, checks: [UInt32]
  ) {
    let record = ExtentRecord(page(try firstPage()) + Page.header)
    if record.home.isNone { throw Failure("The extent has no home.") }
    return (record.home, record.birth, (0..<4).map { record.crc($0) })
  }

  /// What a snapshot will do to the superblock: later writes belong to the next epoch.
  private func endEpoch() throws(Failure) {
    var next = try superblock()
    next.epoch = Epoch(next.epoch.rawValue + 1)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
    defer { memory.deallocate() }
    next.encode(into: memory)
    for offset in [Layout.superblockOffsets.a, Layout.superblockOffsets.b] {
      devices.devices[0].writeThrough(memory, offset: Int(offset), length: 4096)
    }
  }
}
