import NBDProtocol

/// Answers to requests: all that the encoders can say to a verdict, so that each is run.
extension Conversation {
  mutating func answer(_ request: Request, _ verdict: Verdict, _ session: Session) {
    let before = transcript.replies.count
    let encoder = ReplyEncoder(style: session.style, request: request)
    switch verdict {
    case .disconnect: return
    case .succeed: write { encoder.writeDone(to: $0) }
    case .refuse(let refusal):
      write { encoder.writeError(refusal, to: $0) }
      write { encoder.writeError(refusal, at: request.offset, to: $0) }
    case .perform(.read): answerRead(request, encoder, session)
    case .perform(.blockStatus): answerStatus(request, encoder, session)
    case .perform: write { encoder.writeDone(to: $0) }
    }
    checkAnswer(from: before, request, session)
  }

  private mutating func answerRead(_ request: Request, _ encoder: ReplyEncoder, _ session: Session)
  {
    let length = Int(request.length)
    if session.style != .simple {
      write {
        encoder.writeHole(
          at: request.offset, length: UInt32(length), isLast: false, to: $0)
      }
    }
    write { encoder.writeData(at: request.offset, length: length, isLast: true, to: $0) }
  }

  private mutating func answerStatus(
    _ request: Request, _ encoder: ReplyEncoder, _ session: Session
  ) {
    for position in 0..<session.selection.count
    where request.contexts & 1 << UInt16(position) != 0 {
      let rest = request.length / 3
      let flags = request.cookie & 0x3_0000_0003
      let memory = descriptors(3)
      for (i, word) in [rest, flags, rest, 1, request.length - 2 * rest, flags].enumerated() {
        memory.storeBytes(of: word, toByteOffset: 8 * i, as: UInt64.self)
      }
      let count = StatusDescriptors.encode(
        memory.baseAddress!, count: 3, style: session.style,
        only: request.flags.contains(.requestOne) ? request.length : nil)
      let written = Array(memory[..<(count * StatusDescriptors.size(session.style))])
      write {
        encoder.writeStatus(
          context: session.contextIDs[position], count: count, isLast: false, to: $0)
      }
      transcript.replies += written
    }
    write { encoder.writeDone(to: $0) }
  }

  /// The negotiated style holds for every message (N7), and each gives back the cookie as it came.
  private func checkAnswer(from before: Int, _ request: Request, _ session: Session) {
    transcript.replies.withUnsafeBytes { bytes in
      var rest = UnsafeRawBufferPointer(rebasing: bytes[before...])
      while !rest.isEmpty {
        let magic = rest.big32(0)
        let cookie = rest.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        check(cookie == request.cookie, "a cookie comes back")
        var length: Int
        switch session.style {
        case .simple:
          check(magic == 0x6744_6698, "a simple reply")
          length = 16
        case .structured:
          check(magic == 0x668e_33ef, "a structured reply")
          length = 20 + Int(rest.big32(16))
        case .extended:
          check(magic == 0x6e8a_278c, "an extended reply")
          check(rest.big64(16) == request.offset, "an extended reply repeats the offset")
          length = 32 + Int(rest.big64(24))
        }
        // The data behind its header is not written here.
        let type =
          session.style == .simple
          ? 0
          : rest.loadUnaligned(
            fromByteOffset: 6, as: UInt16.self
          ).bigEndian
        if type == 1 { length -= Int(request.length) }
        check(length >= 16 && length <= rest.count, "a reply is as long as it says")
        rest = UnsafeRawBufferPointer(rebasing: rest[length...])
      }
    }
  }
}
