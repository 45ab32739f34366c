import Base
import Glibc
package import NBDProtocol
import RingIO
import TLS

/// A connection on its way to another server process. Its socket is quiet: no request is under way,
/// nothing is half sent, and what was received but not looked at is in `window`.
package struct HandedConnection: Codable, Sendable {
  /// The socket; not part of what is encoded.
  package var descriptor: Int32 = -1
  package var isTCP: Bool
  /// The kernel encrypts and decrypts what goes through the socket.
  package var isEncrypted: Bool
  package var negotiated: Negotiated
  /// Received bytes that were not consumed: less than a request's header, a part of an option, or
  /// requests that were not begun.
  package var window: [UInt8]

  private enum CodingKeys: CodingKey { case isTCP, isEncrypted, negotiated, window }
}

/// Handing over: connections come to rest and leave; or come from another server, and go on.
///
///     serving ─ beginHandover ─► each connection: requests under way are finished, no new one is
///       begun ─► its receive and its poll are cancelled ─► at rest ─► takeAll
///
/// A WRITE whose payload has begun is received to its end. Who takes or sends nothing for
/// `handoverStall` is closed, and after a while whoever is still busy; who leaves a record or a TLS
/// handshake half done, after a second.
///
/// An encrypted connection rests between two records: what has come is decrypted, what the last
/// record lacks is received. Then the kernel goes on with it (`KernelTLS`). Where that cannot be
/// (no TCP, no module `tls`, another cipher) it is closed, and its client connects again.
extension Connections {
  private static var handoverStall: Milliseconds { Milliseconds(5000) }

  /// The kernel's result of an operation that was cancelled.
  static var cancelled: Int { -Int(ECANCELED) }

  /// Begins to bring all connections to rest.
  mutating func beginHandover(_ ring: inout Ring) {
    isResting = true
    limits.sendStall = Milliseconds(min(limits.sendStall.rawValue, Self.handoverStall.rawValue))
    for index in 0..<Int32(connectionCapacity) {
      let c = connections + Int(index)
      switch c.pointee.phase {
      case .free, .closing: continue
      case .handshake, .transmission:
        if c.pointee.wire == .securing || c.pointee.incoming >= 0 { continue }
        if c.pointee.receiving != .nothing {
          ring.cancel(tag(Kind.receive, index), OperationTag(kind: OperationTag.ignored))
        } else if c.pointee.wire == .encrypted {
          toPump.insert(index)
        }
      }
    }
  }

  /// Whether all connections are at rest; takes those that are off the ring on the way.
  mutating func areAtRest(_ ring: inout Ring) -> Bool {
    var areAtRest = true
    for index in 0..<Int32(connectionCapacity) {
      let c = connections + Int(index)
      if c.pointee.phase == .free { continue }
      guard isQuiet(c) else {
        areAtRest = false
        continue
      }
      guard c.pointee.isPolling else { continue }
      areAtRest = false
      if c.pointee.isPollCancelled { continue }
      c.pointee.isPollCancelled = true
      ring.cancel(tag(Kind.poll, index), OperationTag(kind: OperationTag.ignored))
    }
    return areAtRest
  }

  private func isQuiet(_ c: UnsafeMutablePointer<Connection>) -> Bool {
    c.pointee.phase != .closing && c.pointee.isIdle && !c.pointee.isSending
      && c.pointee.receiving == .nothing && c.pointee.incoming < 0 && c.pointee.wire != .securing
      && (c.pointee.wire != .encrypted || c.pointee.channel?.pointee.isAtRest ?? true)
  }

  /// Takes all that has come out of the channel, and receives what the last record lacks.
  mutating func bringToRecordEnd(_ index: Int32, _ ring: inout Ring) {
    let c = connections + Int(index)
    guard let channel = c.pointee.channel else { return }
    while true {
      let room = roomInWindow(c)
      guard room > 0 else { return close(index, .notHandedOver, &ring) }
      switch channel.pointee.decrypt(into: c.pointee.window + c.pointee.end, room: room) {
      case .bytes(let count): c.pointee.end += count
      case .needsMore:
        let missing = channel.pointee.missing
        if missing > 0 { receiveCipher(index, &ring, most: missing) }
        return
      case .ended: return close(index, .hungUp(busy: !c.pointee.isIdle), &ring)
      case .failed(let code): return close(index, .badRecord(code), &ring)
      }
    }
  }

  /// A record that is no data ends a connection that the kernel decrypts: the peer's goodbye, as a
  /// rule.
  mutating func endByRecord(_ index: Int32, _ ring: inout Ring) {
    let c = connections + Int(index)
    let record = KernelTLS.takeControlRecord(c.pointee.descriptor)
    let isGoodbye = record == .goodbye
    close(
      index, isGoodbye ? .hungUp(busy: !c.pointee.isIdle) : .controlRecord(record), &ring)
  }

  /// Closes encrypted connections that rest but for the end of a record, or of a handshake, that
  /// the peer does not send: everybody else's requests wait for it.
  mutating func closeSilent(_ ring: inout Ring, now: Instant) {
    for index in 0..<Int32(connectionCapacity) {
      let c = connections + Int(index)
      guard c.pointee.phase == .handshake || c.pointee.phase == .transmission,
        c.pointee.receiving == .cipher, c.pointee.isIdle, c.pointee.incoming < 0
      else { continue }
      if let silence = c.pointee.mustRestBy {
        if silence < now { close(index, .notHandedOver, &ring) }
      } else {
        c.pointee.mustRestBy = now + Milliseconds(1000)
      }
    }
  }

  /// Closes what does not come to rest.
  mutating func closeRestless(_ ring: inout Ring) {
    for index in 0..<Int32(connectionCapacity) {
      let c = connections + Int(index)
      guard c.pointee.phase == .handshake || c.pointee.phase == .transmission, !isQuiet(c) else {
        continue
      }
      close(index, .notHandedOver, &ring)
    }
  }

  /// Takes all connections out, at rest as they are. Their descriptors are the caller's.
  mutating func takeAll(_ ring: inout Ring) -> [HandedConnection] {
    var handed: [HandedConnection] = []
    for index in 0..<Int32(connectionCapacity) {
      let c = connections + Int(index)
      guard c.pointee.phase != .free else { continue }
      invariant(isQuiet(c) && !c.pointee.isPolling, "S10: who leaves is at rest")
      let negotiated =
        c.pointee.phase == .transmission
        ? c.pointee.session.negotiated(offer.export) : c.pointee.handshake.negotiated(offer)
      ring.remove(files[Int(index)])
      if let negotiated, leavesChannel(c) {
        handed.append(
          HandedConnection(
            descriptor: c.pointee.descriptor, isTCP: c.pointee.isTCP,
            isEncrypted: c.pointee.wire != .plain, negotiated: negotiated,
            window: Array(c.pointee.pending)))
      } else {
        if c.pointee.wire.usesChannel { c.pointee.channel?.pointee.end() }
        if closings.count < 64 { closings.append((c.pointee.number, .notHandedOver)) }
        Glibc.close(c.pointee.descriptor)
      }
      c.pointee.descriptor = -1
      c.pointee.phase = .free
      counters.connections -= 1
      freeConnections.push(index, connections)
    }
    counters.handshaking = 0
    return handed
  }

  /// Whether the wire can be another process's.
  private func leavesChannel(_ c: UnsafeMutablePointer<Connection>) -> Bool {
    guard c.pointee.wire.usesChannel else { return true }
    return c.pointee.channel?.pointee.moveToKernel(c.pointee.descriptor) ?? false
  }

  /// Goes on with a connection of another server; closes it when it cannot.
  mutating func adopt(_ handed: HandedConnection, _ ring: inout Ring, now: Instant) {
    counters.accepted += 1
    let session = Session(handed.negotiated, offer)
    let handshake = Handshake(handed.negotiated, offer, isEncrypted: handed.isEncrypted)
    let isAllowed = session == nil || handed.isEncrypted || offer.tls != .required
    guard session != nil || handshake != nil, isAllowed, !freeConnections.isEmpty,
      handed.window.count <= Connection.windowSize
    else {
      counters.refused += 1
      if closings.count < 64 { closings.append((counters.accepted, .notHandedOver)) }
      Glibc.close(handed.descriptor)
      return
    }
    let index = take(handed.descriptor, isTCP: handed.isTCP, &ring, now: now)
    let c = connections + Int(index)
    if handed.isEncrypted { c.pointee.wire = .byKernel }
    if let handshake { c.pointee.handshake = handshake }
    if let session {
      c.pointee.session = session
      c.pointee.phase = .transmission
      counters.handshaking -= 1
    }
    handed.window.withUnsafeBytes {
      guard let source = $0.baseAddress else { return }
      c.pointee.window.copyMemory(from: source, byteCount: $0.count)
    }
    c.pointee.end = handed.window.count
    c.pointee.isHungUp = Socket.hasHungUp(handed.descriptor)
    toPump.insert(index)
  }
}
