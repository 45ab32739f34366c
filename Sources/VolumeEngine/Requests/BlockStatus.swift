import Base
import DiskFormat

/// Block status: what is mapped, where it is, or how hot, extent by extent. One answer takes 16,384
/// look-ups at most (64 MiB of blocks that the log or the table knows, or 1 GiB of others); clients
/// ask on. A step has a part of that for all answers together: who needs more goes on in the next,
/// in turns. So nobody holds the loop, whoever asks for how many maps.
extension Volume {
  private static var lookupsPerAnswer: UInt32 { 16384 }
  /// A third of a millisecond.
  private static var lookupsPerStep: Int { 8192 }

  mutating func beginStatus(_ r: Int) {
    requests[r].state = .walking
    requests[r].cursor = requests[r].request.offset >> 12
    requests[r].errorOffset = 0
    advanceStatus(r)
  }

  /// A step's part of the walks.
  mutating func pumpWalks() {
    lookupsLeft = Self.lookupsPerStep
    while lookupsLeft > 0, let w = waiters.popFirst(&walkers) { advanceStatus(Int(w.rawValue)) }
  }

  mutating func advanceStatus(_ r: Int) {
    let q = requests[r].request
    let end = q.offset + q.length
    let last = (end - 1) >> 12
    let view = q.view
    var record = RecordMemory()
    while requests[r].cursor <= last {
      let block = BlockIndex(requests[r].cursor)
      if requests[r].lookups >= Volume.lookupsPerAnswer, requests[r].descriptors > 0 { break }
      guard lookupsLeft > 0 else {
        waiters.append(Waiter(rawValue: Int32(r)), to: &walkers)
        return
      }
      lookupsLeft -= 1
      requests[r].lookups += 1
      var count = 1
      let flags: UInt64
      if view == .heat {
        count = Size.blocksPerExtent - block.inExtent
        flags = UInt64(policy.heat(of: block.extent, now: now))
      } else if isUntouched(block, last) {
        count = Size.blocksPerExtent
        flags = value(.hole, view)
      } else {
        let source = resolve(block, &record)
        if case .wait(let frame) = source {
          requests[r].lookups -= 1
          wait(Waiter(rawValue: Int32(r)), for: frame)
          return
        }
        flags = value(source, view)
      }
      let start = max(q.offset, block.rawValue << 12)
      let stop = min(end, (block.rawValue + UInt64(count)) << 12)
      guard describe(r, StatusDescriptor(length: stop - start, flags: flags)) else { break }
      requests[r].cursor += UInt64(count)
    }
    reply(r, .done)
  }

  /// What a view says of a block.
  private func value(_ source: BlockSource, _ view: StatusView) -> UInt64 {
    switch source {
    case .hole: view == .allocation ? StatusDescriptor.hole | StatusDescriptor.zero : 0
    case .zero:
      switch view {
      case .allocation: StatusDescriptor.zero
      case .depth: 1
      case .tier, .heat: 0
      }
    case .slot(let slot, _):
      switch view {
      case .tier: UInt64(allocator.tier(slot.device).rawValue) + 1
      case .depth: 1
      case .allocation, .heat: 0
      }
    case .ring, .logDevice:
      switch view {
      case .tier: StatusView.log
      case .depth: 1
      case .allocation, .heat: 0
      }
    // Data was there, and cannot be read.
    case .lost, .failed, .wait: view == .depth ? 1 : 0
    }
  }

  /// A whole extent that neither the log nor the table knows: seen without sixteen look-ups.
  private mutating func isUntouched(_ block: BlockIndex, _ last: UInt64) -> Bool {
    guard block.inExtent == 0, block.rawValue + 15 <= last else { return false }
    if log.touches(block.extent) { return false }
    if case .absent = require(ExtentTable.page(of: block.extent)) { return true }
    return false
  }

  /// Adds a piece to the answer, joined to the last one when alike; false when it is full.
  private func describe(_ r: Int, _ d: StatusDescriptor) -> Bool {
    let q = requests[r].request
    let list = q.memory!.assumingMemoryBound(to: StatusDescriptor.self)
    let n = Int(requests[r].descriptors)
    if n > 0, list[n - 1].flags == d.flags {
      list[n - 1].length += d.length
      return true
    }
    let most = q.flags.contains(.oneDescriptor) ? 1 : q.descriptorCapacity
    guard n < most else { return false }
    list[n] = d
    requests[r].descriptors += 1
    return true
  }
}
