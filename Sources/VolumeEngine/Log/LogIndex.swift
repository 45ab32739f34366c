package import Base

/// What the log holds of a block.
package enum LogCellKind: UInt8 {
  /// The block's bytes, in a record's payload.
  case payload = 1
  /// The block's bytes lie in a slot that an entry names.
  case placed
  /// Zeros, and the space is given back.
  case zero
  /// Zeros, and the space stays reserved.
  case reservedZero
  /// The block is lost: reading it is an error until it is overwritten.
  case lost
}

/// The newest thing one generation of the log says about a block.
package struct LogCell {
  package var kind: LogCellKind
  /// Of a payload, where its block lies; else the entry's position, rounded down to 4 KiB.
  package var position: LogPosition
  /// CRC-32C of the block, where the kind has one.
  package var crc: UInt32
  /// Of a placed block, the entry's index in the generation's table of placed extents; else 0.
  package var placed: Int
  /// Of a placed block, the slot of its extent; filled in by who knows the table of placed extents.
  package var slot = SlotAddress.none

  package init(kind: LogCellKind, position: LogPosition, crc: UInt32, placed: Int = 0) {
    self.kind = kind
    self.position = position
    self.crc = crc
    self.placed = placed
  }
}

/// What one generation of the log holds: for each block its newest cell, and the set of extents
/// that have one. Both are hash tables over memory from the arena that are filled, read, and
/// emptied as a whole.
///
/// A cell is 16 bytes, a bucket 4 cells and one cache line. The hash of an extent's number chooses
/// 4 adjacent buckets, and their order; each holds 4 of its blocks. So 4 neighbouring blocks share
/// a line, an extent shares a page, and a 1 MiB read touches 64 lines. What does not fit goes to
/// the line beside, then from pair to pair of lines by an odd stride that is also part of the
/// hash. Neighbours fill whole buckets: probing in a line from each to the next would need
/// hundreds of steps at three quarters load; strides keep the expected number below 4, and reach
/// every cell. As nothing is removed singly, the first empty cell ends a search.
///
///     word 0   0..<40 block   40..<44 kind (0: empty)   44..<64 placed
///     word 1   0..<32 CRC-32C   32..<64 position in units of 4 KiB, relative to the base
///
/// LX1  A block has at most one cell. Its last insertion is the one found.
/// LX2  Between a cell's first bucket and the cell, in the order of probing, no cell is empty.
/// LX3  At most 7/8 of the cells and of the extents are in use: a search ends.
package struct LogIndex: ~Copyable {
  private static var blockMask: UInt64 { 1 << 40 - 1 }

  private let cells: UnsafeMutablePointer<UInt64>
  private let bucketMask: Int
  /// Cells, in use and empty.
  package let cellCapacity: Int
  private let extents: UnsafeMutablePointer<UInt64>
  private let extentCapacity: Int
  private var base: UInt64 = 0

  /// Blocks that have a cell.
  package private(set) var count = 0
  /// Extents in the set.
  package private(set) var extentCount = 0

  /// An empty index. Both capacities are powers of two of at least 8; 7/8 of each can be used.
  package init(cellCapacity: Int, extentCapacity: Int, in arena: inout Arena) {
    invariant(
      cellCapacity >= 8 && cellCapacity & (cellCapacity - 1) == 0,
      "LX4: the number of cells is a power of two")
    invariant(
      extentCapacity >= 8 && extentCapacity & (extentCapacity - 1) == 0,
      "LX4: the number of extents is a power of two")
    // SAFETY: the arena hands out zero-filled memory, aligned to a cache line, that outlives us.
    cells = arena.takeArray(of: UInt64.self, count: cellCapacity * 2)
    extents = arena.takeArray(of: UInt64.self, count: extentCapacity)
    self.cellCapacity = cellCapacity
    self.extentCapacity = extentCapacity
    bucketMask = cellCapacity / 4 - 1
  }

  /// What `init` takes from the arena, at most.
  package static func bytes(cellCapacity: Int, extentCapacity: Int) -> Int {
    Arena.cost(cellCapacity * 16) + Arena.cost(extentCapacity * 8)
  }

  /// Empties the index for a generation whose first position is `base`. Costs a pass over the
  /// memory in use, nothing when it was empty.
  package mutating func begin(at base: LogPosition) {
    if count > 0 { cells.update(repeating: 0, count: cellCapacity * 2) }
    if extentCount > 0 { extents.update(repeating: 0, count: extentCapacity) }
    count = 0
    extentCount = 0
    self.base = base.rawValue >> 12
  }

  /// At least 3/4 of the cells or of the extents are in use: time to seal the generation.
  package var isNearlyFull: Bool {
    count >= cellCapacity / 4 * 3 || extentCount >= extentCapacity / 4 * 3
  }

  /// Whether `n` insertions of blocks, in at most `n / 16 + 2` extents, are sure to succeed.
  package func hasRoom(forBlocks n: Int) -> Bool {
    count + n <= cellCapacity / 8 * 7 && extentCount + n / 16 + 2 <= extentCapacity / 8 * 7
  }

  /// Whether so many new blocks and extents are sure to fit.
  package func hasRoom(cells: Int, extents: Int) -> Bool {
    count + cells <= cellCapacity / 8 * 7 && extentCount + extents <= extentCapacity / 8 * 7
  }

  // MARK: Cells

  /// Makes `cell` the block's, in place of an earlier one. Callers insert in the order of
  /// positions. False when there is no room; nothing was changed then.
  package mutating func insert(_ block: BlockIndex, _ cell: LogCell) -> Bool {
    invariant(block.rawValue <= Self.blockMask, "LX5: a block's number has 40 bits")
    invariant(cell.placed >= 0 && cell.placed < 1 << 20, "LX5: a placed index has 20 bits")
    let relative = (cell.position.rawValue >> 12) &- base
    invariant(relative <= UInt64(UInt32.max), "LX5: a position lies in the generation")
    let place = probe(block)
    if cells[place] == 0 {
      if count >= cellCapacity / 8 * 7 { return false }
      count += 1
    }
    cells[place] =
      block.rawValue | UInt64(cell.kind.rawValue) << 40 | UInt64(cell.placed) << 44
    cells[place + 1] = UInt64(cell.crc) | relative << 32
    return true
  }

  /// What this generation says about the block; nil when nothing.
  package func find(_ block: BlockIndex) -> LogCell? {
    let place = probe(block)
    let word = cells[place]
    guard let kind = LogCellKind(rawValue: UInt8(truncatingIfNeeded: word >> 40 & 15)) else {
      return nil
    }
    let data = cells[place + 1]
    return LogCell(
      kind: kind, position: LogPosition((base &+ data >> 32) << 12),
      crc: UInt32(truncatingIfNeeded: data), placed: Int(word >> 44))
  }

  /// The place of the block's cell, or of the empty cell that ends its search, in words.
  @inline(__always)
  private func probe(_ block: BlockIndex) -> Int {
    let hash = mix64(block.rawValue >> 4)
    let line = block.rawValue >> 2 & 3
    var bucket = Int(truncatingIfNeeded: hash ^ line) & bucketMask
    let stride = Int(truncatingIfNeeded: hash >> 32) << 2 | 2
    while true {
      for _ in 0..<2 {
        let start = bucket << 3
        for lane in 0..<4 {
          let place = start + lane * 2
          let word = cells[place]
          if word & Self.blockMask == block.rawValue || word == 0 { return place }
        }
        bucket ^= 1
      }
      bucket = (bucket &+ stride) & bucketMask
    }
  }

  // MARK: Extents

  /// Adds the extent to the set: true when it was not in it. The caller has checked `hasRoom`.
  package mutating func insertExtent(_ extent: ExtentIndex) -> Bool {
    let place = probe(extent)
    if extents[place] != 0 { return false }
    invariant(extentCount < extentCapacity / 8 * 7, "LX3: room for extents was checked")
    extents[place] = extent.rawValue &+ 1
    extentCount += 1
    return true
  }

  /// Whether the set has the extent.
  package func containsExtent(_ extent: ExtentIndex) -> Bool { extents[probe(extent)] != 0 }

  /// Writes the extents of those of the cells numbered `numbers` whose positions `isWanted` takes,
  /// in no order of use, some more than once, and returns how many. `target` has room for one
  /// each; numbers lie below `cellCapacity`.
  package func copyExtents(
    ofCells numbers: Range<Int>, into target: UnsafeMutablePointer<UInt64>,
    where isWanted: (LogPosition) -> Bool
  ) -> Int {
    var copied = 0
    for i in numbers where cells[2 * i] != 0 {
      guard isWanted(LogPosition((base &+ cells[2 * i + 1] >> 32) << 12)) else { continue }
      let extent = (cells[2 * i] & Self.blockMask) >> 4
      if copied > 0, target[copied - 1] == extent { continue }
      target[copied] = extent
      copied += 1
    }
    return copied
  }

  /// The place of the extent, or of the empty one that ends its search.
  @inline(__always)
  private func probe(_ extent: ExtentIndex) -> Int {
    let key = extent.rawValue &+ 1
    var place = Int(truncatingIfNeeded: mix64(extent.rawValue)) & (extentCapacity - 1)
    while extents[place] != key && extents[place] != 0 {
      place = (place + 1) & (extentCapacity - 1)
    }
    return place
  }
}
