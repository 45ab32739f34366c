import Base
package import NBDProtocol

/// The server's side of one connection, made of nothing but the codec: a peer's bytes go in, what
/// the codec made of them is written down. Two conversations about the same bytes, however these
/// were cut, must have the same transcript.
///
/// - A handshake that ends in transmission goes on with requests; payloads are skipped.
/// - Each request is judged and answered with everything that its verdict allows.
/// - The bytes behind STARTTLS are taken for what TLS delivers. (That a server drops what came in
///   the clear depends on the cutting by its nature.)
/// - Rules that hold for each step are checked on the way: see `checkStep` and `checkRequest`.
package struct Conversation {
  /// Where a conversation begins.
  package enum Start: Sendable {
    case handshake(Offer)
    case transmission(Session)
  }

  /// What was made of some bytes.
  package enum Event: Equatable, Sendable {
    case handshake(HandshakeEvent)
    case request(Request, Verdict)
    case payloadSkipped
    case close(TransmissionFailure)
  }

  /// An event, and the sums of bytes consumed and written when it had happened.
  package struct Entry: Equatable, Sendable {
    package var event: Event
    package var consumed: Int
    package var written: Int
  }

  /// All that a peer could notice.
  package struct Transcript: Equatable, Sendable {
    package var entries: [Entry] = []
    package var replies: [UInt8] = []
    package var consumed = 0
  }

  enum Phase {
    case handshake(Handshake, Offer)
    case transmission(Session)
    case over
  }

  package internal(set) var transcript = Transcript()
  var phase: Phase
  var isEncrypted = false
  private var window: [UInt8] = []
  private var payload = 0
  private let memory: Memory

  /// Fenced memory for windows and replies; conversations may use it in turn.
  package struct Memory {
    let window: Fence
    let replies = Fence(capacity: Handshake.replyCapacity)

    /// For streams of at most `capacity` bytes.
    package init(capacity: Int) { window = Fence(capacity: capacity) }
  }

  package init(_ start: Start, memory: Memory) {
    self.memory = memory
    switch start {
    case .handshake(let offer): phase = .handshake(Handshake(), offer)
    case .transmission(let session): phase = .transmission(session)
    }
  }

  /// Takes the next piece of what the peer says.
  package mutating func receive(_ piece: UnsafeRawBufferPointer) {
    window += piece
    var goesOn = true
    while goesOn {
      switch phase {
      case .handshake(var handshake, let offer): goesOn = step(&handshake, offer)
      case .transmission(let session): goesOn = takeRequest(session)
      case .over: return
      }
    }
  }

  /// The window's bytes, the fence right behind them.
  private func view() -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(window.withUnsafeBytes { memory.window.copy($0) })
  }

  private mutating func note(_ event: Event, consumed: Int) {
    window.removeFirst(consumed)
    transcript.consumed += consumed
    transcript.entries.append(
      Entry(event: event, consumed: transcript.consumed, written: transcript.replies.count))
  }

  private mutating func step(_ handshake: inout Handshake, _ offer: Offer) -> Bool {
    let view = view()
    let area = memory.replies.room(Handshake.replyCapacity)
    var writer = OptionReplyWriter(area)
    let step = handshake.step(view, replies: &writer, offer: offer)
    let replies = UnsafeRawBufferPointer(rebasing: area[..<writer.count])
    checkStep(step, view, replies, offer)
    transcript.replies += replies
    phase = .handshake(handshake, offer)
    guard step.event != .needMore else { return false }
    note(.handshake(step.event), consumed: step.consumed)
    switch step.event {
    case .needMore, .proceed: break
    case .startTLS:
      handshake.encrypted()
      isEncrypted = true
      phase = .handshake(handshake, offer)
    case .transmission(let session): phase = .transmission(session)
    case .close: phase = .over
    }
    return true
  }

  private mutating func takeRequest(_ session: Session) -> Bool {
    if payload > 0 {
      let count = min(payload, window.count)
      payload -= count
      guard payload == 0 else {
        window.removeFirst(count)
        transcript.consumed += count
        return false
      }
      note(.payloadSkipped, consumed: count)
    }
    let view = view()
    switch session.parse(view) {
    case .needMore:
      check(view.count < Session.requestWindow, "a window of that size holds any request")
      return false
    case .close(let failure):
      note(.close(failure), consumed: 0)
      phase = .over
    case .request(let request, let consumed):
      let verdict = session.validate(request)
      checkRequest(request, verdict, consumed: consumed, view, session)
      payload = Int(request.payload)
      answer(request, verdict, session)
      note(.request(request, verdict), consumed: consumed)
      if verdict == .disconnect { phase = .over }
    }
    return true
  }

  /// Lets the codec write one reply of a request, where it has just the room that it may take.
  mutating func write(_ body: (UnsafeMutableRawPointer) -> Int) {
    let room = memory.replies.room(ReplyEncoder.maximumHeader)
    let count = body(room.baseAddress!)
    check(count > 0 && count <= room.count, "N5: a reply's header fits")
    transcript.replies += room[..<count]
  }

  /// Fenced memory for the descriptors of one status chunk; gone with the next reply.
  func descriptors(_ count: Int) -> UnsafeMutableRawBufferPointer {
    memory.replies.room(count * 16)
  }
}

extension Conversation {
  /// The transcript of `stream` cut into pieces of the given sizes; the last one repeats.
  package static func transcript(
    _ stream: UnsafeRawBufferPointer, _ start: Start, pieces: [Int] = [.max], _ memory: Memory
  ) -> Transcript {
    var conversation = Conversation(start, memory: memory)
    var at = 0
    var next = 0
    while at < stream.count {
      let size = min(pieces[min(next, pieces.count - 1)], stream.count - at)
      next += 1
      conversation.receive(UnsafeRawBufferPointer(rebasing: stream[at..<(at + size)]))
      at += size
    }
    return conversation.transcript
  }

  /// Checks that some other cuttings of `stream`, which the stream itself chooses, give the same
  /// as the whole: byte by byte, in short pieces, in long ones.
  package static func checkSplits(_ stream: UnsafeRawBufferPointer, _ start: Start) {
    let memory = Memory(capacity: stream.count)
    let whole = transcript(stream, start, memory)
    var seed: UInt64 = 0
    for byte in stream { seed = mix64(seed ^ UInt64(byte)) }
    var random = Random(seed: seed)
    var cuttings: [[Int]] = stream.count <= 512 ? [[1]] : []
    for longest in [20, 200] {
      cuttings.append((0..<64).map { _ in 1 + random.next(below: longest) })
    }
    for pieces in cuttings {
      let cut = transcript(stream, start, pieces: pieces, memory)
      check(cut == whole, "cut into \(pieces):\n\(cut)\nwhole:\n\(whole)")
    }
  }
}
