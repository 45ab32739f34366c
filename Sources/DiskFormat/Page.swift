package import Base

/// The trees of the pool, told apart in every page.
package enum TreeKind: UInt8, Sendable {
  case extents = 1
  case versions = 2
  case bitmap = 3
}

/// Which page of the pool: also written in the page itself. Level 0 holds records or bits,
/// levels above it hold directory entries. `device` tells the bitmaps apart, 0 elsewhere.
package struct PageAddress: Hashable, Sendable {
  package var tree: TreeKind
  package var level: UInt8
  package var device: UInt8
  package var index: UInt64

  package init(_ tree: TreeKind, level: Int, device: UInt8 = 0, index: UInt64) {
    self.tree = tree
    self.level = UInt8(level)
    self.device = device
    self.index = index
  }
}

/// A page: 4 KiB, 96 bytes of header and 4,000 of content. Each page has two adjacent places
/// (*twins*) in a chunk of 64 KiB, which holds eight pages; which twin counts is said by the
/// parent alone, with the check it must have.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | magic, check |
/// | 8 | 1 + 1 + 1 | tree, level, device |
/// | 16 | 8 | index in its level |
/// | 24 | 8 | serial of the checkpoint that wrote it (for people; never compared) |
/// | 32 | 4 | nonce, so that no page's check is 0 or all ones |
/// | 96 | 4000 | content |
package enum Page {
  package static let magic: UInt32 = 0x4750_4354
  package static let header = 96
  package static let content = 4000
  package static let pagesPerChunk = 8
  /// Extent records in a page.
  package static let recordsPerPage = 40
  /// Directory entries in a page; each describes a chunk of eight pages.
  package static let entriesPerPage = 97
  /// Pages of the level below that one directory page describes.
  package static let fanout = 776
  /// Allocation bits in a page.
  package static let bitsPerPage = 32000
  /// Directory levels above the leaves.
  package static func height(_ tree: TreeKind) -> Int { tree == .bitmap ? 2 : 3 }

  /// Writes an empty page's header; the content is zeroed.
  package static func begin(_ page: UnsafeMutableRawPointer, _ address: PageAddress) {
    page.zero(Layout.metadataBlock)
    page.put8(8, address.tree.rawValue)
    page.put8(9, address.level)
    page.put8(10, address.device)
    page.put64(16, address.index)
  }

  /// Completes a page that will be written; returns the check for its parent.
  package static func seal(
    _ page: UnsafeMutableRawPointer, checkpoint: UInt64, seed: PoolSeed
  ) -> UInt32 {
    page.put64(24, checkpoint)
    page.put32(32, 0)
    // Zero and all ones mean *never written* and *lost* to a parent: a nonce keeps clear of them.
    while true {
      let crc = Frame.seal(page, magic: magic, seed: seed)
      if crc != 0 && crc != UInt32.max { return crc }
      page.put32(32, UnsafeRawPointer(page).u32(32) &+ 1)
    }
  }

  /// Whether these bytes are the page `address` with the check that its parent names.
  package static func isValid(
    _ page: UnsafeRawPointer, _ address: PageAddress, crc: UInt32, seed: PoolSeed
  ) -> Bool {
    page.u32(0) == magic && page.u32(4) == crc && Frame.checksum(page, seed: seed) == crc
      && page.u8(8) == address.tree.rawValue && page.u8(9) == address.level
      && page.u8(10) == address.device && page.u64(16) == address.index
  }
}

/// A directory entry: one chunk and, for each of its eight pages, which twin counts and the check
/// it must have. 41 bytes: address 8, choices 1, checks 8 × 4. An all-zero entry: no chunk, and
/// a page whose check is zero was never written.
package struct ChunkEntry: Equatable, Sendable {
  package static let bytes = 41
  package var address: SlotAddress
  package var choices: UInt8
  package var checks: [8 of UInt32]

  package static var absent: ChunkEntry {
    ChunkEntry(address: .none, choices: 0, checks: [8 of UInt32](repeating: 0))
  }

  package init(address: SlotAddress, choices: UInt8, checks: [8 of UInt32]) {
    self.address = address
    self.choices = choices
    self.checks = checks
  }

  package init(_ p: UnsafeRawPointer) {
    address = SlotAddress(rawValue: p.u64(0))
    choices = p.u8(8)
    checks = [8 of UInt32](repeating: 0)
    for i in 0..<8 { checks[i] = p.u32(9 + 4 * i) }
  }

  package func encode(into p: UnsafeMutableRawPointer) {
    p.put64(0, address.rawValue)
    p.put8(8, choices)
    for i in 0..<8 { p.put32(9 + 4 * i, checks[i]) }
  }

  package static func == (a: ChunkEntry, b: ChunkEntry) -> Bool {
    guard a.address == b.address, a.choices == b.choices else { return false }
    for i in 0..<8 where a.checks[i] != b.checks[i] { return false }
    return true
  }

  /// The byte offset on the chunk's device of a page's twin.
  package func twinOffset(page: Int, second: Bool) -> UInt64 {
    address.byteOffset + UInt64(page * 2 * Layout.metadataBlock)
      + (second ? UInt64(Layout.metadataBlock) : 0)
  }
}

/// What the second home of an extent is.
package enum SecondRole: UInt16, Sendable {
  case none = 0
  /// The same content as the home: dropping it costs nothing.
  case cachedCopy = 1
  /// The blocks marked *at second home* still live there, and only there.
  case base = 2
  /// Reserved: redundancy.
  case mirror = 3
}

/// One extent's record: a view of 100 bytes of a page (SAFETY: valid while the page is pinned).
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 16 × 4 | CRC-32C of each block |
/// | 64 | 8 + 8 | home, second home |
/// | 80 | 2 + 2 + 2 | masks: present, lost, at second home |
/// | 86 | 2 | second home's role (bits 0–1), *keeps allocated* (bit 2), compression (8–11, 0) |
/// | 88 | 4 | birth epoch |
/// | 92 | 8 | previous version |
package struct ExtentRecord {
  package static let bytes = 100
  package let base: UnsafeMutableRawPointer

  package init(_ base: UnsafeMutableRawPointer) { self.base = base }
  private var raw: UnsafeRawPointer { UnsafeRawPointer(base) }

  package func crc(_ block: Int) -> UInt32 { raw.u32(4 * block) }
  package func setCRC(_ block: Int, _ value: UInt32) { base.put32(4 * block, value) }
  package var home: SlotAddress {
    get { SlotAddress(rawValue: raw.u64(64)) }
    nonmutating set { base.put64(64, newValue.rawValue) }
  }
  package var secondHome: SlotAddress {
    get { SlotAddress(rawValue: raw.u64(72)) }
    nonmutating set { base.put64(72, newValue.rawValue) }
  }
  /// Bit *i*: block *i* has content; absent blocks read as zeros without I/O.
  package var present: UInt16 {
    get { raw.u16(80) }
    nonmutating set { base.put16(80, newValue) }
  }
  /// Bit *i*: block *i* is lost and answers EIO until overwritten.
  package var lost: UInt16 {
    get { raw.u16(82) }
    nonmutating set { base.put16(82, newValue) }
  }
  /// Bit *i*: block *i* lives at the second home (role *base*).
  package var atSecond: UInt16 {
    get { raw.u16(84) }
    nonmutating set { base.put16(84, newValue) }
  }
  package var flags: UInt16 {
    get { raw.u16(86) }
    nonmutating set { base.put16(86, newValue) }
  }
  package var role: SecondRole {
    get { SecondRole(rawValue: flags & 3) ?? .none }
    nonmutating set { flags = flags & ~3 | newValue.rawValue }
  }
  /// The home is kept although blocks are absent: a later write cannot meet ENOSPC.
  package var keepsAllocated: Bool {
    get { flags & 4 != 0 }
    nonmutating set { flags = newValue ? flags | 4 : flags & ~4 }
  }
  package var birth: Epoch {
    get { Epoch(raw.u32(88)) }
    nonmutating set { base.put32(88, newValue.rawValue) }
  }
  package var previous: UInt64 {
    get { raw.u64(92) }
    nonmutating set { base.put64(92, newValue) }
  }
  /// Nothing is known of this extent: it reads as zeros.
  package var isUnmapped: Bool { home.isNone && lost == 0 }
  /// Back to the state of an extent that was never written.
  package func clear() { base.zero(Self.bytes) }
}
