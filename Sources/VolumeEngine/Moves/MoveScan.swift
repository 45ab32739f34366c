import Base
import DiskFormat

/// The background walk over the extent table that asks the policy, extent by extent, where it
/// should live. What it proposes waits for the next batch, which executes it under its own checks.
///
/// - M1: proposals are bounded: 256 at a time, and in bytes by the policy's rate.
/// - M2: a proposal is only a hint: the batch looks at the record again.
struct MoveScan {
  var page: UInt64 = 0
  var isWaiting = false
  var isInPass = false
  var passStarted = Instant(nanoseconds: 0)
  var nextAt = Instant(nanoseconds: 0)
  var tokens = 0
  var lastEarned = Instant(nanoseconds: 0)
  var rate: UInt64 = 0
  var firstMoveAt: Instant?
  var pendingBytes: UInt64 = 0
  var passPending: UInt64 = 0
}

extension Volume {
  mutating func pumpScan() {
    if now.since(lastTick) >= 1_000_000_000 {
      lastTick = now
      scan.rate = policy.tick(tiers: allocator.occupancy(), now: now)
    }
    let earned = min(now.since(scan.lastEarned), 1_000_000_000) / 1000 * (scan.rate / 1000) / 1000
    if earned > 0 {
      scan.tokens = min(scan.tokens + Int(earned), max(Int(scan.rate), 1 << 20))
      scan.lastEarned = now
    }
    guard !isStopping, allocator.tierCount > 1, batch.phase == .idle, !scan.isWaiting,
      now >= scan.nextAt, scan.tokens > 0
    else { return }
    if !scan.isInPass {
      scan.isInPass = true
      scan.passStarted = now
    }
    for _ in 0..<8 {
      guard scanPage() else { return }
    }
    scan.nextAt = now + Milliseconds(2)
  }

  /// Whether the proposals should be carried out now.
  var isMoveDue: Bool {
    guard batch.moveCount > 0 else { return false }
    guard batch.moveCount < 64, let first = scan.firstMoveAt else { return true }
    return now.since(first) > 50_000_000
  }

  /// Looks at the next page of the walk; false: no further now.
  private mutating func scanPage() -> Bool {
    guard batch.moveCount + Page.recordsPerPage <= 256 else { return false }
    let last = (size + UInt64(Size.extent) - 1) / UInt64(Size.extent * Page.recordsPerPage)
    switch nextExistingPage(from: scan.page, through: last) {
    case .found(let p): scan.page = p
    case .none:
      endPass()
      return false
    case .wait(let f):
      scan.isWaiting = true
      wait(Pools.scanWaiter, for: f)
      return false
    case .failed, .noFrame:
      scan.nextAt = now + Milliseconds(1000)
      return false
    }
    switch require(PageAddress(.extents, level: 0, index: scan.page)) {
    case .ready(let f): judge(f)
    case .wait(let f):
      scan.isWaiting = true
      wait(Pools.scanWaiter, for: f)
      return false
    case .absent, .damaged, .failed, .noFrame, .noSlot: break
    }
    scan.page += 1
    return true
  }

  private mutating func judge(_ f: FrameIndex) {
    let first = scan.page * UInt64(Page.recordsPerPage)
    for i in 0..<UInt64(Page.recordsPerPage) {
      let extent = ExtentIndex(first + i)
      let record = table.record(f, extent)
      guard isWithinDevice(record.home), record.birth == log.current.pointee.epoch else {
        continue
      }
      let tier = allocator.tier(record.home.device)
      guard
        let target = policy.proposedMove(
          for: extent, current: tier, tiers: allocator.occupancy(), now: now),
        target != tier, target.index < allocator.tierCount
      else { continue }
      scan.passPending += UInt64(Size.extent)
      guard scan.tokens > 0, batch.moveCount < 256 else {
        policy.noteMoved(extent, from: tier, to: target, succeeded: false, now: now)
        continue
      }
      scan.tokens -= Size.extent
      if batch.moveCount == 0 { scan.firstMoveAt = now }
      batch.moves[batch.moveCount] = Batch.Move(extent: extent.rawValue, target: target)
      batch.moveCount += 1
    }
  }

  private mutating func endPass() {
    scan.page = 0
    scan.pendingBytes = scan.passPending
    scan.passPending = 0
    let took = now.since(scan.passStarted) / 1_000_000
    scan.nextAt = now + Milliseconds(max(1000, min(60_000, took)))
    scan.isInPass = false
  }
}
