import Base
import DiskFormat

/// Walks the entries of a record: in its header block, each checked with its place's seed, or as a
/// segment's footer repeats them.
struct EntryWalk {
  private let entries: UnsafeRawPointer
  private let room: Int
  /// The header block; nil for a footer's copy, whose check was verified as a whole.
  private let header: UnsafeRawPointer?
  private let pool: PoolSeed
  private let isUnseeded: Bool
  private var at = 0
  private(set) var found = 0
  /// Where in the header block the next entry would be.
  var offset: Int { RecordHeader.entries + at }

  init(_ header: UnsafeRawPointer, pool: PoolSeed, planted: PlantedBug?) {
    self.header = header
    self.pool = pool
    entries = header + RecordHeader.entries
    room = Layout.metadataBlock - RecordHeader.entries
    isUnseeded = planted == .entryCheckUnseeded
  }

  init(_ record: FooterRecord, pool: PoolSeed) {
    header = nil
    self.pool = pool
    entries = record.entries
    room = record.entryBytes
    isUnseeded = false
  }

  /// What a record asks of an index, at most.
  func demand() -> IndexDemand {
    var walk = self
    var demand = IndexDemand()
    while let entry = walk.next() {
      switch entry.kind {
      case .data, .lost:
        demand.cells += entry.count
        demand.extents += 1
      case .placed:
        demand.placed += 1
        demand.cells += Size.blocksPerExtent
        demand.extents += 1
      case .deallocated, .zeroed:
        let isSmall = entry.rangeCount <= UInt64(Size.blocksPerExtent)
        demand.cells += isSmall ? Int(entry.rangeCount) : 0
        demand.extents += isSmall ? 2 : 0
        demand.tombstones += isSmall ? 0 : 2
      }
    }
    return demand
  }

  mutating func next() -> EntryView? {
    guard let entry = Entry.decode(entries + at, room: room - at, seed: seed) else { return nil }
    at += entry.size
    found += 1
    return entry
  }

  private var seed: UInt32? {
    guard let header else { return nil }
    if isUnseeded { return 0 }
    return Entry.seed(
      pool: pool, incarnation: RecordHeader.incarnation(header),
      position: RecordHeader.position(header), previous: RecordHeader.previous(header),
      ordinal: found)
  }
}
