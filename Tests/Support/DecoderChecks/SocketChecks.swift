import Base
import FoundationEssentials
import Glibc
import NBDProtocol
import RingIO
import Server
import TLS

/// What comes from another process besides requests: messages of a handover, and TLS.
enum SocketChecks {
  /// Messages on a handover's socket: each is what the bytes say, up to what is wrong.
  static func handoverMessages(_ bytes: UnsafeRawBufferPointer) {
    var ends: [Int32] = [-1, -1]
    check(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0, "a pair of sockets")
    check(write(ends[0], bytes.baseAddress, bytes.count) == bytes.count, "the socket takes all")
    close(ends[0])
    defer { close(ends[1]) }
    let channel = DescriptorChannel(ends[1], seconds: 5)
    var rest = bytes[...]
    while rest.count >= 8 {
      let magic = rest.loadUnaligned(as: UInt32.self)
      let length = Int(rest.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
      let body = rest.dropFirst(8)
      let message = try? channel.receive()
      guard magic == DescriptorChannel.magic, length <= DescriptorChannel.mostBytes,
        length <= body.count
      else { return check(message == nil, "what is no message is refused") }
      check(message.map { $0.bytes.elementsEqual(body.prefix(length)) } == true, "a message")
      check(message?.descriptor == nil, "no descriptor was sent")
      rest = body.dropFirst(length)
    }
    check((try? channel.receive()) == nil, "the end")
  }

  /// A connection as one server describes it to the next: what cannot be is refused, what can be is
  /// described in the same words again.
  static func handedConnection(_ bytes: UnsafeRawBufferPointer, _ offer: Offer) {
    guard let handed = try? JSONDecoder().decode(HandedConnection.self, from: Data(bytes)) else {
      return
    }
    let session = Session(handed.negotiated, offer)
    let handshake = Handshake(handed.negotiated, offer, isEncrypted: handed.isEncrypted)
    check(session == nil || handshake == nil, "one of the two")
    var expected = handed.negotiated
    if let session {
      // Of a handshake that is over nobody asks these.
      expected.sendsZeroes = true
      expected.isFixed = true
      expected.isForEmptyName = nil
      expected.options = 0
      checkSame(session.negotiated(offer.export), expected)
    }
    if let handshake {
      // Nobody was told of an export.
      expected.isReadOnly = nil
      expected.advertisedPayload = nil
      checkSame(handshake.negotiated(offer), expected)
    }
  }

  /// A context that is named twice is selected once.
  private static func checkSame(_ found: Negotiated?, _ expected: Negotiated) {
    var found = found
    check(Set(found?.contexts ?? []) == Set(expected.contexts), "the contexts again")
    found?.contexts = expected.contexts
    check(found == expected, "in the same words: \(expected)")
  }

  /// A TLS server that gets these bytes: it goes the same way, however they are cut.
  static func tls(_ bytes: UnsafeRawBufferPointer) {
    let whole = TLSPeer.shared.outcome(bytes, piece: max(1, bytes.count))
    for piece in [1, 5, 64] {
      let cut = TLSPeer.shared.outcome(bytes, piece: piece)
      check(cut == whole, "in pieces of \(piece): \(cut), not \(whole)")
    }
  }

  /// What is before the first mistake has none, and what begins with it begins with a mistake.
  static func sharedKeys(_ bytes: UnsafeRawBufferPointer) {
    guard let line = SharedKeys.firstMistake(in: bytes) else { return }
    let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    check((1...lines.count).contains(line), "line \(line) is there")
    let start = lines[line - 1].startIndex
    let before = UnsafeRawBufferPointer(rebasing: bytes[..<start])
    check(SharedKeys.firstMistake(in: before) == nil, "the first mistake")
    let behind = UnsafeRawBufferPointer(rebasing: bytes[start...])
    check(SharedKeys.firstMistake(in: behind) == 1, "a mistake of its own")
  }
}

/// A server's end of TLS, with one shared key; used for one input after the other.
private final class TLSPeer {
  nonisolated(unsafe) static let shared = TLSPeer()

  private let credentials: TLSCredentials
  private var channel: TLSChannel

  private init() {
    // GnuTLS reads the keys for each handshake: the file stays, without a name.
    guard let stream = tmpfile() else { fatalError("no temporary file") }
    let file = fileno(stream)
    let text = "fuzz:" + String(repeating: "5a", count: 32) + "\n"
    check(write(file, text, text.utf8.count) == text.utf8.count, "the keys are written")
    var files = TLSFiles()
    files.sharedKeys = "/proc/self/fd/\(file)"
    guard let credentials = try? TLSCredentials(files) else { fatalError("no credentials") }
    self.credentials = credentials
    let size = TLSChannel.memory
    var arena = Arena(
      base: .allocate(byteCount: size, alignment: 4096), capacity: size)
    channel = TLSChannel(in: &arena)
  }

  /// How the handshake went, and how many bytes the last record lacks.
  struct Outcome: Equatable {
    var end: String?
    var missing = 0
  }

  func outcome(_ bytes: UnsafeRawBufferPointer, piece: Int) -> Outcome {
    check(channel.begin(credentials), "there is memory for a session")
    defer { channel.end() }
    var outcome = Outcome()
    var rest = bytes[...]
    while !rest.isEmpty && outcome.end == nil {
      let part = rest.prefix(piece)
      let room = channel.room()
      check(room.count >= part.count, "there is room")
      room.copyMemory(from: UnsafeRawBufferPointer(rebasing: part))
      channel.received(part.count)
      rest = rest.dropFirst(part.count)
      switch channel.handshake() {
      case .goesOn: break
      case .done(let peer): outcome.end = "done \(peer)"
      // For which reason depends on the cut: GnuTLS looks at a whole record in another order.
      case .failed: outcome.end = "failed"
      }
      channel.sent()
    }
    if outcome.end == nil {
      outcome.missing = channel.missing
      check((0...65_535).contains(outcome.missing), "a record's length")
    }
    return outcome
  }
}
