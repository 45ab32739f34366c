import Base
import Glibc
import NBDProtocol
import RingIO
import TLS

/// Ends: of transactions, of connections.
extension Connections {
  /// Takes what transactions cost off their connection.
  mutating func discharge(_ cost: Cost, _ c: UnsafeMutablePointer<Connection>) {
    c.pointee.cost -= cost
    promisedMemory -= cost.memory
  }

  /// A transaction whose reply is complete: it is free when its pieces are sent.
  mutating func end(_ t: Int32) {
    transactions[Int(t)].connection = -1
    freeIfOver(t)
  }

  /// Frees a transaction without a connection once nothing refers to it.
  mutating func freeIfOver(_ t: Int32) {
    let transaction = transactions + Int(t)
    guard transaction.pointee.connection < 0, transaction.pointee.pieces == 0,
      !transaction.pointee.isWaiting
    else { return }
    freeTransactions.push(t, transactions)
    transactionsLeft += 1
    if !starved.isEmpty {
      toPump.formUnion(starved)
      starved = ConnectionSet()
    }
  }

  /// Ends a connection now. Its requests that the engine has not seen are dropped, the others
  /// finish into nowhere; the slot is free when the ring has let go of it.
  mutating func close(_ index: Int32, _ reason: ClosingReason, _ ring: inout Ring) {
    let c = connections + Int(index)
    if c.pointee.phase == .handshake { counters.handshaking -= 1 }
    if reason.isProtocolError && c.pointee.phase == .transmission { counters.protocolErrors += 1 }
    invariant(
      c.pointee.phase == .handshake || c.pointee.phase == .transmission,
      "S1: a connection is closed once")
    c.pointee.phase = .closing
    if closings.count < 64 { closings.append((c.pointee.number, reason)) }
    // Whatever is in flight on the socket completes.
    Glibc.shutdown(c.pointee.descriptor, Int32(SHUT_RDWR))
    for t in 0..<Int32(transactionCapacity) where transactions[Int(t)].connection == index {
      drop(t, c)
    }
    submitHeld(c)
    // What was gathered for a send that will not be.
    if !c.pointee.isSending { releaseSent(c) }
    c.pointee.ready = Chain()
    c.pointee.exclusive = -1
    c.pointee.incoming = -1
    discharge(c.pointee.cost, c)
    c.pointee.costSending = Cost()
    toPump.remove(index)
    toSend.remove(index)
    starved.remove(index)
    settleClosing(index, &ring)
  }

  /// What is queued is dropped when its turn comes, what is in the engine when it answers.
  private mutating func drop(_ t: Int32, _ c: UnsafeMutablePointer<Connection>) {
    let transaction = transactions + Int(t)
    transaction.pointee.connection = -1
    var kept = Chain<Piece>()
    while transaction.pointee.order.head >= 0 {
      let p = transaction.pointee.order.pop(pieces)
      switch pieces[Int(p)].state {
      case .done where pieces[Int(p)].cursor > 0 && c.pointee.isSending:
        // A part of it is in the send.
        pieces[Int(p)].state = .sent
        pieces[Int(p)].isReused = false
        c.pointee.sent.push(p, pieces)
      case .done, .failed:
        transaction.pointee.pieces -= 1
        release(p)
      case .free, .filling, .queued, .submitted, .sent: kept.push(p, pieces)
      }
    }
    transaction.pointee.order = kept
    freeIfOver(t)
  }

  /// Gives the slot back once no operation of the connection is in the ring.
  mutating func settleClosing(_ index: Int32, _ ring: inout Ring) {
    let c = connections + Int(index)
    guard c.pointee.receiving == .nothing, !c.pointee.isSending, !c.pointee.isPolling else {
      return
    }
    if c.pointee.incomingPiece >= 0 {
      let t = pieces[Int(c.pointee.incomingPiece)].transaction
      transactions[Int(t)].pieces -= 1
      release(c.pointee.incomingPiece)
      freeIfOver(t)
      c.pointee.incomingPiece = -1
    }
    if c.pointee.wire.usesChannel { c.pointee.channel?.pointee.end() }
    ring.remove(files[Int(index)])
    Glibc.close(c.pointee.descriptor)
    c.pointee.descriptor = -1
    c.pointee.phase = .free
    counters.connections -= 1
    freeConnections.push(index, connections)
  }

  /// Closes a connection that takes no more requests once all are answered and sent.
  mutating func settleLeaving(_ index: Int32, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    guard c.pointee.phase == .transmission, c.pointee.isLeaving, c.pointee.isIdle,
      !c.pointee.isSending
    else { return }
    part(index, &ring, now: now)
  }

  /// Closes a connection in order: under encryption its end is said first, so that the peer can
  /// tell it from one that somebody cut (RFC 8446, section 6.1).
  mutating func part(_ index: Int32, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    if c.pointee.isMute { return close(index, .disconnected, &ring) }
    if c.pointee.wire == .encrypted, !c.pointee.isParting, let channel = c.pointee.channel {
      c.pointee.isParting = true
      channel.pointee.sayGoodbye()
      if !channel.pointee.outgoing.isEmpty {
        c.pointee.closesAfterSend = true
        return sendOutgoing(index, &ring, now: now)
      }
    }
    if c.pointee.wire == .byKernel { KernelTLS.sayGoodbye(c.pointee.descriptor) }
    close(index, offer.isShuttingDown ? .shutdown : .disconnected, &ring)
  }

  /// Begins the end of all connections: requests under way are finished, options are refused.
  mutating func leaveAll(_ ring: inout Ring, now: Instant) {
    offer.isShuttingDown = true
    for index in 0..<Int32(connectionCapacity) {
      let c = connections + Int(index)
      switch c.pointee.phase {
      case .free, .closing: continue
      // Whose handshake is not over is told SHUTDOWN, while others are waited for.
      case .handshake: if c.pointee.receiving == .nothing { toPump.insert(index) }
      case .transmission:
        guard !c.pointee.isHungUp || c.pointee.isLeaving else {
          close(index, .hungUp(busy: !c.pointee.isIdle), &ring)
          continue
        }
        if !c.pointee.isLeaving { c.pointee.leaving = .byShutdown }
        // A WRITE whose payload is not complete was never a request.
        if c.pointee.incoming >= 0 { abandonIncoming(c) }
        settleLeaving(index, &ring, now: now)
      }
    }
  }

  private mutating func abandonIncoming(_ c: UnsafeMutablePointer<Connection>) {
    let t = c.pointee.incoming
    c.pointee.incoming = -1
    discharge(transactions[Int(t)].cost, c)
    drop(t, c)
  }

  /// Closes what is left, whatever is under way.
  mutating func closeAll(_ ring: inout Ring) {
    for index in 0..<Int32(connectionCapacity) {
      switch connections[Int(index)].phase {
      case .free, .closing: continue
      case .handshake, .transmission: close(index, .shutdown, &ring)
      }
    }
  }

  /// Closes connections that are too slow: in the handshake, or in taking what is sent.
  mutating func checkDeadlines(_ ring: inout Ring, now: Instant) {
    for index in 0..<Int32(connectionCapacity) {
      let c = connections + Int(index)
      switch c.pointee.phase {
      case .free, .closing: continue
      case .handshake:
        guard c.pointee.deadline < now else { continue }
        counters.timeouts += 1
        close(index, .handshakeTimeout, &ring)
      case .transmission:
        if c.pointee.isHungUp, !c.pointee.isLeaving, c.pointee.deadline < now {
          close(index, .hungUp(busy: true), &ring)
          continue
        }
        if c.pointee.isSending { checkProgress(index, &ring, now: now) }
        if c.pointee.phase == .transmission { checkPayload(index, &ring, now: now) }
      }
    }
  }

  /// A payload that has begun holds memory: it must come on.
  private mutating func checkPayload(_ index: Int32, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    let isAwaited = c.pointee.incoming >= 0 && c.pointee.receiving != .nothing
    if !isAwaited || c.pointee.receives != c.pointee.receivesMark {
      c.pointee.receivesMark = c.pointee.receives
      c.pointee.receivedAt = now
    } else if c.pointee.receivedAt + limits.sendStall < now && !c.pointee.isProbed {
      // A receive that waits for all of a piece tells nothing before: cancelled, it says how much
      // has come.
      c.pointee.isProbed = true
      ring.cancel(tag(Kind.receive, index), OperationTag(kind: OperationTag.ignored))
    }
  }

  private mutating func checkProgress(_ index: Int32, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    let mark = Self.sendProgress(c.pointee.descriptor, isTCP: c.pointee.isTCP)
    if mark != c.pointee.progressMark {
      c.pointee.progressMark = mark
      c.pointee.progressed = now
    } else if c.pointee.progressed + limits.sendStall < now {
      counters.timeouts += 1
      close(index, .stalled, &ring)
    }
  }

  /// A number that changes while the peer takes data: TCP's acknowledged bytes; for a unix socket
  /// the bytes it has not read.
  private static func sendProgress(_ descriptor: Int32, isTCP: Bool) -> UInt64 {
    if isTCP {
      // struct tcp_info (linux/tcp.h): tcpi_bytes_acked is 64 bits at 120, since Linux 4.1.
      var info = InlineArray<32, UInt64>(repeating: 0)
      var length = socklen_t(256)
      var span = info.mutableSpan
      let result = span.withUnsafeMutableBufferPointer {
        getsockopt(descriptor, Int32(IPPROTO_TCP), TCP_INFO, $0.baseAddress, &length)
      }
      return result == 0 && length >= 128 ? info[15] : 0
    }
    var unread: Int32 = 0
    // SIOCOUTQ, which is TIOCOUTQ.
    guard ioctl(descriptor, 0x5411, &unread) == 0 else { return 0 }
    return UInt64(UInt32(bitPattern: unread))
  }
}
