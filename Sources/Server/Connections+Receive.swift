import Base
import Glibc
import NBDProtocol
import RingIO
import TLS
import VolumeEngine

/// From received bytes to transactions.
extension Connections {
  /// Payload of at least so many bytes is received straight into its buffer; less goes through
  /// the window, where the next requests arrive with it.
  private static var directReceive: Int { 16 << 10 }

  mutating func finishReceive(_ index: Int32, _ result: Int, _ ring: inout Ring) {
    let c = connections + Int(index)
    let kind = c.pointee.receiving
    c.pointee.receiving = .nothing
    c.pointee.receives &+= 1
    guard c.pointee.phase != .closing else { return settleClosing(index, &ring) }
    let wasProbed = c.pointee.isProbed
    c.pointee.isProbed = false
    if result == Self.cancelled && wasProbed {
      counters.timeouts += 1
      return close(index, .stalledPayload, &ring)
    }
    if result == Self.cancelled {
      toPump.insert(index)
      return
    }
    guard result > 0 else {
      if c.pointee.wire == .byKernel && result == -Int(EIO) { return endByRecord(index, &ring) }
      return close(
        index, result == 0 ? .hungUp(busy: !c.pointee.isIdle) : .broken, &ring)
    }
    switch kind {
    case .window: c.pointee.end += result
    case .cipher: c.pointee.channel?.pointee.received(result)
    case .payload:
      c.pointee.filled += result
      c.pointee.payloadLeft -= result
    case .nothing: invariant(false, "S2: what is received was asked for")
    }
    toPump.insert(index)
  }

  /// Looks at every connection that has something new, once all completions of the turn are in.
  mutating func pumpAll(_ ring: inout Ring, now: Instant) {
    var index = toPump.takeNext()
    while index >= 0 {
      pump(index, &ring, now: now)
      index = toPump.takeNext(from: index + 1)
    }
  }

  /// Consumes what is there until more bytes, room or memory are needed. Who has hung up, and has
  /// not said DISC, waits for these only while something of it goes on, and for as long as for a
  /// handshake: else it is closed.
  private mutating func pump(_ index: Int32, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    var goesOn = true
    while goesOn && c.pointee.receiving == .nothing {
      if isResting && c.pointee.incoming < 0 && c.pointee.wire != .securing
        && !c.pointee.isHungUp
      {
        if c.pointee.wire == .encrypted, c.pointee.leaving != .byDisconnect {
          bringToRecordEnd(index, &ring)
        }
        return
      }
      switch c.pointee.phase {
      case .free, .closing: return
      case .handshake:
        goesOn =
          c.pointee.wire == .securing
          ? secure(index, &ring, now: now) : takeOption(index, &ring, now: now)
      case .transmission:
        goesOn =
          c.pointee.incoming >= 0
          ? takePayload(index, &ring) : takeRequest(index, &ring, now: now)
      }
    }
    if c.pointee.isHungUp, c.pointee.phase == .transmission, !c.pointee.isLeaving,
      c.pointee.receiving == .nothing, !goesOnWithout(index)
    {
      close(index, .hungUp(busy: !c.pointee.isIdle), &ring)
    }
  }

  /// Whether something of a connection that has hung up makes room when it ends: not what waits for
  /// a DISC, nor the WRITE that waits for memory.
  private func goesOnWithout(_ index: Int32) -> Bool {
    let c = connections + Int(index)
    if c.pointee.incoming >= 0, transactions[Int(c.pointee.incoming)].isWaiting { return false }
    if c.pointee.costSending.transactions > 0 { return true }
    for t in 0..<Int32(transactionCapacity) where transactions[Int(t)].connection == index {
      let transaction = transactions + Int(t)
      if t != c.pointee.incoming, !transaction.pointee.isHeld, !transaction.pointee.isWaiting {
        return true
      }
    }
    return false
  }

  /// Receives into the window, behind what is not consumed. True when bytes are there at once.
  private mutating func receive(_ index: Int32, _ ring: inout Ring) -> Bool {
    let c = connections + Int(index)
    let room = roomInWindow(c)
    invariant(room > 0, "S3: the window holds any unit")
    if c.pointee.wire == .encrypted {
      let count = decrypt(index, c.pointee.window + c.pointee.end, room, &ring)
      c.pointee.end += count
      return count > 0
    }
    c.pointee.receiving = .window
    ring.receive(
      files[Int(index)], c.pointee.window + c.pointee.end, room, tag(Kind.receive, index))
    return false
  }

  /// Bytes of room behind what is not consumed, which moves to the window's beginning: it is less
  /// than one request's header, or an incomplete option, but for who comes to rest.
  func roomInWindow(_ c: UnsafeMutablePointer<Connection>) -> Int {
    let kept = c.pointee.end - c.pointee.start
    if c.pointee.start > 0 {
      c.pointee.window.copyMemory(from: c.pointee.window + c.pointee.start, byteCount: kept)
      c.pointee.start = 0
      c.pointee.end = kept
    }
    return Connection.windowSize - kept
  }

  // MARK: Handshake

  /// One unit of the handshake; false when it must wait.
  private mutating func takeOption(
    _ index: Int32, _ ring: inout Ring, now: Instant
  ) -> Bool {
    let c = connections + Int(index)
    // The area holds replies that are being sent; options are not pipelined.
    guard !c.pointee.isSending else { return false }
    var replies = OptionReplyWriter(
      UnsafeMutableRawBufferPointer(start: c.pointee.area, count: Connection.areaSize))
    let step = c.pointee.handshake.step(c.pointee.pending, replies: &replies, offer: offer)
    c.pointee.start += step.consumed
    if replies.count > 0 {
      c.pointee.vectors[0] = SendVector(c.pointee.area, replies.count)
      send(index, vectors: 1, bytes: replies.count, &ring, now: now)
    }
    switch step.event {
    case .needMore: return receive(index, &ring)
    case .proceed: return true
    case .startTLS:
      beginSecuring(index, &ring)
      return false
    case .transmission(let session):
      c.pointee.session = session
      c.pointee.phase = .transmission
      counters.handshaking -= 1
      return true
    case .close(let failure):
      if failure != .aborted { counters.protocolErrors += 1 }
      if c.pointee.isSending {
        c.pointee.closesAfterSend = true
      } else {
        close(index, .handshake(failure), &ring)
      }
      return false
    }
  }

  // MARK: Requests

  /// One request's header; false when it must wait for bytes or room.
  private mutating func takeRequest(
    _ index: Int32, _ ring: inout Ring, now: Instant
  ) -> Bool {
    let c = connections + Int(index)
    guard !c.pointee.isLeaving else { return false }
    let isFull =
      c.pointee.cost.transactions >= limits.requestsInFlight
      || !hasShareOfTransactions(c.pointee.cost.transactions)
    // Of who has hung up, what comes may be a DISC, which needs no room.
    if isFull && !c.pointee.isHungUp { return false }
    switch c.pointee.session.parse(c.pointee.pending) {
    case .needMore: return receive(index, &ring)
    case .close(let failure):
      close(index, .transmission(failure), &ring)
      return false
    case .request(let request, let consumed):
      let verdict = c.pointee.session.validate(request)
      if verdict == .disconnect {
        c.pointee.start += consumed
        c.pointee.leaving = .byDisconnect
        submitHeld(c)
        settleLeaving(index, &ring, now: now)
        return false
      }
      if isFull { return false }
      guard !freeTransactions.isEmpty else {
        starved.insert(index)
        return false
      }
      var cost = Cost(transactions: 1, bytes: carried(request, verdict))
      cost.memory = memoryHeld(request, verdict, cost.bytes)
      // Looked at again when something was answered; the socket is not read meanwhile.
      let bytes = c.pointee.cost.bytes
      if bytes > 0 && bytes + cost.bytes > limits.bytesInFlight { return false }
      guard hasShareOfMemory(c.pointee.cost.memory, cost.memory) else { return false }
      c.pointee.start += consumed
      admit(index, request, verdict, cost)
      return true
    }
  }

  /// Payload bytes that a request is counted with.
  private func carried(_ request: Request, _ verdict: Verdict) -> Int {
    switch verdict {
    case .perform(.read), .perform(.write): Int(clamping: request.length)
    case .perform, .succeed, .refuse, .disconnect: 0
    }
  }

  // MARK: Shares

  // Clients that are slow to take replies, or to send what they began, hold memory and transactions
  // for as long as they like. So nobody may hold more than so many times of what is left, but for
  // one request: what is left is never nothing, whoever holds how much. (Dynamic thresholds:
  // Choudhury and Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, 1998.)
  // The one request is served from what is kept back for each connection. Who must wait has
  // requests under way, or replies, and is looked at again when one of them ends.

  private func hasShareOfTransactions(_ held: Int) -> Bool {
    // One for each connection is kept back, unless there are enough for all.
    let kept = min(connectionCapacity, transactionCapacity - limits.requestsInFlight)
    return held == 0 || held <= transactionsLeft - kept
      || transactionCapacity >= limits.connections * limits.requestsInFlight
  }

  private func hasShareOfMemory(_ held: Int, _ more: Int) -> Bool {
    let left = buffers.capacity - keptMemory - promisedMemory
    return more == 0 || held == 0 || more <= left && held + more <= 4 * left
  }

  /// Memory that a request holds at most for as long as its client likes: a long READ has two
  /// buffers, a status and a WRITE whose payload arrives have one.
  private func memoryHeld(_ request: Request, _ verdict: Verdict, _ bytes: Int) -> Int {
    switch verdict {
    case .perform(.read):
      min(
        BuddyPool.roundedSize(Piece.blocks(request.offset, bytes) * Size.block),
        2 * VolumeRequest.maxTransfer)
    case .perform(.write): min(BuddyPool.roundedSize(bytes), VolumeRequest.maxTransfer)
    case .perform(.blockStatus):
      BuddyPool.roundedSize(statusBytes(request.flags, request.length))
    case .perform, .succeed, .refuse, .disconnect: 0
    }
  }

  private mutating func admit(
    _ index: Int32, _ request: Request, _ verdict: Verdict, _ cost: Cost
  ) {
    let c = connections + Int(index)
    let t = freeTransactions.pop(transactions)
    transactionsLeft -= 1
    let command = request.command ?? .flush
    let transaction = transactions + Int(t)
    transaction.pointee = Transaction(
      connection: index, request, command, style: c.pointee.session.style)
    transaction.pointee.cost = cost
    c.pointee.cost += cost
    promisedMemory += cost.memory
    counters.requests += 1
    if request.payload > 0 {
      transaction.pointee.isReceived = false
      c.pointee.incoming = t
      c.pointee.payloadLeft = Int(request.payload)
      c.pointee.dropsPayload = verdict != .perform(.write)
    }
    switch verdict {
    case .perform(let command): begin(t, command, request)
    case .refuse(let refusal): transaction.pointee.failure = refusal
    case .succeed, .disconnect: break
    }
    if verdict.isAnsweredAtOnce && request.payload == 0 { makeReady(t) }
  }

  /// Starts what was let through; a WRITE starts with its payload.
  private mutating func begin(_ t: Int32, _ command: CommandType, _ request: Request) {
    switch command {
    case .write, .disconnect: return
    case .read: beginRead(t)
    case .blockStatus:
      let c = connections + Int(transactions[Int(t)].connection)
      transactions[Int(t)].contextsLeft = request.contexts & c.pointee.session.selectionMask
      beginStatus(t)
    case .flush, .trim, .cache, .writeZeroes: beginPlain(t)
    }
  }

  // MARK: Payload

  /// Moves payload on; false when it must wait for bytes or memory.
  private mutating func takePayload(_ index: Int32, _ ring: inout Ring) -> Bool {
    let c = connections + Int(index)
    let t = c.pointee.incoming
    let transaction = transactions + Int(t)
    if c.pointee.incomingPiece >= 0 { return fillPiece(index, &ring) }
    if c.pointee.payloadLeft == 0 {
      c.pointee.incoming = -1
      transaction.pointee.isReceived = true
      if transaction.pointee.pieces == 0 { makeReady(t) }
      return true
    }
    // A WRITE that has failed waits for its turn, too: it stands in that queue.
    if transaction.pointee.isWaiting { return false }
    if c.pointee.dropsPayload || transaction.pointee.failure != nil {
      let count = min(c.pointee.payloadLeft, c.pointee.end - c.pointee.start)
      c.pointee.start += count
      c.pointee.payloadLeft -= count
      return c.pointee.payloadLeft == 0 || receive(index, &ring)
    }
    guard waiting.isEmpty, beginFilling(t) else {
      wait(t)
      return false
    }
    return true
  }

  /// Gets memory for the next piece of a WRITE; false when there is none.
  mutating func beginFilling(_ t: Int32) -> Bool {
    let transaction = transactions + Int(t)
    let c = connections + Int(transaction.pointee.connection)
    let offset = transaction.pointee.nextOffset
    let length = Piece.length(at: offset, of: UInt64(c.pointee.payloadLeft), in: largestPiece)
    let bytes = Piece.blocks(offset, length) * Size.block
    guard let memory = memory(bytes) else { return false }
    let p = takePiece(t, offset, length)
    pieces[Int(p)].state = .filling
    pieces[Int(p)].memory = memory
    pieces[Int(p)].memoryBytes = bytes
    transaction.pointee.nextOffset += UInt64(length)
    c.pointee.incomingPiece = p
    c.pointee.filled = 0
    return true
  }

  /// Copies from the window into the piece; what is then missing is received, straight into the
  /// buffer when it is much.
  private mutating func fillPiece(_ index: Int32, _ ring: inout Ring) -> Bool {
    let c = connections + Int(index)
    let p = c.pointee.incomingPiece
    let piece = pieces + Int(p)
    let target = piece.pointee.data + c.pointee.filled
    let missing = piece.pointee.length - c.pointee.filled
    let count = min(missing, c.pointee.end - c.pointee.start)
    if count > 0 {
      target.copyMemory(from: c.pointee.window + c.pointee.start, byteCount: count)
      c.pointee.start += count
      c.pointee.filled += count
      c.pointee.payloadLeft -= count
    }
    if count == missing {
      c.pointee.incomingPiece = -1
      submit(p)
      return true
    }
    if missing - count < Self.directReceive { return receive(index, &ring) }
    if c.pointee.wire == .encrypted {
      let came = decrypt(index, target + count, missing - count, &ring)
      c.pointee.filled += came
      c.pointee.payloadLeft -= came
      return came > 0
    }
    c.pointee.receiving = .payload
    ring.receive(
      files[Int(index)], target + count, missing - count, all: c.pointee.receivesWhole,
      tag(Kind.receive, index))
    return false
  }
}

extension Verdict {
  /// No engine is needed for the answer.
  var isAnsweredAtOnce: Bool {
    switch self {
    case .perform, .disconnect: false
    case .succeed, .refuse: true
    }
  }
}
