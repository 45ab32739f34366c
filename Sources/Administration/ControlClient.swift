import Glibc

/// Asks a running server over its control socket.
package enum ControlClient {
  /// The body of the answer to `GET path`.
  package static func get(_ path: String, socket file: String) throws(ControlError) -> [UInt8] {
    let socket = try ask(path, socket: file)
    defer { close(socket) }
    var bytes: [UInt8] = []
    while let count = UnixSocket.receive(64 << 10, from: socket, into: &bytes), count > 0 {
      guard bytes.count <= ControlLimits.maxResponse else { break }
    }
    guard let (status, body) = HTTPMessage.parseResponse(bytes) else {
      throw ControlError(.failed, "the server on \(file) gave no complete answer")
    }
    guard status == 200 else {
      let text = String(decoding: body, as: UTF8.self)
      throw ControlError(.failed, "the server on \(file) answered \(status) \(text)")
    }
    return body
  }

  /// Asks a running server to hand over all that it serves; what it sends goes over the socket that
  /// is returned, and is the caller's.
  package static func takeover(socket file: String) throws(ControlError) -> Int32 {
    try ask(ControlLimits.takeoverPath, socket: file)
  }

  private static func ask(_ path: String, socket file: String) throws(ControlError) -> Int32 {
    let socket = try UnixSocket.make()
    do throws(ControlError) {
      try ask(path, socket, file)
      return socket
    } catch {
      close(socket)
      throw error
    }
  }

  private static func ask(
    _ path: String, _ socket: Int32, _ file: String
  ) throws(ControlError) {
    guard let result = UnixSocket.withAddress(file, { connect(socket, $0, $1) }) else {
      throw ControlError(.failed, "\(file) is too long for the path of a socket")
    }
    guard result == 0 else {
      if errno == ENOENT || errno == ECONNREFUSED {
        throw ControlError(.notRunning, "no server answers on \(file)")
      }
      throw ControlError(.failed, "\(file) cannot be reached: \(UnixSocket.reason())")
    }
    guard UnixSocket.send(HTTPMessage.request(path: path), to: socket) else {
      throw ControlError(.failed, "the server on \(file) does not take a request")
    }
  }
}
