import Base
import Glibc
import Synchronization

/// The control socket of a running server: listens at a path, answers on a thread of its own.
package final class ControlServer: Sendable {
  /// What is answered to `GET` of a path: status and JSON; nil for a path that is not there.
  package typealias Answer = @Sendable (String) -> (status: Int, body: [UInt8])?

  /// What becomes of a connection that asks for `takeover`: true when it was taken, and is no
  /// longer the control socket's.
  package typealias Takeover = @Sendable (_ socket: Int32) -> Bool

  private let path: String
  private let inode: UInt64
  private let listener: Int32
  /// A pipe: its write end is closed to end the thread.
  private let wake: (read: Int32, write: Int32)
  private let answer: Answer
  private let takeover: Takeover
  private let thread = Mutex<pthread_t?>(nil)

  /// Makes the socket; `start` begins to answer.
  package init(
    path: String, takeover: @escaping Takeover = { _ in false }, answer: @escaping Answer
  ) throws(ControlError) {
    try Self.removeStale(path)
    let listener = try UnixSocket.make()
    // Before it is bound, a socket's mode is that of the file to be.
    fchmod(listener, 0o600)
    guard let result = UnixSocket.withAddress(path, { bind(listener, $0, $1) }) else {
      close(listener)
      throw ControlError(.failed, "\(path) is too long for the path of a socket")
    }
    guard result == 0, listen(listener, 16) == 0 else {
      let reason = UnixSocket.reason()
      close(listener)
      throw ControlError(.failed, "the control socket \(path) cannot be made: \(reason)")
    }
    self.path = path
    self.inode = Self.inode(of: path)
    self.listener = listener
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else {
      throw ControlError(.failed, "no pipe could be made: \(UnixSocket.reason())")
    }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    self.wake = (ends[0], ends[1])
    self.answer = answer
    self.takeover = takeover
  }

  /// Begins to answer. Signals stay with the threads that were there before.
  package func start() throws(ControlError) {
    guard let thread = Thread.start({ self.serve() }) else {
      throw ControlError(.failed, "no thread could be made for the control socket")
    }
    self.thread.withLock { $0 = thread }
  }

  /// Stops answering, waits for the thread to end and removes the socket. Call it once.
  package func stop() {
    close(wake.write)
    if let thread = thread.withLock({ $0 }) { pthread_join(thread, nil) }
    if Self.inode(of: path) == inode { unlink(path) }
    close(listener)
    close(wake.read)
  }

  private func serve() {
    while true {
      var files = (
        pollfd(fd: listener, events: Int16(POLLIN), revents: 0),
        pollfd(fd: wake.read, events: Int16(POLLIN), revents: 0)
      )
      let ready = withUnsafeMutableBytes(of: &files) {
        poll($0.baseAddress!.assumingMemoryBound(to: pollfd.self), 2, -1)
      }
      if ready < 0 { continue }
      if files.1.revents != 0 { return }
      let peer = accept(listener, nil, nil)
      guard peer >= 0 else {
        // Out of descriptors, as a rule: who waits goes on waiting.
        usleep(50_000)
        continue
      }
      _ = fcntl(peer, F_SETFD, FD_CLOEXEC)
      if !exchange(with: peer) { close(peer) }
    }
  }

  /// Answers one request; true when the connection was taken.
  private func exchange(with peer: Int32) -> Bool {
    UnixSocket.setTimeouts(peer)
    let end = time(nil) + ControlLimits.timeout
    var bytes: [UInt8] = []
    while true {
      switch HTTPMessage.parseRequest(bytes) {
      case .incomplete:
        guard bytes.count < ControlLimits.maxRequest, time(nil) <= end,
          let count = UnixSocket.receive(1024, from: peer, into: &bytes), count > 0
        else { return false }
      case .get(let path) where path == ControlLimits.takeoverPath && takeover(peer): return true
      case .get(let path):
        let (status, body) = answer(path) ?? (404, Array(#"{"error":"not found"}"#.utf8))
        return respond(status, body, to: peer)
      case .unsupported:
        return respond(405, Array(#"{"error":"only GET is understood"}"#.utf8), to: peer)
      case .malformed:
        return respond(400, Array(#"{"error":"not a request"}"#.utf8), to: peer)
      }
    }
  }

  private func respond(_ status: Int, _ body: [UInt8], to peer: Int32) -> Bool {
    _ = UnixSocket.send(HTTPMessage.response(status: status, body: body), to: peer)
    return false
  }

  /// Removes what a killed server left behind, and nothing else.
  private static func removeStale(_ path: String) throws(ControlError) {
    var status = stat()
    guard lstat(path, &status) == 0 else { return }
    guard status.st_mode & S_IFMT == S_IFSOCK else {
      throw ControlError(.failed, "\(path) is in the way of the control socket: it is no socket")
    }
    let probe = try UnixSocket.make()
    defer { close(probe) }
    let result = UnixSocket.withAddress(path) { connect(probe, $0, $1) }
    guard result != 0, errno == ECONNREFUSED else {
      throw ControlError(.failed, "another server answers on \(path)")
    }
    unlink(path)
  }

  private static func inode(of path: String) -> UInt64 {
    var status = stat()
    return lstat(path, &status) == 0 ? UInt64(status.st_ino) : 0
  }
}
