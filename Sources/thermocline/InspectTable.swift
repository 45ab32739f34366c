import Base
import Configuration
import DiskFormat
import RingIO

/// A page of the extent table: the records in it that map something.
struct PageView: Encodable {
  struct Record: Encodable {
    var extent: UInt64
    var volumeOffset: UInt64
    /// `device:byte offset`; nil when nothing is mapped.
    var home: String?
    var secondHome: String?
    var role: String?
    /// Bit *i*: block *i*.
    var present: String
    var lost: String
    var birthEpoch: UInt32
    var crcs: [String]
  }

  var index: UInt64
  var device: Int
  var byteOffset: UInt64
  /// Which of the two places.
  var twin: String
  var check: String
  var records: [Record]

  static func lines(_ pages: [PageView]) -> [String] {
    var lines = ["table: \(pages.count) pages"]
    for page in pages {
      lines.append(
        "  page \(page.index) at byte \(page.byteOffset) of device \(page.device), "
          + "\(page.twin) twin, check \(page.check): \(page.records.count) extents")
      lines += page.records.map { record in
        var line = "    extent \(record.extent) (byte \(record.volumeOffset)): "
          + (record.home.map { "home \($0)" } ?? "no home") + ", present \(record.present)"
        if record.lost != "0000" { line += ", lost \(record.lost)" }
        if let second = record.secondHome { line += ", \(record.role ?? "second home") \(second)" }
        return line + ", epoch \(record.birthEpoch)"
      }
    }
    return lines
  }
}

/// A walk down the extent table's directories, each page checked against its parent.
struct TableWalk {
  let devices: RingWaitingDevices
  let superblock: Superblock
  let limit: Int
  private(set) var pages: [PageView] = []
  private(set) var problems: [String] = []
  /// There are more pages than the limit.
  private(set) var isCut = false

  init(devices: RingWaitingDevices, superblock: Superblock, limit: Int) {
    self.devices = devices
    self.superblock = superblock
    self.limit = limit
  }

  /// The page of one extent.
  mutating func visit(_ extent: ExtentIndex) {
    let leaf = extent.rawValue / UInt64(Page.recordsPerPage)
    descend(superblock.extentRoot, level: Page.height(.extents), first: 0, only: leaf)
    for i in pages.indices { pages[i].records.removeAll { $0.extent != extent.rawValue } }
  }

  /// All pages there are, up to the limit.
  mutating func visitAll() {
    descend(superblock.extentRoot, level: Page.height(.extents), first: 0, only: nil)
  }

  /// Visits the eight pages of a chunk, the first of which has the index `first` in its level.
  private mutating func descend(_ entry: ChunkEntry, level: Int, first: UInt64, only: UInt64?) {
    guard !entry.address.isNone else { return }
    for i in 0..<Page.pagesPerChunk where entry.checks[i] != 0 {
      let index = first + UInt64(i)
      if let only, index != ancestor(of: only, level: level) { continue }
      guard pages.count < limit else {
        isCut = true
        return
      }
      visit(entry, i, PageAddress(.extents, level: level, index: index), only)
    }
  }

  private func ancestor(of leaf: UInt64, level: Int) -> UInt64 {
    (0..<level).reduce(leaf) { index, _ in index / UInt64(Page.fanout) }
  }

  private mutating func visit(
    _ entry: ChunkEntry, _ i: Int, _ address: PageAddress, _ only: UInt64?
  ) {
    let isSecond = entry.choices >> UInt8(i) & 1 == 1
    let offset = entry.twinOffset(page: i, second: isSecond)
    let name = "page \(address.index) of level \(address.level)"
    guard entry.address.device.index < devices.count else {
      problems.append("\(name) is said to be on device \(entry.address.device.rawValue)")
      return
    }
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: Layout.metadataBlock, alignment: 4096)
    // SAFETY: everything below that looks at the page ends before this function does.
    defer { bytes.deallocate() }
    do {
      try MetadataBlock.read(
        devices, entry.address.device, offset, into: bytes, count: Layout.metadataBlock)
    } catch {
      problems.append("\(name) at byte \(offset) cannot be read: \(error)")
      return
    }
    let seed = PoolSeed(superblock.pool)
    guard Page.isValid(bytes, address, crc: entry.checks[i], seed: seed) else {
      problems.append("\(name) at byte \(offset) does not match its parent")
      return
    }
    guard address.level == 0 else {
      for e in 0..<Page.entriesPerPage {
        let child = ChunkEntry(UnsafeRawPointer(bytes) + Page.header + e * ChunkEntry.bytes)
        descend(
          child, level: Int(address.level) - 1,
          first: address.index * UInt64(Page.fanout) + UInt64(e * Page.pagesPerChunk), only: only)
      }
      return
    }
    pages.append(
      PageView(
        index: address.index, device: entry.address.device.index, byteOffset: offset,
        twin: isSecond ? "second" : "first",
        check: Hex.text(UInt64(entry.checks[i]), digits: 8),
        records: records(in: bytes, page: address.index)))
  }

  private func records(in bytes: UnsafeMutableRawPointer, page: UInt64) -> [PageView.Record] {
    (0..<Page.recordsPerPage).compactMap { i in
      let record = ExtentRecord(bytes + Page.header + i * ExtentRecord.bytes)
      guard !record.isUnmapped || record.present != 0 else { return nil }
      let extent = page * UInt64(Page.recordsPerPage) + UInt64(i)
      return PageView.Record(
        extent: extent, volumeOffset: extent * UInt64(Size.extent), home: place(record.home),
        secondHome: place(record.secondHome), role: role(record.role),
        present: Hex.text(UInt64(record.present), digits: 4),
        lost: Hex.text(UInt64(record.lost), digits: 4), birthEpoch: record.birth.rawValue,
        crcs: (0..<Size.blocksPerExtent).map { Hex.text(UInt64(record.crc($0)), digits: 8) })
    }
  }

  private func place(_ slot: SlotAddress) -> String? {
    slot.isNone ? nil : "\(slot.device.rawValue):\(slot.byteOffset)"
  }

  private func role(_ role: SecondRole) -> String? {
    switch role {
    case .none: nil
    case .cachedCopy: "cached copy"
    case .base: "base"
    case .mirror: "mirror"
    }
  }
}
