import Base
import DiskFormat

/// The window onto the log's newest positions, in memory that outlives the process:
/// *offset = position mod size*. See `Log` for who may overwrite what.
struct StagingRing {
  /// The control page; nil when the memory does not outlive the process (no usable tmpfs).
  let control: UnsafeMutableRawPointer?
  /// SAFETY: mapped by the staging store (or taken from the arena) for the volume's life.
  let data: UnsafeMutableRawPointer
  /// Bytes, a power of two.
  let size: Int

  /// The bytes at a position; the caller stays inside the ring's end.
  func pointer(at position: LogPosition) -> UnsafeMutableRawPointer {
    data + Int(truncatingIfNeeded: position.rawValue & UInt64(size - 1))
  }

  /// Bytes from a position to the ring's end.
  func bytesToEnd(from position: LogPosition) -> Int {
    size - Int(truncatingIfNeeded: position.rawValue & UInt64(size - 1))
  }
}
