import Base
import Glibc
import NBDProtocol
import RingIO
import TLS

/// Between connections and their encrypted wire: what is received and sent goes through the
/// channel. See `TLS.swift`.
///
/// An encrypted send is many on the wire: the vectors are encrypted part by part, each part is sent
/// whole, and only the last one's end is the send's.
extension Connections {
  /// STARTTLS was accepted: what came before is forgotten, and so are bytes that came with it,
  /// which a third party may have put there ("NBD_OPT_STARTTLS").
  mutating func beginSecuring(_ index: Int32, _ ring: inout Ring) {
    let c = connections + Int(index)
    c.pointee.start = 0
    c.pointee.end = 0
    guard let channel = c.pointee.channel, let credentials, channel.pointee.begin(credentials)
    else { return close(index, .broken, &ring) }
    // The pump goes on when the ACK is sent.
    c.pointee.wire = .securing
  }

  /// One step of the TLS handshake; false when it must wait.
  mutating func secure(_ index: Int32, _ ring: inout Ring, now: Instant) -> Bool {
    let c = connections + Int(index)
    guard !c.pointee.isSending, !c.pointee.closesAfterSend, let channel = c.pointee.channel else {
      return false
    }
    var isDone = false
    switch channel.pointee.handshake() {
    case .goesOn: break
    case .done(let peer):
      isDone = true
      c.pointee.wire = .encrypted
      c.pointee.handshake.encrypted()
      if arrivals.count < 64 { arrivals.append((c.pointee.number, peer)) }
    case .failed(let error):
      counters.protocolErrors += 1
      guard !channel.pointee.outgoing.isEmpty else {
        close(index, .notSecured(error), &ring)
        return false
      }
      if closings.count < 64 { closings.append((c.pointee.number, .notSecured(error))) }
      c.pointee.closesAfterSend = true
    }
    if !channel.pointee.outgoing.isEmpty {
      sendOutgoing(index, &ring, now: now)
      return false
    }
    if !isDone { receiveCipher(index, &ring) }
    return isDone
  }

  mutating func receiveCipher(_ index: Int32, _ ring: inout Ring, most: Int = .max) {
    let c = connections + Int(index)
    guard let room = c.pointee.channel?.pointee.room(), let base = room.baseAddress else { return }
    invariant(room.count > 0, "S3: TLS has taken what was received")
    c.pointee.receiving = .cipher
    ring.receive(files[Int(index)], base, min(most, room.count), tag(Kind.receive, index))
  }

  /// Decrypted bytes at `target`: how many; 0 when there are none yet, and more is being received,
  /// or when the connection had to be closed.
  mutating func decrypt(
    _ index: Int32, _ target: UnsafeMutableRawPointer, _ room: Int, _ ring: inout Ring
  ) -> Int {
    let c = connections + Int(index)
    guard let channel = c.pointee.channel else { return 0 }
    switch channel.pointee.decrypt(into: target, room: room) {
    case .bytes(let count): return count
    case .needsMore: receiveCipher(index, &ring)
    case .ended: close(index, .hungUp(busy: !c.pointee.isIdle), &ring)
    case .failed(let code): close(index, .badRecord(code), &ring)
    }
    return 0
  }

  // MARK: Sending

  /// Encrypts the next part of the send and sends it.
  mutating func sendEncrypted(_ index: Int32, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    guard let channel = c.pointee.channel, channel.pointee.encrypt(&c.pointee.source) else {
      // The hang-up that this makes closes the connection, unless it had said DISC.
      Glibc.shutdown(c.pointee.descriptor, Int32(SHUT_RDWR))
      if c.pointee.leaving == .byDisconnect { return dropReplies(index) }
      releaseSent(c)
      toPump.insert(index)
      return
    }
    sendOutgoing(index, &ring, now: now)
  }

  mutating func sendOutgoing(_ index: Int32, _ ring: inout Ring, now: Instant) {
    let c = connections + Int(index)
    guard let channel = c.pointee.channel else { return }
    let outgoing = channel.pointee.outgoing
    c.pointee.cipherVector.pointee = SendVector(outgoing.baseAddress, outgoing.count)
    beginSend(
      index, c.pointee.cipherVector, vectors: 1, bytes: outgoing.count, &ring, now: now)
  }

  /// A part was sent: true when the next one is under way. (The ACK of STARTTLS comes here as
  /// well, and is neither.)
  mutating func goesOnSending(
    _ index: Int32, _ result: Int, _ ring: inout Ring, now: Instant
  ) -> Bool {
    let c = connections + Int(index)
    c.pointee.channel?.pointee.sent()
    guard c.pointee.phase != .closing, result == c.pointee.sendBytes, !c.pointee.source.isEmpty
    else { return false }
    sendEncrypted(index, &ring, now: now)
    return c.pointee.isSending
  }
}
