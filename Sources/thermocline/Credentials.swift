import Configuration
import NBDProtocol
import TLS

extension PoolConfiguration {
  /// Whether addresses that other machines reach may be served.
  var allowsRemote: Bool { tls?.mode == .required || listen.allowsPlaintext }

  /// Reads certificates and keys, unless encryption is off.
  func makeCredentials() throws -> (TLSMode, TLSCredentials?) {
    guard let tls else { return (.unavailable, nil) }
    if tls.mode == .off { return (.forbidden, nil) }
    var files = TLSFiles()
    files.certificate = tls.certificate
    files.key = tls.key
    files.authority = tls.authority
    files.revoked = tls.revoked
    files.clients = tls.clients
    files.sharedKeys = tls.sharedKeys
    do throws(TLSError) {
      return (tls.mode == .required ? .required : .offered, try TLSCredentials(files))
    } catch {
      throw Refusal("\(error).", "\(file) names it under [tls].")
    }
  }
}
