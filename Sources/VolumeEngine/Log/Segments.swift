import Base
import DiskFormat

/// A stretch of positions and the segment that holds it.
struct Segment {
  /// The segment's number in the log area.
  var index: Int
  var serial: UInt64
  /// First position; the header block lies before it on the device.
  var start: LogPosition
  /// One past the last position it may hold: less than its capacity once a successor took over.
  var end: LogPosition
  var headerWritten: Bool
}

/// Which segment holds which positions, oldest first and without gaps, and which are free.
///
/// - S1: the table's entries are contiguous: each starts where its predecessor ends.
/// - S2: a segment is in the table, free, or waiting for readers; never in two of these.
struct Segments: ~Copyable {
  let geometry: LogGeometry
  private let table: UnsafeMutablePointer<Segment>
  private let tableMask: Int
  private var first = 0
  private(set) var count = 0
  private let free: UnsafeMutablePointer<Int32>
  private var freeFirst = 0
  private(set) var freeCount = 0
  var nextSerial: UInt64

  init(geometry: LogGeometry, nextSerial: UInt64, in arena: inout Arena) {
    self.geometry = geometry
    self.nextSerial = nextSerial
    let capacity = Segments.tableCapacity(geometry)
    table = arena.takeArray(of: Segment.self, count: capacity)
    tableMask = capacity - 1
    free = arena.takeArray(of: Int32.self, count: geometry.segmentCount)
  }

  private static func tableCapacity(_ g: LogGeometry) -> Int {
    var capacity = 16
    while capacity < 2 * g.segmentCount { capacity *= 2 }
    return capacity
  }

  static func bytes(_ g: LogGeometry) -> Int {
    Arena.cost(tableCapacity(g) * MemoryLayout<Segment>.stride) + Arena.cost(g.segmentCount * 4)
  }

  /// The `i`-th entry, oldest first.
  subscript(i: Int) -> Segment {
    get { table[(first + i) & tableMask] }
    set { table[(first + i) & tableMask] = newValue }
  }

  /// The last entry's end: where the next segment begins.
  var end: LogPosition? { count == 0 ? nil : self[count - 1].end }

  /// The number of the entry that holds a position; nil when none does.
  func find(_ position: LogPosition) -> Int? {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if self[middle].end <= position { low = middle + 1 } else { high = middle }
    }
    guard low < count, self[low].start <= position else { return nil }
    return low
  }

  /// The byte offset on device 0 of a position that a segment holds.
  func deviceOffset(_ position: LogPosition) -> UInt64? {
    guard let i = find(position) else { return nil }
    return deviceOffset(position, in: self[i])
  }

  func deviceOffset(_ position: LogPosition, in s: Segment) -> UInt64 {
    geometry.segmentOffset(s.index) + UInt64(geometry.logBlock + (position - s.start))
  }

  mutating func addFree(_ index: Int) {
    invariant(freeCount < geometry.segmentCount, "S2: no segment is freed twice")
    free[(freeFirst + freeCount) % geometry.segmentCount] = Int32(index)
    freeCount += 1
  }

  private mutating func takeFree() -> Int {
    invariant(freeCount > 0, "S2: a free segment was counted on")
    let index = Int(free[freeFirst])
    freeFirst = (freeFirst + 1) % geometry.segmentCount
    freeCount -= 1
    return index
  }

  /// Appends an entry for positions from `start` on, in a free segment.
  mutating func open(at start: LogPosition) {
    invariant(count == 0 || end == start, "S1: segments are contiguous")
    adopt(
      Segment(
        index: takeFree(), serial: nextSerial, start: start,
        end: start + geometry.segmentCapacity, headerWritten: false))
    nextSerial += 1
  }

  /// Appends an entry that recovery has read.
  mutating func adopt(_ segment: Segment) {
    invariant(count <= tableMask, "S3: the segment table has room")
    invariant(segment.start < segment.end, "S1: a segment holds positions")
    count += 1
    self[count - 1] = segment
  }

  /// Everything from `position` on is to be appended again: the entry that holds it ends there and
  /// a free segment takes over its rest; later entries keep their range in segments anew.
  /// False when no segment is free.
  mutating func replace(from position: LogPosition) -> Bool {
    guard let i = find(position) else { return true }
    if self[i].start < position {
      guard freeCount > 0, count <= tableMask else { return false }
      let rest = self[i].end
      self[i].end = position
      count += 1
      var j = count - 1
      while j > i + 1 {
        self[j] = self[j - 1]
        j -= 1
      }
      self[i + 1] = Segment(
        index: takeFree(), serial: 0, start: position, end: rest, headerWritten: false)
    }
    var j = i
    while j < count {
      if self[j].start >= position {
        if self[j].serial != 0, freeCount > 0 {
          let old = self[j].index
          self[j].index = takeFree()
          addFree(old)
        }
        self[j].serial = nextSerial
        self[j].headerWritten = false
        nextSerial += 1
      }
      j += 1
    }
    return true
  }

  /// Ends the last entry at `position`, where recovery goes on in a fresh segment.
  mutating func cut(at position: LogPosition) {
    if count > 0, self[count - 1].end > position { self[count - 1].end = position }
  }

  /// Takes the oldest entry out when all its positions lie below `boundary`; the caller frees its
  /// segment once no read needs it.
  mutating func dropOldest(below boundary: LogPosition) -> Int? {
    guard count > 0, self[0].end <= boundary else { return nil }
    let index = self[0].index
    first = (first + 1) & tableMask
    count -= 1
    return index
  }
}
