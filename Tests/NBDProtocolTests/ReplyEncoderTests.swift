import NBDProtocol
import Testing

@Suite struct ReplyEncoderTests {
  private func encode(
    _ style: ReplyStyle, _ body: (ReplyEncoder, UnsafeMutableRawPointer) -> Int
  ) -> Reader {
    let session = makeSession(style)
    let request = parsed(
      session,
      Bytes().request(
        0, cookie: 0x0a0b_0c0d_0e0f_1011, offset: 4096, length: 8192, extended: style == .extended))
    var memory = [UInt8](repeating: 0xee, count: ReplyEncoder.maximumHeader + 8)
    let count = memory.withUnsafeMutableBytes {
      body(ReplyEncoder(style: style, request: request), $0.baseAddress!)
    }
    #expect(count <= ReplyEncoder.maximumHeader)
    #expect(memory[count...].allSatisfy { $0 == 0xee })
    return Reader(Array(memory[..<count]))
  }

  /// Checks a chunk's header and returns its payload's length.
  private func head(
    _ reader: inout Reader, _ style: ReplyStyle, type: UInt16, isLast: Bool
  ) -> UInt64 {
    #expect(reader.u32() == (style == .extended ? 0x6e8a_278c : 0x668e_33ef))
    #expect(reader.u16() == (isLast ? 1 : 0))
    #expect(reader.u16() == type)
    #expect(reader.u64() == 0x0a0b_0c0d_0e0f_1011)
    guard style == .extended else { return UInt64(reader.u32()) }
    #expect(reader.u64() == 4096)
    return reader.u64()
  }

  @Test func simpleReplies() {
    var done = encode(.simple) { $0.writeDone(to: $1) }
    #expect(done.u32() == 0x6744_6698 && done.u32() == 0 && done.u64() == 0x0a0b_0c0d_0e0f_1011)
    #expect(done.rest.isEmpty)
    var bad = encode(.simple) { $0.writeError(.noSpace, at: 9, to: $1) }
    #expect(bad.u32() == 0x6744_6698 && bad.u32() == 28)
    #expect(bad.rest.count == 8)
    let data = encode(.simple) { $0.writeData(at: 0, length: 9, isLast: true, to: $1) }
    #expect(data.rest.count == 16)
  }

  @Test(arguments: [ReplyStyle.structured, .extended]) func chunks(style: ReplyStyle) {
    var done = encode(style) { $0.writeDone(to: $1) }
    #expect(head(&done, style, type: 0, isLast: true) == 0)
    #expect(done.rest.isEmpty)
    var data = encode(style) { $0.writeData(at: 5000, length: 100, isLast: false, to: $1) }
    #expect(head(&data, style, type: 1, isLast: false) == 108)
    #expect(data.u64() == 5000 && data.rest.isEmpty)
    var hole = encode(style) { $0.writeHole(at: 6000, length: 77, isLast: true, to: $1) }
    #expect(head(&hole, style, type: 2, isLast: true) == 12)
    #expect(hole.u64() == 6000 && hole.u32() == 77 && hole.rest.isEmpty)
  }

  @Test(arguments: [ReplyStyle.structured, .extended]) func errors(style: ReplyStyle) {
    let refusals: [Refusal] = [
      .unknownCommand, .malformed, .unsuitableFlag, .readOnly, .outOfRange, .writeOutOfRange,
      .readTooLong, .cannotStayWhole, .noContext, .ioError, .noSpace, .notFast, .shuttingDown,
    ]
    for refusal in refusals {
      var plain = encode(style) { $0.writeError(refusal, to: $1) }
      let length = head(&plain, style, type: 0x8001, isLast: true)
      #expect(length == plain.rest.count)
      #expect(plain.u32() == refusal.code.rawValue)
      let text = Int(plain.u16())
      #expect(text > 0 && plain.text(text) == "\(refusal.text)" && plain.rest.isEmpty)
      var placed = encode(style) { $0.writeError(refusal, at: 12345, to: $1) }
      #expect(Int(head(&placed, style, type: 0x8002, isLast: true)) == placed.rest.count)
      #expect(placed.u32() == refusal.code.rawValue)
      _ = placed.text(Int(placed.u16()))
      #expect(placed.u64() == 12345 && placed.rest.isEmpty)
    }
  }

  @Test func statusChunks() {
    var short = encode(.structured) { $0.writeStatus(context: 5, count: 3, isLast: true, to: $1) }
    #expect(head(&short, .structured, type: 5, isLast: true) == 4 + 24)
    #expect(short.u32() == 5 && short.rest.isEmpty)
    var long = encode(.extended) { $0.writeStatus(context: 5, count: 3, isLast: false, to: $1) }
    #expect(head(&long, .extended, type: 6, isLast: false) == 8 + 48)
    #expect(long.u32() == 5 && long.u32() == 3 && long.rest.isEmpty)
  }
}

@Suite struct StatusDescriptorsTests {
  private func encode(
    _ pairs: [(UInt64, UInt64)], _ style: ReplyStyle, only: UInt64? = nil
  ) -> [[UInt64]] {
    var words = pairs.flatMap { [$0.0, $0.1] }
    let count = words.count / 2
    return words.withUnsafeMutableBytes { bytes in
      let n = StatusDescriptors.encode(bytes.baseAddress!, count: count, style: style, only: only)
      var reader = Reader(Array(bytes[..<(n * StatusDescriptors.size(style))]))
      return (0..<n).map { _ in
        style == .extended
          ? [reader.u64(), reader.u64()] : [UInt64(reader.u32()), UInt64(reader.u32())]
      }
    }
  }

  @Test(arguments: [ReplyStyle.structured, .extended]) func neighboursMerge(style: ReplyStyle) {
    let pairs: [(UInt64, UInt64)] = [
      (4096, 3), (4096, 3), (8192, 0), (0, 3), (4096, 0), (0, 1), (512, 2), (1, 3),
    ]
    #expect(encode(pairs, style) == [[8192, 3], [12288, 0], [512, 2], [1, 3]])
    #expect(encode(pairs, style, only: 5000) == [[5000, 3]])
    #expect(encode(pairs, style, only: 1 << 40) == [[8192, 3]])
    #expect(encode([], style) == [])
    #expect(encode([(0, 1)], style) == [])
  }

  @Test func longRangesAreCutForStructuredReplies() {
    let pairs: [(UInt64, UInt64)] = [(4096, 0), (1 << 40, 3), (4096, 0)]
    #expect(encode(pairs, .structured) == [[4096, 0], [0xffff_f000, 3]])
    #expect(encode(pairs, .extended) == [[4096, 0], [1 << 40, 3], [4096, 0]])
    #expect(encode([(.max, 1), (.max, 1)], .extended) == [[.max, 1], [.max, 1]])
  }
}
