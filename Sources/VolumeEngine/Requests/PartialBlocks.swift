import Base
import DeviceIO
import DiskFormat

/// Blocks that a write covers in part: their base is read, merged with the client's bytes, and
/// looked up again when it is staged.
///
/// - PB1: who waits for pages holds none: a request takes all it needs at once.
extension Volume {
  /// Reads what is still needed of the first and last block; queues the write when all is there.
  mutating func advancePartial(_ r: Int) {
    guard takePages(r) else { return }
    guard readBase(r, side: 1), readBase(r, side: 2) else { return }
    guard requests[r].pending == 0 else { return }
    if requests[r].result != .done {
      reply(r, requests[r].result)
    } else {
      enqueue(r)
    }
  }

  func partial(_ r: Int, _ side: Int) -> PartialBlock {
    side == 1 ? requests[r].head : requests[r].tail
  }

  func setPartial(_ r: Int, _ side: Int, _ p: PartialBlock) {
    if side == 1 { requests[r].head = p } else { requests[r].tail = p }
  }

  func page(_ p: Int32) -> UnsafeMutableRawPointer { pages + Int(p) << 12 }

  /// Takes the pages that a request needs, all or none: who waits for pages holds none.
  private mutating func takePages(_ r: Int) -> Bool {
    var needed = 0
    for side in 1...2 where partial(r, side).state == .needed && partial(r, side).page < 0 {
      needed += 1
    }
    guard needed <= freePageCount else {
      waiters.append(Waiter(rawValue: Int32(r)), to: &pageWaiters)
      return false
    }
    for side in 1...2 {
      var p = partial(r, side)
      guard p.state == .needed, p.page < 0 else { continue }
      p.page = firstFreePage
      firstFreePage = pageLinks[Int(p.page)]
      freePageCount -= 1
      setPartial(r, side, p)
    }
    return true
  }

  /// False when the request waits for something before it can go on.
  private mutating func readBase(_ r: Int, side: Int) -> Bool {
    var p = partial(r, side)
    guard p.state == .needed else { return true }
    let me = Waiter(rawValue: Int32(r))
    defer { setPartial(r, side, p) }
    let block = BlockIndex(p.block)
    var record = RecordMemory()
    let source = resolve(block, &record)
    p.source = source
    p.state = .ready
    switch source {
    case .ring(let position, let crc):
      page(p.page).copyMemory(from: log.ring.pointer(at: position), byteCount: Size.block)
      if Checksum.crc32c(page(p.page), Size.block) != crc { fail(r, block) }
    case .logDevice(let position, let crc):
      guard let offset = log.segments.deviceOffset(position) else {
        fail(r, block)
        return true
      }
      return orderBase(r, &p, side, DeviceIndex(0), offset, crc, isLog: true)
    case .slot(let slot, let crc):
      let offset = slot.byteOffset + UInt64(block.inExtent << 12)
      return orderBase(r, &p, side, slot.device, offset, crc, isLog: false)
    case .zero, .hole: page(p.page).zero(Size.block)
    case .lost, .failed: fail(r, block)
    case .wait(let frame):
      p.state = .needed
      wait(me, for: frame)
      return false
    }
    return true
  }

  private mutating func fail(_ r: Int, _ block: BlockIndex) {
    requests[r].result = .ioError
    requests[r].errorOffset = max(block.rawValue << 12, requests[r].request.offset)
  }

  private mutating func orderBase(
    _ r: Int, _ p: inout PartialBlock, _ side: Int, _ device: DeviceIndex, _ offset: UInt64,
    _ crc: UInt32, isLog: Bool
  ) -> Bool {
    guard let piece = takePiece(r, BlockIndex(p.block), device, isLog: isLog) else {
      p.state = .needed
      waiters.append(Waiter(rawValue: Int32(r)), to: &pieceWaiters)
      return false
    }
    pieces[piece].side = UInt8(side)
    pieceCRCs[piece * Pools.pieceBlocks] = crc
    p.state = .reading
    order(
      DeviceOperation(
        .read, device: device, offset: offset, length: Size.block, memory: page(p.page),
        token: Token.make(.piece, piece)))
    return true
  }

  mutating func finishBaseRead(_ r: Int, _ piece: Int, ok: Bool) {
    let side = Int(pieces[piece].side)
    var p = partial(r, side)
    p.state = .ready
    let good =
      ok && Checksum.crc32c(page(p.page), Size.block) == pieceCRCs[piece * Pools.pieceBlocks]
    if !good {
      requests[r].attempts += 1
      if requests[r].attempts <= 3 {
        p.state = .needed
      } else {
        let device = Int(pieces[piece].device)
        if ok {
          deviceCounters[device].checksumErrors += 1
          note(.checksumError(DeviceIndex(device), volumeOffset: p.block << 12))
        } else {
          deviceCounters[device].readErrors += 1
          note(.readError(DeviceIndex(device), volumeOffset: p.block << 12))
        }
        fail(r, BlockIndex(p.block))
      }
    }
    setPartial(r, side, p)
  }

  mutating func continueAfterBase(_ r: Int) {
    guard requests[r].pending == 0, !waiters.isWaiting(Waiter(rawValue: Int32(r))) else { return }
    advancePartial(r)
  }

  /// Returns the pages of a request that has ended.
  mutating func releasePartial(_ r: Int) {
    for side in 1...2 {
      let p = partial(r, side)
      guard p.page >= 0 else { continue }
      pageLinks[Int(p.page)] = firstFreePage
      firstFreePage = p.page
      freePageCount += 1
      setPartial(r, side, PartialBlock())
      if let w = waiters.popFirst(&pageWaiters) { waiters.makeReady(w) }
    }
  }
}
