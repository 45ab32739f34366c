import Base
import DeviceIO
import DiskFormat

/// The sweep: page by page in address order, over the extents that the generation's entries,
/// its ranges and the due moves touch.
extension Volume {
  mutating func pumpSweep() {
    guard batch.phase == .sweeping else { return }
    if batch.isRolledBack {
      rollBackIfDue()
      return
    }
    batch.hasMoreNow = false
    guard prepareUnit() else { return }
    prefetchPages()
    let limit = now.since(lastRead) < 100_000_000 ? 8 : Pools.jobs
    // What needs no I/O is bounded, too: a step never holds the loop.
    var budget = 2048
    defer { batch.hasMoreNow = batch.hasMoreNow || budget == 0 }
    while batch.activeJobs < limit, orders.room > 256, !batch.isRolledBack, budget > 0 {
      budget -= 1
      if batch.pageFrame >= 0 {
        sweepExtent()
        continue
      }
      if batch.sweepEnded || isBatchCramped {
        guard batch.activeJobs == 0 else { return }
        if batch.sweepEnded, advanceUnit() {
          batch.hasMoreNow = true
          return
        }
        batch.isPartial = !batch.sweepEnded
        beginCheckpoint()
        return
      }
      if !beginNextPage(), !batch.sweepEnded { return }
    }
  }

  /// Asks for the pages of the next extents, so that the sweep need not wait for each.
  private mutating func prefetchPages() {
    guard batch.phase == .sweeping, batch.pageFrame < 0 || batch.prefetchCursor < batch.workCount
    else { return }
    let ahead = min(batch.workCount, batch.workCursor + min(64, table.cache.frameCount / 8))
    batch.prefetchCursor = max(batch.prefetchCursor, batch.workCursor)
    while batch.prefetchCursor < ahead {
      let extent = ExtentIndex(batch.work[batch.prefetchCursor])
      if case .noFrame = require(ExtentTable.page(of: extent)) { return }
      batch.prefetchCursor += 1
    }
  }

  /// Takes the next page that has work; false when there is none now.
  private mutating func beginNextPage() -> Bool {
    guard let page = nextPageWithWork() else { return false }
    if case .absent = require(PageAddress(.extents, level: 0, index: page)), !createsPage(page) {
      batch.sweepPage = page + 1
      return true
    }
    let answer = requireForWrite(PageAddress(.extents, level: 0, index: page))
    switch answer {
    case .ready(let f):
      table.cache[f].pins += 1
      batch.pageFrame = f
      batch.pageExtent = page * UInt64(Page.recordsPerPage)
      batch.sweepPage = page
      return true
    case .wait(let f): sweepWaits(f)
    case .noFrame: writeOutEarly()
    case .failed, .noSlot, .absent, .damaged:
      batch.isRolledBack = true
      rollBackIfDue()
    }
    return false
  }

  /// Whether the generation says anything of this page that needs a record.
  private func createsPage(_ page: UInt64) -> Bool {
    guard batch.hasGeneration else { return false }
    let g = log.generation(0)
    let first = page * UInt64(Page.recordsPerPage)
    for e in first..<first + UInt64(Page.recordsPerPage)
    where g.pointee.index.containsExtent(ExtentIndex(e)) { return true }
    var i = g.pointee.tombstones.firstIndex(endingAfter: BlockIndex(first << 4))
    let end = (first + UInt64(Page.recordsPerPage)) << 4
    while i < g.pointee.tombstones.count, g.pointee.tombstones[i].start.rawValue < end {
      if g.pointee.tombstones[i].keepsAllocated { return true }
      i += 1
    }
    return false
  }

  /// Everything in the cache is dirty or in use: what is dirty is written out.
  private mutating func writeOutEarly() {
    guard batch.activeJobs == 0, table.cache.dirtyCount > 0 else { return }
    batch.isPartial = true
    beginCheckpoint()
  }

  private mutating func sweepWaits(_ f: FrameIndex) {
    guard !waiters.isWaiting(Pools.sweepWaiter) else { return }
    wait(Pools.sweepWaiter, for: f)
  }

  /// The number of the next page with an extent to visit or under a range; nil: wait, or the end.
  private mutating func nextPageWithWork() -> UInt64? {
    let perPage = UInt64(Page.recordsPerPage)
    while batch.workCursor < batch.workCount,
      batch.work[batch.workCursor] / perPage < batch.sweepPage
    { batch.workCursor += 1 }
    var next = UInt64.max
    if batch.workCursor < batch.workCount { next = batch.work[batch.workCursor] / perPage }
    if batch.hasGeneration {
      switch nextRangePage(before: next) {
      case .found(let page): next = min(next, page)
      case .none: break
      case .wait(let f):
        sweepWaits(f)
        return nil
      case .noFrame:
        writeOutEarly()
        return nil
      case .failed:
        batch.isRolledBack = true
        rollBackIfDue()
        return nil
      }
    }
    if next == UInt64.max {
      batch.sweepEnded = true
      return nil
    }
    return next
  }

  /// The next page under a range of the generation, from `sweepPage` on and before `limit`: any
  /// page for ranges that keep their allocation, an existing one for the others.
  private mutating func nextRangePage(before limit: UInt64) -> NextPage {
    let g = log.generation(0)
    let perPage = UInt64(Page.recordsPerPage)
    let from = BlockIndex(batch.sweepPage * perPage << 4)
    var i = g.pointee.tombstones.firstIndex(endingAfter: from)
    while i < g.pointee.tombstones.count {
      let t = g.pointee.tombstones[i]
      guard batch.unit.contains(t.position) else {
        i += 1
        continue
      }
      let first = max(batch.sweepPage, t.start.extent.rawValue / perPage)
      if first >= limit { return .none }
      let last = BlockIndex(t.end.rawValue - 1).extent.rawValue / perPage
      if t.keepsAllocated { return .found(first) }
      switch nextExistingPage(from: first, through: min(last, limit)) {
      case .found(let page): return .found(page)
      case .none: break
      case .wait(let f): return .wait(f)
      case .noFrame: return .noFrame
      case .failed: return .failed
      }
      i += 1
    }
    return .none
  }

  /// Visits the next extent of the page under the sweep.
  private mutating func sweepExtent() {
    let perPage = UInt64(Page.recordsPerPage)
    let end = (batch.sweepPage + 1) * perPage
    guard batch.pageExtent < end else {
      unpinSweepPage()
      batch.sweepPage += 1
      return
    }
    let extent = batch.pageExtent
    while batch.workCursor < batch.workCount, batch.work[batch.workCursor] < extent {
      batch.workCursor += 1
    }
    let isListed = batch.workCursor < batch.workCount && batch.work[batch.workCursor] == extent
    if !isListed && !isUnderRange(extent) {
      batch.pageExtent += 1
      return
    }
    batch.pageExtent += 1
    if !startJob(ExtentIndex(extent), batch.pageFrame) { batch.pageExtent = extent }
  }

  private func isUnderRange(_ extent: UInt64) -> Bool {
    batch.hasGeneration && log.generation(0).pointee.tombstones.count > 0
      && log.generation(0).pointee.isUnderRange(ExtentIndex(extent))
  }

  mutating func unpinSweepPage() {
    guard batch.pageFrame >= 0 else { return }
    table.cache[batch.pageFrame].pins -= 1
    batch.pageFrame = -1
  }
}
