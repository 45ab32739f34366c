/// The control plane: what an operator asks of a running server, on a thread of its own.
///
///     thermocline status ──► ControlClient ──► unix socket ──► ControlServer ──► answer(path)
///                                                                                    │
///                              StatusReport (JSON) ◄── snapshot published by the loop ┘
///
/// The protocol is HTTP/1.1, one request a connection, JSON answers, so that
/// `curl --unix-socket vol0.sock.control http://localhost/status` works as well.
///
/// Invariants:
/// - A1: the control plane never waits for the loop nor makes it wait: it reads copies of numbers
///   that the loop published.
/// - A2: one connection at a time, each for at most five seconds and eight kibibytes of request:
///   memory and time are bounded whatever a peer sends.
/// - A3: the socket has mode 0600 from the moment it exists. A file at its path that is no socket,
///   or one that somebody answers on, is never removed.
package enum ControlLimits {
  /// Seconds that a whole exchange may take.
  package static let timeout = 5
  /// What a successor asks for.
  package static let takeoverPath = "/takeover"
  /// The longest request, in bytes.
  package static let maxRequest = 8 << 10
  /// The longest response a client reads, in bytes.
  package static let maxResponse = 4 << 20
}

/// What went wrong with the control socket, in a complete sentence.
package struct ControlError: Error, Sendable, CustomStringConvertible {
  package enum Kind: Sendable {
    /// Nobody listens there.
    case notRunning
    /// The socket cannot be made, reached or understood.
    case failed
  }
  package var kind: Kind
  package var description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}
