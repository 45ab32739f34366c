import Base
import DeviceIO
import DiskFormat

/// How a read is answered: block by block the log's index is asked, then the table; blocks that
/// lie together on a device are read as one piece. A piece whose checksum fails (the block may
/// have been patched or moved meanwhile) is looked up again, three times; then it is an error.
///
/// - R1: no byte leaves that did not match its checksum.
/// - R2: a piece pins what it reads until it has ended.
extension Volume {
  mutating func beginRead(_ r: Int) {
    let q = requests[r].request
    counters.readOps += 1
    counters.readBytes += q.length
    lastRead = now
    requests[r].state = .reading
    requests[r].cursor = q.offset >> 12
    clearHoles(q)
    noteAccess(q, isWrite: false)
    advanceRead(r)
  }

  private func clearHoles(_ q: VolumeRequest) {
    guard let holes = q.holes else { return }
    let blocks = Int((q.offset + q.length - 1) >> 12 - q.offset >> 12) + 1
    for i in 0..<(blocks + 63) / 64 { holes[i] = 0 }
  }

  /// Tells the policy which extents a request touches.
  mutating func noteAccess(_ q: VolumeRequest, isWrite: Bool) {
    let first = q.offset >> 16
    let last = (q.offset + q.length - 1) >> 16
    var e = first
    while e <= last {
      let from = max(q.offset, e << 16)
      let to = min(q.offset + q.length, (e + 1) << 16)
      policy.noteAccess(
        ExtentIndex(e), bytes: Int(to - from), requestBytes: Int(q.length), isWrite: isWrite,
        now: now)
      e += 1
    }
  }

  /// Where a block's newest content is. `record` remembers the extent looked up last.
  mutating func resolve(_ block: BlockIndex, _ record: inout RecordMemory) -> BlockSource {
    if let cell = log.find(block) {
      switch cell.kind {
      case .payload:
        return log.isInRing(cell.position)
          ? .ring(cell.position, crc: cell.crc) : .logDevice(cell.position, crc: cell.crc)
      case .placed: return .slot(cell.slot, crc: cell.crc)
      case .zero: return .hole
      case .reservedZero: return .zero
      case .lost: return .lost
      }
    }
    if record.extent != block.extent || record.record == nil {
      record.extent = block.extent
      record.record = nil
      switch require(ExtentTable.page(of: block.extent)) {
      case .ready(let f): record.record = table.record(f, block.extent)
      case .absent: return .hole
      case .damaged: return .lost
      case .failed, .noSlot: return .failed
      case .wait(let f): return .wait(f)
      case .noFrame: return .wait(-1)
      }
    }
    guard let found = record.record else { return .failed }
    return source(in: found, block.inExtent)
  }

  /// Where the table says block `i` of an extent is.
  func source(in record: ExtentRecord, _ i: Int) -> BlockSource {
    let bit = UInt16(1) << UInt16(i)
    if record.lost & bit != 0 { return .lost }
    if record.present & bit == 0 {
      return record.keepsAllocated ? .zero : .hole
    }
    let home = record.atSecond & bit != 0 ? record.secondHome : record.home
    guard isWithinDevice(home) else { return .lost }
    return .slot(home, crc: record.crc(i))
  }

  mutating func advanceRead(_ r: Int) {
    let q = requests[r].request
    let firstBlock = q.offset >> 12
    let last = (q.offset + q.length - 1) >> 12
    var record = RecordMemory()
    var building = -1
    while requests[r].cursor <= last {
      let block = BlockIndex(requests[r].cursor)
      let place = Int(block.rawValue - firstBlock)
      let memory = q.memory! + place << 12
      switch resolve(block, &record) {
      case .ring(let position, let crc):
        memory.copyMemory(from: log.ring.pointer(at: position), byteCount: Size.block)
        if Checksum.crc32c(memory, Size.block) != crc {
          failBlock(r, block, device: nil)
        } else {
          counters.servedLogBytes += UInt64(Size.block)
        }
      case .logDevice(let position, let crc):
        guard let offset = log.segments.deviceOffset(position) else {
          failBlock(r, block, device: nil)
          break
        }
        if !addToPiece(&building, r, block, DeviceIndex(0), offset, crc, isLog: true) { return }
      case .slot(let slot, let crc):
        let offset = slot.byteOffset + UInt64(block.inExtent << 12)
        if !addToPiece(&building, r, block, slot.device, offset, crc, isLog: false) { return }
      case .hole, .zero:
        memory.zero(Size.block)
        counters.servedZeroBytes += UInt64(Size.block)
        if let holes = q.holes, log.find(block)?.kind != .reservedZero {
          holes[place >> 6] |= 1 << UInt64(place & 63)
        }
      case .lost, .failed: failBlock(r, block, device: nil)
      case .wait(let frame):
        closePiece(&building)
        wait(Waiter(rawValue: Int32(r)), for: frame)
        return
      }
      requests[r].cursor += 1
    }
    closePiece(&building)
    finishReadIfDone(r)
  }

  private mutating func failBlock(_ r: Int, _ block: BlockIndex, device: DeviceIndex?) {
    if requests[r].result == .done {
      requests[r].result = .ioError
      requests[r].errorOffset = max(block.rawValue << 12, requests[r].request.offset)
    }
  }

  private mutating func finishReadIfDone(_ r: Int) {
    guard requests[r].pending == 0 else { return }
    let last = (requests[r].request.offset + requests[r].request.length - 1) >> 12
    guard requests[r].cursor > last else { return }
    if requests[r].needsRetry, requests[r].attempts < 3 {
      requests[r].attempts += 1
      requests[r].needsRetry = false
      requests[r].result = .done
      requests[r].cursor = requests[r].request.offset >> 12
      clearHoles(requests[r].request)
      advanceRead(r)
      return
    }
    reply(r, requests[r].result)
  }

  // MARK: Pieces

  /// Adds a block to the piece being built, or begins one; false: no piece is free, and the
  /// request waits for one.
  private mutating func addToPiece(
    _ building: inout Int, _ r: Int, _ block: BlockIndex, _ device: DeviceIndex, _ offset: UInt64,
    _ crc: UInt32, isLog: Bool
  ) -> Bool {
    if building >= 0 {
      let n = Int(pieces[building].count)
      // The last tries go block by block: one bad sector costs one block.
      let most = requests[r].attempts < 2 ? Pools.pieceBlocks : 1
      if n < most, pieces[building].device == device.rawValue,
        pieces[building].isLog == isLog, pieceOffset == offset - UInt64(n << 12),
        pieces[building].firstBlock + UInt64(n) == block.rawValue
      {
        pieceCRCs[building * Pools.pieceBlocks + n] = crc
        pieces[building].count += 1
        return true
      }
      closePiece(&building)
    }
    guard let p = takePiece(r, block, device, isLog: isLog) else {
      waiters.append(Waiter(rawValue: Int32(r)), to: &pieceWaiters)
      return false
    }
    pieceCRCs[p * Pools.pieceBlocks] = crc
    pieceOffset = offset
    building = p
    return true
  }

  mutating func takePiece(
    _ r: Int, _ block: BlockIndex, _ device: DeviceIndex, isLog: Bool
  ) -> Int? {
    guard firstFreePiece >= 0, orders.room > 0 else { return nil }
    let p = Int(firstFreePiece)
    firstFreePiece = pieces[p].next
    pieces[p] = ReadPiece(
      request: Int32(r), firstBlock: block.rawValue, count: 1, device: device.rawValue,
      isLog: isLog, pin: pins.enter())
    requests[r].pending += 1
    return p
  }

  /// Orders the piece being built.
  private mutating func closePiece(_ building: inout Int) {
    guard building >= 0 else { return }
    let p = building
    building = -1
    let r = Int(pieces[p].request)
    let q = requests[r].request
    let memory = q.memory! + Int(pieces[p].firstBlock - q.offset >> 12) << 12
    order(
      DeviceOperation(
        .read, device: DeviceIndex(pieces[p].device), offset: pieceOffset,
        length: Int(pieces[p].count) << 12, memory: memory, token: Token.make(.piece, p)))
  }

  mutating func finishPiece(_ p: Int, ok: Bool) {
    let piece = pieces[p]
    let r = Int(piece.request)
    pins.leave(piece.pin)
    requests[r].pending -= 1
    if piece.side != 0 {
      finishBaseRead(r, p, ok: ok)
    } else {
      checkPiece(p, piece, r, ok: ok)
    }
    pieces[p].next = firstFreePiece
    firstFreePiece = Int32(p)
    if piece.side != 0 {
      continueAfterBase(r)
    } else {
      finishReadIfDone(r)
    }
    if let w = waiters.popFirst(&pieceWaiters) { waiters.makeReady(w) }
  }

  private mutating func checkPiece(_ p: Int, _ piece: ReadPiece, _ r: Int, ok: Bool) {
    let q = requests[r].request
    let memory = q.memory! + Int(piece.firstBlock - q.offset >> 12) << 12
    let device = DeviceIndex(piece.device)
    if ok { lastSuccess[device.index] = now }
    if !ok {
      deviceCounters[device.index].readErrors += 1
      note(.readError(device, volumeOffset: piece.firstBlock << 12))
      requests[r].needsRetry = true
      failBlock(r, BlockIndex(piece.firstBlock), device: device)
      return
    }
    for i in 0..<Int(piece.count) {
      let crc = pieceCRCs[p * Pools.pieceBlocks + i]
      if Checksum.crc32c(memory + i << 12, Size.block) == crc || planted(.checksumIgnored) {
        continue
      }
      requests[r].needsRetry = true
      let block = BlockIndex(piece.firstBlock + UInt64(i))
      if requests[r].attempts >= 3 {
        deviceCounters[device.index].checksumErrors += 1
        note(.checksumError(device, volumeOffset: block.rawValue << 12))
      }
      failBlock(r, block, device: device)
    }
    let bytes = UInt64(piece.count) << 12
    if piece.isLog {
      counters.servedLogBytes += bytes
    } else {
      counters.servedTierBytes[allocator.tier(device).index] += bytes
    }
  }
}

/// The record of the extent that was looked up last (SAFETY: valid until another page is asked
/// for, which happens only when the extent changes).
struct RecordMemory {
  var extent = ExtentIndex(UInt64.max)
  var record: ExtentRecord? = nil
}
