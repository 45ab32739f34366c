import Glibc

/// A stream socket in the file system, with blocking calls that end by a deadline.
enum UnixSocket {
  /// A new socket that is closed on exec; its calls give up after `ControlLimits.timeout`.
  static func make() throws(ControlError) -> Int32 {
    let socket = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard socket >= 0 else { throw ControlError(.failed, "no socket could be made: \(reason())") }
    setTimeouts(socket)
    return socket
  }

  static func setTimeouts(_ socket: Int32) {
    var limit = timeval(tv_sec: ControlLimits.timeout, tv_usec: 0)
    let size = socklen_t(MemoryLayout<timeval>.size)
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, size)
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, size)
  }

  /// Calls `body` with the address of `path`; nil when the path is too long for one.
  static func withAddress(
    _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
  ) -> Int32? {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path), !bytes.isEmpty else {
      return nil
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    return withUnsafePointer(to: &address) {
      // SAFETY: every sockaddr_un begins like a sockaddr; the length says how long it is.
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  /// Sends all bytes; false when the peer is gone or too slow.
  static func send(_ bytes: [UInt8], to socket: Int32) -> Bool {
    var sent = 0
    while sent < bytes.count {
      let count = bytes[sent...].withUnsafeBytes {
        Glibc.send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      if count > 0 {
        sent += count
      } else if count < 0, errno == EINTR {
        continue
      } else {
        return false
      }
    }
    return true
  }

  /// Receives up to `most` bytes more; 0 at the end, nil on an error or a time-out.
  static func receive(_ most: Int, from socket: Int32, into bytes: inout [UInt8]) -> Int? {
    var piece = [UInt8](repeating: 0, count: most)
    while true {
      let count = recv(socket, &piece, most, 0)
      if count < 0, errno == EINTR { continue }
      guard count >= 0 else { return nil }
      bytes += piece[..<count]
      return count
    }
  }

  static func reason() -> String { String(cString: strerror(errno)) }
}
