import Base
import DeviceIO
import DiskFormat

/// Placed extents in recovery: entries above the watermark count only with what they name.
extension Replay {
  /// Whether a placed entry's slot holds what the entry says; an error is not an answer.
  func isWhole(_ entry: EntryView, _ buffer: AlignedBuffer) throws(OpenError) -> Bool {
    guard Allocator.isUsable(entry.slot, superblock) else { return false }
    do {
      try io.read(entry.slot.device, entry.slot.byteOffset, into: buffer.base, Size.extent)
    } catch {
      throw OpenError(error)
    }
    for i in 0..<Size.blocksPerExtent
    where Checksum.crc32c(buffer.base + i << 12, Size.block) != entry.crc(i) { return false }
    return true
  }
}

extension Volume {
  /// The slot is the log's from here on; nobody else may have it.
  mutating func indexPlaced(_ entry: EntryView, _ at: LogPosition) throws(OpenError) {
    guard Allocator.isUsable(entry.slot, superblock) else {
      throw OpenError(
        .damagedLog,
        "an entry at position \(at.rawValue) names a slot that no device has: "
          + "\(entry.slot.rawValue)")
    }
    guard log.indexPlaced(entry.extent, entry.slot, crc: { entry.crc($0) }) else {
      throw OpenError(.memory, "the log holds more than its index takes")
    }
    if !planted(.ownedSlotsNotFound) {
      allocator.bitmap(entry.slot.device).pointee.setBusy(entry.slot.slot)
    }
    if log.current.pointee.index.insertExtent(entry.extent) {
      allocator.reserved += allocator.slotsPerExtent
      log.current.pointee.reservedSlots += allocator.slotsPerExtent
    }
  }

  /// What was placed above the watermark is written again, whatever the device reads back, and
  /// flushed: a kill forgets a failed flush.
  mutating func rewritePlaced(from watermark: LogPosition, _ io: SyncIO) throws(SyncError) {
    let buffer = AlignedBuffer(Size.extent)
    var devices: UInt64 = 0
    for n in 0..<log.generationCount {
      let g = log.generation(n)
      for i in 0..<g.pointee.placedCount where g.pointee.placed[i].position >= watermark {
        let slot = g.pointee.placed[i].slot
        devices |= 1 << UInt64(slot.device.rawValue)
        let read = DeviceOperation(
          .read, device: slot.device, offset: slot.byteOffset, length: Size.extent,
          memory: buffer.base, token: 0)
        // What cannot be read is lost, and its checksum will say so.
        guard io.attempt([read])[0] >= 0 else { continue }
        try io.write(slot.device, slot.byteOffset, from: buffer.base, Size.extent)
      }
    }
    for d in 0..<allocator.deviceCount where devices & (1 << UInt64(d)) != 0 {
      try io.flush(DeviceIndex(d))
    }
  }
}
