import Base
import DiskFormat

/// One of the four parts the log is cut into, each with the index of what it holds.
///
///     free ──begin──► open ──seal──► sealed ──checkpoint──► dropped (free once no read needs it)
struct Generation: ~Copyable {
  enum State: UInt8 { case free, open, sealed }

  var state = State.free
  var start = LogPosition(0)
  /// The check of the header before the first record: with `start`, the boundary.
  var previousCRC: UInt32 = 0
  /// One past its last record; only when sealed.
  var end = LogPosition(0)
  var epoch = Epoch(1)
  /// Slots reserved for what it will write home.
  var reservedSlots: UInt64 = 0
  var hasEntries = false
  var index: LogIndex
  var tombstones: TombstoneSet
  let placed: UnsafeMutablePointer<PlacedExtent>
  let placedCapacity: Int
  let sizes: IndexSizes
  var placedCount = 0

  init(sizes: IndexSizes, in arena: inout Arena) {
    index = LogIndex(
      cellCapacity: sizes.cells, extentCapacity: sizes.extents, in: &arena)
    tombstones = TombstoneSet(capacity: sizes.tombstones, in: &arena)
    placedCapacity = sizes.placed
    self.sizes = sizes
    placed = arena.take(sizes.placed * MemoryLayout<PlacedExtent>.stride)
      .bindMemory(to: PlacedExtent.self, capacity: sizes.placed)
  }

  mutating func begin(at position: LogPosition, previousCRC: UInt32, epoch: Epoch) {
    invariant(state == .free, "G1: only a free generation begins")
    state = .open
    start = position
    self.previousCRC = previousCRC
    self.epoch = epoch
    reservedSlots = 0
    hasEntries = false
    placedCount = 0
    index.begin(at: position)
    tombstones.removeAll()
  }

  /// Whether the index takes all that a record holds.
  func hasRoom(for demand: IndexDemand) -> Bool {
    index.hasRoom(cells: demand.cells, extents: demand.extents)
      && tombstones.count + demand.tombstones + 2 < sizes.tombstones
      && placedCount + demand.placed <= placedCapacity
  }

  /// Whether blocks of the extent may have been zeroed or deallocated.
  func hasZeros(in extent: ExtentIndex) -> Bool {
    index.containsExtent(ExtentIndex(extent.rawValue | Log.markFlag))
      || tombstones.count > 0 && isUnderRange(extent)
  }

  /// Whether a range of zeros touches the extent.
  func isUnderRange(_ extent: ExtentIndex) -> Bool {
    let i = tombstones.firstIndex(endingAfter: extent.block(0))
    return i < tombstones.count && tombstones[i].start <= extent.block(15)
  }
}

/// What a record adds to an index, at most.
struct IndexDemand {
  var cells = 0
  var extents = 0
  var tombstones = 0
  var placed = 0
}

/// How large a generation's parts are: they follow from the log's size alone, so that whatever
/// log was written can be indexed again.
struct IndexSizes {
  var cells: Int
  var extents: Int
  var tombstones: Int
  var placed: Int

  init(_ log: LogGeometry) {
    let blocks = log.capacity / Size.block / 4
    cells = IndexSizes.power(over: blocks * 4 / 3 + 256, least: 1024)
    extents = IndexSizes.power(over: blocks * 4 / 3 + 256, least: 1024)
    tombstones = min(4096, max(64, blocks))
    // Superseded slots are held until their generation is dropped: 256 MiB at most in each.
    placed = min(4096, max(64, blocks))
  }

  private static func power(over n: Int, least: Int) -> Int {
    var p = least
    while p < n { p *= 2 }
    return p
  }

  /// What one generation takes from the arena, at most.
  var bytes: Int {
    LogIndex.bytes(cellCapacity: cells, extentCapacity: extents)
      + TombstoneSet.bytes(capacity: tombstones) + Arena.cost(placed * 16)
  }
}
