import Administration
import FoundationEssentials
import Glibc
import Logging
import RingIO
import Server

/// Replacing a server that runs by another process, without its clients noticing.
///
///     successor                                running server
///     GET /takeover on the control socket ──►  brings connections to rest, lets go of the devices
///     ◄── listener …, connection …, end        (each with its socket)
///     opens the pool, as after a kill
///     ready ────────────────────────────────►
///     ◄── go                                   ends, and leaves names of sockets alone
///     serves
///
/// Invariants:
/// - H1: the devices have one owner: who runs lets go of them before it sends `end`, and they are
///   locked.
/// - H2: a successor serves after `go`, or when the other end is gone; after `stop` it ends.
/// - H3: a running server that hears no `ready` (the other end is gone, or takes longer than
///   `patience`) says `stop` and goes on with the sockets, which it has kept.
struct HandoverChannel {
  /// Seconds that one end waits for the other.
  static let patience = 120

  private struct Message: Codable {
    enum Kind: String, Codable { case listener, connection, end, ready, go, stop }
    var kind: Kind
    var connection: HandedConnection?
    /// `stop`: why.
    var reason: String?
  }

  private let channel: DescriptorChannel

  init(_ socket: Int32) { channel = DescriptorChannel(socket, seconds: Self.patience) }

  func close() { Glibc.close(channel.socket) }

  var peerProcess: Int32 { channel.peerProcess }

  private func send(
    _ kind: Message.Kind, _ connection: HandedConnection? = nil, _ descriptor: Int32? = nil,
    reason: String? = nil
  ) throws {
    let message = Message(kind: kind, connection: connection, reason: reason)
    try channel.send(Array(JSONEncoder().encode(message)), descriptor)
  }

  private func receive() throws -> (message: Message, descriptor: Int32?)? {
    guard let (bytes, descriptor) = try channel.receive() else { return nil }
    return (try JSONDecoder().decode(Message.self, from: Data(bytes)), descriptor)
  }

  // MARK: The running server

  /// Gives everything to the successor; true when it serves now.
  func give(_ handed: Handover, _ logger: Logger) -> Bool {
    do {
      for listener in handed.listeners {
        try send(.listener, nil, listener.descriptor)
      }
      for connection in handed.connections {
        try send(.connection, connection, connection.descriptor)
      }
      try send(.end)
      if let answer = try receive(), answer.message.kind == .ready {
        // From here on the successor serves: should this be lost, the end of this process is a go.
        try? send(.go)
        return true
      }
      logger.warning("the successor ended before it could serve: this server goes on")
    } catch {
      logger.warning("the successor could not take over: \(error): this server goes on")
    }
    try? send(.stop, reason: "it took too long")
    return false
  }

  // MARK: The successor

  /// Takes everything from the running server, which has let go of the pool then.
  func take() throws -> Handover {
    var handed = Handover()
    while true {
      guard let (message, descriptor) = try receive() else {
        throw Refusal("The running server ended while it handed over.")
      }
      switch (message.kind, descriptor, message.connection) {
      case (.listener, let descriptor?, _):
        handed.listeners.append(try Listener.adopt(descriptor))
      case (.connection, let descriptor?, var connection?):
        connection.descriptor = descriptor
        handed.connections.append(connection)
      case (.end, _, _): return handed
      default: throw Refusal("The running server hands over what is not understood.")
      }
    }
  }

  /// Says that this process can serve, and waits until it may.
  func confirm() throws {
    do {
      try send(.ready)
      guard let (message, _) = try receive() else { return }
      if message.kind == .go { return }
      throw Refusal("The running server goes on: \(message.reason ?? "no reason was given").")
    } catch let error as SystemError where error.code == EPIPE || error.code == ECONNRESET {
      // It is gone.
    }
  }
}

/// All that clients hold on to.
struct Handover {
  var listeners: [Listener] = []
  var connections: [HandedConnection] = []
}
