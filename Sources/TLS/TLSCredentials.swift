import CGnuTLS
import Glibc

/// Where credentials lie, and who may come in.
package struct TLSFiles: Sendable, Equatable {
  /// PEM: the server's certificate, then those between it and its authority; and its key.
  package var certificate: String? = nil
  package var key: String? = nil
  /// PEM: clients must have a certificate of one of these authorities.
  package var authority: String? = nil
  /// PEM: certificates that count no more.
  package var revoked: String? = nil
  /// Names of clients that may come in: a certificate's distinguished name (RFC 4514), or
  /// `sha256:` and the certificate's digest in hexadecimal, or the name that goes with a shared
  /// key.
  /// nil lets in whoever was verified.
  package var clients: [String]? = nil
  /// Keys of clients that have no certificate; see `SharedKeys`.
  package var sharedKeys: String? = nil

  package init() {}
}

/// Certificates and keys, read once. A session keeps those it began with.
package final class TLSCredentials: @unchecked Sendable {
  private var certificates: gnutls_certificate_credentials_t? = nil
  private var sharedKeys: gnutls_psk_server_credentials_t? = nil
  private var priorities: gnutls_priority_t? = nil
  private let clients: Set<String>?
  private let asksForCertificate: Bool
  /// What a client's certificate must be good for, if it says what it is good for (RFC 5280,
  /// section 4.2.1.12): else a server's own would let its owner in. Sessions refer to it.
  private let purpose: UnsafeMutablePointer<gnutls_typed_vdata_st>

  /// Reads everything; an error names the file.
  package init(_ files: TLSFiles) throws(TLSError) {
    clients = files.clients.map { Set($0.map(Self.canonical)) }
    asksForCertificate = files.authority != nil
    purpose = .allocate(capacity: 1)
    purpose.initialize(
      to: gnutls_typed_vdata_st(
        type: GNUTLS_DT_KEY_PURPOSE_OID,
        data: strdup(GNUTLS_KP_TLS_WWW_CLIENT).map {
          UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt8.self)
        }, size: 0))
    try check(gnutls_global_init(), "GnuTLS cannot be used")
    // ChaCha20 last: GnuTLS has it without vector instructions, four times slower than AES-GCM.
    // Shared keys go with (EC)DHE only: a key that is known later opens nothing of before.
    var order = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE"
      + ":-CHACHA20-POLY1305:+CHACHA20-POLY1305"
    if files.sharedKeys != nil { order += ":+ECDHE-PSK:+DHE-PSK" }
    try check(gnutls_priority_init(&priorities, order, nil), "GnuTLS cannot be used")
    if let certificate = files.certificate, let key = files.key {
      try check(gnutls_certificate_allocate_credentials(&certificates), "No memory")
      try check(
        gnutls_certificate_set_x509_key_file(certificates, certificate, key, GNUTLS_X509_FMT_PEM),
        "The certificate \(certificate) and the key \(key) cannot be used")
      try readAuthority(files)
    }
    if let path = files.sharedKeys {
      try Self.checkKeyFile(path)
      try check(gnutls_psk_allocate_server_credentials(&sharedKeys), "No memory")
      try check(
        gnutls_psk_set_server_credentials_file(sharedKeys, path),
        "The shared keys \(path) cannot be used")
    }
    if certificates == nil && sharedKeys == nil {
      throw TLSError("TLS wants a certificate and its key, or shared keys")
    }
  }

  deinit {
    if let certificates { gnutls_certificate_free_credentials(certificates) }
    if let sharedKeys { gnutls_psk_free_server_credentials(sharedKeys) }
    if let priorities { gnutls_priority_deinit(priorities) }
    free(purpose.pointee.data)
    purpose.deallocate()
  }

  private func readAuthority(_ files: TLSFiles) throws(TLSError) {
    if let authority = files.authority {
      let count = gnutls_certificate_set_x509_trust_file(
        certificates, authority, GNUTLS_X509_FMT_PEM)
      try check(min(count, 0), "The authority \(authority) cannot be used")
      guard count > 0 else { throw TLSError("The authority \(authority) has no certificate") }
    }
    if let revoked = files.revoked {
      let count = gnutls_certificate_set_x509_crl_file(certificates, revoked, GNUTLS_X509_FMT_PEM)
      try check(min(count, 0), "The list of revoked certificates \(revoked) cannot be used")
    }
  }

  /// GnuTLS opens the file for each handshake: that it can be read is found out now.
  private static func checkKeyFile(_ path: String) throws(TLSError) {
    var data = gnutls_datum_t()
    let code = gnutls_load_file(path, &data)
    guard code == 0 else { throw TLSError("The shared keys \(path) cannot be read", code) }
    defer { gnutls_memset(data.data, 0, Int(data.size)); gnutls_release(data.data) }
    let text = UnsafeRawBufferPointer(start: data.data, count: Int(data.size))
    if let line = SharedKeys.firstMistake(in: text) {
      throw TLSError(
        "Line \(line) of the shared keys \(path) is not `name:key` with a key of at least "
          + "\(SharedKeys.leastDigits) hexadecimal digits")
    }
  }

  /// Digests are compared without regard to case and colons.
  private static func canonical(_ name: String) -> String {
    guard name.hasPrefix("sha256:") else { return name }
    return "sha256:" + name.dropFirst(7).lowercased().filter { $0 != ":" }
  }

  private func check(_ code: Int32, _ text: String) throws(TLSError) {
    if code < 0 { throw TLSError(text, code) }
  }

  // MARK: Sessions

  /// A new server session with these credentials, nil when there is no memory for it.
  func makeSession() -> gnutls_session_t? {
    var session: gnutls_session_t? = nil
    let flags =
      UInt32(CGnuTLS.GNUTLS_SERVER.rawValue) | UInt32(CGnuTLS.GNUTLS_NONBLOCK.rawValue)
      | UInt32(CGnuTLS.GNUTLS_NO_TICKETS.rawValue) | UInt32(CGnuTLS.GNUTLS_NO_SIGNAL.rawValue)
    guard gnutls_init(&session, flags) == 0, let session else { return nil }
    guard prepare(session) else {
      gnutls_deinit(session)
      return nil
    }
    return session
  }

  private func prepare(_ session: gnutls_session_t) -> Bool {
    guard gnutls_priority_set(session, priorities) == 0 else { return false }
    func use(_ kind: gnutls_credentials_type_t, _ credentials: OpaquePointer) -> Bool {
      gnutls_credentials_set(session, kind, UnsafeMutableRawPointer(credentials)) == 0
    }
    if let certificates {
      guard use(GNUTLS_CRD_CERTIFICATE, certificates) else { return false }
      if asksForCertificate {
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE)
        // Verified in the midst of the handshake: the peer hears of it as an alert.
        gnutls_session_set_verify_cert2(session, purpose, 1, 0)
      }
    }
    return sharedKeys.map { use(GNUTLS_CRD_PSK, $0) } ?? true
  }

  /// Whether the peer of a session whose handshake is done may come in, and what it is called.
  func admits(_ session: gnutls_session_t) -> (isAllowed: Bool, name: String) {
    if gnutls_auth_get_type(session) == GNUTLS_CRD_PSK {
      guard let name = gnutls_psk_server_get_username(session) else { return (false, "nobody") }
      let text = String(cString: name)
      return (clients?.contains(text) ?? true, text)
    }
    // Where keys are shared, one is needed, or a certificate that is asked for.
    guard asksForCertificate else {
      return (clients == nil && sharedKeys == nil, "a client without a certificate")
    }
    guard let names = Self.certificateNames(session) else { return (false, "nobody") }
    let isAllowed = clients.map { !$0.isDisjoint(with: names) } ?? true
    return (isAllowed, names[0])
  }

  /// The distinguished name and the digest of the peer's certificate.
  private static func certificateNames(_ session: gnutls_session_t) -> [String]? {
    var count: UInt32 = 0
    guard let chain = gnutls_certificate_get_peers(session, &count), count > 0 else { return nil }
    var certificate: gnutls_x509_crt_t? = nil
    guard gnutls_x509_crt_init(&certificate) == 0 else { return nil }
    defer { gnutls_x509_crt_deinit(certificate) }
    guard gnutls_x509_crt_import(certificate, chain, GNUTLS_X509_FMT_DER) == 0 else { return nil }
    var name = gnutls_datum_t()
    guard gnutls_x509_crt_get_dn3(certificate, &name, 0) == 0 else { return nil }
    defer { gnutls_release(name.data) }
    var digest = InlineArray<32, UInt8>(repeating: 0)
    var length = 32
    var span = digest.mutableSpan
    let code = span.withUnsafeMutableBufferPointer {
      gnutls_x509_crt_get_fingerprint(certificate, GNUTLS_DIG_SHA256, $0.baseAddress, &length)
    }
    guard code == 0, length == 32 else { return nil }
    var text = "sha256:"
    for i in 0..<32 {
      text += String(digest[i] >> 4, radix: 16) + String(digest[i] & 15, radix: 16)
    }
    let bytes = UnsafeBufferPointer(start: name.data, count: Int(name.size))
    return [String(decoding: bytes, as: UTF8.self), text]
  }
}
