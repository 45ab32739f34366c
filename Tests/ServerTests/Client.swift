import Glibc
import NBDProtocol
import RingIO
import Testing

/// A plain client that waits for each thing it does, at most 10 s.
final class Client {
  let descriptor: Int32
  private(set) var style = ReplyStyle.simple
  private var cookie: UInt64 = 100
  fileprivate var partial: [UInt64: Reply] = [:]

  /// Connects and takes the greeting; with a style, goes on to transmission.
  init(_ server: TestServer, _ style: ReplyStyle? = .simple, contexts: [String] = []) throws {
    descriptor = try Socket.connect(to: server.address)
    var time = timeval(tv_sec: 10, tv_usec: 0)
    setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(
      descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    guard let style else { return }
    #expect(read(18).count == 18)
    send(Packet().u32(3))
    if style == .structured { option(8) }
    if style == .extended { option(11) }
    if !contexts.isEmpty {
      var data = Packet().u32(0).u32(UInt32(contexts.count))
      for name in contexts { data = data.u32(UInt32(name.utf8.count)).raw(Array(name.utf8)) }
      option(10, data)
    }
    option(7, Packet().u32(0).u16(0))
    self.style = style
  }

  deinit { close() }

  /// The cookie of the first request.
  let firstCookie: UInt64 = 101

  /// Says that no more is sent; replies can still be read.
  func hangUp() { shutdown(descriptor, Int32(SHUT_WR)) }

  private var isClosed = false
  private var senders: [pthread_t] = []
  func close() {
    guard !isClosed else { return }
    isClosed = true
    if !senders.isEmpty {
      // They know the descriptor, which is another's when it is closed.
      shutdown(descriptor, Int32(SHUT_RDWR))
      for thread in senders { pthread_join(thread, nil) }
    }
    Glibc.close(descriptor)
  }

  /// Sends an option and takes its replies up to the ACK.
  func option(_ type: UInt32, _ data: Packet = Packet()) {
    let head = Packet().u64(0x4948_4156_454f_5054).u32(type).u32(UInt32(data.bytes.count))
    send(head.raw(data.bytes))
    while true {
      var head = Parser(read(20))
      guard head.rest.count == 20 else {
        Issue.record("no reply to option \(type)")
        return
      }
      _ = head.u64()
      _ = head.u32()
      let kind = head.u32()
      _ = read(Int(head.u32()))
      if kind == 1 { return }
      if kind >> 31 == 1 {
        Issue.record("option \(type) failed: \(kind & 0xff)")
        return
      }
    }
  }

  func send(_ packet: Packet) { send(packet.bytes) }

  /// Sends from a thread of its own, for a client that reads replies meanwhile.
  func sendMeanwhile(_ packet: Packet, thenHangsUp: Bool = false) {
    final class Work: Sendable {
      let descriptor: Int32
      let bytes: [UInt8]
      let hangsUp: Bool
      init(_ descriptor: Int32, _ bytes: [UInt8], _ hangsUp: Bool) {
        self.descriptor = descriptor
        self.bytes = bytes
        self.hangsUp = hangsUp
      }
    }
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { argument in
        let work = Unmanaged<Work>.fromOpaque(argument!).takeRetainedValue()
        Client.send(work.descriptor, work.bytes)
        if work.hangsUp { shutdown(work.descriptor, Int32(SHUT_WR)) }
        return nil
      }, Unmanaged.passRetained(Work(descriptor, packet.bytes, thenHangsUp)).toOpaque())
    senders.append(thread)
  }

  @discardableResult
  func send(_ bytes: [UInt8]) -> Bool { Client.send(descriptor, bytes) }

  @discardableResult
  private static func send(_ descriptor: Int32, _ bytes: [UInt8]) -> Bool {
    var sent = 0
    while sent < bytes.count {
      let n = bytes.withUnsafeBytes {
        Glibc.send(
          descriptor, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
      }
      if n < 0 && errno == EINTR { continue }
      if n <= 0 { return false }
      sent += n
    }
    return true
  }

  /// Reads so many bytes, fewer at the end of the stream.
  func read(_ count: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      while filled < count {
        let n = recv(descriptor, buffer.baseAddress! + filled, count - filled, 0)
        // A ring that this thread has used may interrupt it once more.
        if n < 0 && errno == EINTR { continue }
        if n <= 0 { return }
        filled += n
      }
    }
  }

  /// The server has closed the connection, and sent nothing before.
  var isAtEnd: Bool {
    var byte: UInt8 = 0
    var n = recv(descriptor, &byte, 1, 0)
    while n < 0 && errno == EINTR { n = recv(descriptor, &byte, 1, 0) }
    return n == 0 || (n < 0 && errno == ECONNRESET)
  }

  /// A request's header under a fresh cookie, which is returned.
  func request(
    _ type: UInt16, flags: UInt16 = 0, offset: UInt64 = 0, length: UInt64 = 0
  ) -> (packet: Packet, cookie: UInt64) {
    cookie += 1
    let isExtended = style == .extended
    let carries: UInt16 = isExtended && type == 1 ? 32 : 0
    let head = Packet().u32(isExtended ? 0x21e4_1c71 : 0x2560_9513).u16(flags | carries).u16(type)
      .u64(cookie).u64(offset)
    return (isExtended ? head.u64(length) : head.u32(UInt32(length)), cookie)
  }

  /// Sends a request and waits for its reply.
  func call(
    _ type: UInt16, flags: UInt16 = 0, offset: UInt64 = 0, length: UInt64 = 0,
    payload: [UInt8] = []
  ) -> Reply {
    let (packet, cookie) = request(type, flags: flags, offset: offset, length: length)
    send(packet.raw(payload))
    let reply = reply(expecting: { _ in (type, offset, length) })
    #expect(reply.cookie == cookie || reply.isCut)
    return reply
  }

  func write(_ offset: UInt64, _ data: [UInt8], flags: UInt16 = 0) -> Reply {
    call(1, flags: flags, offset: offset, length: UInt64(data.count), payload: data)
  }

  func read(_ offset: UInt64, _ length: Int, flags: UInt16 = 0) -> Reply {
    call(0, flags: flags, offset: offset, length: UInt64(length))
  }
}

/// One whole reply.
struct Reply {
  var cookie: UInt64 = 0
  var error: UInt32 = 0
  var text = ""
  var errorOffset: UInt64? = nil
  /// Of a READ, put together.
  var data: [UInt8] = []
  var dataChunks = 0
  var holeBytes = 0
  /// Of a status: each chunk's context, and what is in all chunks.
  var contexts: [UInt32] = []
  var descriptors: [[UInt64]] = []
  /// The connection ended in its midst.
  var isCut = false
}

extension Client {
  typealias Asked = (type: UInt16, offset: UInt64, length: UInt64)

  /// Takes one reply, the first that is complete: chunks of several may come in turns. `expecting`
  /// says what was asked under a cookie.
  func reply(expecting asked: (UInt64) -> Asked) -> Reply {
    let size = style == .simple ? 16 : style == .structured ? 20 : 32
    while true {
      var head = Parser(read(size))
      guard head.rest.count == size else {
        var reply = partial.first?.value ?? Reply()
        reply.isCut = true
        return reply
      }
      let magic = head.u32()
      if style == .simple {
        var reply = Reply()
        #expect(magic == 0x6744_6698)
        reply.error = head.u32()
        reply.cookie = head.u64()
        let request = asked(reply.cookie)
        if request.type == 0 && reply.error == 0 {
          reply.data = read(Int(request.length))
          reply.isCut = reply.data.count < request.length
        }
        return reply
      }
      #expect(magic == (style == .structured ? 0x668e_33ef : 0x6e8a_278c))
      let isLast = head.u16() == 1
      let type = head.u16()
      let cookie = head.u64()
      var reply = partial.removeValue(forKey: cookie) ?? Reply()
      reply.cookie = cookie
      let request = asked(cookie)
      if style == .extended { #expect(head.u64() == request.offset) }
      let length = style == .structured ? Int(head.u32()) : Int(head.u64())
      if reply.data.isEmpty && request.type == 0 {
        reply.data = [UInt8](repeating: 0xdd, count: Int(request.length))
      }
      chunk(type, Parser(read(length)), length, request, &reply)
      if isLast || reply.isCut { return reply }
      partial[cookie] = reply
    }
  }

  private func chunk(
    _ type: UInt16, _ body: Parser, _ length: Int, _ request: Asked, _ reply: inout Reply
  ) {
    var body = body
    if body.rest.count < length {
      reply.isCut = true
      return
    }
    switch type {
    case 0: #expect(length == 0)
    case 1:
      let at = Int(body.u64() - request.offset)
      reply.data.replaceSubrange(at..<at + length - 8, with: body.rest)
      reply.dataChunks += 1
    case 2:
      let at = Int(body.u64() - request.offset)
      let count = Int(body.u32())
      reply.data.replaceSubrange(at..<at + count, with: [UInt8](repeating: 0, count: count))
      reply.holeBytes += count
    case 5, 6:
      reply.contexts.append(body.u32())
      if type == 6 { #expect(Int(body.u32()) == (length - 8) / 16) }
      while !body.rest.isEmpty {
        reply.descriptors.append(
          type == 6 ? [body.u64(), body.u64()] : [UInt64(body.u32()), UInt64(body.u32())])
      }
    case 0x8001, 0x8002:
      reply.error = body.u32()
      reply.text = body.text(Int(body.u16()))
      if type == 0x8002 { reply.errorOffset = body.u64() }
    default: Issue.record("chunk of type \(type)")
    }
  }
}

/// Bytes in network order.
struct Packet {
  var bytes: [UInt8] = []
  func u16(_ v: UInt16) -> Packet { adding(v.bigEndian) }
  func u32(_ v: UInt32) -> Packet { adding(v.bigEndian) }
  func u64(_ v: UInt64) -> Packet { adding(v.bigEndian) }
  func raw(_ more: [UInt8]) -> Packet { Packet(bytes: bytes + more) }
  private func adding<T>(_ v: T) -> Packet { raw(withUnsafeBytes(of: v) { Array($0) }) }
}

struct Parser {
  var rest: ArraySlice<UInt8>
  init(_ bytes: [UInt8]) { rest = bytes[...] }
  mutating func u16() -> UInt16 { UInt16(take(2)) }
  mutating func u32() -> UInt32 { UInt32(take(4)) }
  mutating func u64() -> UInt64 { take(8) }
  mutating func text(_ n: Int) -> String {
    defer { rest = rest.dropFirst(n) }
    return String(decoding: rest.prefix(n), as: UTF8.self)
  }
  private mutating func take(_ n: Int) -> UInt64 {
    defer { rest = rest.dropFirst(n) }
    return rest.prefix(n).reduce(0) { $0 << 8 | UInt64($1) }
  }
}
