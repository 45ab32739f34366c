import Base
import Configuration
import DiskFormat
import Glibc
import RingIO

/// A segment whose header is valid.
struct SegmentView: Encodable {
  var index: Int
  var serial: UInt64
  var start: UInt64
  var incarnation: UInt64
  var byteOffset: UInt64

  static func lines(_ segments: [SegmentView]) -> [String] {
    guard !segments.isEmpty else { return ["log: no segment has a header"] }
    let rows = segments.map {
      ["  \($0.serial)", "\($0.index)", "\($0.start)", "\($0.incarnation)", "\($0.byteOffset)"]
    }
    return ["log: \(segments.count) segments have a header"]
      + StatusPage.table(
        [["  serial", "segment", "first position", "incarnation", "byte on device 0"]] + rows)
  }
}

/// A record of the log that is closed and valid.
struct RecordView: Encodable {
  struct EntryItem: Encodable {
    var kind: String
    /// Blocks of the volume.
    var firstBlock: UInt64
    var blocks: UInt64
    /// Placed entries: device and byte offset of the slot.
    var device: Int?
    var byteOffset: UInt64?
  }

  var position: UInt64
  var length: Int
  var incarnation: UInt64
  var epoch: UInt32
  var watermark: UInt64
  var check: String
  var entries: [EntryItem]

  static func lines(_ records: [RecordView]) -> [String] {
    var lines = ["log: \(records.count) records from the last checkpoint on"]
    for record in records {
      lines.append(
        "  position \(record.position): \(record.length) bytes, incarnation "
          + "\(record.incarnation), epoch \(record.epoch), watermark \(record.watermark), "
          + "check \(record.check)")
      lines += record.entries.map { entry in
        var line = "    \(entry.kind) blocks \(entry.firstBlock)"
        if entry.blocks > 1 { line += "…\(entry.firstBlock + entry.blocks - 1)" }
        if let device = entry.device, let offset = entry.byteOffset {
          line += " at byte \(offset) of device \(device)"
        }
        return line
      }
    }
    return lines
  }
}

extension InspectReport {
  /// Reads every segment's header, then follows the chain of records from the boundary as far as
  /// it is valid on the device. What is still in the staging ring alone is not seen.
  mutating func readLog(_ devices: RingWaitingDevices, _ superblock: Superblock, limit: Int) {
    let seed = PoolSeed(superblock.pool)
    var found: [SegmentView] = []
    for index in 0..<superblock.log.segmentCount {
      let offset = superblock.log.segmentOffset(index)
      do {
        let header = try MetadataBlock.read(devices, DeviceIndex(0), offset) {
          bytes throws(FormatError) in
          try SegmentHeader.decode(bytes, index: UInt32(index), seed: seed)
        }
        found.append(
          SegmentView(
            index: index, serial: header.serial, start: header.start.rawValue,
            incarnation: header.incarnation, byteOffset: offset))
      } catch FormatError.notFound {
        continue
      } catch {
        problems.append("header of segment \(index): \(OpenedPool.describe(error))")
      }
    }
    found.sort { $0.serial < $1.serial }
    segments = found
    var walk = RecordWalk(devices: devices, superblock: superblock, segments: found, seed: seed)
    records = []
    while let record = walk.next() {
      guard records?.count ?? 0 < limit else {
        cut.append("records")
        break
      }
      records?.append(record)
    }
  }
}

/// Follows the chain of records over the segments.
private struct RecordWalk {
  let devices: RingWaitingDevices
  let superblock: Superblock
  let segments: [SegmentView]
  let seed: PoolSeed
  private var position: LogPosition
  private var previous: UInt32
  private var incarnation: UInt64 = 0

  init(
    devices: RingWaitingDevices, superblock: Superblock, segments: [SegmentView], seed: PoolSeed
  ) {
    self.devices = devices
    self.superblock = superblock
    self.segments = segments
    self.seed = seed
    position = superblock.boundary
    previous = superblock.boundaryCRC
  }

  /// The record at the current position; nil where the chain ends.
  mutating func next() -> RecordView? {
    guard let offset = deviceOffset(position) else { return nil }
    return try? MetadataBlock.read(devices, DeviceIndex(0), offset) {
      bytes throws(FormatError) in
      guard
        RecordHeader.isValid(
          bytes, position: position, previous: previous, incarnation: incarnation,
          logBlock: superblock.log.logBlock, seed: seed)
      else { throw .notFound }
      let record = view(of: bytes)
      incarnation = RecordHeader.incarnation(bytes)
      previous = RecordHeader.check(bytes)
      position = position + RecordHeader.length(bytes)
      return record
    }
  }

  /// Where a position lies on device 0: the segment with the highest serial that may hold it.
  private func deviceOffset(_ position: LogPosition) -> UInt64? {
    let geometry = superblock.log
    let holder = segments.last { segment in
      segment.start <= position.rawValue
        && position.rawValue - segment.start < UInt64(geometry.segmentCapacity)
    }
    guard let holder else { return nil }
    return holder.byteOffset + UInt64(geometry.logBlock) + position.rawValue - holder.start
  }

  private func view(of bytes: UnsafeRawPointer) -> RecordView {
    var entries: [RecordView.EntryItem] = []
    var offset = RecordHeader.entries
    for ordinal in 0..<RecordHeader.entryCount(bytes) {
      let check = Entry.seed(
        pool: seed, incarnation: RecordHeader.incarnation(bytes), position: position,
        previous: previous, ordinal: ordinal)
      guard let entry = Entry.decode(bytes, offset: offset, seed: check) else { break }
      entries.append(item(of: entry))
      offset += entry.size
    }
    return RecordView(
      position: position.rawValue, length: RecordHeader.length(bytes),
      incarnation: RecordHeader.incarnation(bytes), epoch: RecordHeader.epoch(bytes).rawValue,
      watermark: RecordHeader.watermark(bytes).rawValue,
      check: Hex.text(UInt64(RecordHeader.check(bytes)), digits: 8), entries: entries)
  }

  private func item(of entry: EntryView) -> RecordView.EntryItem {
    func blocks(_ kind: String) -> RecordView.EntryItem {
      RecordView.EntryItem(
        kind: kind, firstBlock: entry.extent.block(entry.first).rawValue,
        blocks: UInt64(entry.count))
    }
    func range(_ kind: String) -> RecordView.EntryItem {
      RecordView.EntryItem(
        kind: kind, firstBlock: entry.rangeStart.rawValue, blocks: entry.rangeCount)
    }
    switch entry.kind {
    case .data: return blocks("data")
    case .lost: return blocks("lost")
    case .deallocated: return range("deallocated")
    case .zeroed: return range("zeroed")
    case .placed:
      var item = blocks("placed")
      if !entry.slot.isNone {
        item.device = entry.slot.device.index
        item.byteOffset = entry.slot.byteOffset
      }
      return item
    }
  }
}
