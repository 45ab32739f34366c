import Base
import DiskFormat
import VolumeEngine

/// A story that no seed tells yet, since no command makes snapshots: an epoch ends between two
/// lives. What the older epoch wrote must not be patched: the first write into its extent goes to
/// a fresh slot, and the rest of the extent with it.
package enum EpochStory {
  /// Tells it; throws when the old home was written to, or a read is wrong.
  package static func run() throws(Failure) {
    let world = try World(Exhaustive.scenario(0), planted: nil)
    try world.tellOfTwoEpochs()
  }
}

extension World {
  fileprivate func tellOfTwoEpochs() throws(Failure) {
    guard try openThroughCrashes() else { throw Failure("The new pool does not open.") }
    try observeAll()
    let n = layout.perBlock
    submit(clients.begin(.write, [], 0..<4 * n, .client, reference))
    try drain()
    try shutDown()
    let old = try home(of: 0)

    try endEpoch()
    guard try openThroughCrashes() else { throw Failure("The pool does not open.") }
    submit(clients.begin(.write, [], n..<2 * n, .client, reference))
    try drain()
    try shutDown()
    let new = try home(of: 0)
    if new.slot == old.slot { throw Failure("The home of an older epoch was patched in place.") }
    if new.birth.rawValue != old.birth.rawValue + 1 {
      throw Failure("The new home's birth epoch is \(new.birth.rawValue).")
    }
    let kept = devices.devices[old.slot.device.index].current + Int(old.slot.byteOffset)
    for (i, crc) in old.checks.enumerated()
    where Checksum.crc32c(kept + i << 12, Size.block) != crc {
      throw Failure("Block \(i) of the old home has changed.")
    }
    guard try openThroughCrashes() else { throw Failure("The pool does not open again.") }
    try observeAll()
    try shutDown()
    try check()
  }

  /// Lets everything be folded into homes.
  private func drain() throws(Failure) {
    try settle("a write", until: { self.clients.openCount == 0 })
    engine.pointee.drainSoon()
    var turns = 0
    try settle("a drain", until: {
      turns += 1
      return turns > 500
    })
  }

  private func superblock() throws(Failure) -> Superblock {
    do {
      return try Superblock.decode(
        devices.devices[0].current + Int(Layout.superblockOffsets.a), pool: poolID)
    } catch {
      throw Failure("No superblock: \(error)")
    }
  }

  /// Where the table says the volume's first extent lives, its epoch, and its first four checks.
  private func home(
    of extent: Int
  ) throws(Failure) -> (slot: SlotAddress, birth: Epoch, checks: [UInt32]) {
    // The path from the root: the first page of each level.
    var entry = try superblock().extentRoot
    for _ in 0..<Page.height(.extents) {
      entry = ChunkEntry(page(entry) + Page.header)
    }
    let record = ExtentRecord(page(entry) + Page.header)
    if record.home.isNone { throw Failure("The extent has no home.") }
    return (record.home, record.birth, (0..<4).map { record.crc($0) })
  }

  private func page(_ entry: ChunkEntry) -> UnsafeMutableRawPointer {
    devices.devices[entry.address.device.index].current
      + Int(entry.twinOffset(page: 0, second: entry.choices & 1 != 0))
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
