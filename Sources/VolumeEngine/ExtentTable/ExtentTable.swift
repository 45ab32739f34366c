import Base
import DeviceIO
import DiskFormat

/// The copy-on-write map: one record per extent, in pages reached through directories, rooted in
/// the superblock. Only the batch changes it; everybody reads it.
///
/// - T1: which twin of a page counts is said by its parent, with the check it must have.
/// - T2: the twin that the last durable checkpoint names is never written.
/// - T3: a page is dirty only while its parent is in the cache, dirty and pinned.
/// - T4: a page that does not match its parent is damaged: its blocks are lost, and named.
struct ExtentTable: ~Copyable {
  private let anchor = Anchor()
  var cache: PageCache
  var extentRoot: ChunkEntry
  var bitmapRoots: [ChunkEntry]
  /// Slots that the chunks of all trees take.
  var chunkCount: UInt64
  /// Top-level pages flipped since the last checkpoint, one bit a page.
  var extentRootFlips: UInt8 = 0
  var bitmapRootFlips: [UInt8]
  /// Those who wait for a frame to become free.
  var frameWaiters = WaiterList()

  static let lostAddress = SlotAddress(rawValue: UInt64.max)
  static let lostCheck = UInt32.max

  init(superblock: Superblock, frameCount: Int, in arena: inout Arena) {
    cache = PageCache(frameCount: frameCount, in: &arena)
    extentRoot = superblock.extentRoot
    bitmapRoots = superblock.devices.map(\.bitmapRoot)
    chunkCount = superblock.chunkCount
    bitmapRootFlips = Array(repeating: 0, count: superblock.devices.count)
  }

  func root(_ a: PageAddress) -> ChunkEntry {
    a.tree == .bitmap ? bitmapRoots[Int(a.device)] : extentRoot
  }

  /// The page of the extent table that holds an extent's record.
  static func page(of extent: ExtentIndex) -> PageAddress {
    PageAddress(
      .extents, level: 0, index: extent.rawValue / UInt64(Page.recordsPerPage))
  }

  static func parent(of a: PageAddress) -> PageAddress {
    PageAddress(
      a.tree, level: Int(a.level) + 1, device: a.device, index: a.index / UInt64(Page.fanout))
  }

  /// A child's number in its parent, 0 to 775; at the top, in the root.
  static func childNumber(_ a: PageAddress) -> Int {
    Int(a.level) == Page.height(a.tree) ? Int(a.index) : Int(a.index % UInt64(Page.fanout))
  }

  static func isTop(_ a: PageAddress) -> Bool { Int(a.level) == Page.height(a.tree) }

  /// The directory entry for a child in its parent's page.
  static func entryPointer(
    _ page: UnsafeMutableRawPointer, child: Int
  ) -> UnsafeMutableRawPointer {
    page + Page.header + (child >> 3) * ChunkEntry.bytes
  }

  /// The record of an extent in its page.
  func record(_ f: FrameIndex, _ extent: ExtentIndex) -> ExtentRecord {
    let i = Int(extent.rawValue % UInt64(Page.recordsPerPage))
    return ExtentRecord(cache.page(f) + Page.header + i * ExtentRecord.bytes)
  }
}

/// What asking for a page gives.
enum PageAnswer {
  case ready(FrameIndex)
  /// There is no such page: what it would describe was never written.
  case absent
  /// It does not match its parent.
  case damaged
  /// It cannot be read now.
  case failed
  /// It is being read; wait for this frame.
  case wait(FrameIndex)
  /// The cache is full of pages in use.
  case noFrame
  /// A new chunk was needed and there is no slot for it.
  case noSlot
}

extension Volume {
  /// The page at `a`; begins to read it, or a page above it, when it is not cached.
  mutating func require(_ a: PageAddress) -> PageAnswer {
    let key = PageCache.key(a)
    if let f = table.cache.find(key) {
      table.cache[f].isRecent = true
      switch table.cache[f].state {
      case .clean, .dirty: return .ready(f)
      case .loading: return .wait(f)
      case .damaged: return .damaged
      case .failed:
        if now.since(table.cache[f].failedAt) < 1_000_000_000 { return .failed }
        return readAgain(f)
      case .free: invariant(false, "P1: a free frame is not found")
      }
    }
    let child = ExtentTable.childNumber(a)
    switch entry(above: a) {
    case .answer(let answer): return answer
    case .entry(let entry):
      if let answer = ExtentTable.withoutReading(entry, child: child) { return answer }
      guard let f = table.cache.take(key) else { return .noFrame }
      return beginRead(f, entry)
    }
  }

  private enum Above {
    case entry(ChunkEntry)
    case answer(PageAnswer)
  }

  /// The directory entry that describes the page at `a`.
  private mutating func entry(above a: PageAddress) -> Above {
    if ExtentTable.isTop(a) {
      guard a.index < 8 else { return .answer(.absent) }
      return .entry(table.root(a))
    }
    switch require(ExtentTable.parent(of: a)) {
    case .ready(let parent):
      let p = ExtentTable.entryPointer(
        table.cache.page(parent), child: ExtentTable.childNumber(a))
      return .entry(ChunkEntry(p))
    case let other: return .answer(other)
    }
  }

  /// A page whose reading failed a while ago.
  private mutating func readAgain(_ f: FrameIndex) -> PageAnswer {
    let a = PageCache.address(table.cache[f].key)
    table.cache[f].pins += 1
    let above = entry(above: a)
    table.cache[f].pins -= 1
    switch above {
    case .answer(let answer): return answer
    case .entry(let entry):
      if let answer = ExtentTable.withoutReading(entry, child: ExtentTable.childNumber(a)) {
        table.cache.drop(f)
        return answer
      }
      return beginRead(f, entry)
    }
  }

  /// Orders a page's read. The frame remembers the check it must have: its parent may be evicted
  /// meanwhile.
  private mutating func beginRead(_ f: FrameIndex, _ entry: ChunkEntry) -> PageAnswer {
    let a = PageCache.address(table.cache[f].key)
    let child = ExtentTable.childNumber(a)
    table.cache.setState(f, .loading)
    guard isWithinDevice(entry.address) else {
      table.cache.setState(f, .damaged)
      note(.damagedPage(a))
      return .damaged
    }
    table.cache[f].check = entry.checks[child & 7]
    table.cache[f].isOfBatch = isFlipped(a)
    table.cache[f].attempts = 0
    orderPageRead(f, entry, child)
    return .wait(f)
  }

  /// Whether the page was written since the last checkpoint: then its parent is held.
  private func isFlipped(_ a: PageAddress) -> Bool {
    if ExtentTable.isTop(a) { return isRootFlipped(a) }
    guard let parent = table.cache.find(PageCache.key(ExtentTable.parent(of: a))),
      table.cache[parent].isHeld
    else { return false }
    return table.cache.isFlipped(parent, child: ExtentTable.childNumber(a))
  }

  private mutating func orderPageRead(_ f: FrameIndex, _ entry: ChunkEntry, _ child: Int) {
    let second = entry.choices & (1 << UInt8(child & 7)) != 0
    order(
      DeviceOperation(
        .read, device: entry.address.device,
        offset: entry.twinOffset(page: child & 7, second: second),
        length: Layout.metadataBlock, memory: table.cache.page(f),
        token: Token.make(.pageRead, Int(f))))
    table.cache[f].place = SlotAddress(rawValue: entry.address.rawValue)
    table.cache[f].twin = UInt8(child & 7) | (second ? 8 : 0)
  }

  mutating func finishPageRead(_ f: FrameIndex, ok: Bool) {
    let a = PageCache.address(table.cache[f].key)
    invariant(table.cache[f].state == .loading, "P4: only a loading page is completed")
    if table.cache[f].isStale {
      waiters.wakeAll(head: &table.cache[f].waiters)
      table.cache.drop(f)
      return
    }
    if ok {
      let own = UnsafeRawPointer(table.cache.page(f)).u32(4)
      let check = planted(.pageCheckedAlone) ? own : table.cache[f].check
      if Page.isValid(table.cache.page(f), a, crc: check, seed: log.seed) {
        table.cache.setState(f, .clean)
      } else if table.cache[f].attempts < 2 {
        // One wrong read condemns nothing.
        table.cache[f].attempts += 1
        readTwinAgain(f)
        return
      } else {
        table.cache.setState(f, .damaged)
        note(.damagedPage(a))
      }
    } else {
      table.cache.setState(f, .failed)
      table.cache[f].failedAt = now
    }
    waiters.wakeAll(head: &table.cache[f].waiters)
  }

  private mutating func readTwinAgain(_ f: FrameIndex) {
    let slot = table.cache[f].place
    let twin = Int(table.cache[f].twin)
    let index = UInt64((twin & 7) * 2 + (twin >> 3))
    order(
      DeviceOperation(
        .read, device: slot.device,
        offset: slot.byteOffset + index * UInt64(Layout.metadataBlock),
        length: Layout.metadataBlock, memory: table.cache.page(f),
        token: Token.make(.pageRead, Int(f))))
  }

  func isWithinDevice(_ slot: SlotAddress) -> Bool {
    !slot.isNone && slot.device.index < allocator.deviceCount
      && slot.slot < allocator.bitmap(slot.device).pointee.slotCount
  }

  /// The first page of the extent table from `from` to `through` that exists.
  mutating func nextExistingPage(from: UInt64, through: UInt64) -> NextPage {
    var p = from
    search: while p <= through {
      var level = Page.height(.extents)
      while level >= 1 {
        var span: UInt64 = 1
        for _ in 0..<level { span *= UInt64(Page.fanout) }
        switch require(PageAddress(.extents, level: level, index: p / span)) {
        case .ready(let f):
          let below = span / UInt64(Page.fanout)
          let child = Int(p / below % UInt64(Page.fanout))
          let entry = ChunkEntry(ExtentTable.entryPointer(table.cache.page(f), child: child))
          if case .absent? = ExtentTable.withoutReading(entry, child: child) {
            p = (p / below + 1) * below
            continue search
          }
        case .absent:
          p = (p / span + 1) * span
          continue search
        case .damaged: return .found(p)
        case .wait(let f): return .wait(f)
        case .noFrame: return .noFrame
        case .failed, .noSlot: return .failed
        }
        level -= 1
      }
      return .found(p)
    }
    return .none
  }
}

/// What looking for the next page gives.
enum NextPage {
  case found(UInt64)
  case none
  case wait(FrameIndex)
  case noFrame
  case failed
}

extension ExtentTable {
  /// What an entry says of a child without reading it: absent, or lost.
  static func withoutReading(_ entry: ChunkEntry, child: Int) -> PageAnswer? {
    if entry.address.isNone { return .absent }
    if entry.address == lostAddress { return .damaged }
    let check = entry.checks[child & 7]
    if check == 0 { return .absent }
    if check == lostCheck { return .damaged }
    return nil
  }

  /// Marks all that a rebuilt page describes as lost.
  static func fillLost(_ page: UnsafeMutableRawPointer, _ a: PageAddress) {
    guard a.tree == .extents else { return }
    if a.level == 0 {
      for i in 0..<Page.recordsPerPage {
        ExtentRecord(page + Page.header + i * ExtentRecord.bytes).lost = 0xffff
      }
    } else {
      let lost = ChunkEntry(
        address: lostAddress, choices: 0, checks: [8 of UInt32](repeating: lostCheck))
      for i in 0..<Page.entriesPerPage {
        lost.encode(into: page + Page.header + i * ChunkEntry.bytes)
      }
    }
  }
}
