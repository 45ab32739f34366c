import Base
import DeviceIO
import DiskFormat

/// How a write enters the log. Whole blocks go straight in; a block covered in part is first read
/// and merged, and looked up again when it is staged: if it changed meanwhile, it is read again.
///
/// - Q1: writes are staged in the order of the queue; the staging order is the acknowledged order.
/// - Q2: a partial block is staged only over the base that is newest at that moment.
/// - Q3: a write is acknowledged when all its blocks are staged, never before.
extension Volume {
  mutating func beginWrite(_ r: Int) {
    let q = requests[r].request
    counters.writeOps += 1
    counters.writeBytes += q.length
    lastWrite = now
    noteAccess(q, isWrite: true)
    setPartialBlocks(r)
    requests[r].cursor = q.offset >> 12
    if !beginPlacing(r) { goOnWriting(r) }
  }

  /// What is not placed: ragged ends are read first.
  mutating func goOnWriting(_ r: Int) {
    if requests[r].head.state == .none && requests[r].tail.state == .none {
      enqueue(r)
    } else {
      requests[r].state = .reading
      advancePartial(r)
    }
  }

  /// Marks the first and the last block when the range covers them in part.
  mutating func setPartialBlocks(_ r: Int) {
    let q = requests[r].request
    let first = q.offset >> 12
    let end = q.offset + q.length
    let last = (end - 1) >> 12
    let ragged = end & 4095 != 0
    if q.offset & 4095 != 0 || (first == last && ragged) {
      requests[r].head = PartialBlock(state: .needed, block: first)
    }
    if last != first && ragged {
      requests[r].tail = PartialBlock(state: .needed, block: last)
    }
  }

  mutating func enqueue(_ r: Int) {
    requests[r].state = .queued
    if arrivals.absent == Int32(r) {
      arrivals.absent = -1
      waiters.prepend(Waiter(rawValue: Int32(r)), to: &queued)
    } else {
      waiters.append(Waiter(rawValue: Int32(r)), to: &queued)
    }
    depart(r)
    pumpQueue()
  }

  // MARK: Staging

  /// What an attempt to stage gives.
  enum Staging {
    case done
    /// Nothing can be staged now; what is lacking was asked for.
    case blocked
    /// The request has left the queue to read something.
    case left
    case failed(RequestResult)
  }

  /// Stages queued requests in order, as far as space and back-pressure allow.
  mutating func pumpQueue() {
    while queued.first >= 0, arrivals.absent < 0 {
      let r = Int(queued.first)
      let isWrite = requests[r].request.kind == .write
      let logged = isWrite ? bytesToLog(r) : 0
      if logged > 0, !batch.isStuck, !admission.allows(logged) { return }
      switch isWrite ? stageWrite(r) : stageZero(r) {
      case .done:
        _ = waiters.popFirst(&queued)
        admission.spend(logged)
        acknowledge(r)
      case .blocked: return
      case .left: break
      case .failed(let result):
        _ = waiters.popFirst(&queued)
        reply(r, result)
      }
    }
  }

  /// Everything of the request is staged.
  private mutating func acknowledge(_ r: Int) {
    let isDurable = requests[r].request.flags.contains(.durable)
    if isDurable && !planted(.durableNotAwaited) || log.ring.control == nil {
      waitDurable(r, isDurable: isDurable)
    } else {
      log.writesSinceFlush += 1
      reply(r, .done)
    }
  }

  mutating func stageWrite(_ r: Int) -> Staging {
    let q = requests[r].request
    let first = q.offset >> 12
    let last = (q.offset + q.length - 1) >> 12
    while requests[r].cursor <= last {
      let block = BlockIndex(requests[r].cursor)
      var memory = UnsafeRawPointer(q.memory!) + Int(block.rawValue - first) << 12
      var end = min(last, block.rawValue | 15)
      let side = requests[r].head.page >= 0 && block.rawValue == requests[r].head.block
        ? 1 : requests[r].tail.page >= 0 && block.rawValue == requests[r].tail.block ? 2 : 0
      if side != 0 {
        guard isBaseCurrent(r, side) else { return leaveQueue(r) }
        memory = merge(r, side)
        end = block.rawValue
      } else if requests[r].tail.page >= 0, end == last {
        end = last - 1
      }
      let count = Int(end - block.rawValue) + 1
      let isPlaced = isPlaced(r, block)
      switch isPlaced
        ? stagePlaced(r, block.extent, memory) : stageData(r, block, count, memory)
      {
      case .staged(let n): requests[r].cursor += UInt64(n)
      case .not(let staging): return staging
      }
    }
    return .done
  }

  /// Stages one ragged edge of a range of zeros.
  mutating func stageZeroEdge(_ r: Int, _ side: Int) -> Staging {
    guard isBaseCurrent(r, side) else { return leaveQueue(r) }
    let q = requests[r].request
    let p = partial(r, side)
    let start = max(q.offset, p.block << 12)
    let end = min(q.offset + q.length, (p.block + 1) << 12)
    (page(p.page) + Int(start & 4095)).zero(Int(end - start))
    switch stageData(r, BlockIndex(p.block), 1, UnsafeRawPointer(page(p.page))) {
    case .staged: return .done
    case .not(let staging): return staging
    }
  }

  /// Whether the base that was read is still the newest content of its block.
  private mutating func isBaseCurrent(_ r: Int, _ side: Int) -> Bool {
    let p = partial(r, side)
    if planted(.modifyWithoutSecondLook) { return true }
    var record = RecordMemory()
    let source = resolve(BlockIndex(p.block), &record)
    if source == p.source { return true }
    // The same bytes may only have left the ring.
    if case .ring(let a, _) = p.source, case .logDevice(let b, _) = source, a == b { return true }
    return false
  }

  /// The block's base with the client's bytes over it.
  private func merge(_ r: Int, _ side: Int) -> UnsafeRawPointer {
    let q = requests[r].request
    let p = partial(r, side)
    let start = max(q.offset, p.block << 12)
    let end = min(q.offset + q.length, (p.block + 1) << 12)
    let inBlock = Int(start & 4095)
    let source = q.memory! + Int(p.block - q.offset >> 12) << 12 + inBlock
    (page(p.page) + inBlock).copyMemory(from: source, byteCount: Int(end - start))
    return UnsafeRawPointer(page(p.page))
  }

  /// The head of the queue has to read something first.
  private mutating func leaveQueue(_ r: Int) -> Staging {
    leaveHead(r)
    for side in 1...2 {
      var p = partial(r, side)
      guard p.page >= 0 else { continue }
      p.state = .needed
      setPartial(r, side, p)
    }
    waiters.makeReady(Waiter(rawValue: Int32(r)))
    return .left
  }

  enum DataStaging {
    case staged(Int)
    case not(Staging)
  }

  /// Stages up to `count` blocks of one extent from `memory`.
  private mutating func stageData(
    _ r: Int, _ block: BlockIndex, _ count: Int, _ memory: UnsafeRawPointer
  ) -> DataStaging {
    if let obstacle = log.prepareEntry(
      size: Entry.size(.data, count: 1), payload: 1, blocks: count, reserve: 3)
    {
      return .not(overcome(obstacle, isWrite: true))
    }
    if let staging = reserveSlots(r, block.extent) { return .not(staging) }
    let headerRoom = (Layout.metadataBlock - log.headerUsed - 16) / 4
    let n = min(count, log.payloadRoom, headerRoom)
    let (entry, seed) = log.nextEntry()
    Entry.begin(entry, .data, count: n, first: block.inExtent, target: block.extent.rawValue)
    let index = log.current
    for i in 0..<n {
      let position = log.cursor
      let target = log.ring.pointer(at: position)
      target.copyMemory(from: memory + i << 12, byteCount: Size.block)
      let crc = Checksum.crc32c(target, Size.block)
      entry.put32(16 + 4 * i, crc)
      log.payloadBlocks += 1
      let ok = index.pointee.index.insert(
        BlockIndex(block.rawValue + UInt64(i)),
        LogCell(kind: .payload, position: position, crc: crc))
      invariant(ok, "L8: room in the index was made before")
    }
    let size = Entry.size(.data, count: n)
    Entry.seal(entry, size: size, seed: planted(.entryCheckUnseeded) ? 0 : seed)
    log.finishEntry(size: size, now: now)
    return .staged(n)
  }

  /// Asks for what is lacking.
  mutating func overcome(_ obstacle: Log.Obstacle, isWrite: Bool) -> Staging {
    switch obstacle {
    case .ring: log.requestSync()
    case .segments:
      if log.generationCount == 1, log.current.pointee.hasEntries { _ = log.seal() }
      log.requestSync()
    case .generations, .index: break
    }
    if batch.isStuck, obstacle == .generations || obstacle == .segments {
      return .failed(isWrite ? .noSpace : .ioError)
    }
    return .blocked
  }

  /// Reserves the slots that an extent's data may need when it is written home; nil: reserved.
  mutating func reserveSlots(_ r: Int, _ extent: ExtentIndex) -> Staging? {
    let g = log.current
    if g.pointee.index.containsExtent(extent) { return nil }
    var cost = promise(extent)
    if cost > 0, allocator.available < 16, !log.touches(extent) {
      switch require(ExtentTable.page(of: extent)) {
      case .ready, .absent, .damaged: cost = promise(extent)
      case .failed, .noSlot: return .failed(.ioError)
      case .wait(let f): return waitOutsideQueue(r, f)
      case .noFrame: return waitOutsideQueue(r, -1)
      }
    }
    if cost > 0, allocator.available < Int(cost) { return drain(r) }
    allocator.reserved += cost
    g.pointee.reservedSlots += cost
    _ = g.pointee.index.insertExtent(extent)
    return nil
  }

  /// Slots that an extent's destage may need, by what is known without reading. None where a home
  /// is patched in place: one that the table has, or that an older generation's promise will give.
  /// Zeros on the way may take a home away.
  private func promise(_ extent: ExtentIndex) -> UInt64 {
    guard allocator.isShort, !log.current.pointee.hasZeros(in: extent) else {
      return allocator.slotsPerExtent
    }
    let epoch = log.current.pointee.epoch
    var i = log.generationCount - 2
    while i >= 0 {
      let g = log.generation(i)
      if g.pointee.epoch != epoch || g.pointee.hasZeros(in: extent) {
        return allocator.slotsPerExtent
      }
      if g.pointee.index.containsExtent(extent) { return 0 }
      i -= 1
    }
    guard let f = table.cache.find(PageCache.key(ExtentTable.page(of: extent))),
      table.cache[f].state == .clean || table.cache[f].state == .dirty
    else { return allocator.slotsPerExtent }
    let record = table.record(f, extent)
    let isKept = !record.home.isNone && record.birth == epoch
    return isKept && isWithinDevice(record.home) ? 0 : allocator.slotsPerExtent
  }

  /// The head of the queue leaves, and will come back to it (Q5).
  private mutating func leaveHead(_ r: Int) {
    _ = waiters.popFirst(&queued)
    requests[r].state = .reading
    if !planted(.leaverComesBackLast) { arrivals.absent = Int32(r) }
  }

  mutating func waitOutsideQueue(_ r: Int, _ frame: FrameIndex) -> Staging {
    leaveHead(r)
    wait(Waiter(rawValue: Int32(r)), for: frame)
    return .left
  }

  /// Space is short: everything that may free some is done first; only then it is refused.
  mutating func drain(_ r: Int) -> Staging {
    if log.generationCount == 1, !log.current.pointee.hasEntries, batch.isQuiet {
      return .failed(.noSpace)
    }
    if batch.isStuck { return .failed(.noSpace) }
    isDrainWanted = true
    return .blocked
  }
}
