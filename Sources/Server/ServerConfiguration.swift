package import Base
package import NBDProtocol
package import RingIO
package import TLS

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
  /// How it stands to encryption; `credentials` when it can.
  package var tls = TLSMode.unavailable
  package var credentials: TLSCredentials? = nil
  /// Users who may connect to a unix socket; nil: whoever its permissions let in.
  package var unixUsers: Set<UInt32>? = nil
  package var ring = RingOptions()
  /// Told of the server's life, on the loop's thread: it must not block.
  package var tell: @Sendable (ServerNews) -> Void = { _ in }
  /// How long a shutdown waits for clients before it closes their connections.
  package var drainMilliseconds: UInt64 = 10_000
  /// How long a shutdown may take in all; then what is in the log is left for the next start.
  package var stopTime = Milliseconds(60_000)

  package init(volumeName: String, description: String) {
    self.volumeName = volumeName
    self.description = description
  }
}

/// What may be changed while clients are served.
package struct ServerChanges: Sendable {
  /// Bytes that the volume is to have; fewer than it has are refused. 0: as it is.
  package var volumeSize: UInt64 = 0
  package var limits = Limits()
  package var unixUsers: Set<UInt32>? = nil
  package var tls = TLSMode.unavailable
  package var credentials: TLSCredentials? = nil

  package init() {}
}

/// What a service manager wants to know.
package enum ServerNews: Sendable {
  /// Clients are let in.
  case serving
  /// The loop turns; at least once a second.
  case alive
  /// SIGHUP: the configuration may have changed. `Mailbox.change` tells the loop how.
  case reloading
  /// A shutdown has begun.
  case stopping
  /// Another process serves now.
  case replaced(by: Int32)
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
