import Base
import Glibc
package import NBDProtocol
import RingIO
package import TLS
import VolumeEngine

/// All clients: their connections, transactions, pieces and buffers, in fixed pools cut from the
/// client memory at the start. It turns received bytes into requests for the engine
/// (`nextRequest`) and the engine's replies (`finish`) into sends.
///
///     receive ─► pump ─► Handshake / parse ─► transaction ─► pieces ─► submissions ─► nextRequest
///     send ◄─ gather ◄─ ready ◄────────────── transaction ◄─ pieces ◄─ finish(reply)
///
/// It knows no volume and reads no clock. `Server.swift` has the states and the invariants.
package struct Connections: ~Copyable {
  private let anchor = Anchor()
  /// Server kinds of ring tags.
  enum Kind {
    static let accept = OperationTag.firstServerKind
    static let receive = OperationTag.firstServerKind + 1
    static let send = OperationTag.firstServerKind + 2
    static let poll = OperationTag.firstServerKind + 3
    static let signal = OperationTag.firstServerKind + 4
    static let mailbox = OperationTag.firstServerKind + 5
  }

  /// Transactions of all connections together, unless fewer connections need fewer.
  private static var mostTransactions: Int { 2048 }
  /// Bytes that connections leave to transactions and to buffers.
  private static var keptForBuffers: Int { 6 << 20 }
  /// Bytes of the pieces that scarce memory is given out in.
  static var leastPiece: Int { 64 << 10 }
  /// Whole-megabyte pieces are rounded to this when they are not aligned.
  static var largestBuffer: Int { 2 << 20 }

  var offer: Offer
  /// What new TLS sessions are made with.
  var credentials: TLSCredentials?
  var limits: Limits

  let connections: UnsafeMutablePointer<Connection>
  let files: UnsafeMutablePointer<RingFile>
  let connectionCapacity: Int
  var freeConnections = Chain<Connection>()
  let transactions: UnsafeMutablePointer<Transaction>
  let transactionCapacity: Int
  var freeTransactions = Chain<Transaction>()
  /// How many of them.
  var transactionsLeft: Int
  let pieces: UnsafeMutablePointer<Piece>
  var freePieces = Chain<Piece>()
  var buffers: BuddyPool

  /// Transactions that wait for a buffer, strictly in order.
  var waiting = Chain<Transaction>()
  /// Pieces that wait for the engine.
  var submissions: IndexQueue
  /// Connections with something to look at, to send; and those that found no free transaction.
  var toPump = ConnectionSet()
  var toSend = ConnectionSet()
  var starved = ConnectionSet()
  /// The memory in the sum of all connections' costs.
  var promisedMemory = 0
  /// Kept back of the buffers: the least piece for each connection, or a half where that is more.
  let keptMemory: Int
  /// No request is begun any more: connections come to rest, to be handed over.
  var isResting = false
  var counters = ClientStatistics()
  /// For the log, taken by the loop: who came in encrypted, and why connections ended.
  var arrivals: [(number: UInt64, peer: String)] = []
  var closings: [(number: UInt64, reason: ClosingReason)] = []

  /// Cuts `memory` up. `offer.limits` bounds the connections; half of the memory does, too, or less
  /// where it is little.
  /// Only with credentials connections have channels for TLS.
  package init(
    offer: Offer, credentials: TLSCredentials? = nil, memory: UnsafeMutableRawBufferPointer
  ) {
    self.credentials = credentials
    let perConnection = Connection.memory + (credentials == nil ? 0 : TLSChannel.memory)
    var offer = offer
    offer.limits = Self.possible(offer.limits)
    offer.limits.connections = min(
      offer.limits.connections, ConnectionSet.capacity,
      max(1, min(memory.count / 2, memory.count - Self.keptForBuffers) / perConnection))
    let limits = offer.limits
    let count = limits.connections
    let transactionCount = min(count * limits.requestsInFlight, Self.mostTransactions)
    var arena = Arena(base: memory.baseAddress.unsafelyUnwrapped, capacity: memory.count)

    // SAFETY: the client memory outlives this value; every slot is initialised before use.
    connections = Self.take(Connection.self, count, &arena)
    files = Self.take(RingFile.self, count, &arena)
    connectionCapacity = count
    let nothing = Session(
      style: .simple, selection: MetaSelection(), export: offer.export, limits: limits)
    for i in 0..<count {
      let channel = credentials == nil ? nil : Self.makeChannel(&arena)
      (connections + i).initialize(to: Connection(&arena, channel, nothing))
      (files + i).initialize(to: RingFile(descriptor: -1))
      freeConnections.push(Int32(i), connections)
    }
    transactions = Self.take(Transaction.self, transactionCount, &arena)
    transactionCapacity = transactionCount
    transactionsLeft = transactionCount
    for i in 0..<transactionCount {
      (transactions + i).initialize(
        to: Transaction(connection: -1, .none, .read, style: .simple))
      freeTransactions.push(Int32(i), transactions)
    }
    // A transaction has at most one piece that is not of the largest size; where memory is scarce
    // and pieces are small, or many are being sent, who finds none waits.
    let pieceCount = transactionCount + memory.count >> 18 + 2
    pieces = Self.take(Piece.self, pieceCount, &arena)
    for i in 0..<pieceCount {
      let holes = Self.take(UInt64.self, Piece.holeWords, &arena)
      (pieces + i).initialize(to: Piece(holes: holes))
      freePieces.push(Int32(i), pieces)
    }
    submissions = IndexQueue(capacity: pieceCount, in: &arena)
    let rest = Self.poolCapacity(arena.capacity - arena.used)
    invariant(rest >= 2 * Self.largestBuffer, "S9: the client memory holds a few buffers")
    buffers = BuddyPool(capacity: rest, largest: Self.largestBuffer, in: &arena)
    keptMemory = min(count * Self.leastPiece, rest / 2)
    self.offer = offer
    self.limits = limits
    closings.reserveCapacity(64)
    counters.bufferBytes = UInt64(rest)
  }

  /// Limits that the memory of a connection allows.
  private static func possible(_ limits: Limits) -> Limits {
    var limits = limits
    limits.unfragmentedRead = min(limits.unfragmentedRead, UInt32(VolumeRequest.maxTransfer))
    limits.metaContexts = min(limits.metaContexts, MetaSelection.capacity)
    limits.optionData = min(limits.optionData, Connection.windowSize - Handshake.optionHeader)
    return limits
  }

  /// Other limits, from now on. There is room for so many connections as at the start.
  mutating func change(_ limits: Limits) {
    var limits = Self.possible(limits)
    limits.connections = min(limits.connections, connectionCapacity)
    self.limits = limits
    offer.limits = limits
  }

  /// A larger volume, from now on: for new connections, and for those whose clients hear of it by
  /// other ways, as the kernel's client does.
  mutating func grow(to size: UInt64) {
    offer.export.size = size
    for i in 0..<connectionCapacity { connections[i].session.exportSize = size }
  }

  /// Another mode and other credentials, for new sessions; false when connections have no channels,
  /// because there was no TLS at the start: then it stays as it is.
  mutating func change(_ mode: TLSMode, _ credentials: TLSCredentials?) -> Bool {
    if credentials != nil && connections[0].channel == nil { return false }
    offer.tls = mode
    self.credentials = credentials
    return true
  }

  /// The least client memory, in bytes: a few connections and buffers.
  package static var leastMemory: Int { 8 << 20 }

  static func take<T>(
    _ type: T.Type, _ count: Int, _ arena: inout Arena
  ) -> UnsafeMutablePointer<T> {
    arena.take(count * MemoryLayout<T>.stride).bindMemory(to: T.self, capacity: count)
  }

  private static func makeChannel(_ arena: inout Arena) -> UnsafeMutablePointer<TLSChannel> {
    let place = take(TLSChannel.self, 1, &arena)
    place.initialize(to: TLSChannel(in: &arena))
    return place
  }

  /// The largest pool that fits, with its tables.
  private static func poolCapacity(_ bytes: Int) -> Int {
    var capacity = bytes & ~4095
    while capacity > 0 && BuddyPool.bytes(capacity: capacity, largest: largestBuffer) > bytes {
      capacity -= 64 << 10
    }
    return max(0, capacity)
  }

  /// Connections in any phase.
  var isEmpty: Bool { counters.connections == 0 }

  /// There are connections, and all are in their handshake.
  var isOnlyHandshaking: Bool {
    counters.handshaking > 0 && counters.handshaking == counters.connections
  }

  /// Something can be done without waiting for the ring.
  var hasWork: Bool { !toPump.isEmpty || !toSend.isEmpty }

  /// Pieces wait for the engine.
  var hasSubmissions: Bool { !submissions.isEmpty }

  // MARK: Connections come

  /// Takes a fresh connection on, or closes it at once when there is no room. Where too many are in
  /// their handshake the oldest of them makes room: who only holds a place shuts nobody out.
  mutating func accept(_ descriptor: Int32, isTCP: Bool, _ ring: inout Ring, now: Instant) {
    counters.accepted += 1
    if counters.handshaking >= limits.connectionsInHandshake { crowdOut(&ring) }
    guard counters.handshaking < limits.connectionsInHandshake, !offer.isShuttingDown,
      counters.connections < limits.connections, !freeConnections.isEmpty
    else {
      counters.refused += 1
      Glibc.close(descriptor)
      return
    }
    let index = take(descriptor, isTCP: isTCP, &ring, now: now)
    let c = connections + Int(index)
    let length = Handshake.writeGreeting(to: c.pointee.area)
    c.pointee.vectors[0] = SendVector(c.pointee.area, length)
    send(index, vectors: 1, bytes: length, &ring, now: now)
  }

  private mutating func crowdOut(_ ring: inout Ring) {
    var oldest: Int32 = -1
    for index in 0..<Int32(connectionCapacity) where connections[Int(index)].phase == .handshake {
      if oldest < 0 || connections[Int(index)].number < connections[Int(oldest)].number {
        oldest = index
      }
    }
    guard oldest >= 0, !freeConnections.isEmpty else { return }
    counters.refused += 1
    close(oldest, .crowdedOut, &ring)
  }

  /// A free slot for a connection, at the beginning of its handshake.
  mutating func take(
    _ descriptor: Int32, isTCP: Bool, _ ring: inout Ring, now: Instant
  ) -> Int32 {
    let index = freeConnections.pop(connections)
    let c = connections + Int(index)
    invariant(c.pointee.phase == .free, "S1: a free slot is free")
    files[Int(index)] = ring.install(descriptor)
    c.pointee.descriptor = descriptor
    c.pointee.number = counters.accepted
    c.pointee.isTCP = isTCP
    c.pointee.receivesWhole = !Socket.isVsock(descriptor)
    if isTCP { Socket.prepareTCP(descriptor) }
    c.pointee.generation = (c.pointee.generation &+ 1) & 0xff_ffff
    c.pointee.phase = .handshake
    c.pointee.wire = .plain
    c.pointee.source = TLSSource()
    c.pointee.handshake = Handshake()
    c.pointee.deadline = now + limits.handshakeTime
    c.pointee.start = 0
    c.pointee.end = 0
    c.pointee.leaving = .no
    c.pointee.isMute = false
    c.pointee.closesAfterSend = false
    c.pointee.isParting = false
    c.pointee.isHungUp = false
    c.pointee.mustRestBy = nil
    counters.connections += 1
    counters.handshaking += 1
    // Only a hang-up completes it: it is known before bytes that came before it are looked at.
    ring.poll(files[Int(index)], events: Self.hangUp, tag(Kind.poll, index))
    c.pointee.isPolling = true
    c.pointee.isPollCancelled = false
    c.pointee.isProbed = false
    return index
  }

  /// `POLLRDHUP`: the peer will send no more.
  private static var hangUp: Int32 { 0x2000 }

  func tag(_ kind: UInt8, _ index: Int32) -> OperationTag {
    OperationTag(
      kind: kind, slot: UInt32(bitPattern: index),
      generation: connections[Int(index)].generation)
  }

  /// The connection that a completion belongs to: its slot is kept until all have come (S2).
  private func owner(_ completion: RingCompletion) -> Int32 {
    let index = Int32(bitPattern: completion.tag.slot)
    invariant(
      connections[Int(index)].phase != .free
        && connections[Int(index)].generation == completion.tag.generation,
      "S2: a connection outlives its operations")
    return index
  }

  /// The peer will send no more, or the poll for that was cancelled.
  private mutating func hangUp(
    _ index: Int32, wasCancelled: Bool, _ ring: inout Ring, now: Instant
  ) {
    let c = connections + Int(index)
    c.pointee.isPolling = false
    if c.pointee.phase == .closing { return settleClosing(index, &ring) }
    if isResting && wasCancelled { return }
    if c.pointee.leaving == .byDisconnect { return }
    if offer.isShuttingDown {
      return close(index, .hungUp(busy: !c.pointee.isIdle), &ring)
    }
    c.pointee.isHungUp = true
    if c.pointee.phase == .transmission { c.pointee.deadline = now + limits.handshakeTime }
    toPump.insert(index)
  }

  /// Takes the end of a receive, send or poll.
  mutating func complete(_ completion: RingCompletion, _ ring: inout Ring, now: Instant) {
    let index = owner(completion)
    switch completion.tag.kind {
    case Kind.receive: finishReceive(index, Int(completion.result), &ring)
    case Kind.send: finishSend(index, Int(completion.result), &ring, now: now)
    default:
      hangUp(index, wasCancelled: Int(completion.result) == Self.cancelled, &ring, now: now)
    }
  }
}
