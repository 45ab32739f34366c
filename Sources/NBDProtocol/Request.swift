/// A request as it was received: parsed, not yet judged. A trivial value.
package struct Request: Equatable, Sendable, BitwiseCopyable {
  package var flags: CommandFlags
  /// As sent; may be no `CommandType`.
  package var type: UInt16
  /// Opaque; given back as it came.
  package var cookie: UInt64
  /// Bytes.
  package var offset: UInt64
  /// Bytes that the command is about (the effect length).
  package var length: UInt64
  /// Bytes of payload that follow the consumed header in the stream. The receiver takes (or
  /// drains) them before it parses the next request.
  package var payload: UInt32
  /// BLOCK_STATUS: bit *i* asks for the context at position *i* of the selection.
  package var contexts: UInt16
  /// The form of the request was wrong, such as a payload where none belongs.
  package var isMalformed: Bool

  /// What fills an unused place: a READ of nothing.
  package static var none: Request {
    Request(
      flags: [], type: 0, cookie: 0, offset: 0, length: 0, payload: 0, contexts: 0,
      isMalformed: false)
  }

  package var command: CommandType? { CommandType(rawValue: type) }
}

/// Why a connection in transmission is closed by the server.
package enum TransmissionFailure: UInt8, Error, Sendable {
  case badMagic
  /// A payload beyond `Limits.acceptedPayload` would have to be drained.
  case payloadTooLong

  package var text: StaticString {
    switch self {
    case .badMagic: "a request does not begin with its magic number"
    case .payloadTooLong: "a request carries too long a payload"
    }
  }
}

/// What came of one look at the window in transmission.
package enum RequestStep: Equatable, Sendable {
  /// The header is not complete; come again with more bytes.
  case needMore
  /// A request; its header (and a block status' list of contexts) took `consumed` bytes.
  case request(Request, consumed: Int)
  case close(TransmissionFailure)
}

extension Session {
  /// The longest piece of the window one request can take: header and a list of contexts.
  package static let requestWindow = 32 + 8 + 4 * MetaSelection.capacity

  /// Parses the request at the window's beginning ("Request message"), without judging it.
  package func parse(_ window: UnsafeRawBufferPointer) -> RequestStep {
    let header = requestHeader
    guard window.count >= header else { return .needMore }
    let bytes = window.baseAddress!
    let isExtended = style == .extended
    guard bytes.big32(0) == (isExtended ? Magic.extendedRequest : Magic.request) else {
      return .close(.badMagic)
    }
    var request = Request(
      flags: CommandFlags(rawValue: bytes.big16(4)), type: bytes.big16(6),
      cookie: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self), offset: bytes.big64(16),
      length: isExtended ? bytes.big64(24) : UInt64(bytes.big32(24)), payload: 0,
      contexts: .max, isMalformed: false)
    // A WRITE has its payload also where the flag is missing under extended headers: QEMU 10 sends
    // it so, though the specification says that it must not.
    let carries =
      request.type == CommandType.write.rawValue
      || isExtended && request.flags.contains(.payloadLength)
    guard carries else { return .request(request, consumed: header) }
    guard request.length <= UInt64(acceptedPayload) else { return .close(.payloadTooLong) }
    request.payload = UInt32(request.length)
    switch request.command {
    case .write: return .request(request, consumed: header)
    case .blockStatus: return parseContexts(&request, window)
    case .read, .disconnect, .flush, .trim, .cache, .writeZeroes, nil:
      request.isMalformed = true
      return .request(request, consumed: header)
    }
  }

  /// BLOCK_STATUS with a payload: 64 bits of effect length, then identifiers of contexts. A list
  /// that cannot be right (longer than the selection) is left to be drained.
  private func parseContexts(
    _ request: inout Request, _ window: UnsafeRawBufferPointer
  ) -> RequestStep {
    let payload = Int(request.payload)
    let count = (payload - 8) / 4
    guard payload >= 8, payload % 4 == 0, count <= selection.count else {
      request.isMalformed = true
      return .request(request, consumed: requestHeader)
    }
    let total = requestHeader + payload
    guard window.count >= total else { return .needMore }
    let list = window.baseAddress! + requestHeader
    request.length = list.big64(0)
    request.payload = 0
    request.contexts = 0
    for i in 0..<count {
      guard let position = position(of: list.big32(8 + 4 * i)),
        request.contexts & 1 << UInt16(position) == 0
      else {
        request.isMalformed = true
        break
      }
      request.contexts |= 1 << UInt16(position)
    }
    return .request(request, consumed: total)
  }
}
