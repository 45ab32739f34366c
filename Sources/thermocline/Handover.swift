import Administration
import Base
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
/// - H2: a successor serves after `go`, or when the other end is gone; after `stop` it ends, or
///   when it is told to stop before it was ready. Nothing can fail behind `go`.
/// - H3: a running server that hears no `ready` (the other end is gone, or takes too long, or this
///   one is told to stop) says `stop`, waits until the successor is gone and with it its locks, and
///   goes on with the sockets, which it has kept, and with what was configured while it served. One
///   that does not go is killed: it can neither serve nor let anyone else.
/// - H4: a successor serves the same pool: connections know no other.
struct HandoverChannel {
  /// Seconds that the successor waits for a word, and that a message may take.
  static let patience = 120
  /// In this time a successor that was told to stop must be gone.
  private static let lastWait = Milliseconds(10_000)

  private struct Message: Codable {
    enum Kind: String, Codable { case listener, connection, end, ready, go, stop }
    var kind: Kind
    var connection: HandedConnection?
    /// `stop`: why.
    var reason: String?
    /// `end`: which pool it was; names of unix sockets go with a stop; what systemd told the
    /// process it started.
    var pool: String?
    var removesPaths: Bool?
    var manager: [String: String]?
  }

  private let channel: DescriptorChannel

  init(_ socket: Int32) { channel = DescriptorChannel(socket, seconds: Self.patience) }

  func close() { Glibc.close(channel.socket) }

  var peerProcess: Int32 { channel.peerProcess }

  private func send(_ message: Message, _ descriptor: Int32? = nil) throws {
    try channel.send(Array(JSONEncoder().encode(message)), descriptor)
  }

  /// The next message; nil at the end.
  private func receive() throws -> (message: Message, descriptor: Int32?)? {
    guard let (bytes, descriptor) = try channel.receive() else { return nil }
    let message = try? JSONDecoder().decode(Message.self, from: Data(bytes))
    guard let message else {
      if let descriptor { Glibc.close(descriptor) }
      throw Refusal(
        """
        What the other end of the handover says is not understood: \
        \(String(decoding: bytes.prefix(100), as: UTF8.self).debugDescription). Is it a \
        Thermocline of another kind? Stop the running server and start this one.
        """)
    }
    return (message, descriptor)
  }

  /// The next message, which comes without a descriptor: one is closed.
  private func receiveWord() throws -> Message? {
    guard let (message, descriptor) = try receive() else { return nil }
    if let descriptor { Glibc.close(descriptor) }
    return message
  }

  // MARK: The running server

  /// Gives everything to the successor, and waits so many seconds; true when it serves now.
  /// `isAlive` is called once a second.
  func give(
    _ handed: Handover, seconds: Int, _ logger: Logger, isAlive: () -> Void
  ) -> Bool {
    do {
      for listener in handed.listeners {
        try send(Message(kind: .listener), listener.descriptor)
      }
      for connection in handed.connections {
        try send(Message(kind: .connection, connection: connection), connection.descriptor)
      }
      try send(
        Message(
          kind: .end, pool: handed.pool, removesPaths: handed.removesPaths,
          manager: ServiceManager.environment()))
      var waited = 0
      while waited < seconds, !channel.hasMessage(), !SignalDescriptor.isStopPending {
        isAlive()
        waited += 1
      }
      if !SignalDescriptor.isStopPending, channel.hasMessage(seconds: 0),
        let answer = try receiveWord(), answer.kind == .ready
      {
        try send(Message(kind: .go))
        return true
      }
      logger.warning("the successor ended, or took too long, before it could serve")
    } catch {
      logger.warning("the successor could not take over: \(error)")
    }
    try? send(Message(kind: .stop, reason: "this took too long"))
    awaitEnd(logger, isAlive)
    logger.warning("this server goes on")
    return false
  }

  /// Until the other end is gone: until then it may own the devices.
  private func awaitEnd(_ logger: Logger, _ isAlive: () -> Void) {
    var killAt: Instant? = MonotonicClock.now() + Self.lastWait
    while true {
      if channel.hasMessage(), isEnd() { return }
      isAlive()
      let process = peerProcess
      if let time = killAt, time < MonotonicClock.now(), process > 0, process != getpid() {
        killAt = nil
        logger.warning("the successor, process \(process), does not end: it is killed")
        kill(process, SIGKILL)
      }
    }
  }

  /// What is said now does not count; words that are not understood are no end.
  private func isEnd() -> Bool {
    do {
      return try receiveWord() == nil
    } catch let error as SystemError {
      return error.code == ECONNRESET
    } catch {
      return false
    }
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
      case (.end, _, _):
        handed.pool = message.pool
        handed.removesPaths = message.removesPaths ?? true
        ServiceManager.adopt(message.manager ?? [:])
        return handed
      default: throw Refusal("The running server hands over what is not understood.")
      }
    }
  }

  /// Says that this process can serve, and waits until it may.
  func confirm() throws {
    if SignalDescriptor.isStopPending {
      throw Refusal("Told to stop while it took over: the running server goes on.")
    }
    do {
      try send(Message(kind: .ready))
      guard let message = try receiveWord() else { return }
      if message.kind == .go { return }
      throw Refusal("The running server goes on: \(message.reason ?? "no reason was given").")
    } catch let error as SystemError where error.code == EPIPE || error.code == ECONNRESET {
      // It is gone.
    }
  }
}

/// All that clients hold on to.
struct Handover {
  /// The identity of the pool that they are served from.
  var pool: String?
  var listeners: [Listener] = []
  var connections: [HandedConnection] = []
  /// Names of unix sockets are this server's to remove, and no service manager's.
  var removesPaths = true
  /// What could be changed while this process served, as it was in the end: it goes on with that,
  /// whatever its files say meanwhile. nil for a successor, which has its own configuration.
  var inForce: ServerChanges?
}
