package import Base

/// What one peer may cost. Every number can be configured; the defaults are the contract's.
package struct Limits: Sendable, Equatable {
  /// From accepting a connection to its transmission phase, TLS included.
  package var handshakeTime = Milliseconds(10_000)
  package var connectionsInHandshake = 32
  package var connections = 100
  /// Options of one handshake; one more closes.
  package var options = 32
  /// Bytes of one option's data; one more closes. The receive window must hold them and
  /// `Handshake.optionHeader`.
  package var optionData = 65_536
  /// Bytes of a name, a query, a description ("Conventions" allows 4096).
  package var stringBytes = 4096
  /// Queries of one LIST_META_CONTEXT or SET_META_CONTEXT.
  package var metaQueries = 64
  /// Selected contexts, at most `MetaSelection.capacity`.
  package var metaContexts = 16
  /// Requests and payload bytes in flight on one connection; beyond them it is not read.
  package var requestsInFlight = 128
  package var bytesInFlight = 64 << 20
  /// The payload size that BLOCK_SIZE advertises ("Size constraints").
  package var advertisedPayload: UInt32 = 32 << 20
  /// The payload accepted of a WRITE (more closes) and given to a READ (more is EINVAL).
  package var acceptedPayload: UInt32 = 64 << 20
  /// The longest READ answered in one chunk when DF asks for it; longer is EOVERFLOW. It is the
  /// least that the specification allows, since its memory cannot be given in parts.
  package var unfragmentedRead: UInt32 = 64 << 10
  /// Descriptors of one block status chunk.
  package var statusDescriptors = 65_536
  /// A peer that takes no byte of what is sent to it for so long is dropped.
  package var sendStall = Milliseconds(60_000)

  package init() {}
}
