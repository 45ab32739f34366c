import Base
import DiskFormat

/// Walks the entries of a record's header block, each checked with its place's seed.
struct EntryWalk {
  private let header: UnsafeRawPointer
  private let pool: PoolSeed
  private let isUnseeded: Bool
  private(set) var offset = RecordHeader.entries
  private(set) var found = 0

  init(_ header: UnsafeRawPointer, pool: PoolSeed, planted: PlantedBug?) {
    self.header = header
    self.pool = pool
    isUnseeded = planted == .entryCheckUnseeded
  }

  /// What a record asks of an index, at most.
  static func demand(_ header: UnsafeRawPointer, pool: PoolSeed) -> IndexDemand {
    var walk = EntryWalk(header, pool: pool, planted: nil)
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
    let seed =
      isUnseeded
      ? 0
      : Entry.seed(
        pool: pool, incarnation: RecordHeader.incarnation(header),
        position: RecordHeader.position(header), previous: RecordHeader.previous(header),
        ordinal: found)
    guard let entry = Entry.decode(header, offset: offset, seed: seed) else { return nil }
    offset += entry.size
    found += 1
    return entry
  }
}
