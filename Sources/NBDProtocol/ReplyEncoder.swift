/// Writes the replies to one request into memory of the caller's. A trivial value: the style, the
/// cookie and the offset of the request, which extended replies repeat.
///
/// Each function returns the bytes written, at most `maximumHeader` (N5). Payload (data, status
/// descriptors) is sent behind the header by the caller.
package struct ReplyEncoder: Sendable, BitwiseCopyable {
  /// The longest header with its fixed part and an error's text.
  package static let maximumHeader = 128
  /// Bytes of an error's text that are sent at most.
  static let maximumText = 80

  package let style: ReplyStyle
  package let cookie: UInt64
  package let offset: UInt64

  package init(style: ReplyStyle, request: Request) {
    self.style = style
    cookie = request.cookie
    offset = request.offset
  }

  /// Success without data: a simple reply, or the final chunk of type NONE.
  package func writeDone(to memory: UnsafeMutableRawPointer) -> Int {
    guard style != .simple else { return simple(0, memory) }
    return chunk(.none, isLast: true, length: 0, memory)
  }

  /// An error as the reply's last message ("Error values"). With chunks it carries its text,
  /// and, where given, the offset in the export at which it happened.
  package func writeError(
    _ refusal: Refusal, at place: UInt64? = nil, to memory: UnsafeMutableRawPointer
  ) -> Int {
    guard style != .simple else { return simple(refusal.code.rawValue, memory) }
    let text = refusal.text
    let count = min(text.utf8CodeUnitCount, Self.maximumText)
    let header = chunk(
      place == nil ? .error : .errorOffset, isLast: true,
      length: UInt64(6 + count + (place == nil ? 0 : 8)), memory)
    let body = memory + header
    body.putBig32(0, refusal.code.rawValue)
    body.putBig16(4, UInt16(count))
    (body + 6).copyMemory(from: text.utf8Start, byteCount: count)
    guard let place else { return header + 6 + count }
    body.putBig64(6 + count, place)
    return header + 14 + count
  }

  /// The header before `length` bytes of a READ's data that begin at `place` in the export. A
  /// simple reply has one header before all of the data.
  package func writeData(
    at place: UInt64, length: Int, isLast: Bool, to memory: UnsafeMutableRawPointer
  ) -> Int {
    guard style != .simple else { return simple(0, memory) }
    let header = chunk(.offsetData, isLast: isLast, length: UInt64(length) + 8, memory)
    memory.putBig64(header, place)
    return header + 8
  }

  /// A part of a READ that reads as zeros. Not for simple replies.
  package func writeHole(
    at place: UInt64, length: UInt32, isLast: Bool, to memory: UnsafeMutableRawPointer
  ) -> Int {
    let header = chunk(.offsetHole, isLast: isLast, length: 12, memory)
    memory.putBig64(header, place)
    memory.putBig32(header + 8, length)
    return header + 12
  }

  /// The header of a status chunk with `count` descriptors, which follow it. Not for simple
  /// replies.
  package func writeStatus(
    context: UInt32, count: Int, isLast: Bool, to memory: UnsafeMutableRawPointer
  ) -> Int {
    if style == .extended {
      let header = chunk(
        .blockStatusExtended, isLast: isLast, length: 8 + 16 * UInt64(count), memory)
      memory.putBig32(header, context)
      memory.putBig32(header + 4, UInt32(count))
      return header + 8
    }
    let header = chunk(.blockStatus, isLast: isLast, length: 4 + 8 * UInt64(count), memory)
    memory.putBig32(header, context)
    return header + 4
  }

  /// "Simple reply message".
  private func simple(_ error: UInt32, _ memory: UnsafeMutableRawPointer) -> Int {
    memory.putBig32(0, Magic.simpleReply)
    memory.putBig32(4, error)
    memory.storeBytes(of: cookie, toByteOffset: 8, as: UInt64.self)
    return 16
  }

  /// "Structured reply chunk message" and "Extended reply chunk message".
  private func chunk(
    _ type: ChunkType, isLast: Bool, length: UInt64, _ memory: UnsafeMutableRawPointer
  ) -> Int {
    let isExtended = style == .extended
    memory.putBig32(0, isExtended ? Magic.extendedReply : Magic.structuredReply)
    memory.putBig16(4, isLast ? 1 : 0)
    memory.putBig16(6, type.rawValue)
    memory.storeBytes(of: cookie, toByteOffset: 8, as: UInt64.self)
    guard isExtended else {
      memory.putBig32(16, UInt32(truncatingIfNeeded: length))
      return 20
    }
    memory.putBig64(16, offset)
    memory.putBig64(24, length)
    return 32
  }
}
