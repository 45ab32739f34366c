/// Why a handshake ends in a closed connection. Never sent; for the log and the counters.
package enum HandshakeFailure: UInt8, Error, Sendable {
  /// The client said ABORT; its ACK is among the replies.
  case aborted
  case unknownClientFlags
  case badMagic
  case tooManyOptions
  case optionTooLong
  /// EXPORT_NAME cannot be answered with an error, only by closing.
  case exportNameRefused

  package var text: StaticString {
    switch self {
    case .aborted: "the client ended the handshake"
    case .unknownClientFlags: "the client set flags unknown to the server"
    case .badMagic: "an option does not begin with its magic number"
    case .tooManyOptions: "too many options"
    case .optionTooLong: "an option carries too much data"
    case .exportNameRefused: "an export was asked for by EXPORT_NAME that cannot be had"
    }
  }
}

/// What came of one look at the window. Send the replies first, whatever the event.
package enum HandshakeEvent: Equatable, Sendable {
  /// The window holds no complete unit; come again with more bytes.
  case needMore
  /// A unit was consumed; look again.
  case proceed
  /// Begin TLS after sending; drop the rest of the window, then call `encrypted`.
  case startTLS
  /// Requests follow in the window: go on with this session.
  case transmission(Session)
  /// Close after sending.
  case close(HandshakeFailure)
}

/// An event and how many bytes of the window it took.
package struct HandshakeStep: Equatable, Sendable {
  package var consumed: Int
  package var event: HandshakeEvent
}

/// The server's side of the fixed newstyle handshake ("Newstyle negotiation", "Fixed newstyle
/// negotiation"): a trivial value, one for each connection. See `NBDProtocol` for its states.
package struct Handshake: Sendable, BitwiseCopyable {
  /// Magic, option, length.
  package static let optionHeader = 16
  /// Room that one step's replies need at most (N6): GO with name and description of 4096 bytes.
  package static let replyCapacity = 16_384

  enum State: UInt8, Sendable { case awaitingFlags, haggling, finished }
  /// The export is known under two names; a selection of contexts counts for one of them.
  enum ChosenName: UInt8, Sendable { case empty, canonical }

  var state = State.awaitingFlags
  var sendsZeroes = true
  /// The client understands replies to options; without it there is no TLS ("TLS support").
  var isFixed = true
  var isEncrypted = false
  var style = ReplyStyle.simple
  var selection = MetaSelection()
  var selectedFor: ChosenName? = nil
  var options = 0

  package init() {}

  /// Writes the greeting, which the server sends first. Returns its length, 18 bytes.
  package static func writeGreeting(to memory: UnsafeMutableRawPointer) -> Int {
    memory.putBig64(0, Magic.initial)
    memory.putBig64(8, Magic.option)
    memory.putBig16(16, HandshakeFlags.fixedNewstyle | HandshakeFlags.noZeroes)
    return 18
  }

  /// TLS is established: everything negotiated before is forgotten (`NBD_OPT_STARTTLS`).
  package mutating func encrypted() {
    style = .simple
    selection = MetaSelection()
    selectedFor = nil
    isEncrypted = true
  }

  /// Looks at the window's first unit: the client's flags, or one option with all its data.
  ///
  /// The window must be able to hold `Limits.optionData` + `optionHeader` bytes.
  package mutating func step(
    _ window: UnsafeRawBufferPointer, replies: inout OptionReplyWriter, offer: borrowing Offer
  ) -> HandshakeStep {
    switch state {
    case .awaitingFlags: return takeFlags(window)
    case .haggling: return takeOption(window, &replies, offer)
    case .finished: return HandshakeStep(consumed: 0, event: .needMore)
    }
  }

  /// "Client flags": unknown ones must drop the connection.
  private mutating func takeFlags(_ window: UnsafeRawBufferPointer) -> HandshakeStep {
    guard window.count >= 4 else { return HandshakeStep(consumed: 0, event: .needMore) }
    let flags = window.baseAddress!.big32(0)
    let known = UInt32(HandshakeFlags.fixedNewstyle | HandshakeFlags.noZeroes)
    guard flags & ~known == 0 else { return close(.unknownClientFlags, 4) }
    sendsZeroes = flags & UInt32(HandshakeFlags.noZeroes) == 0
    isFixed = flags & UInt32(HandshakeFlags.fixedNewstyle) != 0
    state = .haggling
    return HandshakeStep(consumed: 4, event: .proceed)
  }

  private mutating func takeOption(
    _ window: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter,
    _ offer: borrowing Offer
  ) -> HandshakeStep {
    guard window.count >= Self.optionHeader else {
      return HandshakeStep(consumed: 0, event: .needMore)
    }
    let header = window.baseAddress!
    guard header.big64(0) == Magic.option else { return close(.badMagic, Self.optionHeader) }
    let option = header.big32(8)
    let length = header.big32(12)
    guard options < offer.limits.options else {
      return close(.tooManyOptions, Self.optionHeader)
    }
    guard length <= offer.limits.optionData else {
      return close(.optionTooLong, Self.optionHeader)
    }
    let total = Self.optionHeader + Int(length)
    guard window.count >= total else { return HandshakeStep(consumed: 0, event: .needMore) }
    options += 1
    let data = UnsafeRawBufferPointer(rebasing: window[Self.optionHeader..<total])
    let mark = replies.count
    var event = perform(option, data, &replies, offer)
    if replies.overflowed {
      replies.rewind(to: mark)
      replies.error(option, .tooBig, "the reply is too long")
      event = .proceed
    }
    switch event {
    case .transmission, .close: state = .finished
    case .needMore, .proceed, .startTLS: break
    }
    return HandshakeStep(consumed: total, event: event)
  }

  private mutating func close(_ failure: HandshakeFailure, _ consumed: Int) -> HandshakeStep {
    state = .finished
    return HandshakeStep(consumed: consumed, event: .close(failure))
  }

  /// One complete option: the gates that hold for all of them, then its own rules.
  private mutating func perform(
    _ option: UInt32, _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter,
    _ offer: borrowing Offer
  ) -> HandshakeEvent {
    let type = OptionType(rawValue: option)
    if type == .abort {
      replies.plain(option, .ack)
      return .close(.aborted)
    }
    if offer.isShuttingDown {
      guard type != .exportName else { return .close(.exportNameRefused) }
      replies.error(option, .shutdown, "the server is shutting down")
      return .proceed
    }
    if offer.tls == .required && !isEncrypted && (type != .startTLS || !isFixed) {
      guard type != .exportName && isFixed else { return .close(.exportNameRefused) }
      replies.error(option, .tlsRequired, "this server wants TLS first")
      return .proceed
    }
    guard let type else {
      replies.error(option, .unsupported, "option not known")
      return .proceed
    }
    return perform(type, data, &replies, offer)
  }

  private mutating func perform(
    _ type: OptionType, _ data: UnsafeRawBufferPointer, _ replies: inout OptionReplyWriter,
    _ offer: borrowing Offer
  ) -> HandshakeEvent {
    switch type {
    case .exportName: return exportName(data, &replies, offer)
    case .info, .go: return infoOrGo(type, data, &replies, offer)
    case .list: list(data, &replies, offer)
    case .startTLS: return startTLS(data, &replies, offer)
    case .structuredReply, .extendedHeaders: choose(type, data, &replies)
    case .listMetaContext: listContexts(data, &replies, offer)
    case .setMetaContext: setContexts(data, &replies, offer)
    case .abort: return .close(.aborted)
    }
    return .proceed
  }
}
