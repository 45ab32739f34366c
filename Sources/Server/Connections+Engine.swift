import Base
import NBDProtocol
package import VolumeEngine

/// Between transactions and the engine: pieces, memory, replies.
extension Connections {
  /// Descriptors fit in memory of this many bytes at most; more are not asked for at once.
  private static var mostStatusBytes: Int { 1 << 20 }

  // MARK: Pieces

  mutating func takePiece(_ t: Int32, _ offset: UInt64, _ length: Int) -> Int32 {
    let p = freePieces.pop(pieces)
    invariant(p >= 0, "S7: there are pieces for all transactions and buffers")
    let generation = pieces[Int(p)].generation
    pieces[Int(p)] = Piece(holes: pieces[Int(p)].holes)
    pieces[Int(p)].generation = generation &+ 1
    pieces[Int(p)].transaction = t
    pieces[Int(p)].offset = offset
    pieces[Int(p)].length = length
    transactions[Int(t)].pieces += 1
    return p
  }

  /// Gives a piece and its memory back. The transaction's count is the caller's.
  mutating func release(_ p: Int32) {
    let piece = pieces + Int(p)
    invariant(piece.pointee.state != .free, "S7: a piece is released once")
    if let memory = piece.pointee.memory { buffers.free(memory, piece.pointee.memoryBytes) }
    piece.pointee.memory = nil
    piece.pointee.state = .free
    piece.pointee.transaction = -1
    freePieces.push(p, pieces)
  }

  /// A piece for the whole transaction, queued for the engine.
  mutating func queuePiece(_ t: Int32, memory: UnsafeMutableRawPointer?, memoryBytes: Int) {
    let p = takePiece(t, transactions[Int(t)].offset, 0)
    pieces[Int(p)].memory = memory
    pieces[Int(p)].memoryBytes = memoryBytes
    submit(p)
  }

  mutating func submit(_ p: Int32) {
    pieces[Int(p)].state = .queued
    transactions[Int(pieces[Int(p)].transaction)].inEngine += 1
    submissions.push(p)
  }

  /// What was held back goes to the engine, if its connection lives.
  mutating func submitHeld(_ c: UnsafeMutablePointer<Connection>) {
    while true {
      let p = c.pointee.held.pop(pieces)
      guard p >= 0 else { return }
      submissions.push(p)
    }
  }

  /// A change that a peer has asked for that hung up, and has not said DISC so far.
  private func isHeldBack(_ t: Int32) -> Bool {
    let c = connections + Int(transactions[Int(t)].connection)
    guard c.pointee.isHungUp && !c.pointee.isLeaving else { return false }
    switch transactions[Int(t)].command {
    case .write, .trim, .writeZeroes: return true
    case .read, .flush, .cache, .blockStatus, .disconnect: return false
    }
  }

  // MARK: Memory

  /// A buffer for one piece, nil when buffer or piece is not to be had now.
  mutating func memory(_ bytes: Int) -> UnsafeMutableRawPointer? {
    freePieces.isEmpty ? nil : buffers.allocate(bytes)
  }

  /// Bytes of the largest piece that is begun now. What is kept back is given out in the least
  /// pieces: then a hundred clients that take nothing cannot hold all memory.
  var largestPiece: Int {
    let share = max(Self.leastPiece, (buffers.freeBytes - keptMemory) / 4)
    let most = min(share, VolumeRequest.maxTransfer)
    return Self.powerOfTwo(in: most)
  }

  /// The largest one that is not more than `count`.
  private static func powerOfTwo(in count: Int) -> Int {
    1 << (Int.bitWidth - 1 - count.leadingZeroBitCount)
  }

  /// Puts a transaction at the end of the queue for memory.
  mutating func wait(_ t: Int32) {
    transactions[Int(t)].isWaiting = true
    waiting.push(t, transactions)
  }

  /// Serves the queue for memory from its head, as far as there is memory.
  mutating func serveWaiting() {
    while waiting.head >= 0 {
      let t = waiting.head
      let transaction = transactions + Int(t)
      guard transaction.pointee.connection < 0 || tryBegin(t) else { return }
      _ = waiting.pop(transactions)
      transaction.pointee.isWaiting = false
      if transaction.pointee.connection < 0 {
        freeIfOver(t)
      } else if transaction.pointee.command == .write {
        toPump.insert(transaction.pointee.connection)
      }
    }
  }

  private mutating func tryBegin(_ t: Int32) -> Bool {
    switch transactions[Int(t)].command {
    case .read: return extendRead(t)
    case .blockStatus: return tryStatus(t)
    case .write: return transactions[Int(t)].failure != nil || beginFilling(t)
    case .flush, .trim, .cache, .writeZeroes, .disconnect: return tryPlain(t)
    }
  }

  /// What needs no memory needs a piece all the same.
  mutating func beginPlain(_ t: Int32) {
    if !tryPlain(t) { wait(t) }
  }

  private mutating func tryPlain(_ t: Int32) -> Bool {
    guard !freePieces.isEmpty else { return false }
    queuePiece(t, memory: nil, memoryBytes: 0)
    return true
  }

  mutating func beginRead(_ t: Int32) {
    guard waiting.isEmpty, extendRead(t) else { return wait(t) }
    // A second buffer lets one piece be read while the other is sent, when memory is plentiful.
    let transaction = transactions + Int(t)
    if transaction.pointee.nextOffset < transaction.pointee.end,
      buffers.freeBytes - keptMemory > buffers.capacity / 8
    {
      _ = extendRead(t)
    }
  }

  /// Gets memory for the next piece of a READ and queues it; false when there is none. A read of
  /// several pieces keeps its buffers until its end, so that it never waits in its midst (S5).
  private mutating func extendRead(_ t: Int32) -> Bool {
    let transaction = transactions + Int(t)
    let offset = transaction.pointee.nextOffset
    let rest = transaction.pointee.end - offset
    let isWhole = transaction.pointee.flags.contains(.dontFragment)
    let c = connections + Int(transaction.pointee.connection)
    let largest =
      isWhole
      ? VolumeRequest.maxTransfer
      : min(largestPiece, Self.powerOfTwo(in: Int(c.pointee.session.advertisedPayload)))
    let length = isWhole ? Int(rest) : Piece.length(at: offset, of: rest, in: largest)
    let isMany = UInt64(length) < rest || transaction.pointee.pieces > 0
    let bytes = isMany ? largest : Piece.blocks(offset, length) * Size.block
    guard let memory = memory(bytes) else { return false }
    let p = takePiece(t, offset, length)
    pieces[Int(p)].memory = memory
    pieces[Int(p)].memoryBytes = bytes
    transaction.pointee.nextOffset += UInt64(length)
    transaction.pointee.order.push(p, pieces)
    submit(p)
    return true
  }

  /// A sent piece's memory takes the transaction's next piece.
  mutating func reuse(_ p: Int32) {
    let piece = pieces + Int(p)
    let t = piece.pointee.transaction
    let transaction = transactions + Int(t)
    piece.pointee.isReused = false
    piece.pointee.generation &+= 1
    guard transaction.pointee.command == .read else {
      takeNextContext(t)
      return submit(p)
    }
    let offset = transaction.pointee.nextOffset
    let length = Piece.length(
      at: offset, of: transaction.pointee.end - offset, in: piece.pointee.memoryBytes)
    piece.pointee.offset = offset
    piece.pointee.length = length
    piece.pointee.cursor = 0
    transaction.pointee.nextOffset += UInt64(length)
    transaction.pointee.order.push(p, pieces)
    submit(p)
  }

  /// Asks for the first context's chunk: each is a request of its own to the engine, and they take
  /// turns in the same memory.
  mutating func beginStatus(_ t: Int32) {
    takeNextContext(t)
    guard waiting.isEmpty, tryStatus(t) else { return wait(t) }
  }

  private func takeNextContext(_ t: Int32) {
    let transaction = transactions + Int(t)
    let c = connections + Int(transaction.pointee.connection)
    let position = transaction.pointee.contextsLeft.trailingZeroBitCount
    transaction.pointee.contextsLeft &= ~(1 << UInt16(position))
    transaction.pointee.context = c.pointee.session.contextIDs[position]
  }

  /// Memory for the descriptors of a range.
  func statusBytes(_ flags: CommandFlags, _ length: UInt64) -> Int {
    if flags.contains(.requestOne) { return Size.block }
    // No range has more descriptors than blocks, ragged ends included.
    let blocks = Int(clamping: length / UInt64(Size.block) &+ 2)
    let count = min(blocks, limits.statusDescriptors)
    return min(count * MemoryLayout<StatusDescriptor>.stride, Self.mostStatusBytes)
  }

  private mutating func tryStatus(_ t: Int32) -> Bool {
    let bytes = min(
      largestPiece, statusBytes(transactions[Int(t)].flags, transactions[Int(t)].length))
    guard let memory = memory(bytes) else { return false }
    queuePiece(t, memory: memory, memoryBytes: bytes)
    return true
  }

  // MARK: The engine

  /// The next request for the engine, nil when there is none. Pieces of dead connections go, and
  /// changes of those that may be dying stay.
  package mutating func nextRequest() -> VolumeRequest? {
    while true {
      let p = submissions.pop()
      guard p >= 0 else { return nil }
      let t = pieces[Int(p)].transaction
      if transactions[Int(t)].connection >= 0 {
        if isHeldBack(t) {
          let index = transactions[Int(t)].connection
          transactions[Int(t)].isHeld = true
          connections[Int(index)].held.push(p, pieces)
          toPump.insert(index)
          continue
        }
        pieces[Int(p)].state = .submitted
        return request(p, t)
      }
      transactions[Int(t)].inEngine -= 1
      transactions[Int(t)].pieces -= 1
      release(p)
      freeIfOver(t)
    }
  }

  private func request(_ p: Int32, _ t: Int32) -> VolumeRequest {
    let piece = pieces + Int(p)
    let transaction = transactions + Int(t)
    let cookie = UInt64(piece.pointee.generation) << 32 | UInt64(UInt32(bitPattern: p))
    var flags: RequestFlags = []
    func make(_ kind: RequestKind, _ offset: UInt64, _ length: UInt64) -> VolumeRequest {
      VolumeRequest(
        kind, offset: offset, length: length, flags: flags, memory: piece.pointee.memory,
        cookie: cookie)
    }
    let offset = transaction.pointee.offset
    let length = transaction.pointee.length
    let command = transaction.pointee.command
    // FUA goes with every command and means something for those that write.
    if transaction.pointee.flags.contains(.fua), command == .write || command == .trim
      || command == .writeZeroes
    {
      flags.insert(.durable)
    }
    switch command {
    case .read:
      var request = make(.read, piece.pointee.offset, UInt64(piece.pointee.length))
      let isPlain =
        transaction.pointee.encoder.style == .simple
        || transaction.pointee.flags.contains(.dontFragment)
      // SAFETY: the piece's slot is in the client memory and stays until the reply.
      if !isPlain { request.holes = piece.pointee.holes }
      return request
    case .write: return make(.write, piece.pointee.offset, UInt64(piece.pointee.length))
    case .flush, .disconnect: return make(.flush, 0, 0)
    case .trim: return make(.trim, offset, length)
    case .cache: return make(.cache, offset, length)
    case .writeZeroes:
      if transaction.pointee.flags.contains(.noHole) { flags.insert(.keepAllocated) }
      if transaction.pointee.flags.contains(.fastZero) { flags.insert(.onlyIfFast) }
      return make(.writeZeroes, offset, length)
    case .blockStatus:
      if transaction.pointee.flags.contains(.requestOne) { flags.insert(.oneDescriptor) }
      var request = make(.blockStatus, offset, length)
      request.view = StatusView(context: transaction.pointee.context)
      // No chunk is longer than the payload that was advertised ("Size constraints").
      let session = connections[Int(transaction.pointee.connection)].session
      let bytes = min(piece.pointee.memoryBytes, Int(session.advertisedPayload) - 64)
      let count = bytes / MemoryLayout<StatusDescriptor>.stride
      request.descriptorCapacity = UInt32(min(count, limits.statusDescriptors))
      return request
    }
  }

  /// Takes the engine's reply to a piece.
  package mutating func finish(_ reply: VolumeReply) {
    let p = Int32(truncatingIfNeeded: reply.cookie & 0xffff_ffff)
    let piece = pieces + Int(p)
    invariant(
      piece.pointee.state == .submitted && UInt64(piece.pointee.generation) == reply.cookie >> 32,
      "S4: the engine answers what was asked, once")
    let t = piece.pointee.transaction
    let transaction = transactions + Int(t)
    transaction.pointee.inEngine -= 1
    if let failure = reply.result.refusal { note(failure, reply, transaction) }
    if transaction.pointee.connection < 0 {
      transaction.pointee.pieces -= 1
      release(p)
      return freeIfOver(t)
    }
    switch transaction.pointee.command {
    case .read:
      piece.pointee.state = reply.result == .done ? .done : .failed
      if canSend(transaction) { makeReady(t) }
    case .blockStatus where reply.result == .done:
      piece.pointee.state = .done
      encodeStatus(transaction, piece, Int(reply.descriptorCount))
      transaction.pointee.order.push(p, pieces)
      makeReady(t)
    case .write, .flush, .trim, .cache, .writeZeroes, .blockStatus, .disconnect:
      transaction.pointee.pieces -= 1
      release(p)
      if transaction.pointee.pieces == 0 && transaction.pointee.isReceived { makeReady(t) }
    }
  }

  /// Remembers the first failure; a read asks for nothing more.
  private func note(
    _ failure: Refusal, _ reply: VolumeReply, _ transaction: UnsafeMutablePointer<Transaction>
  ) {
    guard transaction.pointee.failure == nil else { return }
    transaction.pointee.failure = failure
    let range = transaction.pointee.offset..<transaction.pointee.end
    if failure == .ioError && range.contains(reply.errorOffset) {
      transaction.pointee.failureOffset = reply.errorOffset
    }
  }

  private func encodeStatus(
    _ transaction: UnsafeMutablePointer<Transaction>, _ piece: UnsafeMutablePointer<Piece>,
    _ count: Int
  ) {
    let one = transaction.pointee.flags.contains(.requestOne)
    let style = transaction.pointee.encoder.style
    let written = StatusDescriptors.encode(
      piece.pointee.memory.unsafelyUnwrapped, count: count, style: style,
      only: one ? transaction.pointee.length : nil)
    transaction.pointee.descriptors = written
    piece.pointee.length = written * StatusDescriptors.size(style)
    if written == 0 { transaction.pointee.failure = .ioError }
  }
}

extension StatusView {
  /// What a context of the export asks the engine.
  init(context: UInt32) {
    switch context {
    case MetaContext.allocationDepth.id: self = .depth
    case MetaContext.tier.id: self = .tier
    case MetaContext.heat.id: self = .heat
    default: self = .allocation
    }
  }
}

extension RequestResult {
  /// The error a client is told, nil for success.
  var refusal: Refusal? {
    switch self {
    case .done: nil
    case .ioError: .ioError
    case .noSpace: .noSpace
    case .notSupported: .notFast
    case .shuttingDown: .shuttingDown
    }
  }
}
