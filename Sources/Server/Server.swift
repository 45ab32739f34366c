import Base
import DeviceIO
import Glibc
package import Logging
import NBDProtocol
package import RingIO
import VolumeEngine

/// Joins protocol, engine and ring: one thread, one ring, one owner of everything.
///
/// A turn of the loop (`Loop.turn`):
///
///     submit and wait ─► completions ─┬─ devices ─► volume.complete
///     (one system call)               └─ sockets ─► connections
///            ▲                                          │ pump: bytes ─► requests
///            │                                          ▼
///     send for each connection ◄─ replies ◄─ step ◄─ volume.submit
///            ▲                                 │
///            └───── device operations ◄────────┘
///
/// A connection (`Connection.Phase`):
///
/// | phase | on | next |
/// |---|---|---|
/// | free | accepted, and there is room | handshake |
/// | handshake | STARTTLS, and TLS is done (`Connection.Wire`) | handshake, begun anew |
/// | handshake | GO, EXPORT_NAME | transmission |
/// | handshake | ABORT, a violation, 10 s | closing |
/// | transmission | DISC or shutdown, and all is answered and sent | closing |
/// | transmission | hang-up without DISC, a violation, 60 s without progress in sending | closing |
/// | closing | its last operation in the ring has ended | free |
///
/// A transaction (one request): header parsed ─► [waits for memory] ─► pieces in the engine ─►
/// ready ─► its reply is in a send. Its pieces: filling (WRITE) ─► queued ─► submitted ─► done ─►
/// sent ─► released, or reused for the next part of a long READ.
///
/// The server: serving ─ signal, control ─► draining ─ no connection ─► stopping ─ clean, or out of
/// time ─► over; or serving ─ a successor asks ─► handing over ─ connections at rest, taken out ─►
/// letting go ─ no device operation in flight ─► over.
///
/// Invariants:
/// - S1: a slot's phase goes round as above; a connection is closed once.
/// - S2: a connection's slot, descriptor and memory stay until every operation of it in the ring
///   has completed.
/// - S3: a connection has at most one receive and one send in flight; the window holds any unit.
/// - S4: each piece submitted is answered once; late answers of dead connections free its memory.
/// - S5: a READ of several pieces or a status of several contexts keeps a buffer until its end:
///   what has begun to send never waits for memory, so the queue for memory always moves.
/// - S6: what a client asked to change and the engine had not seen when the client's hang-up was
///   heard of is changed only if a DISC ends what came: who may have asked again elsewhere has not
///   said it. (Events are heard of in their order: what was asked elsewhere comes behind.)
///   What came before a DISC is done, whether or not its client is there to be answered.
/// - S7: who finds no piece or memory waits; who holds one gives it back once.
/// - S8: what waits, waits in a queue; nothing spins.
/// - S10: a connection that is handed over is at rest: all that was begun is answered and sent,
///   none of its operations is in the ring, and every byte received is consumed or goes with it.
/// - S9: memory is cut up at the start; a turn allocates nothing while requests flow.
package enum Server {
  /// Serves, on the calling thread, until it is shut down or a successor asks for its connections
  /// (`Mailbox.requestHandover`). It is shut down by a signal, by `Mailbox.requestShutdown`, or
  /// twice by a signal, which waits for no client. It begins with the connections in `handed`.
  ///
  /// On a shutdown `listeners` are closed; with `removesPaths` names of unix sockets go, too. A
  /// handover leaves them. `clientMemory` is at least `Connections.leastMemory` bytes on a page
  /// boundary, zero-filled. `begins` is called when nothing can fail any more, and may still
  /// refuse.
  @discardableResult
  package static func serve<Volume: ServedVolume & ~Copyable>(
    _ configuration: ServerConfiguration, volume: consuming Volume, devices: DeviceSet,
    listeners: [Listener], signals: SignalDescriptor,
    clientMemory: UnsafeMutableRawBufferPointer, registered: [RegisteredMemory] = [],
    removesPaths: Bool = true, handed: [HandedConnection] = [], mailbox: Mailbox, logger: Logger,
    begins: () throws -> Void = {}
  ) throws -> ServerOutcome {
    guard clientMemory.count >= Connections.leastMemory else {
      throw ServerError(
        description: "The memory for clients is \(clientMemory.count >> 20) MiB; "
          + "\(Connections.leastMemory >> 20) MiB are the least.")
    }
    // A peer that is gone is an error code, not a signal.
    signal(SIGPIPE, SIG_IGN)
    var ring: Ring
    do throws(RingError) {
      ring = try Ring(configuration.ring)
    } catch {
      throw ServerError(description: error.description)
    }
    for memory in registered { ring.register(memory.bytes, name: memory.name) }
    for note in ring.notes + devices.notes { logger.notice("\(note)") }

    var export = Export(
      name: configuration.volumeName, description: configuration.description, size: volume.size)
    export.isReadOnly = configuration.isReadOnly
    export.isRotational = configuration.isRotational
    var offer = Offer(export: export, limits: configuration.limits)
    offer.tls = configuration.tls
    let connections = Connections(
      offer: offer, credentials: configuration.credentials, memory: clientMemory)
    if connections.limits.connections < configuration.limits.connections {
      logger.notice(
        "memory for clients limits connections to \(connections.limits.connections)")
    }
    let messages = UnsafeMutableRawPointer.allocate(
      byteCount: LoopParts.messageBytes, alignment: 8)
    defer { messages.deallocate() }
    let parts = LoopParts(
      configuration: configuration, listeners: listeners, signals: signals,
      deviceCount: devices.count, removesPaths: removesPaths, mailbox: mailbox, logger: logger,
      messages: messages)
    var loop = Loop(
      parts, volume: volume, ring: DeviceRing(ring, devices), connections: connections)
    do {
      try begins()
    } catch {
      loop.ring.withdraw()
      throw error
    }
    for listener in listeners { logger.notice("serving on \(listener.address)") }
    loop.adopt(handed)
    loop.run()
    if let connections = loop.handed { return .handedOver(connections) }
    logger.notice(loop.isClean ? "stopped cleanly" : "stopped")
    return .stopped
  }
}

/// How serving ended.
package enum ServerOutcome {
  /// The volume is clean, or, when that took too long, as after a kill.
  case stopped
  /// The volume is as after a kill: nothing that was answered is missing. The connections are at
  /// rest; their descriptors are the caller's now, and so are the listeners.
  case handedOver([HandedConnection])
}
