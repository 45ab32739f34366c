import NBDProtocol

/// A client's bytes, built field by field in network order.
struct Bytes {
  var all: [UInt8] = []

  func u16(_ v: UInt16) -> Bytes { adding(v.bigEndian) }
  func u32(_ v: UInt32) -> Bytes { adding(v.bigEndian) }
  func u64(_ v: UInt64) -> Bytes { adding(v.bigEndian) }
  func raw(_ bytes: [UInt8]) -> Bytes { Bytes(all: all + bytes) }
  func text(_ s: String) -> Bytes { raw(Array(s.utf8)) }
  func string(_ s: String) -> Bytes { u32(UInt32(s.utf8.count)).text(s) }

  private func adding<T>(_ v: T) -> Bytes { raw(withUnsafeBytes(of: v) { Array($0) }) }

  func flags(_ f: UInt32 = 3) -> Bytes { u32(f) }
  func option(_ type: UInt32, _ data: Bytes = Bytes()) -> Bytes {
    u64(0x4948_4156_454f_5054).u32(type).u32(UInt32(data.all.count)).raw(data.all)
  }
  func go(_ name: String = "", type: UInt32 = 7, requests: [UInt16] = []) -> Bytes {
    var data = Bytes().string(name).u16(UInt16(requests.count))
    for r in requests { data = data.u16(r) }
    return option(type, data)
  }
  func contexts(_ type: UInt32, _ name: String = "", _ queries: [String]) -> Bytes {
    var data = Bytes().string(name).u32(UInt32(queries.count))
    for q in queries { data = data.string(q) }
    return option(type, data)
  }
  func request(
    _ type: UInt16, flags: UInt16 = 0, cookie: UInt64 = 7, offset: UInt64 = 0, length: UInt64 = 0,
    extended: Bool = false
  ) -> Bytes {
    let head = u32(extended ? 0x21e4_1c71 : 0x2560_9513).u16(flags).u16(type).u64(cookie)
      .u64(offset)
    return extended ? head.u64(length) : head.u32(UInt32(length))
  }
}

/// Reads what the server wrote.
struct Reader {
  var rest: [UInt8]
  init(_ bytes: [UInt8]) { rest = bytes }

  mutating func u16() -> UInt16 { UInt16(take(2)) }
  mutating func u32() -> UInt32 { UInt32(take(4)) }
  mutating func u64() -> UInt64 { take(8) }
  mutating func text(_ n: Int) -> String { String(decoding: raw(n), as: UTF8.self) }
  mutating func raw(_ n: Int) -> [UInt8] {
    let count = min(n, rest.count)
    defer { rest.removeFirst(count) }
    return Array(rest[..<count])
  }
  private mutating func take(_ n: Int) -> UInt64 { raw(n).reduce(0) { $0 << 8 | UInt64($1) } }
}

/// One reply to an option.
struct Answer: Equatable {
  var option: UInt32
  var type: UInt32
  var data: [UInt8]

  static func all(_ bytes: [UInt8]) -> [Answer] {
    var reader = Reader(bytes)
    var answers: [Answer] = []
    while reader.rest.count >= 20 {
      guard reader.u64() == 0x3e889045565a9 else { break }
      let option = reader.u32()
      let type = reader.u32()
      let length = Int(reader.u32())
      answers.append(Answer(option: option, type: type, data: reader.raw(length)))
    }
    return answers
  }
}

/// What a handshake made of a stream of bytes.
struct Outcome: Equatable {
  var events: [HandshakeEvent] = []
  var replies: [UInt8] = []
  /// Bytes left in the window.
  var rest: [UInt8] = []
  var answers: [Answer] { Answer.all(replies) }
  var types: [UInt32] { answers.map(\.type) }
  var session: Session? {
    if case .transmission(let session)? = events.last { return session }
    return nil
  }
}

/// Feeds a stream to a handshake in pieces of the given sizes (the last size repeats).
func drive(_ stream: [UInt8], _ offer: Offer = .example, pieces: [Int] = [Int.max]) -> Outcome {
  var handshake = Handshake()
  var outcome = Outcome()
  var window: [UInt8] = []
  var source = stream[...]
  var piece = 0
  while !source.isEmpty {
    let size = min(pieces[min(piece, pieces.count - 1)], source.count)
    piece += 1
    window += source.prefix(size)
    source = source.dropFirst(size)
    var isOver = false
    while !isOver {
      let step = look(&handshake, window, offer, &outcome.replies)
      window.removeFirst(step.consumed)
      switch step.event {
      case .needMore: isOver = true
      case .proceed: outcome.events.append(step.event)
      case .startTLS:
        outcome.events.append(step.event)
        window = []
        handshake.encrypted()
      case .transmission, .close:
        outcome.events.append(step.event)
        outcome.rest = window + source
        return outcome
      }
    }
  }
  outcome.rest = window
  return outcome
}

func look(
  _ handshake: inout Handshake, _ window: [UInt8], _ offer: Offer, _ replies: inout [UInt8]
) -> HandshakeStep {
  withUnsafeTemporaryAllocation(byteCount: Handshake.replyCapacity, alignment: 8) { memory in
    var writer = OptionReplyWriter(memory)
    let step = window.withUnsafeBytes { handshake.step($0, replies: &writer, offer: offer) }
    replies += memory[..<writer.count]
    return step
  }
}

extension Offer {
  /// An export `vol` of 1 MiB with a few contexts.
  static var example: Offer {
    var export = Export(name: "vol", description: "a volume", size: 1 << 20)
    export.contexts = [
      .allocation, .allocationDepth, .dirtyBitmap(snapshot: "monday", id: 16),
      .dirtyBitmap(snapshot: "tuesday", id: 17), .tier,
      MetaContext(id: 9, name: "x-wide:all", isWide: true),
    ]
    return Offer(export: export, limits: Limits())
  }
}

/// A session as a handshake with these options would end.
func makeSession(
  _ style: ReplyStyle, contexts: [String] = [], offer: Offer = .example
) -> Session {
  var stream = Bytes().flags()
  if style == .structured { stream = stream.option(8) }
  if style == .extended { stream = stream.option(11) }
  if !contexts.isEmpty { stream = stream.contexts(10, "", contexts) }
  return drive(stream.go().all, offer).session!
}

/// A small, seeded generator (xorshift), so that a failure can be run again.
struct Random: RandomNumberGenerator {
  var state: UInt64
  init(seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 | 1 }
  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }
}
