/// How full the tiers are, as a placement policy sees them.
package struct TierOccupancy: Sendable {
  /// Tiers of the pool, 1 to 8.
  package var count: Int
  /// Slots of each tier that data may use, and how many of them are in use.
  package var totalSlots: InlineArray<8, UInt64>
  package var usedSlots: InlineArray<8, UInt64>

  package init(count: Int) {
    self.count = count
    totalSlots = InlineArray(repeating: 0)
    usedSlots = InlineArray(repeating: 0)
  }
}
