import Base
import DiskFormat

/// Everything on a device: bytes of any kind are decoded as they are and once more with their check
/// made right, which no fuzzer guesses. What was decoded is encoded and must read back equal.
enum DiskChecks {
  private static let pool = Identity(high: 0x7468_6572_6d6f, low: 0x636c_696e_65)
  private static let seed = PoolSeed(pool)

  /// Gives `body` a fenced block of 4 KiB: first as it came, then sealed.
  private static func block(
    _ bytes: UnsafeRawBufferPointer, _ seed: (UnsafeRawPointer) -> PoolSeed = { _ in seed },
    _ body: (UnsafeMutableRawPointer) -> Void
  ) {
    let fence = Fence(capacity: Layout.metadataBlock)
    let block = fence.copy(bytes, paddedTo: Layout.metadataBlock).baseAddress!
    body(block)
    Frame.seal(block, magic: UnsafeRawPointer(block).u32(0), seed: seed(block))
    body(block)
  }

  /// Gives `body` another fenced block, for what is written again.
  private static func again(_ body: (UnsafeMutableRawPointer) -> Void) {
    let fence = Fence(capacity: Layout.metadataBlock)
    body(fence.room(Layout.metadataBlock).baseAddress!)
  }

  static func label(_ bytes: UnsafeRawBufferPointer) {
    block(bytes, { PoolSeed($0.identity(16)) }) { block in
      guard let label = try? Label.decode(block) else { return }
      check(label.index.index < Layout.maxDevices, "a device that there may be")
      check(label.tier.index < Layout.maxTiers, "a tier that there may be")
      again { copy in
        label.encode(into: copy)
        check((try? Label.decode(copy)) == label, "F2: a label reads back equal")
      }
    }
  }

  static func superblock(_ bytes: UnsafeRawBufferPointer) {
    block(bytes, { PoolSeed($0.identity(16)) }) { block in
      let pool = UnsafeRawPointer(block).identity(16)
      guard let decoded = try? Superblock.decode(block, pool: pool) else { return }
      let log = decoded.log
      check(log.footerArea >= log.logBlock && log.segmentCapacity > 0, "a segment has room")
      check(log.capacity / log.segmentCount == log.segmentCapacity, "a log that can be counted")
      let end = log.segmentOffset(log.segmentCount)
      check(end <= decoded.devices[0].size, "the log lies on its device")
      for device in decoded.devices {
        check(device.tier.index < decoded.tierNames.count, "a device lies in a tier")
      }
      // Names that are no UTF-8 are repaired, which may make them longer than their field.
      let hasNames =
        decoded.volumeName.utf8.count <= Layout.maxVolumeName
        && decoded.tierNames.allSatisfy { $0.utf8.count <= Layout.maxTierName }
      again { copy in
        decoded.encode(into: copy)
        let same = try? Superblock.decode(copy, pool: pool)
        check(same != nil, "F2: a superblock reads back")
        check(!hasNames || same == decoded, "F2: a superblock reads back equal")
      }
    }
  }

  static func segmentHeader(_ bytes: UnsafeRawBufferPointer) {
    block(bytes) { block in
      let index = UnsafeRawPointer(block).u32(8)
      guard let header = try? SegmentHeader.decode(block, index: index, seed: seed) else { return }
      check(
        (try? SegmentHeader.decode(block, index: index &+ 1, seed: seed)) == nil,
        "F3: a header of another segment is refused")
      again { copy in
        header.encode(into: copy, seed: seed)
        let same = try? SegmentHeader.decode(copy, index: index, seed: seed)
        check(same == header, "F2: a segment's header reads back equal")
      }
    }
  }

  static func recordHeader(_ bytes: UnsafeRawBufferPointer) {
    block(bytes) { block in
      let header = UnsafeRawPointer(block)
      let isValid = RecordHeader.isValid(
        header, position: RecordHeader.position(header), previous: RecordHeader.previous(header),
        incarnation: RecordHeader.incarnation(header), logBlock: 4096, seed: seed)
      let length = RecordHeader.length(header)
      check(!isValid || (1...64).contains(length / 4096), "a record has a length that it may have")
      var place = RecordHeader.entries
      var ordinal = 0
      while let entry = entry(block, place, ordinal) {
        visit(entry)
        place += entry.size
        ordinal += 1
      }
      check(place <= Layout.metadataBlock, "entries lie in their block")
      check(ordinal <= Layout.metadataBlock / 16, "an entry takes sixteen bytes or more")
    }
  }

  /// The entry at `place`, its check made right.
  private static func entry(
    _ block: UnsafeMutableRawPointer, _ place: Int, _ ordinal: Int
  ) -> EntryView? {
    let header = UnsafeRawPointer(block)
    let entrySeed = Entry.seed(
      pool: seed, incarnation: RecordHeader.incarnation(header),
      position: RecordHeader.position(header), previous: RecordHeader.previous(header),
      ordinal: ordinal)
    let bare = Entry.decode(header + place, room: Layout.metadataBlock - place, seed: nil)
    if let bare { Entry.seal(block + place, size: bare.size, seed: entrySeed) }
    let entry = Entry.decode(header, offset: place, seed: entrySeed)
    check(bare?.size == entry?.size, "an entry that is sealed is whole")
    return entry
  }

  private static func visit(_ entry: EntryView) {
    let most = Layout.maxBlocks
    switch entry.kind {
    case .data, .lost, .placed:
      check(entry.extent.rawValue < most / UInt64(Size.blocksPerExtent), "an extent that may be")
      check(entry.count >= 1 && entry.first + entry.count <= 16, "blocks of one extent")
      let crcs = entry.kind == .placed ? 16 : entry.kind == .data ? entry.count : 0
      var sum: UInt32 = 0
      for i in 0..<crcs { sum &+= entry.crc(i) }
      _ = (sum, entry.slot.byteOffset, entry.slot.device)
    case .deallocated, .zeroed:
      check(entry.rangeCount >= 1 && entry.rangeStart.rawValue < most, "a range that may be")
      check(entry.rangeStart.rawValue + entry.rangeCount <= most, "a range ends in the volume")
    }
  }

  static func segmentFooter(_ bytes: UnsafeRawBufferPointer) {
    let fence = Fence(capacity: bytes.count)
    let memory = fence.copy(bytes)
    footer(memory)
    guard memory.count >= SegmentFooter.header else { return }
    let p = memory.baseAddress!
    let used = Int(UnsafeRawPointer(p).u32(12))
    guard used >= SegmentFooter.header, used <= memory.count else { return }
    p.put32(4, Checksum.crc32c(p + 8, used - 8, seed: seed.rawValue))
    footer(memory)
  }

  private static func footer(_ memory: UnsafeMutableRawBufferPointer) {
    let p = memory.baseAddress!
    let index = memory.count < 12 ? 0 : UnsafeRawPointer(p).u32(8)
    guard
      let footer = try? SegmentFooter.decode(p, area: memory.count, index: index, seed: seed)
    else { return }
    let used = Int(UnsafeRawPointer(p).u32(12))
    var place = SegmentFooter.header
    while let record = FooterRecord.next(p, &place) {
      check(place <= used, "a record lies in its footer")
      var at = 0
      while let entry = Entry.decode(
        record.entries + at, room: record.entryBytes - at, seed: nil)
      {
        visit(entry)
        at += entry.size
      }
      check(at <= record.entryBytes, "entries lie in their record")
    }
    let copyFence = Fence(capacity: memory.count)
    let copy = copyFence.copy(UnsafeRawBufferPointer(memory))
    footer.encode(into: copy.baseAddress!, used: used, seed: seed)
    let same = try? SegmentFooter.decode(
      copy.baseAddress!, area: copy.count, index: index, seed: seed)
    check(same == footer, "F2: a footer reads back equal")
  }

  static func page(_ bytes: UnsafeRawBufferPointer) {
    block(bytes) { block in
      let page = UnsafeRawPointer(block)
      guard let tree = TreeKind(rawValue: page.u8(8)) else { return }
      let address = PageAddress(
        tree, level: Int(page.u8(9)), device: page.u8(10), index: page.u64(16))
      guard page.u32(0) == Page.magic else { return }
      let crc = page.u32(4)
      guard Page.isValid(page, address, crc: crc, seed: seed) else { return }
      for i in 0..<Page.entriesPerPage {
        let place = block + Page.header + ChunkEntry.bytes * i
        let entry = ChunkEntry(place)
        for page in 0..<Page.pagesPerChunk { _ = entry.twinOffset(page: page, second: true) }
        entry.encode(into: place)
        check(ChunkEntry(place) == entry, "F2: an entry reads back equal")
      }
      check(Page.isValid(page, address, crc: crc, seed: seed), "F2: entries are written as read")
      for i in 0..<Page.recordsPerPage { visit(block + Page.header + ExtentRecord.bytes * i) }
      check(Page.isValid(page, address, crc: crc, seed: seed), "F2: records are written as read")
    }
  }

  /// Writes each field of a record with what it reads.
  private static func visit(_ memory: UnsafeMutableRawPointer) {
    let record = ExtentRecord(memory)
    for i in 0..<Size.blocksPerExtent { record.setCRC(i, record.crc(i)) }
    (record.home, record.secondHome) = (record.home, record.secondHome)
    (record.present, record.lost, record.atSecond) = (record.present, record.lost, record.atSecond)
    (record.flags, record.role) = (record.flags, record.role)
    (record.keepsAllocated, record.birth) = (record.keepsAllocated, record.birth)
    record.previous = record.previous
  }

  static func ringControl(_ bytes: UnsafeRawBufferPointer) {
    let fence = Fence(capacity: RingControl.bytes)
    let page = fence.copy(bytes, paddedTo: RingControl.bytes).baseAddress!
    let read = UnsafeRawPointer(page)
    let pool = read.identity(8)
    for isSealed in [false, true] {
      if isSealed {
        page.put32(4, Checksum.crc32c(read + 8, 56, seed: PoolSeed(pool).rawValue))
      }
      let size = Int(truncatingIfNeeded: read.u64(40))
      guard size >= 0,
        RingControl.isValid(read, pool: pool, ring: read.u64(24), size: size)
      else { continue }
      check(
        !RingControl.isValid(read, pool: pool, ring: read.u64(24) &+ 1, size: size),
        "F3: another ring is refused")
      again { copy in
        RingControl.begin(
          copy, pool: pool, ring: read.u64(24), incarnation: RingControl.incarnation(read),
          size: size, watermark: RingControl.watermark(read))
        check(
          RingControl.isValid(copy, pool: pool, ring: read.u64(24), size: size),
          "F2: a control page reads back")
      }
    }
  }
}
