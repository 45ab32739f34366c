import Base

/// Names an operation in the ring: 64 bits that the kernel hands back with its completion.
///
/// | bits | field |
/// |---|---|
/// | 63…56 | kind: who completes it; 0 to 15 belong to RingIO, 16 to 254 to the server |
/// | 55…32 | generation of the slot, so that a late completion is recognised |
/// | 31…0 | slot in the owner's fixed pool |
package struct OperationTag: Hashable, Sendable {
  package var rawValue: UInt64

  package init(rawValue: UInt64) { self.rawValue = rawValue }

  /// The generation's upper eight bits are dropped.
  package init(kind: UInt8, slot: UInt32 = 0, generation: UInt32 = 0) {
    rawValue = UInt64(kind) << 56 | UInt64(generation & 0xff_ffff) << 32 | UInt64(slot)
  }

  package var kind: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 56) }
  package var generation: UInt32 { UInt32(truncatingIfNeeded: rawValue >> 32) & 0xff_ffff }
  package var slot: UInt32 { UInt32(truncatingIfNeeded: rawValue) }

  /// Operations whose completion nobody looks at (cancellations, closes).
  package static let ignored: UInt8 = 0
  /// Operations of a `DeviceDriver`.
  package static let device: UInt8 = 1
  /// The first kind that the server may give out.
  package static let firstServerKind: UInt8 = 16
}

/// The end of one operation of the ring, or one of several results of a multishot operation.
package struct RingCompletion: Sendable {
  package var tag: OperationTag
  /// What the system call would have returned, or a negative errno.
  package var result: Int32
  /// `IORING_CQE_F_…`
  package var flags: UInt32

  /// The operation stays armed: more completions with this tag will follow.
  package var hasMore: Bool { flags & 2 != 0 }
}

/// Completions taken out of the ring in one go: up to 64, in the kernel's order.
package struct CompletionBatch: ~Copyable {
  private let anchor = Anchor()
  package static let capacity = 64
  var items = InlineArray<64, RingCompletion>(
    repeating: RingCompletion(tag: OperationTag(rawValue: 0), result: 0, flags: 0))
  package internal(set) var count = 0

  package init() {}

  package subscript(_ index: Int) -> RingCompletion { items[index] }
}

/// An open file as the ring knows it: its descriptor and, when it was installed, its place in the
/// ring's table of registered files.
package struct RingFile: Sendable, Equatable {
  package let descriptor: Int32
  /// Place in the registered table, or -1.
  let slot: Int32

  /// A file that is not installed in any ring.
  package init(descriptor: Int32) {
    self.descriptor = descriptor
    slot = -1
  }

  init(descriptor: Int32, slot: Int32) {
    self.descriptor = descriptor
    self.slot = slot
  }

  package var isInstalled: Bool { slot >= 0 }
}

/// The sizes of a ring.
package struct RingOptions: Sendable {
  /// Submissions that fit before they are handed to the kernel.
  package var entries: UInt32 = 256
  /// Completions that fit; at least what may be in flight: devices × limit + connections × their
  /// operations.
  package var completions: UInt32 = 4096
  /// Places for registered files: devices, listeners, connections.
  package var files: UInt32 = 512
  /// Places for registered memory, each of at most 1 GiB.
  package var buffers: UInt32 = 64
  /// How many of the newest set-up features to do without, 0 to 2, as on an older kernel: for
  /// tests of the fallbacks.
  package var withoutNewest = 0

  package init(
    entries: UInt32 = 256, completions: UInt32 = 4096, files: UInt32 = 512, buffers: UInt32 = 64
  ) {
    self.entries = entries
    self.completions = completions
    self.files = files
    self.buffers = buffers
  }
}

/// Why there is no ring.
package struct RingError: Error, Sendable, CustomStringConvertible {
  package let cause: SystemError
  /// What the operator can do about it; a complete sentence.
  package let advice: String
  package var description: String { "\(cause). \(advice)" }
}
