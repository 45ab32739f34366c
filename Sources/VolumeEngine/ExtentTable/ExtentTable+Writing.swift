import Base
import DeviceIO
import DiskFormat

/// Changing the table: the batch alone does it (V3). Pages become dirty together with the path
/// above them, and go to their unused twins level by level.
extension Volume {
  /// The page at `a`, made when absent or damaged, dirty, with the path above it dirty and pinned.
  /// `overwrite`: its content will be written whole; it need not be read.
  mutating func requireForWrite(_ a: PageAddress, overwrite: Bool = false) -> PageAnswer {
    let key = PageCache.key(a)
    if let f = table.cache.find(key), table.cache[f].state == .dirty { return .ready(f) }
    if overwrite {
      return makePage(a, damaged: false)
    }
    switch require(a) {
    case .ready(let f):
      table.cache[f].pins += 1
      defer { table.cache[f].pins -= 1 }
      guard !ExtentTable.isTop(a) else {
        table.cache.setState(f, .dirty)
        return .ready(f)
      }
      switch requireForWrite(ExtentTable.parent(of: a)) {
      case .ready(let parent):
        table.cache[parent].pins += 1
        table.cache.setState(f, .dirty)
        return .ready(f)
      case let other: return other
      }
    case .absent: return makePage(a, damaged: false)
    case .damaged: return makePage(a, damaged: true)
    case let other: return other
    }
  }

  /// A new page, dirty. All that a damaged page described is lost.
  private mutating func makePage(_ a: PageAddress, damaged: Bool) -> PageAnswer {
    var parent: FrameIndex? = nil
    if !ExtentTable.isTop(a) {
      switch requireForWrite(ExtentTable.parent(of: a)) {
      case .ready(let f): parent = f
      case let other: return other
      }
    }
    if let parent { table.cache[parent].pins += 1 }
    let answer = makePage(a, damaged: damaged, under: parent)
    if case .ready = answer {} else if let parent { table.cache[parent].pins -= 1 }
    return answer
  }

  private mutating func makePage(
    _ a: PageAddress, damaged: Bool, under parent: FrameIndex?
  ) -> PageAnswer {
    let child = ExtentTable.childNumber(a)
    var entry: ChunkEntry
    if let parent {
      entry = ChunkEntry(ExtentTable.entryPointer(table.cache.page(parent), child: child))
    } else {
      entry = table.root(a)
    }
    let frame: FrameIndex
    var isNew = false
    if let f = table.cache.find(PageCache.key(a)) {
      if table.cache[f].state == .loading { return .wait(f) }
      frame = f
    } else {
      guard let f = table.cache.take(PageCache.key(a)) else { return .noFrame }
      frame = f
      isNew = true
    }
    if entry.address.isNone || entry.address == ExtentTable.lostAddress {
      let wasLost = entry.address == ExtentTable.lostAddress
      guard let slot = allocateForTable() else {
        if isNew { table.cache.drop(frame) }
        return .noSlot
      }
      table.chunkCount += 1
      entry = ChunkEntry(
        address: slot, choices: 0,
        checks: [8 of UInt32](repeating: wasLost ? ExtentTable.lostCheck : 0))
      if let parent {
        entry.encode(into: ExtentTable.entryPointer(table.cache.page(parent), child: child))
      } else {
        setRoot(a, entry)
      }
    }
    let page = table.cache.page(frame)
    Page.begin(page, a)
    if damaged { ExtentTable.fillLost(page, a) }
    table.cache.setState(frame, .dirty)
    return .ready(frame)
  }

  func isRootFlipped(_ a: PageAddress) -> Bool {
    let bit = UInt8(1) << UInt8(a.index)
    return (a.tree == .bitmap ? table.bitmapRootFlips[Int(a.device)] : table.extentRootFlips) & bit
      != 0
  }

  private mutating func setRoot(_ a: PageAddress, _ entry: ChunkEntry) {
    if a.tree == .bitmap {
      table.bitmapRoots[Int(a.device)] = entry
    } else {
      table.extentRoot = entry
    }
  }

  /// Orders a dirty page's write to its unused twin and tells its parent.
  mutating func writePage(_ f: FrameIndex, checkpoint: UInt64) {
    let a = PageCache.address(table.cache[f].key)
    let child = ExtentTable.childNumber(a)
    let bit = UInt8(1) << UInt8(child & 7)
    let check = Page.seal(table.cache.page(f), checkpoint: checkpoint, seed: log.seed)
    var entry: ChunkEntry
    if ExtentTable.isTop(a) {
      entry = table.root(a)
      if !isRootFlipped(a) {
        entry.choices ^= bit
        if a.tree == .bitmap {
          table.bitmapRootFlips[Int(a.device)] |= bit
        } else {
          table.extentRootFlips |= bit
        }
      }
      entry.checks[child & 7] = check
      setRoot(a, entry)
    } else {
      let found = table.cache.find(PageCache.key(ExtentTable.parent(of: a)))
      invariant(found != nil, "T3: a dirty page's parent is cached")
      let parent = found!
      invariant(table.cache[parent].state == .dirty, "T3: a dirty page's parent is dirty")
      let p = ExtentTable.entryPointer(table.cache.page(parent), child: child)
      entry = ChunkEntry(p)
      if !table.cache.isFlipped(parent, child: child), !planted(.twinInUseWritten) {
        entry.choices ^= bit
        table.cache.setFlipped(parent, child: child)
      }
      entry.checks[child & 7] = check
      entry.encode(into: p)
    }
    order(
      DeviceOperation(
        .write, device: entry.address.device,
        offset: entry.twinOffset(page: child & 7, second: entry.choices & bit != 0),
        length: Layout.metadataBlock, memory: table.cache.page(f),
        token: Token.make(.pageWrite, Int(f))))
    batch.touched |= 1 << UInt64(entry.address.device.rawValue)
  }

  /// A page's write has ended well: it is clean, its parent no longer pinned for it.
  mutating func finishPageWrite(_ f: FrameIndex) {
    let a = PageCache.address(table.cache[f].key)
    table.cache.setState(f, .clean)
    table.cache[f].isOfBatch = true
    guard !ExtentTable.isTop(a) else { return }
    if let parent = table.cache.find(PageCache.key(ExtentTable.parent(of: a))) {
      invariant(table.cache[parent].pins > 0, "P2: a dirty page pinned its parent")
      table.cache[parent].pins -= 1
    }
  }
}
