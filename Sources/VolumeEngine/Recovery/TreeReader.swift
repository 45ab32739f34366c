import Base
import DeviceIO
import DiskFormat

/// Reading the trees of a pool at rest: for recovery and check.
struct TreeReader {
  let io: SyncIO
  let superblock: Superblock
  let seed: PoolSeed

  /// A page that cannot be read ends the walk (recovery); else it counts as damaged (check).
  let failsOnError: Bool

  init(io: SyncIO, superblock: Superblock, failsOnError: Bool) {
    self.failsOnError = failsOnError
    self.io = io
    self.superblock = superblock
    seed = PoolSeed(superblock.pool)
  }

  /// What a walk tells about each page it comes to.
  enum Visit {
    /// A whole page; `bytes` until the callback returns.
    case page(PageAddress, UnsafeRawPointer)
    /// A page that cannot be read or does not match its parent.
    case damaged(PageAddress)
    /// A chunk that a directory names.
    case chunk(SlotAddress)
  }

  /// Walks a whole tree from its root entry, parents before children.
  func walk(
    _ tree: TreeKind, device: UInt8 = 0, root: ChunkEntry, visit: (Visit) throws(OpenError) -> Void
  ) throws(OpenError) {
    let top = PageAddress(tree, level: Page.height(tree), device: device, index: 0)
    try walk(entry: root, first: top, visit: visit)
  }

  /// The eight pages of one chunk, the first of which is `first`, and all below them.
  private func walk(
    entry: ChunkEntry, first: PageAddress, visit: (Visit) throws(OpenError) -> Void
  ) throws(OpenError) {
    if entry.address.isNone { return }
    guard isWithin(entry.address) else {
      try visit(.damaged(first))
      return
    }
    try visit(.chunk(entry.address))
    let buffer = AlignedBuffer(8 * Layout.metadataBlock)
    var operations: [DeviceOperation] = []
    var children: [Int] = []
    for i in 0..<8 where entry.checks[i] != 0 {
      var a = first
      a.index += UInt64(i)
      if entry.checks[i] == ExtentTable.lostCheck {
        try visit(.damaged(a))
        continue
      }
      children.append(i)
      operations.append(
        DeviceOperation(
          .read, device: entry.address.device,
          offset: entry.twinOffset(page: i, second: entry.choices & (1 << UInt8(i)) != 0),
          length: Layout.metadataBlock, memory: buffer.base + i * Layout.metadataBlock, token: 0))
    }
    guard !operations.isEmpty else { return }
    let results = io.attempt(operations)
    for (k, i) in children.enumerated() {
      var a = first
      a.index += UInt64(i)
      let p = UnsafeRawPointer(buffer.base + i * Layout.metadataBlock)
      if results[k] < 0, failsOnError {
        throw OpenError(
          .device,
          "a page of the \(a.tree) tree cannot be read from device "
            + "\(entry.address.device.rawValue) (errno \(-results[k])); "
            + "nothing was changed, try again when the device answers")
      }
      guard results[k] >= 0, Page.isValid(p, a, crc: entry.checks[i], seed: seed) else {
        try visit(.damaged(a))
        continue
      }
      try visit(.page(a, p))
      guard a.level > 0 else { continue }
      for e in 0..<Page.entriesPerPage {
        let below = ChunkEntry(p + Page.header + e * ChunkEntry.bytes)
        let child = PageAddress(
          a.tree, level: Int(a.level) - 1, device: a.device,
          index: a.index * UInt64(Page.fanout) + UInt64(e * 8))
        try walk(entry: below, first: child, visit: visit)
      }
    }
  }

  func isWithin(_ slot: SlotAddress) -> Bool {
    !slot.isNone && slot.device.index < superblock.devices.count
      && slot.slot < superblock.devices[slot.device.index].slotCount
  }
}

extension Volume {
  /// Reads the allocation bitmaps. A damaged page counts as all used, until the table is walked.
  mutating func loadBitmaps(_ io: SyncIO) throws(OpenError) {
    let reader = TreeReader(io: io, superblock: superblock, failsOnError: true)
    var damaged: [(Int, Int)] = []
    for d in 0..<allocator.deviceCount {
      let bitmap = allocator.bitmap(DeviceIndex(d))
      var seen = Set<Int>()
      try reader.walk(
        .bitmap, device: UInt8(d), root: superblock.devices[d].bitmapRoot
      ) { (visit) throws(OpenError) in
        if case .page(let a, let p) = visit, a.level == 0,
          a.index < UInt64(bitmap.pointee.pageCount)
        {
          bitmap.pointee.loadMappedBits(page: Int(a.index), from: p + Page.header)
          seen.insert(Int(a.index))
        }
      }
      bitmap.pointee.clearDirty()
      for page in 0..<bitmap.pointee.pageCount where !seen.contains(page) {
        damaged.append((d, page))
        note(.damagedBitmap(DeviceIndex(d)))
        let last = min(UInt64((page + 1) * Page.bitsPerPage), bitmap.pointee.slotCount)
        for s in UInt64(page * Page.bitsPerPage)..<last { bitmap.pointee.setBusy(s) }
        bitmap.pointee.markDirty(page)
      }
    }
    guard !damaged.isEmpty else { return }
    guard try rebuildBitmaps(reader) else {
      // Nobody knows what the damaged pages of the table held: all of it stays in use.
      for (d, page) in damaged {
        let bitmap = allocator.bitmap(DeviceIndex(d))
        let last = min(UInt64((page + 1) * Page.bitsPerPage), bitmap.pointee.slotCount)
        for s in UInt64(page * Page.bitsPerPage)..<last where !bitmap.pointee.isMapped(s) {
          bitmap.pointee.setMapped(s)
        }
      }
      return
    }
    releaseUnreached(damaged)
  }

  /// Names every slot that the table reaches; what a damaged page held stays in use.
  private mutating func rebuildBitmaps(_ reader: TreeReader) throws(OpenError) -> Bool {
    var isWhole = true
    for d in 0..<allocator.deviceCount {
      try reader.walk(
        .bitmap, device: UInt8(d), root: superblock.devices[d].bitmapRoot
      ) { (visit) throws(OpenError) in
        switch visit {
        case .chunk(let slot): markReached(slot)
        case .damaged(let a): if a.level > 0 { isWhole = false }
        case .page: break
        }
      }
    }
    try reader.walk(.extents, root: superblock.extentRoot) { (visit) throws(OpenError) in
      switch visit {
      case .chunk(let slot): markReached(slot)
      case .damaged: isWhole = false
      case .page(let a, let p):
        guard a.level == 0 else { return }
        for i in 0..<Page.recordsPerPage {
          let offset = Page.header + i * ExtentRecord.bytes
          markReached(SlotAddress(rawValue: (p + offset).u64(64)))
          markReached(SlotAddress(rawValue: (p + offset).u64(72)))
        }
      }
    }
    return isWhole
  }

  /// Slots of rebuilt bitmap pages that nothing reaches are free.
  private mutating func releaseUnreached(_ damaged: [(Int, Int)]) {
    for (d, page) in damaged {
      let bitmap = allocator.bitmap(DeviceIndex(d))
      let first = max(
        UInt64(page * Page.bitsPerPage), Allocator.systemSlots(superblock, d))
      let last = min(UInt64((page + 1) * Page.bitsPerPage), bitmap.pointee.slotCount)
      guard first < last else { continue }
      for s in first..<last where !bitmap.pointee.isMapped(s) { bitmap.pointee.clearBusy(s) }
    }
  }

  private mutating func markReached(_ slot: SlotAddress) {
    guard isWithinDevice(slot) else { return }
    let bitmap = allocator.bitmap(slot.device)
    if !bitmap.pointee.isBusy(slot.slot) { bitmap.pointee.setBusy(slot.slot) }
    if !bitmap.pointee.isMapped(slot.slot) { bitmap.pointee.setMapped(slot.slot) }
  }
}
