import Base

/// What a client can ask of the volume. Offsets and lengths are bytes, in range, and any
/// alignment is served.
package enum RequestKind: UInt8, Sendable, BitwiseCopyable {
  case read
  case write
  case flush
  /// Deallocate a range: it reads as zeros afterwards.
  case trim
  /// Zero a range; deallocates it unless `keepAllocated`.
  case writeZeroes
  /// A hint that the range will be read soon.
  case cache
  /// Describe what is mapped.
  case blockStatus
}

/// How a request is to be carried out.
package struct RequestFlags: OptionSet, Sendable, BitwiseCopyable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Reply only when the effect survives power loss (FUA).
  package static let durable = RequestFlags(rawValue: 1)
  /// The zeroed range keeps a reservation, so that later writes cannot meet *no space* (NO_HOLE).
  package static let keepAllocated = RequestFlags(rawValue: 2)
  /// Refuse with `notSupported` what would need data to be read or written (FAST_ZERO).
  package static let onlyIfFast = RequestFlags(rawValue: 4)
  /// `blockStatus` ends with its first descriptor (REQ_ONE).
  package static let oneDescriptor = RequestFlags(rawValue: 8)
}

/// What a `blockStatus` tells of each piece, as `StatusDescriptor.flags`.
package enum StatusView: UInt8, Sendable, BitwiseCopyable {
  /// Bit 0: hole (nothing allocated). Bit 1: reads as zeros. As NBD's `base:allocation`.
  case allocation
  /// 0: nothing allocated; 1: allocated here. As QEMU's `qemu:allocation-depth`.
  case depth
  /// 0: no data; 1 and up: on that tier, the first is 1; `StatusView.log`: in the write log.
  case tier
  /// Visits, halved with each half-life, whole ones: what the policy goes by.
  case heat

  /// The value of `tier` for data in the write log, which lies on the first tier.
  package static var log: UInt64 { 255 }
}

/// One request. The server validates it (range, length limits) before the engine sees it.
package struct VolumeRequest: Sendable, BitwiseCopyable {
  package var kind: RequestKind
  package var flags: RequestFlags
  /// Byte offset in the volume.
  package var offset: UInt64
  /// Bytes. Reads and writes: 1 to `VolumeRequest.maxTransfer`; others up to the whole volume.
  package var length: UInt64
  /// Reads and writes: page-aligned memory that covers every 4 KiB block the range touches, whole;
  /// the client's first byte lies at `memory + offset % 4096` (so a block of the volume is a page
  /// of memory, and any alignment is read without a copy). `blockStatus`: an array of
  /// `StatusDescriptor`.
  nonisolated(unsafe) package var memory: UnsafeMutableRawPointer?
  /// Reads: when given, bit *i* is set for the *i*-th 4 KiB block of the volume that the range
  /// touches if it is a hole (nothing mapped); room for 260 bits, cleared by the engine.
  nonisolated(unsafe) package var holes: UnsafeMutablePointer<UInt64>?
  /// `blockStatus`: how many descriptors fit at `memory`.
  package var descriptorCapacity: UInt32
  /// `blockStatus`: what is asked.
  package var view = StatusView.allocation
  /// Given back with the reply; opaque to the engine.
  package var cookie: UInt64

  /// The most bytes of one read or write: 1 MiB. The server cuts longer ones.
  package static var maxTransfer: Int { 1 << 20 }

  package init(
    _ kind: RequestKind, offset: UInt64 = 0, length: UInt64 = 0, flags: RequestFlags = [],
    memory: UnsafeMutableRawPointer? = nil, holes: UnsafeMutablePointer<UInt64>? = nil,
    descriptorCapacity: UInt32 = 0, cookie: UInt64
  ) {
    self.kind = kind
    self.flags = flags
    self.offset = offset
    self.length = length
    self.memory = memory
    self.holes = holes
    self.descriptorCapacity = descriptorCapacity
    self.cookie = cookie
  }
}

/// How a request ended.
package enum RequestResult: UInt8, Sendable, BitwiseCopyable {
  case done
  /// The range, or a part, is lost or cannot be read or written now (EIO).
  case ioError
  /// The pool is full, and draining it did not help (ENOSPC).
  case noSpace
  /// `onlyIfFast` could not be honoured; nothing was changed (ENOTSUP).
  case notSupported
  /// The volume is shutting down (ESHUTDOWN).
  case shuttingDown
}

/// The one reply to a request.
package struct VolumeReply: Sendable, BitwiseCopyable {
  package var cookie: UInt64
  package var result: RequestResult
  /// `blockStatus`: how many descriptors were written.
  package var descriptorCount: UInt32
  /// On `ioError`: the byte offset in the volume of the first block concerned.
  package var errorOffset: UInt64

  package init(
    cookie: UInt64, result: RequestResult, descriptorCount: UInt32 = 0, errorOffset: UInt64 = 0
  ) {
    self.cookie = cookie
    self.result = result
    self.descriptorCount = descriptorCount
    self.errorOffset = errorOffset
  }
}

/// One piece of a block status answer.
package struct StatusDescriptor: Sendable, Equatable {
  /// Bytes.
  package var length: UInt64
  /// What `StatusView` says.
  package var flags: UInt64
  package init(length: UInt64, flags: UInt64) {
    self.length = length
    self.flags = flags
  }
  package static var hole: UInt64 { 1 }
  package static var zero: UInt64 { 2 }
}
