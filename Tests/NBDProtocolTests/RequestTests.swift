import NBDProtocol
import Testing

func parse(_ session: Session, _ bytes: Bytes) -> RequestStep {
  bytes.all.withUnsafeBytes { session.parse($0) }
}

/// Parses only the first `count` bytes.
func parse(_ session: Session, _ bytes: Bytes, first count: Int) -> RequestStep {
  parse(session, Bytes(all: Array(bytes.all[..<count])))
}

func parsed(_ session: Session, _ bytes: Bytes) -> Request {
  guard case .request(let request, _) = parse(session, bytes) else { fatalError("no request") }
  return request
}

@Suite struct RequestTests {
  @Test func compactHeader() {
    let session = makeSession(.structured)
    let bytes = Bytes().request(0, flags: 4, cookie: 0x0102, offset: 1 << 40, length: 0xffff_ffff)
    for count in 0..<28 { #expect(parse(session, bytes, first: count) == .needMore) }
    guard case .request(let request, let consumed) = parse(session, bytes.text("more")) else {
      Issue.record("not parsed")
      return
    }
    #expect(consumed == 28)
    #expect(request.offset == 1 << 40 && request.length == 0xffff_ffff && request.payload == 0)
    #expect(request.flags == .dontFragment && request.command == .read)
    #expect(request.cookie.bigEndian == 0x0102)
  }

  @Test func extendedHeader() {
    let session = makeSession(.extended)
    let bytes = Bytes().request(4, offset: 8, length: .max, extended: true)
    for count in 0..<32 { #expect(parse(session, bytes, first: count) == .needMore) }
    let request = parsed(session, bytes)
    #expect(request.command == .trim && request.length == .max && request.payload == 0)
  }

  @Test func badMagicCloses() {
    for style: ReplyStyle in [.simple, .structured, .extended] {
      let session = makeSession(style)
      let other = Bytes().request(0, extended: style != .extended).u32(0)
      #expect(parse(session, other) == .close(.badMagic))
      #expect(parse(session, Bytes().raw([UInt8](repeating: 0, count: 40))) == .close(.badMagic))
    }
  }

  @Test func writePayloadFollows() {
    let session = makeSession(.simple)
    #expect(parsed(session, Bytes().request(1, length: 512)).payload == 512)
    #expect(parsed(session, Bytes().request(1, length: 64 << 20)).payload == 64 << 20)
    #expect(parse(session, Bytes().request(1, length: 64 << 20 + 1)) == .close(.payloadTooLong))
    // Without extended headers no other command carries any.
    for type: UInt16 in [0, 2, 3, 4, 5, 6, 7, 8, 99] {
      #expect(parsed(session, Bytes().request(type, flags: 32, length: 512)).payload == 0)
    }
  }

  @Test func extendedPayloadsAreDrained() {
    let session = makeSession(.extended)
    for type: UInt16 in [0, 3, 4, 5, 6, 7, 8, 99] {
      let request = parsed(
        session, Bytes().request(type, flags: 32, length: 4096, extended: true))
      #expect(request.payload == 4096 && request.isMalformed)
      let long = Bytes().request(type, flags: 32, length: 64 << 20 + 1, extended: true)
      #expect(parse(session, long) == .close(.payloadTooLong))
    }
    let write = parsed(session, Bytes().request(1, flags: 32, length: 512, extended: true))
    #expect(write.payload == 512 && !write.isMalformed)
    // QEMU 10 forgets the flag, and sends the payload.
    let bare = parsed(session, Bytes().request(1, length: 512, extended: true))
    #expect(bare.payload == 512 && !bare.isMalformed)
  }

  @Test func blockStatusNamesContexts() {
    let session = makeSession(.extended, contexts: ["x-thermocline:tier", "base:allocation"])
    func ask(_ ids: [UInt32]) -> Request {
      var bytes = Bytes().request(
        7, flags: 32, length: UInt64(8 + 4 * ids.count), extended: true).u64(8192)
      for id in ids { bytes = bytes.u32(id) }
      for count in 0..<bytes.all.count {
        #expect(parse(session, bytes, first: count) == .needMore)
      }
      return parsed(session, bytes)
    }
    #expect(ask([1]).contexts == 2 && ask([1]).length == 8192 && ask([1]).payload == 0)
    #expect(ask([3, 1]).contexts == 3)
    #expect(session.validate(ask([3, 1])) == .perform(.blockStatus))
    #expect(session.validate(ask([])) == .succeed)
    for ids: [UInt32] in [[1, 1], [2], [0], [1, 9]] {
      #expect(ask(ids).isMalformed)
      #expect(session.validate(ask(ids)) == .refuse(.malformed))
    }
    // More identifiers than were selected: drained, not waited for in the window.
    let long = parsed(session, Bytes().request(7, flags: 32, length: 8 + 12, extended: true))
    #expect(long.payload == 20 && long.isMalformed)
    for length: UInt64 in [1, 7, 9, 13] {
      let odd = parsed(session, Bytes().request(7, flags: 32, length: length, extended: true))
      #expect(odd.payload == UInt32(length) && odd.isMalformed)
    }
  }

  @Test func noBytesTrap() {
    var random = Random(seed: 42)
    for style: ReplyStyle in [.simple, .structured, .extended] {
      let session = makeSession(style, contexts: style == .simple ? [] : ["base:allocation"])
      for _ in 0..<200_000 {
        var bytes = (0..<Int.random(in: 0...112, using: &random)).map { _ in
          UInt8.random(in: 0...255, using: &random)
        }
        if Bool.random(using: &random), bytes.count >= 8 {
          let magic = Bytes().u32(style == .extended ? 0x21e4_1c71 : 0x2560_9513)
            .u16(UInt16.random(in: 0...64, using: &random))
            .u16(UInt16.random(in: 0...9, using: &random)).all
          bytes.replaceSubrange(0..<8, with: magic)
        }
        guard case .request(let request, let consumed) = parse(session, Bytes(all: bytes)) else {
          continue
        }
        #expect(consumed <= bytes.count && request.payload <= session.acceptedPayload)
        if case .perform(let command) = session.validate(request), command != .flush {
          #expect(request.length > 0 && request.length <= session.exportSize)
          #expect(request.offset <= session.exportSize - request.length)
        }
      }
    }
  }
}

@Suite struct HandshakeFuzzTests {
  @Test func noBytesTrapAndCuttingsAgree() {
    var random = Random(seed: 7)
    for _ in 0..<4000 {
      var stream = Bytes().flags(UInt32.random(in: 0...4, using: &random))
      for _ in 0..<Int.random(in: 1...6, using: &random) {
        stream = randomOption(stream, &random)
      }
      var bytes = stream.all
      for _ in 0..<Int.random(in: 0...2, using: &random) {
        bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(
          in: 0...255, using: &random)
      }
      var offer = Offer.example
      offer.tls = [.unavailable, .forbidden].randomElement(using: &random)!
      let whole = drive(bytes, offer)
      let pieces = (0..<8).map { _ in Int.random(in: 1...40, using: &random) }
      #expect(drive(bytes, offer, pieces: pieces) == whole)
    }
  }

  private func randomOption(_ stream: Bytes, _ random: inout Random) -> Bytes {
    switch Int.random(in: 0...6, using: &random) {
    case 0: stream.go(["", "vol", "x"].randomElement(using: &random)!, type: 6)
    case 1: stream.contexts(9, "vol", ["qemu:", "base:"])
    case 2: stream.contexts(10, "", ["base:allocation", "x-wide:all"])
    case 3: stream.option([3, 5, 8, 11].randomElement(using: &random)!)
    case 4: stream.go("", requests: [0, 3])
    default:
      stream.option(
        UInt32.random(in: 0...12, using: &random),
        Bytes(
          all: (0..<Int.random(in: 0...60, using: &random)).map { _ in
            UInt8.random(in: 0...255, using: &random)
          }))
    }
  }
}
