package import Base

/// Where staging rings live: memory that outlives the process (tmpfs) but not the machine's power.
/// A ring is named by pool and ring id; the engine never has more than two at once, and only
/// while one replaces the other.
package protocol StagingStore: AnyObject {
  /// The ring with that id, mapped, or nil when there is none.
  func open(pool: Identity, ring: UInt64) -> UnsafeMutableRawBufferPointer?
  /// A new ring of `size` bytes, zero-filled, its memory really there (allocated), mode 0600.
  /// nil when there is no usable tmpfs: the engine then acknowledges writes after the append.
  func create(pool: Identity, ring: UInt64, size: Int) -> UnsafeMutableRawBufferPointer?
  /// Removes the ring with that id; its mapping, if any, ends when the process does.
  func remove(pool: Identity, ring: UInt64)
}
