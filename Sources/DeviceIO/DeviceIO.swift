package import Base

/// The seam between the engine and whatever moves bytes: io_uring in production, a simulated disk
/// in the simulator. Values only, no system call.
///
/// The engine puts `DeviceOperation`s into an `OperationQueue`; the driver takes them out in
/// order, performs them in any order, and reports each exactly once as a `DeviceCompletion`.
///
/// Invariants:
/// - D1: an operation is completed exactly once, with its own token.
/// - D2: a completion's result is the full length, or a negative errno; a driver finishes short
///   transfers, EINTR and EAGAIN by itself.
/// - D3: a flush covers what had completed on its device when it was submitted, nothing more.
/// - D4: reads and writes are aligned to the device's logical block in offset, length and memory.
package enum OperationKind: UInt8, Sendable {
  case read
  case write
  /// A write that is durable when it completes (`RWF_DSYNC`).
  case writeThrough
  /// Makes durable what had completed before (`fdatasync`).
  case flush
  /// Tells the device that the range's content is not needed any more. A hint: it may fail.
  case discard
}

/// One thing for a device to do.
package struct DeviceOperation: Sendable {
  package var kind: OperationKind
  package var device: DeviceIndex
  /// Bytes; zero for a flush. For a discard up to 4 GiB − 4 KiB.
  package var length: UInt32
  /// Byte offset on the device.
  package var offset: UInt64
  /// Source of a write, target of a read; the issuer keeps it alive until completion.
  nonisolated(unsafe) package var memory: UnsafeMutableRawPointer?
  /// Given back with the completion; opaque to drivers.
  package var token: UInt64

  package init(
    _ kind: OperationKind, device: DeviceIndex, offset: UInt64 = 0, length: Int = 0,
    memory: UnsafeMutableRawPointer? = nil, token: UInt64
  ) {
    self.kind = kind
    self.device = device
    self.length = UInt32(truncatingIfNeeded: length)
    self.offset = offset
    self.memory = memory
    self.token = token
  }
}

/// The end of one operation.
package struct DeviceCompletion: Sendable {
  package var token: UInt64
  /// The operation's length, or a negative errno.
  package var result: Int32

  package init(token: UInt64, result: Int32) {
    self.token = token
    self.result = result
  }
}

/// What is fixed about an opened device.
package struct DeviceGeometry: Sendable, Equatable {
  /// Usable bytes.
  package var size: UInt64
  /// The least unit of direct I/O, 512 to 4096.
  package var logicalBlock: Int
  /// The unit the device writes without tearing, at least `logicalBlock`.
  package var physicalBlock: Int
  package var isRotational: Bool
  package var supportsDiscard: Bool

  package init(
    size: UInt64, logicalBlock: Int = 512, physicalBlock: Int = 4096, isRotational: Bool = false,
    supportsDiscard: Bool = false
  ) {
    self.size = size
    self.logicalBlock = logicalBlock
    self.physicalBlock = physicalBlock
    self.isRotational = isRotational
    self.supportsDiscard = supportsDiscard
  }
}

/// Devices driven by a caller who waits: for format, recovery, check and inspect, which run before
/// or without a loop. The same devices, the same operations.
package protocol WaitingDevices: AnyObject {
  /// How many devices there are; indices below it are valid.
  var count: Int { get }
  /// What is fixed about a device.
  func geometry(of device: DeviceIndex) -> DeviceGeometry
  /// Performs all of `operations`, in any order and in parallel, and returns when each has ended;
  /// `results[i]` is that of `operations[i]`, as in `DeviceCompletion.result`.
  func perform(
    _ operations: UnsafeBufferPointer<DeviceOperation>, results: UnsafeMutableBufferPointer<Int32>)
}

/// A bounded first-in first-out queue of operations, over memory that the issuer provides.
package struct OperationQueue: ~Copyable {
  private let storage: UnsafeMutablePointer<DeviceOperation>
  private let mask: Int
  private var head = 0
  private var tail = 0

  /// A queue of at most `capacity` operations, a power of two.
  package init(capacity: Int, in arena: inout Arena) {
    invariant(capacity & (capacity - 1) == 0, "D5: a queue's capacity is a power of two")
    // SAFETY: the arena outlives the queue; DeviceOperation is trivial, so zeros need no end.
    storage = arena.take(capacity * MemoryLayout<DeviceOperation>.stride)
      .bindMemory(to: DeviceOperation.self, capacity: capacity)
    mask = capacity - 1
  }

  /// Operations waiting for the driver.
  package var count: Int { tail &- head }
  /// How many more fit.
  package var room: Int { mask + 1 - count }

  /// Adds an operation; the issuer has seen that there is room.
  package mutating func push(_ operation: DeviceOperation) {
    invariant(count <= mask, "D6: the operation queue is never overfilled")
    storage[tail & mask] = operation
    tail &+= 1
  }

  /// The oldest operation, or nil.
  package mutating func pop() -> DeviceOperation? {
    guard head != tail else { return nil }
    defer { head &+= 1 }
    return storage[head & mask]
  }
}
