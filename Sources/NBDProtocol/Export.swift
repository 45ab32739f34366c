/// A metadata context that a client may select ("Metadata querying").
package struct MetaContext: Sendable {
  /// Sent with every status chunk; unique in its table.
  package var id: UInt32
  /// `namespace:leaf`, UTF-8.
  package var name: [UInt8]
  /// Its status needs more than 32 bits: only with extended headers.
  package var isWide: Bool

  package init(id: UInt32, name: String, isWide: Bool = false) {
    self.id = id
    self.name = Array(name.utf8)
    self.isWide = isWide
  }

  /// `base:allocation`: what is mapped and what reads as zeros.
  package static let allocation = MetaContext(id: 1, name: "base:allocation")
  /// `qemu:allocation-depth`: 0 unmapped, 1 mapped here.
  package static let allocationDepth = MetaContext(id: 2, name: "qemu:allocation-depth")
  /// `x-thermocline:tier`: where a range lives: 0 nowhere, 1 and up the tiers, 255 the log.
  package static let tier = MetaContext(id: 3, name: "x-thermocline:tier")
  /// `x-thermocline:heat`: how often a range is visited; older visits count less.
  package static let heat = MetaContext(id: 4, name: "x-thermocline:heat")
  /// `qemu:dirty-bitmap:<snapshot>`: what changed since a snapshot; `id` is the caller's, from 16.
  package static func dirtyBitmap(snapshot: String, id: UInt32) -> MetaContext {
    MetaContext(id: id, name: "qemu:dirty-bitmap:" + snapshot)
  }
}

/// The one export as clients see it.
package struct Export: Sendable {
  /// Its name in UTF-8; the empty name means it, too.
  package var name: [UInt8]
  /// For people, UTF-8; may be empty.
  package var description: [UInt8]
  /// Bytes.
  package var size: UInt64
  package var isReadOnly = false
  /// All tiers rotate.
  package var isRotational = false
  /// "Size constraints": powers of two.
  package var minimumBlock: UInt32 = 1
  package var preferredBlock: UInt32 = 4096
  /// What can be selected; indices into it make a `MetaSelection`.
  package var contexts: [MetaContext] = [.allocation, .allocationDepth, .tier, .heat]

  package init(name: String, description: String, size: UInt64) {
    self.name = Array(name.utf8)
    self.description = Array(description.utf8)
    self.size = size
  }

  /// The transmission flags for a connection with that style and selection.
  package func flags(_ style: ReplyStyle, contexts: Int) -> TransmissionFlags {
    var flags: TransmissionFlags = [.hasFlags, .sendFlush, .sendFUA, .canMultiConn, .sendCache]
    if isReadOnly {
      flags.insert(.readOnly)
    } else {
      flags.formUnion([.sendTrim, .sendWriteZeroes, .sendFastZero])
    }
    if isRotational { flags.insert(.rotational) }
    if style != .simple { flags.insert(.sendDF) }
    if style == .extended && contexts > 0 { flags.insert(.blockStatusPayload) }
    return flags
  }
}

/// Which contexts of the export's table a connection has selected, in the order of selection.
package struct MetaSelection: Sendable, BitwiseCopyable {
  /// The most that fit.
  package static let capacity = 16
  private var indices = InlineArray<16, UInt8>(repeating: 0)
  package private(set) var count = 0

  package init() {}

  /// Position `i` of the selection: an index into `Export.contexts`.
  package subscript(_ i: Int) -> Int { Int(indices[i]) }

  /// Whether the context at that index of the table is selected.
  package func contains(_ index: Int) -> Bool {
    for i in 0..<count where Int(indices[i]) == index { return true }
    return false
  }

  /// Selects a context once; false when there is no room. Tables beyond 256 entries are the
  /// caller's mistake and their tail cannot be selected.
  package mutating func insert(_ index: Int) -> Bool {
    if contains(index) { return true }
    guard count < Self.capacity, index < 256 else { return false }
    indices[count] = UInt8(index)
    count += 1
    return true
  }
}

/// How the server stands to TLS ("TLS support").
package enum TLSMode: UInt8, Sendable {
  /// Not built in, or no certificate: STARTTLS is UNSUP.
  case unavailable
  /// Switched off by the operator: STARTTLS is POLICY.
  case forbidden
  /// SELECTIVETLS with no TLS-only export.
  case offered
  /// FORCEDTLS: nothing but ABORT and STARTTLS before encryption.
  case required
}

/// Everything a handshake offers; the same for all connections.
package struct Offer: Sendable {
  package var export: Export
  package var limits: Limits
  package var tls: TLSMode = .unavailable
  /// Options but ABORT are answered SHUTDOWN.
  package var isShuttingDown = false

  package init(export: Export, limits: Limits) {
    self.export = export
    self.limits = limits
  }
}
