import Base
import Glibc

/// Heat of the whole volume: one cell of 4 bytes per granule of 64 KiB × 2ᵏ.
///
/// **Heat as a moment.** A visit at moment *t* is worth 2^((t − now) / half-life) now. The sum of
/// such terms is kept as the base-2 logarithm of Σ 2^(t / half-life): a *level*, in 1/1024 of a
/// half-life since an origin. It never needs to be decayed, two levels compare at any later time
/// as the heats do, and "twice the heat" is "1024 more". (Forward decay: Cormode, Shkapenyuk,
/// Srivastava, Xu, *Forward Decay: A Practical Time Decay Model for Streaming Systems*, ICDE 2009;
/// kept here in the logarithm.) A heat saturates near 2,900 visits, where one more is less than
/// half a unit.
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0–15 | level | 0: no heat |
/// | 16–26 | stamp | last access in fifths of the visit gap, modulo 2047, plus 1; 0: long ago |
/// | 27–29 | hold | sweeps left in which the last move may not be reversed |
/// | 30 | promoted | the last move was towards a faster tier |
/// | 31 | pointed | visited by other than a stream |
struct HeatMap: ~Copyable {
  /// Extents per cell, as a shift.
  private(set) var shift: UInt64
  private(set) var count: Int
  private let capacity: Int
  private var cells: UnsafeMutablePointer<UInt32>
  /// 1024 · log2(1 + 2^(−i / 64)): what adding a heat *i* / 64 half-lives smaller is worth.
  private let sums: UnsafeMutablePointer<UInt16>
  private let levelUnit: UInt64
  private let stampUnit: UInt64
  private var origin: UInt64

  static let perHalfLife = 1024
  /// The level of a single visit at the origin: sixteen half-lives above nothing.
  private static let originLevel: UInt64 = 16 * 1024
  private static let stampModulus: UInt64 = 2047
  /// Stamps are exact if every cell is swept at least this often, in stamp units.
  static let longestSweep: UInt64 = 1000

  /// A map of at most `bytes` for `extents` extents, allocated and zeroed here.
  init(extents: UInt64, bytes: Int, halfLife: Milliseconds, visitGap: Milliseconds, now: Instant) {
    invariant(bytes >= 4 && extents > 0, "R1: a heat map has room for a cell")
    capacity = bytes / 4
    shift = Self.shift(for: extents, capacity)
    count = Int((extents - 1) >> shift) + 1
    cells = .allocate(capacity: count)
    cells.initialize(repeating: 0, count: count)
    sums = .allocate(capacity: 1024)
    for i in 0..<1024 {
      sums[i] = UInt16(1024 * log2(1 + exp2(-(Double(i) / 64))) + 0.5)
    }
    levelUnit = max(1, halfLife.rawValue * 1_000_000 / 1024)
    stampUnit = max(1, visitGap.rawValue * 1_000_000 / 5)
    origin = now.nanoseconds
  }

  private static func shift(for extents: UInt64, _ capacity: Int) -> UInt64 {
    var shift: UInt64 = 0
    while (extents - 1) >> shift >= UInt64(capacity) { shift += 1 }
    return shift
  }

  /// Covers more extents within the same bytes. Cells may become coarser: the hottest stays.
  mutating func grow(to extents: UInt64) {
    let newShift = max(shift, Self.shift(for: extents, capacity))
    let newCount = Int((extents - 1) >> newShift) + 1
    let new = UnsafeMutablePointer<UInt32>.allocate(capacity: newCount)
    new.initialize(repeating: 0, count: newCount)
    for i in 0..<count {
      let place = i >> Int(newShift - shift)
      if self[i].level >= Cell(bits: new[place]).level { new[place] = cells[i] }
    }
    // SAFETY: nobody else has the old cells; `deinit` frees the new ones.
    cells.deallocate()
    (cells, count, shift) = (new, newCount, newShift)
  }

  // SAFETY: both allocations are made in `init`, owned by this value alone, and used nowhere else.
  deinit {
    cells.deallocate()
    sums.deallocate()
  }

  /// The number of an extent's cell.
  func cell(of extent: ExtentIndex) -> Int {
    let index = Int(extent.rawValue >> shift)
    invariant(index < count, "R1: an extent lies in the volume")
    return index
  }

  /// The level of one visit now.
  func level(at now: Instant) -> Int {
    Int(Self.originLevel + now.since(Instant(nanoseconds: origin)) / levelUnit)
  }

  private func stamp(at now: Instant) -> UInt32 {
    UInt32(now.nanoseconds / stampUnit % Self.stampModulus) + 1
  }

  subscript(index: Int) -> Cell {
    get { Cell(bits: cells[index]) }
    nonmutating set { cells[index] = newValue.bits }
  }

  /// Marks an access; true when it begins a visit. The gap is kept to a fifth of its length.
  func touch(_ index: Int, now: Instant) -> Bool {
    var cell = self[index]
    let stamp = stamp(at: now)
    if cell.stamp == stamp { return false }
    let visit = isStale(cell, stamp)
    cell.stamp = stamp
    self[index] = cell
    return visit
  }

  private func isStale(_ cell: Cell, _ stamp: UInt32) -> Bool {
    if cell.stamp == 0 { return true }
    let modulus = UInt32(Self.stampModulus)
    return (stamp + modulus - cell.stamp) % modulus >= 5
  }

  /// Adds 2^(−`halvings`) of a visit.
  func add(_ index: Int, halvings: Int, now: Instant) {
    var cell = self[index]
    cell.level = sum(cell.level, level(at: now) - halvings * Self.perHalfLife)
    self[index] = cell
  }

  private func sum(_ a: Int, _ b: Int) -> Int {
    let high = max(a, b)
    let distance = high - min(a, b)
    if a == 0 || distance >= 16 * Self.perHalfLife { return min(high, 65535) }
    return min(high + Int(sums[distance >> 4]), 65535)
  }

  /// Ages stamps and holds of cells `range`; the whole map is swept once a sweep period.
  func sweep(_ range: Range<Int>, now: Instant) {
    let stamp = stamp(at: now)
    for i in range where cells[i] & 0x3fff_0000 != 0 {
      var cell = self[i]
      if isStale(cell, stamp) { cell.stamp = 0 }
      if cell.hold > 0 { cell.hold -= 1 }
      self[i] = cell
    }
  }

  /// Keeps levels inside 16 bits: every 32 half-lives (96 days as configured) all of them come
  /// down by as much, and what is below has no heat left. Returns how far they came down.
  mutating func rebase(now: Instant) -> Int {
    let fall = 32 * Self.perHalfLife
    guard level(at: now) >= 48 * Self.perHalfLife else { return 0 }
    var total = 0
    while level(at: now) >= 48 * Self.perHalfLife {
      origin += UInt64(fall) * levelUnit
      total += fall
    }
    for i in 0..<count {
      var cell = self[i]
      cell.level = max(0, cell.level - total)
      if cell.level == 0 { cell.pointed = false }
      self[i] = cell
    }
    return total
  }

  /// A cell's heat in visits.
  func heat(_ index: Int, now: Instant) -> Double {
    let level = self[index].level
    return level == 0 ? 0 : exp2(Double(level - self.level(at: now)) / Double(Self.perHalfLife))
  }
}

/// One granule's 32 bits; see `HeatMap`.
struct Cell {
  var bits: UInt32

  var level: Int {
    get { Int(bits & 0xffff) }
    set { bits = bits & ~0xffff | UInt32(newValue) }
  }
  var stamp: UInt32 {
    get { bits >> 16 & 0x7ff }
    set { bits = bits & ~0x07ff_0000 | newValue << 16 }
  }
  var hold: UInt32 {
    get { bits >> 27 & 7 }
    set { bits = bits & ~0x3800_0000 | newValue << 27 }
  }
  var promoted: Bool {
    get { bits & 0x4000_0000 != 0 }
    set { bits = newValue ? bits | 0x4000_0000 : bits & ~0x4000_0000 }
  }
  var pointed: Bool {
    get { bits & 0x8000_0000 != 0 }
    set { bits = newValue ? bits | 0x8000_0000 : bits & ~0x8000_0000 }
  }
}
