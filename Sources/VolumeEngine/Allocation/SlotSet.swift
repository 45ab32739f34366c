package import Base

/// A set of slots of bounded size, filled and emptied as a whole: open addressing over memory of
/// the arena.
///
/// SS1  At most half of the places are in use: a search ends.
package struct SlotSet: ~Copyable {
  private let table: UnsafeMutablePointer<SlotAddress>
  private let mask: Int
  /// Slots in the set.
  package private(set) var count = 0

  /// Room for `capacity` slots.
  package init(capacity: Int, in arena: inout Arena) {
    let size = SlotSet.size(capacity)
    // SAFETY: the arena hands out zero-filled memory that outlives the set; zero is no slot.
    table = arena.takeArray(of: SlotAddress.self, count: size)
    mask = size - 1
  }

  /// What `init` takes from the arena, at most.
  package static func bytes(capacity: Int) -> Int { Arena.cost(size(capacity) * 8) }

  private static func size(_ capacity: Int) -> Int {
    var size = 8
    while size < 2 * capacity { size *= 2 }
    return size
  }

  package mutating func removeAll() {
    if count > 0 { table.update(repeating: .none, count: mask + 1) }
    count = 0
  }

  /// Adds a slot; it may be there already.
  package mutating func insert(_ slot: SlotAddress) {
    let i = place(slot)
    if table[i] == slot { return }
    invariant(2 * count <= mask, "SS1: at most half of the places are in use")
    table[i] = slot
    count += 1
  }

  /// Whether the slot is in it.
  package func contains(_ slot: SlotAddress) -> Bool { count > 0 && table[place(slot)] == slot }

  /// Where the slot is, or the empty place that ends its search.
  private func place(_ slot: SlotAddress) -> Int {
    var i = Int(truncatingIfNeeded: mix64(slot.rawValue)) & mask
    while table[i] != slot && !table[i].isNone { i = (i + 1) & mask }
    return i
  }
}
