package import Base
import CGnuTLS
import Glibc

/// One connection's encryption: a slot of a fixed pool, used for one peer after the other. See
/// `TLS.swift` for its states and invariants.
package struct TLSChannel {
  package enum HandshakeProgress {
    /// Send what is outgoing; then receive, when there is nothing to send.
    case goesOn
    /// Send what is outgoing; the peer may come in. It is called so, in quotes and printable.
    case done(peer: String)
    /// Send what is outgoing (an alert), and close.
    case failed(TLSError)
  }

  package enum Decrypted: Equatable {
    case bytes(Int)
    /// Receive more.
    case needsMore
    /// The peer said that it ends.
    case ended
    /// A record is wrong; a code of GnuTLS.
    case failed(Int32)
  }

  /// Bytes of memory for one channel's buffers.
  package static var memory: Int {
    Arena.cost(TLSBuffers.incomingSize) + Arena.cost(TLSBuffers.outgoingSize)
      + Arena.cost(largestRecord) + Arena.cost(MemoryLayout<TLSBuffers>.stride)
  }

  static var largestRecord: Int { 16_384 }

  private var session: gnutls_session_t? = nil
  private var credentials: TLSCredentials? = nil
  /// A record could not be made: nothing is sent any more.
  private var isBroken = false
  /// Apart from the channel: GnuTLS's callbacks reach it while the channel is being used.
  private let buffers: UnsafeMutablePointer<TLSBuffers>
  /// Where short vectors are joined to one record.
  private let record: UnsafeMutableRawPointer

  package init(in arena: inout Arena) {
    buffers = arena.take(MemoryLayout<TLSBuffers>.stride)
      .bindMemory(to: TLSBuffers.self, capacity: 1)
    buffers.initialize(
      to: TLSBuffers(
        incoming: arena.take(TLSBuffers.incomingSize),
        outgoing: arena.take(TLSBuffers.outgoingSize)))
    record = arena.take(Self.largestRecord)
  }

  /// Begins with a new peer; false when GnuTLS has no memory for it.
  package mutating func begin(_ credentials: TLSCredentials) -> Bool {
    invariant(session == nil, "T1: a session is made for each peer")
    buffers.pointee.empty()
    guard let session = credentials.makeSession() else { return false }
    gnutls_transport_set_ptr(session, UnsafeMutableRawPointer(buffers))
    gnutls_transport_set_pull_function(session) { buffers, target, count in
      TLSBuffers.pull(buffers, target, count)
    }
    gnutls_transport_set_push_function(session) { buffers, source, count in
      TLSBuffers.push(buffers, source, count)
    }
    gnutls_handshake_set_hook_function(
      session, CGnuTLS.GNUTLS_HANDSHAKE_CLIENT_HELLO.rawValue, GNUTLS_HOOK_PRE
    ) { session, _, _, _, hello in
      TLSBuffers.read(hello: hello, gnutls_transport_get_ptr(session))
      return 0
    }
    self.session = session
    self.credentials = credentials
    isBroken = false
    return true
  }

  /// Tells the peer that nothing more comes, by what is then outgoing.
  package mutating func sayGoodbye() {
    guard let session, !isBroken else { return }
    invariant(buffers.pointee.outgoingCount == 0, "T2: what is being sent stays as it is")
    gnutls_bye(session, GNUTLS_SHUT_WR)
  }

  /// Forgets the peer.
  package mutating func end() {
    guard let session else { return }
    gnutls_deinit(session)
    self.session = nil
    credentials = nil
    buffers.pointee.empty()
  }

  // MARK: Leaving for the kernel

  /// Bytes to receive until the record that has begun is whole; 0 between two records.
  package var missing: Int { buffers.pointee.records.missing }

  /// Nothing is half received, decrypted and not taken, or encrypted and not sent.
  package var isAtRest: Bool {
    guard let session else { return true }
    return missing == 0 && buffers.pointee.start == buffers.pointee.end
      && buffers.pointee.outgoingCount == 0 && gnutls_record_check_pending(session) == 0
  }

  /// Gives the session to the kernel and forgets the peer. False when the kernel cannot take it, or
  /// the peer wants shorter records than the kernel makes: the socket is of no more use then.
  package mutating func moveToKernel(_ socket: Int32) -> Bool {
    guard let session else { return false }
    invariant(isAtRest, "T5: who leaves is between two records")
    let isNewest = gnutls_protocol_get_version(session) == GNUTLS_TLS1_3
    let takesLongest = buffers.pointee.recordLimit >= Self.largestRecord + (isNewest ? 1 : 0)
    let moved = takesLongest && !isBroken && KernelTLS.take(session, socket)
    end()
    return moved
  }

  // MARK: The wire

  /// Where received bytes go; never empty.
  package mutating func room() -> UnsafeMutableRawBufferPointer { buffers.pointee.room() }

  /// So many bytes were received into `room`.
  package mutating func received(_ count: Int) { buffers.pointee.received(count) }

  /// What must be sent, until `sent`.
  package var outgoing: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: buffers.pointee.outgoing, count: buffers.pointee.outgoingCount)
  }

  /// All of `outgoing` was sent.
  package mutating func sent() { buffers.pointee.outgoingCount = 0 }

  // MARK: The handshake

  /// Goes on with what was received; fails for a peer that may not come in.
  package mutating func handshake() -> HandshakeProgress {
    guard let session, let credentials else { return .failed(TLSError("There is no session")) }
    var before = buffers.pointee.start
    var code = gnutls_handshake(session)
    // What only tells something, or was skipped: go on with what was received.
    while code < 0 && gnutls_error_is_fatal(code) == 0 {
      if code == GNUTLS_E_AGAIN && !buffers.pointee.hasMore(than: before) { break }
      before = buffers.pointee.start
      code = gnutls_handshake(session)
    }
    if code == GNUTLS_E_AGAIN { return .goesOn }
    guard code == 0 else {
      gnutls_alert_send_appropriate(session, code)
      return .failed(TLSError("the TLS handshake failed", code))
    }
    let (isAllowed, name) = credentials.admits(session)
    guard isAllowed else {
      gnutls_alert_send(session, GNUTLS_AL_FATAL, GNUTLS_A_ACCESS_DENIED)
      return .failed(TLSError("the client \(Self.quoted(name)) is not one of tls.clients"))
    }
    return .done(peer: Self.quoted(name))
  }

  /// A peer's words in a line of the log: printable ASCII, and not for ever.
  private static func quoted(_ text: String) -> String {
    let printable = text.unicodeScalars.prefix(200).map { scalar in
      scalar.value >= 32 && scalar.value < 127 && scalar != "\"" ? Character(scalar) : "?"
    }
    return "\"" + String(printable) + "\""
  }

  // MARK: Records

  /// Decrypts as much of what was received as fits.
  package mutating func decrypt(into target: UnsafeMutableRawPointer, room: Int) -> Decrypted {
    guard let session else { return .failed(GNUTLS_E_INVALID_SESSION) }
    var count = 0
    while count < room {
      let before = buffers.pointee.start
      let code = gnutls_record_recv(session, target + count, room - count)
      if code > 0 {
        count += code
        continue
      }
      // A record without data (a change of keys, an empty one): what is behind it may have some.
      if code == GNUTLS_E_AGAIN && buffers.pointee.hasMore(than: before) { continue }
      if count > 0 && code == GNUTLS_E_AGAIN { break }
      // What came before an end or an error is handed out first: it comes again.
      if count > 0 { return .bytes(count) }
      if code == 0 { return .ended }
      if code == GNUTLS_E_AGAIN { return .needsMore }
      if code == GNUTLS_E_INTERRUPTED { continue }
      return .failed(Int32(code))
    }
    return .bytes(count)
  }

  /// Encrypts from `source` on into `outgoing`, which is empty, while there is room; false when
  /// GnuTLS failed, and nothing can be sent any more.
  package mutating func encrypt(_ source: inout TLSSource) -> Bool {
    guard let session, !isBroken else { return false }
    invariant(buffers.pointee.outgoingCount == 0, "T2: what is being sent stays as it is")
    while !source.isEmpty && buffers.pointee.hasRoom {
      let (bytes, count) = source.next(record, Self.largestRecord)
      // A peer may have asked for smaller records: then it takes several calls.
      var sent = 0
      while sent < count {
        let code = gnutls_record_send(session, bytes + sent, count - sent)
        guard code > 0 else {
          isBroken = true
          return false
        }
        sent += code
      }
    }
    return true
  }
}
