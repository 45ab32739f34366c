import Base
import DiskFormat

/// How placed slots become homes, or free. A slot belongs to the entry that names it until the
/// entry's generation is dropped; then it is the table's, or nobody's.
extension Volume {
  /// When all of an extent lies in one placed slot, that slot becomes its home: nothing is read or
  /// written. False: the extent takes the usual way. Where younger entries supersede some of its
  /// blocks they will patch it; where they supersede all, it is not worth a change of the record.
  /// A slot that the table gives to somebody else (a damaged log may say anything) is only read.
  mutating func adoptPlaced(_ extent: ExtentIndex, _ record: ExtentRecord) -> Bool {
    guard let first = log.findInGeneration(0, extent.block(0)), first.kind == .placed,
      batch.unit.contains(first.position), isWithinDevice(first.slot),
      first.slot == record.home || !allocator.bitmap(first.slot.device).pointee.isMapped(
        first.slot.slot) || planted(.mappedSlotAdopted)
    else { return false }
    var superseded = 0
    for i in 0..<Size.blocksPerExtent {
      guard let cell = log.findInGeneration(0, extent.block(i)), cell.kind == .placed,
        cell.slot == first.slot
      else {
        if planted(.placedPatchedEarly) { makeHome(of: record, first.slot) }
        return false
      }
      if isSuperseded(extent.block(i)) { superseded += 1 }
    }
    guard superseded < Size.blocksPerExtent else { return false }
    makeHome(of: record, first.slot)
    record.present = 0xffff
    record.lost = 0
    for i in 0..<Size.blocksPerExtent {
      guard let cell = log.findInGeneration(0, extent.block(i)) else { continue }
      record.setCRC(i, cell.crc)
    }
    return true
  }

  private mutating func makeHome(of record: ExtentRecord, _ slot: SlotAddress) {
    if record.home != slot {
      if !record.home.isNone { forgetSlot(record.home) }
      invariant(
        !allocator.bitmap(slot.device).pointee.isMapped(slot.slot),
        "PL4: a placed slot is nobody's home before it is adopted")
      allocator.setMapped(slot)
      placed.adopted[placed.adoptedCount] = slot
      placed.adoptedCount += 1
    }
    if !record.secondHome.isNone { forgetSlot(record.secondHome) }
    record.secondHome = .none
    record.atSecond = 0
    record.role = .none
    record.home = slot
    record.birth = log.generation(0).pointee.epoch
  }

  /// The batch is given up: what it adopted is the log's alone again.
  mutating func disownPlaced() {
    for i in 0..<placed.adoptedCount { allocator.clearMapped(placed.adopted[i]) }
    placed.adoptedCount = 0
  }

  /// Finds out which slots the log names now.
  mutating func collectOwned() {
    placed.owned.removeAll()
    for i in 0..<log.generationCount {
      let g = log.generation(i)
      for k in 0..<g.pointee.placedCount { placed.owned.insert(g.pointee.placed[k].slot) }
    }
  }

  /// Slots of the dropped generation that the table does not name are free, unless they are
  /// already.
  mutating func releaseDropped() {
    for i in 0..<placed.droppedCount {
      let slot = placed.dropped[i]
      let bitmap = allocator.bitmap(slot.device)
      if !bitmap.pointee.isMapped(slot.slot), bitmap.pointee.isBusy(slot.slot) {
        allocator.release(slot)
      }
    }
    placed.droppedCount = 0
  }
}

extension Placed {
  mutating func noteDropped(_ g: UnsafeMutablePointer<Generation>) {
    for i in 0..<g.pointee.placedCount { dropped[i] = g.pointee.placed[i].slot }
    droppedCount = g.pointee.placedCount
  }
}
