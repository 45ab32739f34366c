/// The little of HTTP/1.1 (RFC 9112) that the control socket speaks: `GET` without a body, and a
/// response of known length that ends the connection. Pure.
package enum HTTPMessage {
  /// What a request's bytes are, so far.
  package enum Request: Equatable, Sendable {
    /// The end of the header has not come yet.
    case incomplete
    case get(path: String)
    /// A method other than GET.
    case unsupported
    case malformed
  }

  /// Looks at the bytes received so far.
  package static func parseRequest(_ bytes: some Collection<UInt8>) -> Request {
    guard let header = header(in: bytes) else { return .incomplete }
    guard let line = header.first else { return .malformed }
    let words = line.split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 3, words[1].hasPrefix("/"), words[2].hasPrefix("HTTP/1.") else {
      return .malformed
    }
    return words[0] == "GET" ? .get(path: String(words[1])) : .unsupported
  }

  /// A whole response.
  package static func response(status: Int, body: [UInt8]) -> [UInt8] {
    let reason =
      switch status {
      case 200: "OK"
      case 400: "Bad Request"
      case 404: "Not Found"
      case 405: "Method Not Allowed"
      case 503: "Service Unavailable"
      default: "Internal Server Error"
      }
    let head = "HTTP/1.1 \(status) \(reason)\r\nContent-Type: application/json\r\n"
      + "Content-Length: \(body.count)\r\nConnection: close\r\n\r\n"
    return Array(head.utf8) + body
  }

  package static func request(path: String) -> [UInt8] {
    Array("GET \(path) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".utf8)
  }

  /// Status and body of a whole response; nil when the bytes are none.
  package static func parseResponse(_ bytes: [UInt8]) -> (status: Int, body: [UInt8])? {
    guard let header = header(in: bytes), let end = endOfHeader(bytes) else { return nil }
    let words = header.first?.split(separator: " ") ?? []
    guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]) else {
      return nil
    }
    let body = Array(bytes[end...])
    for line in header.dropFirst() {
      let parts = line.split(separator: ":", maxSplits: 1)
      guard parts.count == 2, parts[0].lowercased() == "content-length" else { continue }
      guard Int(parts[1].drop { $0 == " " }) == body.count else { return nil }
    }
    return (status, body)
  }

  private static func header(in bytes: some Collection<UInt8>) -> [String]? {
    let bytes = Array(bytes)
    guard let end = endOfHeader(bytes) else { return nil }
    let text = String(decoding: bytes[..<(end - 4)], as: UTF8.self)
    return text.split(separator: "\r\n", omittingEmptySubsequences: false).map(String.init)
  }

  /// The index behind the empty line.
  private static func endOfHeader(_ bytes: [UInt8]) -> Int? {
    guard bytes.count >= 4 else { return nil }
    return (4...bytes.count).first { end in
      bytes[end - 4] == 13 && bytes[end - 3] == 10 && bytes[end - 2] == 13 && bytes[end - 1] == 10
    }
  }
}
