import Base
import DiskFormat

/// Block status: what is mapped, extent by extent. One answer covers at most 65,536 extents
/// (4 GiB) of walking, so that a request over a large volume never holds the loop; clients ask on.
extension Volume {
  private static var walkLimit: UInt64 { 65536 }

  mutating func beginStatus(_ r: Int) {
    requests[r].state = .walking
    requests[r].cursor = requests[r].request.offset >> 12
    requests[r].errorOffset = 0
    advanceStatus(r)
  }

  mutating func advanceStatus(_ r: Int) {
    let q = requests[r].request
    let end = q.offset + q.length
    let last = (end - 1) >> 12
    var record = RecordMemory()
    let limit = (q.offset >> 16) + Volume.walkLimit
    while requests[r].cursor <= last {
      let block = BlockIndex(requests[r].cursor)
      if block.extent.rawValue >= limit, requests[r].descriptors > 0 { break }
      var count = 1
      let flags: UInt64
      if isUntouched(block, last) {
        count = Size.blocksPerExtent
        flags = StatusDescriptor.hole | StatusDescriptor.zero
      } else {
        switch resolve(block, &record) {
        case .hole: flags = StatusDescriptor.hole | StatusDescriptor.zero
        case .zero: flags = StatusDescriptor.zero
        case .ring, .logDevice, .slot, .lost, .failed: flags = 0
        case .wait(let frame):
          wait(Waiter(rawValue: Int32(r)), for: frame)
          return
        }
      }
      let start = max(q.offset, block.rawValue << 12)
      let stop = min(end, (block.rawValue + UInt64(count)) << 12)
      guard describe(r, StatusDescriptor(length: stop - start, flags: flags)) else { break }
      requests[r].cursor += UInt64(count)
    }
    reply(r, .done)
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
