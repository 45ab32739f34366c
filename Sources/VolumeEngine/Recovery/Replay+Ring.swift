import Base
import DiskFormat

/// What the staging ring says of the log's end, after a kill.
extension Replay {
  /// Follows the records in the ring to the last complete entry; the open record is closed there.
  func walkRing(
    _ ring: StagingRing, from start: LogPosition, previous: UInt32
  ) throws(OpenError) -> LogPosition {
    guard let control = ring.control else { return start }
    let closedEnd = RingControl.closedEnd(control)
    var at = start
    var previous = previous
    while at < closedEnd {
      if planted == .recordWithoutChain { previous = 0 }
      let p = UnsafeRawPointer(ring.pointer(at: at))
      guard
        RecordHeader.isValid(
          p, position: at, previous: previous, incarnation: superblock.incarnation,
          logBlock: geometry.logBlock, seed: seed), at + RecordHeader.length(p) <= closedEnd,
        validPayload(ring, at) == RecordHeader.entryCount(p)
      else {
        throw OpenError(
          .damagedRing,
          "the staging ring has no valid record at position \(at.rawValue), but it was written up "
            + "to \(closedEnd.rawValue): acknowledged writes are lost. Remove the ring and start "
            + "with --accept-lost-ring to go on with what the devices hold.")
      }
      previous = RecordHeader.check(p)
      at = at + RecordHeader.length(p)
    }
    return closeOpenRecord(ring, at, previous: previous)
  }

  /// How many entries of the record at `at` are complete, payload included.
  private func validPayload(_ ring: StagingRing, _ at: LogPosition) -> Int {
    let p = ring.pointer(at: at)
    let room = min(RecordHeader.maxLength, ring.bytesToEnd(from: at))
    var walk = EntryWalk(p, pool: seed, planted: nil)
    var block = 0
    var good = 0
    while let entry = walk.next() {
      if entry.kind == .data {
        for i in 0..<entry.count {
          let offset = geometry.logBlock + block << 12
          guard offset + Size.block <= room,
            Checksum.crc32c(p + offset, Size.block) == entry.crc(i)
          else { return good }
          block += 1
        }
      }
      good += 1
    }
    return good
  }

  /// The record that was open when the process ended: closed after its last complete entry.
  private func closeOpenRecord(
    _ ring: StagingRing, _ at: LogPosition, previous: UInt32
  ) -> LogPosition {
    guard ring.bytesToEnd(from: at) >= geometry.logBlock else { return at }
    let p = ring.pointer(at: at)
    let previous = planted == .recordWithoutChain ? 0 : previous
    guard RecordHeader.position(p) == at, RecordHeader.previous(p) == previous,
      RecordHeader.incarnation(p) == superblock.incarnation
    else { return at }
    let entries = validPayload(ring, at)
    guard entries > 0 else { return at }
    var walk = EntryWalk(p, pool: seed, planted: nil)
    var blocks = 0
    for _ in 0..<entries {
      guard let entry = walk.next() else { break }
      if entry.kind == .data { blocks += entry.count }
    }
    // Nothing behind the last complete entry may look like one later.
    let tail = walk.offset
    (p + tail).zero(Layout.metadataBlock - tail)
    let used = geometry.logBlock + blocks * Size.block
    let length = (used + geometry.logBlock - 1) & ~(geometry.logBlock - 1)
    _ = RecordHeader.close(
      p, watermark: watermark, length: length, entryCount: entries, seed: seed)
    return at + length
  }
}
