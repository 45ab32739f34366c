import CGnuTLS

/// Encryption between a connection and its socket, by GnuTLS. It does no I/O of its own: bytes of
/// the wire come and go through buffers that the caller receives into and sends from.
///
///     socket ─► incoming ─► [GnuTLS] ─► decrypt ─► window, payload
///     socket ◄─ outgoing ◄─ [GnuTLS] ◄─ encrypt ◄─ headers, payload
///
/// | channel | on | next |
/// |---|---|---|
/// | idle | begin | handshaking |
/// | handshaking | handshake says done, and the peer is one that may come in | open |
/// | handshaking, open | a record that is wrong, the peer's end | over |
/// | open | moveToKernel | idle: the socket itself encrypts (`KernelTLS`) |
/// | any | end | idle |
///
/// Invariants:
/// - T1: what was received before `begin` is never seen by the channel, and nothing of one peer by
///   the next: buffers are emptied, and a session is made for each.
/// - T2: outgoing bytes stay where they are from `outgoing` to `sent`; nothing is added meanwhile.
/// - T3: nothing is decrypted before the handshake is done; nothing is handed out unchecked.
/// - T4: a peer whose certificate was not verified, or is not on the list, or who has no key, never
///   gets past the handshake.
/// - T5: a session leaves for the kernel between two records, both ways: what is received and sent
///   next is the next record's first byte.
///
/// Protocol versions: TLS 1.2 and 1.3. No session tickets, no renegotiation. GnuTLS takes memory of
/// its own, about 60 KiB for a session; it is not part of the server's budget.
package enum TLS {}

/// What is wrong with credentials, or with a peer: a sentence.
package struct TLSError: Error, CustomStringConvertible {
  package let description: String

  init(_ text: String, _ code: Int32) {
    description = "\(text): \(TLSError.text(code))"
  }

  init(_ text: String) { description = text }

  /// GnuTLS's words for an error code, without the full stop that it ends them with.
  package static func text(_ code: Int32) -> String {
    guard let words = gnutls_strerror(code) else { return "error \(code)" }
    let text = String(cString: words)
    return text.hasSuffix(".") ? String(text.dropLast()) : text
  }
}
