import Administration
import Glibc
import Testing

@Suite struct ControlServerTests {
  private let path = "/tmp/thermocline-control-\(getpid())-\(UInt64.random(in: 0 ..< .max)).sock"

  private func makeServer() throws -> ControlServer {
    try ControlServer(path: path) { path in
      path == "/status" ? (200, Array("{\"a\":1}".utf8)) : path == "/busy" ? (503, [49]) : nil
    }
  }

  @Test func answersAndCleansUp() throws {
    let server = try makeServer()
    try server.start()
    var status = stat()
    #expect(lstat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
    #expect(try ControlClient.get("/status", socket: path) == Array("{\"a\":1}".utf8))
    #expect(throws: ControlError.self) { try ControlClient.get("/nothing", socket: path) }
    let busy = #expect(throws: ControlError.self) { try ControlClient.get("/busy", socket: path) }
    #expect(busy?.description.contains("503 1") == true)
    #expect(busy?.kind == .failed)
    server.stop()
    #expect(lstat(path, &status) != 0)
    let gone = #expect(throws: ControlError.self) { try ControlClient.get("/", socket: path) }
    #expect(gone?.kind == .notRunning)
  }

  @Test func takesOverAfterAKilledServerOnly() throws {
    let first = try makeServer()
    try first.start()
    #expect(throws: ControlError.self) { try makeServer() }
    #expect(try ControlClient.get("/status", socket: path).count == 7)
    first.stop()

    // A killed server leaves its socket behind: bound, but nobody listens.
    let left = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let bound = withUnsafeBytes(of: &address) {
      bind(
        left, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t($0.count))
    }
    #expect(bound == 0)
    close(left)
    let second = try makeServer()
    try second.start()
    #expect(try ControlClient.get("/status", socket: path).count == 7)
    second.stop()
  }

  @Test func leavesFilesAlone() throws {
    close(open(path, O_CREAT | O_WRONLY, 0o600))
    defer { unlink(path) }
    let error = #expect(throws: ControlError.self) { try makeServer() }
    #expect(error?.description.contains("it is no socket") == true)
    #expect(access(path, F_OK) == 0)
  }
}

@Suite struct HTTPMessageTests {
  @Test(arguments: [
    ("", .incomplete), ("GET /a HTTP/1.1\r\n", .incomplete),
    ("GET /a HTTP/1.1\r\n\r\n", .get(path: "/a")),
    ("GET /a HTTP/1.0\r\nHost: b\r\n\r\n", .get(path: "/a")),
    ("POST /a HTTP/1.1\r\n\r\n", .unsupported), ("GET a HTTP/1.1\r\n\r\n", .malformed),
    ("GET /a HTTP/2\r\n\r\n", .malformed), ("\r\n\r\n", .malformed),
    ("GET  /a HTTP/1.1\r\n\r\n", .malformed),
  ] as [(String, HTTPMessage.Request)])
  func parses(text: String, request: HTTPMessage.Request) {
    #expect(HTTPMessage.parseRequest(Array(text.utf8)) == request)
  }

  @Test func readsBackResponses() {
    let bytes = HTTPMessage.response(status: 503, body: [1, 2, 3])
    let response = HTTPMessage.parseResponse(bytes)
    #expect(response?.status == 503)
    #expect(response?.body == [1, 2, 3])
    for end in 0..<bytes.count {
      #expect(HTTPMessage.parseResponse(Array(bytes[..<end])) == nil)
    }
  }
}
