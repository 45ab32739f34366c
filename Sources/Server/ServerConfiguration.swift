package import NBDProtocol
package import RingIO

/// What the operator decides about serving.
package struct ServerConfiguration: Sendable {
  /// The export's name; the empty name is the volume, too.
  package var volumeName: String
  /// Shown to clients; may be empty.
  package var description: String
  package var isReadOnly = false
  /// All tiers rotate: clients are told so.
  package var isRotational = false
  package var limits = Limits()
  package var ring = RingOptions()
  /// How long a shutdown waits for clients before it closes their connections.
  package var drainMilliseconds: UInt64 = 10_000

  package init(volumeName: String, description: String) {
    self.volumeName = volumeName
    self.description = description
  }
}

/// Memory that device operations use: held by the kernel for the ring's life.
package struct RegisteredMemory {
  package nonisolated(unsafe) let bytes: UnsafeMutableRawBufferPointer
  /// For the log, when the kernel refuses.
  package let name: String

  package init(_ bytes: UnsafeMutableRawBufferPointer, name: String) {
    self.bytes = bytes
    self.name = name
  }
}

/// Why the server could not begin; complete sentences.
package struct ServerError: Error, Sendable, CustomStringConvertible {
  package let description: String
}
