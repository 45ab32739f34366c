package import Base

/// Blocks that one log entry turned to zeros.
package struct Tombstone: Equatable, BitwiseCopyable {
  package var start: BlockIndex
  /// The first block after it.
  package var end: BlockIndex
  /// The entry's position.
  package var position: LogPosition
  /// The space stays reserved (zeroed), or is given back (deallocated).
  package var keepsAllocated: Bool

  package init(
    start: BlockIndex, end: BlockIndex, position: LogPosition, keepsAllocated: Bool
  ) {
    self.start = start
    self.end = end
    self.position = position
    self.keepsAllocated = keepsAllocated
  }
}

/// The tombstones of one generation as intervals; a later one cuts what it covers out of the
/// earlier ones. Finding is a binary search, inserting moves what lies behind: for the few
/// thousand that a generation may have.
///
/// TS1  Intervals are not empty, do not overlap, and are sorted.
package struct TombstoneSet: ~Copyable {
  private let intervals: UnsafeMutablePointer<Tombstone>
  private let capacity: Int
  package private(set) var count = 0

  /// An empty set of at most `capacity` intervals.
  package init(capacity: Int, in arena: inout Arena) {
    // SAFETY: the arena outlives the set; only the first `count` intervals are read.
    intervals = arena.takeArray(of: Tombstone.self, count: capacity)
    self.capacity = capacity
  }

  /// What `init` takes from the arena, at most.
  package static func bytes(capacity: Int) -> Int {
    Arena.cost(max(1, capacity) * MemoryLayout<Tombstone>.stride)
  }

  /// Adds a tombstone, later than all in the set. False, and nothing changed, when there is no
  /// room for the two intervals more that it may need.
  package mutating func insert(_ tombstone: Tombstone) -> Bool {
    invariant(tombstone.start < tombstone.end, "TS1: an interval is not empty")
    if count + 2 > capacity { return false }
    var new = tombstone
    var low = firstIndex(endingAfter: new.start)
    var high = low
    while high < count, intervals[high].start < new.end { high += 1 }

    var left: Tombstone? = nil
    var right: Tombstone? = nil
    if low < high {
      if intervals[low].start < new.start {
        left = intervals[low]
        left!.end = new.start
      }
      if intervals[high - 1].end > new.end {
        right = intervals[high - 1]
        right!.start = new.end
      }
    }
    if left == nil, low > 0 {
      low -= 1
      left = intervals[low]
    }
    if right == nil, high < count {
      right = intervals[high]
      high += 1
    }
    if let l = left, Self.joins(l, new) {
      new.start = l.start
      left = nil
    }
    if let r = right, Self.joins(new, r) {
      new.end = r.end
      right = nil
    }
    replace(low, high, left, new, right)
    return true
  }

  /// The tombstone that covers the block; nil when none does.
  package func find(_ block: BlockIndex) -> Tombstone? {
    let i = firstIndex(endingAfter: block)
    return i < count && intervals[i].start <= block ? intervals[i] : nil
  }

  /// Interval `i` in the order of addresses.
  package subscript(i: Int) -> Tombstone {
    invariant(i >= 0 && i < count, "TS2: an index names an interval of the set")
    return intervals[i]
  }

  /// The index of the first interval that ends after the block; `count` when none does.
  package func firstIndex(endingAfter block: BlockIndex) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) >> 1
      if intervals[middle].end > block { high = middle } else { low = middle + 1 }
    }
    return low
  }

  package mutating func removeAll() { count = 0 }

  /// Whether two parts of one tombstone touch.
  private static func joins(_ a: Tombstone, _ b: Tombstone) -> Bool {
    a.end == b.start && a.position == b.position && a.keepsAllocated == b.keepsAllocated
  }

  /// Puts up to three intervals in the place of those from `low` up to `high`.
  private mutating func replace(
    _ low: Int, _ high: Int, _ left: Tombstone?, _ new: Tombstone, _ right: Tombstone?
  ) {
    let added = 1 + (left == nil ? 0 : 1) + (right == nil ? 0 : 1)
    let behind = count - high
    invariant(low + added + behind <= capacity, "TS3: an insertion adds at most two intervals")
    // SAFETY: both ranges lie in the capacity taken; `update` allows them to overlap.
    (intervals + low + added).update(from: intervals + high, count: behind)
    var i = low
    if let left {
      intervals[i] = left
      i += 1
    }
    intervals[i] = new
    if let right { intervals[i + 1] = right }
    count = low + added + behind
  }
}
