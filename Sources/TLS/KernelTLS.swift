import CGnuTLS
import Glibc

/// Sessions that the kernel goes on with, in the socket itself: its bytes are then plain to read
/// and write, also by another process (Documentation/networking/tls.rst). Only TCP sockets can do
/// it, only with the module `tls`, and only with the ciphers below.
///
/// What is no data (a peer's goodbye, an alert, a change of keys) is `EIO` to who reads.
package enum KernelTLS {
  /// `TCP_ULP` (linux/tcp.h) and `SOL_TLS` (linux/socket.h).
  private static var upperProtocol: Int32 { 31 }
  private static var level: Int32 { 282 }

  /// Gives both directions of a session that is between two records to the kernel; false when that
  /// cannot be: the socket is of no more use then.
  static func take(_ session: gnutls_session_t, _ socket: Int32) -> Bool {
    guard var sends = facts(session, isReading: false) else { return false }
    defer { wipe(&sends) }
    guard var receives = facts(session, isReading: true) else { return false }
    defer { wipe(&receives) }
    return setsockopt(socket, Int32(IPPROTO_TCP), upperProtocol, "tls", 3) == 0
      && set(socket, TLS_TX, sends) && set(socket, TLS_RX, receives)
  }

  private static func set(_ socket: Int32, _ direction: Int32, _ facts: [UInt8]) -> Bool {
    setsockopt(socket, level, direction, facts, socklen_t(facts.count)) == 0
  }

  /// Keys do not stay in memory that is given back.
  private static func wipe(_ secret: inout [UInt8]) {
    secret.withUnsafeMutableBytes {
      guard let base = $0.baseAddress else { return }
      explicit_bzero(base, $0.count)
    }
  }

  /// A direction's version, cipher, IV, key, salt and number of the next record, laid out as one of
  /// `struct tls12_crypto_info_…` (linux/tls.h); nil for a cipher that is not one of them.
  private static func facts(_ session: gnutls_session_t, isReading: Bool) -> [UInt8]? {
    let cipher: Int32
    switch gnutls_cipher_get(session) {
    case GNUTLS_CIPHER_AES_128_GCM: cipher = TLS_CIPHER_AES_GCM_128
    case GNUTLS_CIPHER_AES_256_GCM: cipher = TLS_CIPHER_AES_GCM_256
    case GNUTLS_CIPHER_CHACHA20_POLY1305: cipher = TLS_CIPHER_CHACHA20_POLY1305
    default: return nil
    }
    var (mac, fixed, key) = (gnutls_datum_t(), gnutls_datum_t(), gnutls_datum_t())
    var number = [UInt8](repeating: 0, count: 8)
    guard
      gnutls_record_get_state(session, isReading ? 1 : 0, &mac, &fixed, &key, &number) == 0
    else { return nil }
    let iv = Array(UnsafeBufferPointer(start: fixed.data, count: Int(fixed.size)))
    let isNewest = gnutls_protocol_get_version(session) == GNUTLS_TLS1_3
    let version: UInt16 = isNewest ? 0x0304 : 0x0303
    var facts: [UInt8] = []
    // So that no key is left where it grew.
    facts.reserveCapacity(64)
    withUnsafeBytes(of: version) { facts += $0 }
    withUnsafeBytes(of: UInt16(cipher)) { facts += $0 }
    if cipher == TLS_CIPHER_CHACHA20_POLY1305 {
      guard iv.count == 12 else { return nil }
      facts += iv
      facts += UnsafeBufferPointer(start: key.data, count: Int(key.size))
    } else {
      // TLS 1.2 sends the second part of a nonce with each record; GnuTLS takes its number for it
      // (RFC 5288, section 3).
      guard iv.count >= (isNewest ? 12 : 4) else { return nil }
      facts += isNewest ? Array(iv[4..<12]) : number
      facts += UnsafeBufferPointer(start: key.data, count: Int(key.size))
      facts += iv[..<4]
    }
    facts += number
    return facts
  }

  // MARK: What is no data

  private static var alert: UInt8 { 21 }

  /// Tells the peer of a socket that nothing more comes (close_notify: RFC 8446, section 6.1), if
  /// that can be done at once.
  package static func sayGoodbye(_ socket: Int32) {
    let warning: UInt8 = 1, closeNotify: UInt8 = 0
    var text = (warning, closeNotify)
    withControlMessage(&text, type: alert, TLS_SET_RECORD_TYPE) { message in
      _ = sendmsg(socket, message, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
    }
  }

  /// Takes the record that reading ended with `EIO` for.
  package static func takeControlRecord(_ socket: Int32) -> ControlRecord {
    var text: (UInt8, UInt8) = (0, 0)
    var type: UInt8 = 0
    var count = 0
    withControlMessage(&text, type: 0, TLS_GET_RECORD_TYPE) { message in
      count = recvmsg(socket, message, Int32(MSG_DONTWAIT))
      guard message.pointee.msg_controllen >= 17, let control = message.pointee.msg_control else {
        return
      }
      type = control.load(fromByteOffset: 16, as: UInt8.self)
    }
    guard type == alert, count == 2 else { return .other(type: type) }
    return text.1 == 0 ? .goodbye : .alert(text.1)
  }

  /// A record that is no data.
  package enum ControlRecord: Equatable {
    /// close_notify.
    case goodbye
    /// A number of RFC 8446, section 6.
    case alert(UInt8)
    /// A content type of RFC 8446, section 5.1; 22: a change of keys, which the kernel cannot
    /// follow. 0: it could not be read.
    case other(type: UInt8)
  }

  /// A message of two bytes with a control message that has a record's type: one header and a byte,
  /// as `struct cmsghdr` has them on 64-bit Linux.
  private static func withControlMessage(
    _ text: inout (UInt8, UInt8), type: UInt8, _ kind: Int32,
    _ body: (UnsafeMutablePointer<msghdr>) -> Void
  ) {
    var control = InlineArray<3, UInt64>(repeating: 0)
    control[0] = 17
    control[1] = UInt64(level) | UInt64(kind) << 32
    control[2] = UInt64(type)
    var span = control.mutableSpan
    withUnsafeMutableBytes(of: &text) { text in
      span.withUnsafeMutableBufferPointer { control in
        var vector = iovec(iov_base: text.baseAddress, iov_len: text.count)
        withUnsafeMutablePointer(to: &vector) {
          var message = msghdr()
          message.msg_iov = $0
          message.msg_iovlen = 1
          message.msg_control = UnsafeMutableRawPointer(control.baseAddress)
          message.msg_controllen = 24
          body(&message)
        }
      }
    }
  }
}
