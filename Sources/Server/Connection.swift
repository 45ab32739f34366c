import Base
import NBDProtocol
import RingIO
import TLS

/// One client's connection: a slot of a fixed pool. Its memory (window, send area) belongs to the
/// slot for ever.
struct Connection: Linked {
  enum Phase: UInt8 {
    case free
    case handshake
    case transmission
    /// Shut down; waits for its operations in the ring to end.
    case closing
  }

  /// No more requests are taken; closed when all is answered. What was asked for before a DISC is
  /// carried out, although its client may be gone ("NBD_CMD_DISC").
  enum Leaving: UInt8 { case no, byShutdown, byDisconnect }

  enum Receiving: UInt8 { case nothing, window, payload, cipher }

  /// plain ─ STARTTLS ─► securing ─ TLS handshake done ─► encrypted ─ handed over ─► byKernel
  enum Wire: UInt8 {
    case plain, securing, encrypted, byKernel

    /// Bytes of the wire go through the connection's channel.
    var usesChannel: Bool { self == .securing || self == .encrypted }
  }

  /// Bytes of the receive window: the longest option, and a page for its header; or all that comes
  /// out of a channel that comes to rest.
  static let windowSize = 72 << 10
  /// Bytes of the area for reply headers, and for the handshake's replies.
  static let areaSize = Handshake.replyCapacity
  static let vectorCount = 256
  /// What a slot takes of the client memory.
  static var memory: Int {
    windowSize + areaSize + vectorCount * MemoryLayout<SendVector>.stride + 4096
      + MemoryLayout<Connection>.stride
  }

  var link: Int32 = -1
  var generation: UInt32 = 0
  var phase = Phase.free
  var descriptor: Int32 = -1
  /// For the log: how many were accepted before it.
  var number: UInt64 = 0
  var isTCP = false
  /// A receive may wait for all of a piece; vsock refuses that when the piece is longer than the
  /// socket's buffer (net/vmw_vsock/af_vsock.c).
  var receivesWhole = true
  var wire = Wire.plain
  /// The slot's own; nil when the server has no credentials.
  let channel: UnsafeMutablePointer<TLSChannel>?

  // Receiving: window[start..<end] is received and not consumed.
  let window: UnsafeMutableRawPointer
  var start = 0
  var end = 0
  var receiving = Receiving.nothing
  /// The transaction whose payload arrives, or -1.
  var incoming: Int32 = -1
  /// The piece that the payload goes into, or -1; it has `filled` bytes.
  var incomingPiece: Int32 = -1
  var filled = 0
  /// Payload bytes of `incoming` that have not arrived.
  var payloadLeft = 0
  /// Receives that have ended; and how many had when a payload was last seen to come on, and when.
  var receives: UInt32 = 0
  var receivesMark: UInt32 = 0
  var receivedAt = Instant(nanoseconds: 0)
  /// The receive of a payload was cancelled, to see what of it has come.
  var isProbed = false
  /// The payload is dropped.
  var dropsPayload = false

  // Sending.
  let area: UnsafeMutableRawPointer
  let vectors: UnsafeMutablePointer<SendVector>
  let header: UnsafeMutablePointer<SendHeader>
  /// One vector behind the others: an encrypted part that is being sent.
  var cipherVector: UnsafeMutablePointer<SendVector> { vectors + Self.vectorCount }
  var isSending = false
  /// What is being sent: vectors that have something left, and bytes.
  var sendVectors: UnsafeMutableBufferPointer<SendVector>
  var sendBytes = 0
  /// What an encrypted send has yet to encrypt.
  var source = TLSSource()
  /// When the send in flight was last seen to progress, and the measure of it.
  var progressed = Instant(nanoseconds: 0)
  var progressMark: UInt64 = 0
  /// Transactions with something to send, and pieces whose memory is being sent.
  var ready = Chain<Transaction>()
  var sent = Chain<Piece>()
  /// The transaction in the midst of a simple reply, which nothing may interrupt, or -1.
  var exclusive: Int32 = -1

  // Flow.
  var handshake = Handshake()
  var session: Session
  var deadline = Instant(nanoseconds: 0)
  /// What its transactions cost, from their admission until their replies are sent; and of that,
  /// those whose replies are being sent to their end.
  var cost = Cost()
  var costSending = Cost()
  var isPolling = false
  /// On its way to another server, and waiting for its peer: for so long.
  var mustRestBy: Instant?
  var isPollCancelled = false
  /// The peer sends no more. What it has sent is looked at to its end, and changes that it asks for
  /// are held back: if the end is a DISC they are made, otherwise they are not (S6).
  var isHungUp = false
  var held = Chain<Piece>()
  var leaving = Leaving.no
  var isLeaving: Bool { leaving != .no }
  /// Nothing can be sent any more: replies are made, and dropped.
  var isMute = false
  var closesAfterSend = false
  /// The end of encryption was said.
  var isParting = false

  var isIdle: Bool { cost.transactions == 0 }

  /// Received bytes that were not consumed.
  var pending: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: window + start, count: end - start)
  }

  init(
    _ arena: inout Arena, _ channel: UnsafeMutablePointer<TLSChannel>?, _ session: Session
  ) {
    window = arena.take(Self.windowSize)
    area = arena.take(Self.areaSize)
    vectors = Connections.take(SendVector.self, Self.vectorCount + 1, &arena)
    sendVectors = UnsafeMutableBufferPointer(start: vectors, count: 0)
    header = Connections.take(SendHeader.self, 1, &arena)
    header.initialize(to: SendHeader())
    self.channel = channel
    self.session = session
  }
}

/// Why a connection ended, for the log.
enum ClosingReason {
  case disconnected
  /// Many clients do so after DISC, or instead of it; `busy` ones had requests under way.
  case hungUp(busy: Bool)
  case broken
  case handshakeTimeout
  /// Others came while too many were in their handshake.
  case crowdedOut
  case stalled
  /// It stopped in the midst of a payload.
  case stalledPayload
  case handshake(HandshakeFailure)
  /// The TLS handshake failed, or a peer may not come in.
  case notSecured(TLSError)
  /// An encrypted record is wrong: a code of GnuTLS.
  case badRecord(Int32)
  /// One that the kernel, which decrypts, cannot deal with.
  case controlRecord(KernelTLS.ControlRecord)
  case transmission(TransmissionFailure)
  case truncatedRead
  case shutdown
  /// The server is replaced, and cannot give this connection to its successor.
  case notHandedOver

  /// The peer is to blame.
  var isProtocolError: Bool {
    switch self {
    case .handshake(let failure): failure != .aborted
    case .transmission, .notSecured, .badRecord, .controlRecord: true
    case .disconnected, .hungUp, .broken, .handshakeTimeout, .crowdedOut, .stalled,
      .stalledPayload, .truncatedRead, .shutdown, .notHandedOver:
      false
    }
  }

  /// Not worth a line in the log.
  var isUsual: Bool {
    switch self {
    case .disconnected, .shutdown: true
    case .hungUp(let busy): !busy
    case .handshake(let failure): failure == .aborted
    case .broken, .handshakeTimeout, .crowdedOut, .stalled, .stalledPayload, .transmission,
      .truncatedRead, .notSecured, .badRecord, .controlRecord, .notHandedOver:
      false
    }
  }

  var text: String {
    switch self {
    case .disconnected: "the client disconnected"
    case .hungUp(busy: false): "the client hung up"
    case .hungUp(busy: true): "the client hung up with requests under way"
    case .broken: "the connection broke"
    case .handshakeTimeout: "the handshake took too long"
    case .crowdedOut: "it was the oldest of too many in their handshake"
    case .stalled: "the client took no data for too long"
    case .stalledPayload: "the client stopped in the midst of a payload"
    case .handshake(let failure): "\(failure.text)"
    case .notSecured(let error): error.description
    case .badRecord(let code): "an encrypted record is wrong: \(TLSError.text(code))"
    case .controlRecord(.other(type: 22)):
      "the client changes its keys, which the kernel's TLS cannot follow after a handover"
    case .controlRecord(.alert(let number)): "the client sent TLS alert \(number)"
    case .controlRecord(let record): "the kernel's TLS cannot deal with a record: \(record)"
    case .transmission(let failure): "\(failure.text)"
    case .truncatedRead: "a read failed in the midst of its simple reply"
    case .shutdown: "the server shuts down"
    case .notHandedOver: "it could not be handed over to the server's successor"
    }
  }
}
