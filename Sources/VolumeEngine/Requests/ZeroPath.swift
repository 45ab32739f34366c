import Base
import DiskFormat

/// Trim, write zeroes, flush, cache hints: what moves no payload.
///
/// - Z1: a range of whole blocks is one entry, whatever its length.
/// - Z2: with `keepAllocated` the slots that later writes may need are reserved before the reply.
extension Volume {
  mutating func beginZero(_ r: Int) {
    let q = requests[r].request
    counters.trimOps += 1
    lastWrite = now
    let end = q.offset + q.length
    let isTrim = q.kind == .trim
    let ragged = q.offset & 4095 != 0 || end & 4095 != 0
    if !isTrim && ragged {
      if q.flags.contains(.onlyIfFast) {
        reply(r, .notSupported)
        return
      }
      beginRaggedZero(r)
      return
    }
    enqueue(r)
  }

  /// The whole blocks inside a range; for a trim, ragged edges are left as they are.
  private func wholeBlocks(_ q: VolumeRequest) -> Range<UInt64>? {
    let first = (q.offset + 4095) >> 12
    let end = (q.offset + q.length) >> 12
    return first < end ? first..<end : nil
  }

  /// Zeroes with ragged edges: the edges are partial writes of zeros.
  private mutating func beginRaggedZero(_ r: Int) {
    setPartialBlocks(r)
    requests[r].state = .reading
    advancePartial(r)
  }

  /// Stages the range, then the ragged edges.
  mutating func stageZero(_ r: Int) -> Staging {
    let q = requests[r].request
    if requests[r].cursor == 0 {
      if let blocks = wholeBlocks(q) {
        let staging = stageRange(r, blocks, keeps: q.flags.contains(.keepAllocated))
        guard case .done = staging else { return staging }
      }
      requests[r].cursor = 1
    }
    if requests[r].cursor == 1 {
      let staging = stageEdge(r, 1)
      guard case .done = staging else { return staging }
      requests[r].cursor = 2
    }
    if requests[r].cursor == 2 {
      let staging = stageEdge(r, 2)
      guard case .done = staging else { return staging }
      requests[r].cursor = 3
    }
    return .done
  }

  private mutating func stageRange(
    _ r: Int, _ blocks: Range<UInt64>, keeps: Bool
  ) -> Staging {
    let size = Entry.size(.deallocated)
    let count = blocks.upperBound - blocks.lowerBound
    let asMarks = count <= UInt64(Size.blocksPerExtent)
    if log.isOpen, asMarks ? log.recordHasRanges : log.recordHasMarks { log.closeRecord() }
    if let obstacle = log.prepareEntry(size: size, payload: 0, blocks: 32, reserve: 2) {
      return overcome(obstacle, isWrite: false)
    }
    if asMarks {
      var e = blocks.lowerBound >> 4
      while e <= (blocks.upperBound - 1) >> 4 {
        if keeps {
          if let staging = reserveSlots(r, ExtentIndex(e)) { return staging }
        } else {
          _ = log.current.pointee.index.insertExtent(ExtentIndex(e | Log.markFlag))
        }
        e += 1
      }
    } else if keeps, let staging = reserveRange(r, blocks) {
      return staging
    }
    let (entry, seed) = log.nextEntry()
    Entry.begin(
      entry, keeps ? .zeroed : .deallocated, count: 0, first: 0, target: blocks.lowerBound)
    entry.put64(16, count)
    let ok = log.indexRange(blocks, keeps: keeps)
    invariant(ok, "L8: room in the index was made before")
    Entry.seal(entry, size: size, seed: seed)
    log.finishEntry(size: size, now: now)
    return .done
  }

  /// Reserves a slot (and its share of table chunks) for every extent of a range that keeps its
  /// allocation, pessimistically.
  private mutating func reserveRange(_ r: Int, _ blocks: Range<UInt64>) -> Staging? {
    let extents = (blocks.upperBound - 1) >> 4 - blocks.lowerBound >> 4 + 1
    var cost = extents + extents / 320 + 2
    if allocator.available < Int(clamping: cost) {
      // Short: what is mapped needs nothing.
      switch countUnmapped(r, blocks) {
      case .count(let unmapped): cost = unmapped == 0 ? 0 : unmapped + unmapped / 320 + 2
      case .left: return .left
      case .unknown: break
      }
      guard allocator.available >= Int(clamping: cost) else { return drain(r) }
    }
    allocator.reserved += cost
    log.current.pointee.reservedSlots += cost
    return nil
  }

  private enum Unmapped {
    case count(UInt64)
    /// The request waits for a page, outside of the queue.
    case left
    /// More pages than the cache should hold for this.
    case unknown
  }

  private mutating func countUnmapped(_ r: Int, _ blocks: Range<UInt64>) -> Unmapped {
    let perPage = UInt64(Page.recordsPerPage)
    let first = blocks.lowerBound >> 4
    let last = (blocks.upperBound - 1) >> 4
    guard last / perPage - first / perPage < UInt64(table.cache.frameCount / 4) else {
      return .unknown
    }
    var unmapped: UInt64 = 0
    var page = first / perPage
    while page <= last / perPage {
      let from = max(first, page * perPage)
      let to = min(last, (page + 1) * perPage - 1)
      switch require(PageAddress(.extents, level: 0, index: page)) {
      case .ready(let f):
        for e in from...to where table.record(f, ExtentIndex(e)).home.isNone { unmapped += 1 }
      case .absent, .damaged: unmapped += to - from + 1
      case .wait(let f):
        _ = waitOutsideQueue(r, f)
        return .left
      case .noFrame, .failed, .noSlot: return .unknown
      }
      page += 1
    }
    return .count(unmapped)
  }

  private mutating func stageEdge(_ r: Int, _ side: Int) -> Staging {
    let p = side == 1 ? requests[r].head : requests[r].tail
    guard p.page >= 0 else { return .done }
    return stageZeroEdge(r, side)
  }

  // MARK: Flush

  mutating func beginFlush(_ r: Int) {
    counters.flushOps += 1
    let n = log.writesSinceFlush
    log.flushHabit = (1...4).contains(n) ? min(8, log.flushHabit + 1) : n == 0 ? log.flushHabit : 0
    log.writesSinceFlush = 0
    waitDurable(r, isDurable: true)
  }

  /// The request is answered when everything staged so far is durable (or, without a ring and not
  /// durable, appended).
  mutating func waitDurable(_ r: Int, isDurable: Bool) {
    requests[r].target = log.stagedTarget
    requests[r].state = .flushing
    requests[r].needsRetry = !isDurable
    if log.watermark >= requests[r].target {
      reply(r, .done)
      return
    }
    if isDurable { log.syncTarget = max(log.syncTarget, requests[r].target) }
    waiters.append(Waiter(rawValue: Int32(r)), to: &flushing)
  }

  /// Answers whom the watermark has passed.
  mutating func answerFlushes() {
    while flushing.first >= 0 {
      let r = Int(flushing.first)
      let reached =
        requests[r].needsRetry || planted(.flushWithoutFlush) ? log.completedEnd : log.watermark
      guard reached >= requests[r].target else { return }
      _ = waiters.popFirst(&flushing)
      reply(r, .done)
    }
  }

  /// A flush has failed: nobody who waited for it is told that it succeeded.
  mutating func failFlushes() {
    while let w = waiters.popFirst(&flushing) { reply(Int(w.rawValue), .ioError) }
  }

  // MARK: Hints

  mutating func beginCache(_ r: Int) {
    let q = requests[r].request
    if q.length > 0 {
      var e = q.offset >> 16
      let last = min((q.offset + q.length - 1) >> 16, e + 4095)
      while e <= last {
        policy.noteWanted(ExtentIndex(e), now: now)
        e += 1
      }
    }
    reply(r, .done)
  }
}
