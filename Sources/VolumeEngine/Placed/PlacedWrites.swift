import Base
import DeviceIO
import DiskFormat

/// Placed writes: the whole extents of a long write go straight to fresh slots of devices that do
/// not rotate; when a device has them, an entry without payload is staged. Such data is written
/// once, where logged data is written twice.
///
///     taken ─► written to its slot ─► entry staged, owned by its generation ─┬─► adopted as home
///       │             │ failed, or its device failed a flush                  └─► superseded: free
///       └ no slot     └──► slot given back, logged instead                          after the drop
///
/// After a failed flush the same bytes go to the same slot again, instead of into the log: what
/// can be read back is made durable where it is, and what cannot tells its checksum, which is what
/// an entry that says *lost* would tell.
///
/// Invariants:
/// - PL1: an entry is staged only when its slot's write has completed and its device has failed no
///   flush since.
/// - PL2: the watermark passes an entry only when a flush of its device, submitted after the write
///   had completed, has succeeded (`FlushRound`).
/// - PL3: a slot that an entry names is written by nobody until a durable checkpoint has adopted
///   it, but for the same bytes again after a failed flush (`PlacedRepair`).
/// - PL4: a slot that an entry names is not handed out before the entry's generation is dropped and
///   the table has forgotten it: a replay would find something else there.
struct Placed: ~Copyable {
  static var mostExtents: Int { VolumeRequest.maxTransfer / Size.extent }

  /// The slots of each request's whole extents.
  private let slots: UnsafeMutablePointer<SlotAddress>
  /// Where the next slot is looked for.
  var hint = SlotAddress.none
  /// Devices with placed data that no flush has covered, one bit each; and how many bytes.
  var unflushedDevices: UInt64 = 0
  var unflushedBytes = 0
  var repair: PlacedRepair
  /// Slots that the checkpoint being built adopts, and those of the generation that it dropped.
  let adopted: UnsafeMutablePointer<SlotAddress>
  let dropped: UnsafeMutablePointer<SlotAddress>
  var adoptedCount = 0
  var droppedCount = 0
  /// The slots that entries of the log name, as the last checkpoint left it.
  var owned: SlotSet

  init(_ log: LogGeometry, in arena: inout Arena) {
    slots = arena.takeArray(of: SlotAddress.self, count: Pools.requests * Placed.mostExtents)
    repair = PlacedRepair(buffer: arena.take(Size.extent))
    let count = IndexSizes(log).placed
    adopted = arena.takeArray(of: SlotAddress.self, count: count)
    dropped = arena.takeArray(of: SlotAddress.self, count: count)
    owned = SlotSet(capacity: Log.maxGenerations * count, in: &arena)
  }

  static func bytes(_ log: LogGeometry) -> Int {
    let count = IndexSizes(log).placed
    return Arena.cost(Pools.requests * mostExtents * 8) + Arena.cost(Size.extent)
      + 2 * Arena.cost(count * 8) + SlotSet.bytes(capacity: Log.maxGenerations * count)
  }

  /// The slot of request `r`'s whole extent `k`.
  subscript(r: Int, k: Int) -> SlotAddress {
    get { slots[r * Placed.mostExtents + k] }
    nonmutating set { slots[r * Placed.mostExtents + k] = newValue }
  }
}

/// A whole extent that the log knows to lie in a slot.
struct PlacedExtent {
  var slot: SlotAddress
  /// Its entry's.
  var position: LogPosition
}

extension Volume {
  /// The first whole extent of a write.
  private func firstWhole(_ q: VolumeRequest) -> UInt64 { (q.offset + 65535) >> 16 }

  /// Begins to write the request's whole extents to slots; false: all of it goes into the log.
  mutating func beginPlacing(_ r: Int) -> Bool {
    let q = requests[r].request
    guard options.placedWrites, q.length >= options.placedLeast, hasRoomToPlace(),
      placed.repair.isIdle, orders.room > 256
    else { return false }
    let first = firstWhole(q)
    let count = Int((q.offset + q.length) >> 16 - first)
    let tiers = allocator.occupancy()
    for k in 0..<count {
      let extent = ExtentIndex(first + UInt64(k))
      let tier = policy.preferredTier(for: extent, current: nil, tiers: tiers, now: now)
      guard let slot = allocator.allocate(tier: tier, near: placed.hint) else { continue }
      if geometries[slot.device.index].isRotational {
        allocator.release(slot)
        continue
      }
      placed.hint = SlotAddress(device: slot.device, slot: slot.slot + 1)
      placed[r, k] = slot
      requests[r].placed |= 1 << UInt16(k)
    }
    guard requests[r].placed != 0 else { return false }
    requests[r].state = .placing
    orderPlaced(r, first)
    return true
  }

  /// Placed slots are given back only when their generation is dropped: when few are free, what
  /// holds some is folded in, and the log takes the data.
  private mutating func hasRoomToPlace() -> Bool {
    if allocator.available >= allocator.placedLeast { return true }
    if log.current.pointee.placedCount > 0 { isDrainWanted = true }
    return false
  }

  /// One write for each run of slots side by side.
  private mutating func orderPlaced(_ r: Int, _ first: UInt64) {
    let q = requests[r].request
    let mask = requests[r].placed
    var k = 0
    while k < Placed.mostExtents {
      guard mask & (1 << UInt16(k)) != 0 else {
        k += 1
        continue
      }
      let slot = placed[r, k]
      var n = 1
      while k + n < Placed.mostExtents, mask & (1 << UInt16(k + n)) != 0,
        placed[r, k + n].rawValue == slot.rawValue + UInt64(n)
      { n += 1 }
      let block = Int((first + UInt64(k)) << 4 - q.offset >> 12)
      requests[r].pending += 1
      order(
        DeviceOperation(
          .write, device: slot.device, offset: slot.byteOffset, length: n * Size.extent,
          memory: q.memory! + block << 12, token: Token.make(.placed, r, k | n << 8)))
      k += n
    }
  }

  mutating func finishPlaced(_ r: Int, _ detail: Int, ok: Bool) {
    invariant(requests[r].state == .placing, "V1: a placed write ends while its request waits")
    if !ok {
      let k = detail & 255
      let device = placed[r, k].device
      deviceCounters[device.index].writeErrors += 1
      note(.writeError(device))
      for i in k..<k + detail >> 8 { requests[r].placedInVain |= 1 << UInt16(i) }
    }
    requests[r].pending -= 1
    guard requests[r].pending == 0 else { return }
    giveBack(r, requests[r].placedInVain)
    requests[r].placedInVain = 0
    goOnWriting(r)
  }

  /// Slots of a request that no entry names: free again.
  private mutating func giveBack(_ r: Int, _ mask: UInt16) {
    var rest = mask & requests[r].placed
    requests[r].placed &= ~mask
    while rest != 0 {
      allocator.release(placed[r, rest.trailingZeroBitCount])
      rest &= rest - 1
    }
  }

  /// A request has ended: what was not staged is given back.
  mutating func releasePlaced(_ r: Int) { giveBack(r, requests[r].placed) }

  /// What of a write goes into the log.
  func bytesToLog(_ r: Int) -> Int {
    Int(requests[r].request.length) - requests[r].placed.nonzeroBitCount * Size.extent
  }

  /// Whether the block begins an extent of the request that lies in a slot.
  func isPlaced(_ r: Int, _ block: BlockIndex) -> Bool {
    guard requests[r].placed != 0, block.inExtent == 0 else { return false }
    let k = block.extent.rawValue &- firstWhole(requests[r].request)
    return k < UInt64(Placed.mostExtents) && requests[r].placed & (1 << UInt16(k)) != 0
  }

  /// Stages the entry of an extent that lies in its slot. A failed flush before this took the
  /// slot away (PL1).
  mutating func stagePlaced(
    _ r: Int, _ extent: ExtentIndex, _ memory: UnsafeRawPointer
  ) -> DataStaging {
    let size = Entry.size(.placed)
    if log.isOpen, log.recordHasRanges { log.closeRecord() }
    if let obstacle = log.prepareEntry(
      size: size, payload: 0, blocks: Size.blocksPerExtent, reserve: 3)
    {
      return .not(overcome(obstacle, isWrite: true))
    }
    if let staging = reserveSlots(r, extent) { return .not(staging) }
    let k = Int(extent.rawValue - firstWhole(requests[r].request))
    let slot = placed[r, k]
    if planted(.placedSlotFreedEarly), let old = log.find(extent.block(0)), old.kind == .placed,
      allocator.bitmap(old.slot.device).pointee.isBusy(old.slot.slot),
      !allocator.bitmap(old.slot.device).pointee.isMapped(old.slot.slot)
    {
      allocator.release(old.slot)
    }
    let (entry, seed) = log.nextEntry()
    Entry.begin(
      entry, .placed, count: Size.blocksPerExtent, first: 0, target: extent.rawValue)
    entry.put64(16, slot.rawValue)
    for i in 0..<Size.blocksPerExtent {
      entry.put32(24 + 4 * i, Checksum.crc32c(memory + i << 12, Size.block))
    }
    let ok = log.indexPlaced(extent, slot) { UnsafeRawPointer(entry).u32(24 + 4 * $0) }
    invariant(ok, "L8: room in the index was made before")
    Entry.seal(entry, size: size, seed: seed)
    log.finishEntry(size: size, now: now)
    requests[r].placed &= ~(1 << UInt16(k))
    placed.unflushedDevices |= 1 << UInt64(slot.device.rawValue)
    placed.unflushedBytes += Size.extent
    counters.placedBytes += UInt64(Size.extent)
    return .staged(Size.blocksPerExtent)
  }

  // MARK: Failed flushes

  /// A device failed a flush: of what was placed there, nothing that was not durable is trusted.
  mutating func placedPoisoned(_ d: Int) {
    for r in 0..<Pools.requests where requests[r].placed != 0 {
      var suspect: UInt16 = 0
      for k in 0..<Placed.mostExtents
      where requests[r].placed & (1 << UInt16(k)) != 0 && placed[r, k].device.index == d {
        suspect |= 1 << UInt16(k)
      }
      if requests[r].state == .placing {
        requests[r].placedInVain |= suspect
      } else {
        giveBack(r, suspect)
      }
    }
    let wasRound = log.round.placed | placed.unflushedDevices
    abandonRound()
    guard wasRound & (1 << UInt64(d)) != 0, !planted(.placedTrustedAfterFailure) else { return }
    placed.repair.begin(d, now: now)
    failFlushes()
  }
}

extension Log {
  /// Puts a placed extent into the index and the generation's list.
  mutating func indexPlaced(
    _ extent: ExtentIndex, _ slot: SlotAddress, crc: (Int) -> UInt32
  ) -> Bool {
    let g = current
    guard g.pointee.placedCount < g.pointee.placedCapacity else { return false }
    let number = g.pointee.placedCount
    g.pointee.placed[number] = PlacedExtent(slot: slot, position: cursor)
    g.pointee.placedCount += 1
    recordHasMarks = true
    for i in 0..<Size.blocksPerExtent {
      let cell = LogCell(kind: .placed, position: cursor, crc: crc(i), placed: number)
      if !g.pointee.index.insert(extent.block(i), cell) { return false }
    }
    return true
  }
}
