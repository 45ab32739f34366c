/// Buffers of power-of-two sizes from 4 KiB up, cut from one area: memory for what clients send
/// and receive. (Binary buddies: Knuth, The Art of Computer Programming, volume 1, section 2.5.)
///
/// The area is a row of units of 4 KiB. A buffer of order *k* is 2ᵏ units and begins at a multiple
/// of its size; its buddy is the other half of the buffer of order *k* + 1. `states` has one byte
/// for each unit: at a buffer's first unit its order, with `freeMark` when it is free; `inside`
/// elsewhere. Free buffers of an order form a doubly linked list through `nexts` and `previouses`.
///
/// BP1  What is freed was allocated, with the same size, and lies in the area.
/// BP2  A free buffer's buddy is not free at the same order: both were joined.
/// BP3  `freeBytes` is the sum of all free buffers.
package struct BuddyPool: ~Copyable {
  private static var unit: Int { 4096 }
  private static var freeMark: UInt8 { 0x80 }
  private static var inside: UInt8 { 0x7f }
  private static var none: UInt32 { .max }

  /// The area's first byte, on a page.
  package let base: UnsafeMutableRawPointer
  /// The area's size in bytes.
  package let capacity: Int
  /// The largest buffer in bytes.
  package let largest: Int
  /// Bytes in free buffers. A request can fail below this: they may lie scattered.
  package private(set) var freeBytes = 0

  private let states: UnsafeMutablePointer<UInt8>
  private let nexts: UnsafeMutablePointer<UInt32>
  private let previouses: UnsafeMutablePointer<UInt32>
  private let heads: UnsafeMutablePointer<UInt32>
  private let topOrder: Int

  /// A pool over `capacity` bytes taken from the arena. `capacity` is a multiple of 4 KiB,
  /// `largest` a power of two from 4 KiB up; both in bytes.
  package init(capacity: Int, largest: Int = 1 << 20, in arena: inout Arena) {
    invariant(
      largest >= Self.unit && largest & (largest - 1) == 0,
      "BP4: the largest buffer is a power of two of at least 4 KiB")
    invariant(
      capacity > 0 && capacity % Self.unit == 0 && capacity / Self.unit < Int(Self.none),
      "BP5: the area is whole pages")
    let units = capacity / Self.unit
    base = arena.take(capacity)
    self.capacity = capacity
    self.largest = largest
    topOrder = (largest / Self.unit).trailingZeroBitCount
    states = arena.takeArray(of: UInt8.self, count: units)
    nexts = arena.takeArray(of: UInt32.self, count: units)
    previouses = arena.takeArray(of: UInt32.self, count: units)
    heads = arena.takeArray(of: UInt32.self, count: topOrder + 1)
    states.update(repeating: Self.inside, count: units)
    heads.update(repeating: Self.none, count: topOrder + 1)
    coverArea(units)
  }

  /// What `init` takes from the arena, at most.
  package static func bytes(capacity: Int, largest: Int = 1 << 20) -> Int {
    let units = capacity / unit
    return Arena.cost(capacity) + Arena.cost(units) + 2 * Arena.cost(units * 4)
      + Arena.cost(256)
  }

  /// The size in bytes that a request for `bytes` uses.
  package static func roundedSize(_ bytes: Int) -> Int { unit << order(bytes) }

  /// A buffer of at least `bytes`, aligned to 4 KiB, its content undefined; nil when no free
  /// buffer is large enough. `bytes` is 1 to `largest`.
  package mutating func allocate(_ bytes: Int) -> UnsafeMutableRawPointer? {
    invariant(bytes > 0 && bytes <= largest, "BP6: a buffer is not larger than the largest")
    let wanted = Self.order(bytes)
    var order = wanted
    while heads[order] == Self.none {
      if order == topOrder { return nil }
      order += 1
    }
    let first = Int(heads[order])
    remove(first, order)
    while order > wanted {
      order -= 1
      insert(first + 1 << order, order)
    }
    states[first] = UInt8(wanted)
    freeBytes -= Self.unit << wanted
    return base + first * Self.unit
  }

  /// Takes back a buffer that `allocate(bytes)` returned, with the same `bytes`.
  package mutating func free(_ buffer: UnsafeMutableRawPointer, _ bytes: Int) {
    let offset = buffer - base
    invariant(
      offset >= 0 && offset < capacity && offset % Self.unit == 0,
      "BP1: what is freed lies in the area")
    var first = offset / Self.unit
    var order = Self.order(bytes)
    invariant(
      order <= topOrder && states[first] == UInt8(order),
      "BP1: what is freed was allocated with the same size")
    freeBytes += Self.unit << order
    invariant(freeBytes <= capacity, "BP3: no more is free than there is")
    let units = capacity / Self.unit
    states[first] = Self.inside
    while order < topOrder {
      let buddy = first ^ 1 << order
      guard buddy < units, states[buddy] == Self.freeMark | UInt8(order) else { break }
      remove(buddy, order)
      first &= ~(1 << order)
      order += 1
    }
    insert(first, order)
  }

  /// Cuts the whole area into the largest aligned buffers, so that the lowest is used first.
  private mutating func coverArea(_ units: Int) {
    var end = units
    while end > 0 {
      let order = min(topOrder, end.trailingZeroBitCount)
      end -= 1 << order
      insert(end, order)
    }
    freeBytes = capacity
  }

  private func insert(_ first: Int, _ order: Int) {
    let head = heads[order]
    states[first] = Self.freeMark | UInt8(order)
    nexts[first] = head
    previouses[first] = Self.none
    if head != Self.none { previouses[Int(head)] = UInt32(first) }
    heads[order] = UInt32(first)
  }

  private func remove(_ first: Int, _ order: Int) {
    let next = nexts[first]
    let previous = previouses[first]
    if next != Self.none { previouses[Int(next)] = previous }
    if previous != Self.none { nexts[Int(previous)] = next } else { heads[order] = next }
    states[first] = Self.inside
  }

  private static func order(_ bytes: Int) -> Int {
    let units = (bytes + unit - 1) / unit
    return units <= 1 ? 0 : Int.bitWidth - (units - 1).leadingZeroBitCount
  }
}
