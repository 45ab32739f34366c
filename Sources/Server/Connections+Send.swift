import Base
import NBDProtocol
import RingIO
import TLS

/// From answered pieces to bytes on the wire: all that is ready goes out in one send.
extension Connections {
  /// A send takes on no more when it carries this much payload.
  private static var payloadPerSend: Int { 1 << 20 }

  /// A send being put together in a connection's area and vectors.
  struct Gathering {
    let area: UnsafeMutableRawPointer
    let vectors: UnsafeMutablePointer<SendVector>
    var used = 0
    var count = 0
    var bytes = 0

    /// Whether one more message fits: a header, and its payload.
    var hasRoom: Bool {
      used + ReplyEncoder.maximumHeader <= Connection.areaSize
        && count + 2 <= Connection.vectorCount && bytes < Connections.payloadPerSend
    }

    /// Where the next header goes.
    var place: UnsafeMutableRawPointer { area + used }

    /// A header of so many bytes was written at `place`; joined to the header before it.
    mutating func addHeader(_ length: Int) {
      if count > 0, vectors[count - 1].base == UnsafeRawPointer(place) - vectors[count - 1].count {
        vectors[count - 1].count += length
      } else {
        vectors[count] = SendVector(place, length)
        count += 1
      }
      used += length
      bytes += length
    }

    mutating func addPayload(_ memory: UnsafeRawPointer, _ length: Int) {
      vectors[count] = SendVector(memory, length)
      count += 1
      bytes += length
    }
  }

  /// How far a transaction's reply got.
  private enum Progress { case finished, paused, full, broken }

  /// A transaction has something to send.
  mutating func makeReady(_ t: Int32) {
    let transaction = transactions + Int(t)
    guard !transaction.pointee.isReady else { return }
    invariant(!transaction.pointee.isWaiting, "S7: who waits for memory stands in no other chain")
    transaction.pointee.isReady = true
    let index = transaction.pointee.connection
    if connections[Int(index)].exclusive != t {
      connections[Int(index)].ready.push(t, transactions)
    }
    toSend.insert(index)
  }

  /// Whether a read has something to send: its next piece, or its error.
  func canSend(_ transaction: UnsafeMutablePointer<Transaction>) -> Bool {
    if transaction.pointee.failure != nil && transaction.pointee.inEngine == 0 { return true }
    let head = transaction.pointee.order.head
    guard head >= 0, pieces[Int(head)].state == .done else { return false }
    return transaction.pointee.failure == nil || transaction.pointee.encoder.style != .simple
  }

  /// One send for every connection that has something ready and none in flight.
  mutating func sendAll(_ ring: inout Ring, now: Instant) {
    var index = toSend.takeNext()
    while index >= 0 {
      gather(index, &ring, now: now)
      index = toSend.takeNext(from: index + 1)
    }
  }

  private mutating func gather(_ index: Int32, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    guard c.pointee.phase == .transmission, !c.pointee.isSending else { return }
    var gathering = Gathering(area: c.pointee.area, vectors: c.pointee.vectors)
    while gathering.hasRoom {
      let isExclusive = c.pointee.exclusive >= 0
      let t = isExclusive ? c.pointee.exclusive : c.pointee.ready.head
      guard t >= 0, transactions[Int(t)].isReady else { break }
      let progress = emit(t, c, &gathering)
      if progress == .full { break }
      if !isExclusive { _ = c.pointee.ready.pop(transactions) }
      transactions[Int(t)].isReady = false
      switch progress {
      case .broken:
        close(index, .truncatedRead, &ring)
        return
      case .finished:
        if isExclusive { c.pointee.exclusive = -1 }
        c.pointee.costSending += transactions[Int(t)].cost
        end(t)
      case .paused:
        // A simple reply that has begun keeps the stream to itself.
        if transactions[Int(t)].isHeaderSent { c.pointee.exclusive = t }
      case .full: break
      }
    }
    if gathering.count > 0 {
      send(index, vectors: gathering.count, bytes: gathering.bytes, &ring, now: now)
    } else {
      settleLeaving(index, &ring, now: now)
    }
  }

  /// Writes what a transaction has to say.
  private mutating func emit(
    _ t: Int32, _ c: UnsafeMutablePointer<Connection>, _ gathering: inout Gathering
  ) -> Progress {
    let transaction = transactions + Int(t)
    if transaction.pointee.command == .read && transaction.pointee.cost.bytes > 0 {
      return transaction.pointee.encoder.style == .simple
        ? emitSimpleRead(t, c, &gathering) : emitChunkedRead(t, c, &gathering)
    }
    let encoder = transaction.pointee.encoder
    if let failure = transaction.pointee.failure {
      dropOrder(transaction)
      gathering.addHeader(
        encoder.writeError(failure, at: transaction.pointee.failureOffset, to: gathering.place))
      return .finished
    }
    let p = transaction.pointee.order.pop(pieces)
    guard p >= 0 else {
      gathering.addHeader(encoder.writeDone(to: gathering.place))
      return .finished
    }
    let isLast = transaction.pointee.contextsLeft == 0
    gathering.addHeader(
      encoder.writeStatus(
        context: transaction.pointee.context, count: transaction.pointee.descriptors,
        isLast: isLast, to: gathering.place))
    gathering.addPayload(pieces[Int(p)].memory.unsafelyUnwrapped, pieces[Int(p)].length)
    hand(p, over: c, from: transaction)
    return isLast ? .finished : .paused
  }

  /// "Simple replies": one header, then all the data; too late for an error once it has begun.
  private mutating func emitSimpleRead(
    _ t: Int32, _ c: UnsafeMutablePointer<Connection>, _ gathering: inout Gathering
  ) -> Progress {
    let transaction = transactions + Int(t)
    let encoder = transaction.pointee.encoder
    if let failure = transaction.pointee.failure {
      if transaction.pointee.isHeaderSent { return .broken }
      dropOrder(transaction)
      gathering.addHeader(encoder.writeError(failure, to: gathering.place))
      return .finished
    }
    while transaction.pointee.order.head >= 0 {
      let p = transaction.pointee.order.head
      guard pieces[Int(p)].state == .done else { return .paused }
      guard gathering.hasRoom else { return .full }
      if !transaction.pointee.isHeaderSent {
        transaction.pointee.isHeaderSent = true
        gathering.addHeader(
          encoder.writeData(
            at: transaction.pointee.offset, length: Int(transaction.pointee.length), isLast: true,
            to: gathering.place))
      }
      gathering.addPayload(pieces[Int(p)].data, pieces[Int(p)].length)
      let isLast = isLastPiece(p, transaction)
      _ = transaction.pointee.order.pop(pieces)
      hand(p, over: c, from: transaction)
      if isLast { return .finished }
    }
    return .paused
  }

  /// Chunks of data and holes, in order; then an error chunk if anything failed.
  private mutating func emitChunkedRead(
    _ t: Int32, _ c: UnsafeMutablePointer<Connection>, _ gathering: inout Gathering
  ) -> Progress {
    let transaction = transactions + Int(t)
    while transaction.pointee.order.head >= 0 {
      let p = transaction.pointee.order.head
      switch pieces[Int(p)].state {
      case .done:
        let isLast = isLastPiece(p, transaction)
        let endsReply = isLast && transaction.pointee.failure == nil
        guard emitPiece(p, transaction, endsReply, &gathering) else { return .full }
        _ = transaction.pointee.order.pop(pieces)
        hand(p, over: c, from: transaction)
        if endsReply { return .finished }
      case .failed:
        _ = transaction.pointee.order.pop(pieces)
        transaction.pointee.pieces -= 1
        release(p)
      case .free, .filling, .queued, .submitted, .sent: return .paused
      }
    }
    guard let failure = transaction.pointee.failure else { return .paused }
    guard gathering.hasRoom else { return .full }
    gathering.addHeader(
      transaction.pointee.encoder.writeError(
        failure, at: transaction.pointee.failureOffset, to: gathering.place))
    return .finished
  }

  /// One piece's chunks from its cursor on; false when the send is full before its end.
  private func emitPiece(
    _ p: Int32, _ transaction: UnsafeMutablePointer<Transaction>, _ endsReply: Bool,
    _ gathering: inout Gathering
  ) -> Bool {
    let piece = pieces + Int(p)
    let encoder = transaction.pointee.encoder
    while piece.pointee.cursor < piece.pointee.length {
      guard gathering.hasRoom else { return false }
      let at = piece.pointee.cursor
      let place = piece.pointee.offset + UInt64(at)
      let run = piece.pointee.run(from: at)
      let isLast = endsReply && at + run.length == piece.pointee.length
      if run.isHole {
        gathering.addHeader(
          encoder.writeHole(
            at: place, length: UInt32(run.length), isLast: isLast, to: gathering.place))
      } else {
        gathering.addHeader(
          encoder.writeData(at: place, length: run.length, isLast: isLast, to: gathering.place))
        gathering.addPayload(piece.pointee.data + at, run.length)
      }
      piece.pointee.cursor = at + run.length
    }
    return true
  }

  private func isLastPiece(
    _ p: Int32, _ transaction: UnsafeMutablePointer<Transaction>
  ) -> Bool {
    pieces[Int(p)].offset + UInt64(pieces[Int(p)].length) == transaction.pointee.end
  }

  /// The piece's memory is the send's until it ends; then it is released, or takes the
  /// transaction's next piece.
  private func hand(
    _ p: Int32, over c: UnsafeMutablePointer<Connection>,
    from transaction: UnsafeMutablePointer<Transaction>
  ) {
    pieces[Int(p)].state = .sent
    pieces[Int(p)].isReused = transaction.pointee.failure == nil && transaction.pointee.hasMore
    c.pointee.sent.push(p, pieces)
  }

  /// Releases the pieces that will not be sent.
  mutating func dropOrder(_ transaction: UnsafeMutablePointer<Transaction>) {
    while transaction.pointee.order.head >= 0 {
      let p = transaction.pointee.order.pop(pieces)
      transaction.pointee.pieces -= 1
      release(p)
    }
  }

  mutating func send(
    _ index: Int32, vectors: Int, bytes: Int, _ ring: inout Ring, now: Instant
  ) {
    let c = connections + Int(index)
    invariant(!c.pointee.isSending, "S3: one send at a time")
    if c.pointee.isMute { return dropReplies(index) }
    if c.pointee.wire == .encrypted {
      c.pointee.source = TLSSource(vectors: c.pointee.vectors, count: vectors)
      return sendEncrypted(index, &ring, now: now)
    }
    beginSend(index, c.pointee.vectors, vectors: vectors, bytes: bytes, &ring, now: now)
  }

  /// Sends what the vectors point to, as it is.
  mutating func beginSend(
    _ index: Int32, _ list: UnsafeMutablePointer<SendVector>, vectors: Int, bytes: Int,
    _ ring: inout Ring, now: Instant
  ) {
    let c = connections + Int(index)
    c.pointee.isSending = true
    c.pointee.sendVectors = UnsafeMutableBufferPointer(start: list, count: vectors)
    c.pointee.sendBytes = bytes
    c.pointee.progressed = now
    c.pointee.progressMark = 0
    ring.sendMessage(
      files[Int(index)], c.pointee.header, list, vectors, whole: c.pointee.wire != .byKernel,
      tag(Kind.send, index))
  }

  /// So many bytes were sent, and not all: sends the others.
  private mutating func sendRest(
    _ index: Int32, behind sent: Int, _ ring: inout Ring, now: Instant
  ) {
    let c = connections + Int(index)
    let left = c.pointee.sendBytes - sent
    var (vectors, skipped) = (c.pointee.sendVectors[...], sent)
    while let first = vectors.first, first.count <= skipped {
      skipped -= first.count
      vectors = vectors.dropFirst()
    }
    let rest = UnsafeMutableBufferPointer(rebasing: vectors)
    guard let list = rest.baseAddress else { return close(index, .broken, &ring) }
    list[0] = SendVector(list[0].base.map { $0 + skipped }, list[0].count - skipped)
    beginSend(index, list, vectors: rest.count, bytes: left, &ring, now: now)
  }

  mutating func finishSend(_ index: Int32, _ result: Int, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    c.pointee.isSending = false
    if c.pointee.wire.usesChannel, goesOnSending(index, result, &ring, now: now) { return }
    if c.pointee.wire == .byKernel, c.pointee.phase != .closing, result > 0,
      result < c.pointee.sendBytes
    {
      return sendRest(index, behind: result, &ring, now: now)
    }
    releaseSent(c)
    guard c.pointee.phase != .closing else { return settleClosing(index, &ring) }
    guard result == c.pointee.sendBytes else {
      if c.pointee.leaving == .byDisconnect && !c.pointee.isParting { return dropReplies(index) }
      return close(index, c.pointee.isParting ? .disconnected : .broken, &ring)
    }
    if c.pointee.closesAfterSend { return part(index, &ring, now: now) }
    toPump.insert(index)
    if c.pointee.phase == .handshake { return }
    if c.pointee.ready.isEmpty && c.pointee.exclusive < 0 {
      settleLeaving(index, &ring, now: now)
    } else {
      toSend.insert(index)
    }
  }

  /// What was to be sent is dropped, now and from now on; the connection goes on to its end.
  mutating func dropReplies(_ index: Int32) {
    let c = connections + Int(index)
    c.pointee.isMute = true
    releaseSent(c)
    toSend.insert(index)
  }

  /// A send has ended, and all that is in it.
  mutating func releaseSent(_ c: UnsafeMutablePointer<Connection>) {
    discharge(c.pointee.costSending, c)
    c.pointee.costSending = Cost()
    while true {
      let p = c.pointee.sent.pop(pieces)
      guard p >= 0 else { return }
      let t = pieces[Int(p)].transaction
      let transaction = transactions + Int(t)
      let goesOn =
        pieces[Int(p)].isReused && transaction.pointee.connection >= 0
        && transaction.pointee.failure == nil && transaction.pointee.hasMore
      if goesOn {
        reuse(p)
        continue
      }
      transaction.pointee.pieces -= 1
      release(p)
      freeIfOver(t)
    }
  }
}
