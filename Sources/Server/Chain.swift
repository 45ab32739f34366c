import Base

/// A value in a fixed pool that can stand in one chain at a time.
protocol Linked {
  /// The next in the chain, or -1.
  var link: Int32 { get set }
}

/// A first-in first-out queue of slots of a pool, linked through the slots themselves.
struct Chain<Value: Linked> {
  private(set) var head: Int32 = -1
  private var tail: Int32 = -1

  var isEmpty: Bool { head < 0 }

  mutating func push(_ index: Int32, _ pool: UnsafeMutablePointer<Value>) {
    pool[Int(index)].link = -1
    if head < 0 { head = index } else { pool[Int(tail)].link = index }
    tail = index
  }

  /// The oldest, taken out; -1 when there is none.
  mutating func pop(_ pool: UnsafeMutablePointer<Value>) -> Int32 {
    let index = head
    guard index >= 0 else { return -1 }
    head = pool[Int(index)].link
    pool[Int(index)].link = -1
    return index
  }
}

/// A bounded first-in first-out queue of indices, over memory of the arena.
struct IndexQueue: ~Copyable {
  private let storage: UnsafeMutablePointer<Int32>
  private let mask: Int
  private var first = 0
  private var last = 0

  /// Room for at least `capacity` indices.
  init(capacity: Int, in arena: inout Arena) {
    let size = IndexQueue.size(capacity)
    storage = arena.takeArray(of: Int32.self, count: size)
    mask = size - 1
  }

  /// Indices that a queue for `capacity` of them has room for: a power of two.
  static func size(_ capacity: Int) -> Int {
    1 << (Int.bitWidth - max(1, capacity - 1).leadingZeroBitCount)
  }

  var isEmpty: Bool { first == last }
  var count: Int { last &- first }

  mutating func push(_ index: Int32) {
    invariant(count <= mask, "S8: each index is queued once")
    storage[last & mask] = index
    last &+= 1
  }

  mutating func pop() -> Int32 {
    guard first != last else { return -1 }
    defer { first &+= 1 }
    return storage[first & mask]
  }
}

/// A set of connections, as bits.
struct ConnectionSet {
  /// The most connections there can be.
  static let capacity = 1024
  private var words = InlineArray<16, UInt64>(repeating: 0)

  mutating func insert(_ index: Int32) {
    words[Int(index) >> 6] |= 1 << UInt64(index & 63)
  }

  mutating func remove(_ index: Int32) {
    words[Int(index) >> 6] &= ~(1 << UInt64(index & 63))
  }

  mutating func formUnion(_ other: ConnectionSet) {
    for i in 0..<16 { words[i] |= other.words[i] }
  }

  var isEmpty: Bool {
    for i in 0..<16 where words[i] != 0 { return false }
    return true
  }

  /// Takes out a member with an index of at least `start`, -1 when there is none.
  mutating func takeNext(from start: Int32 = 0) -> Int32 {
    var i = Int(start) >> 6
    guard i < 16 else { return -1 }
    var word = words[i] & (.max << UInt64(start & 63))
    while word == 0 {
      i += 1
      guard i < 16 else { return -1 }
      word = words[i]
    }
    let index = Int32(i * 64 + word.trailingZeroBitCount)
    remove(index)
    return index
  }
}
