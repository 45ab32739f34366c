import DecoderChecks
import Glibc
import NBDProtocol
import Testing

/// The promise of `NBDProtocol`: any cutting of the same bytes gives the same events. Told with the
/// conversations of the fuzzer's corpus and a long one for each style and offer, each cut in two at
/// every byte, and into single bytes.
@Suite struct SplitTests {
  private static let corpus: String = {
    let here = #filePath.split(separator: "/")
    return "/" + here.dropLast(2).joined(separator: "/") + "/Fuzz/Corpus"
  }()

  private static let files: [String] = {
    guard let directory = opendir(corpus) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if !name.hasPrefix(".") { names.append(name) }
    }
    return names.sorted()
  }()

  private func read(_ name: String) throws -> [UInt8] {
    let file = try #require(fopen(Self.corpus + "/" + name, "re"))
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 65_536)
    return Array(bytes[..<fread(&bytes, 1, bytes.count, file)])
  }

  /// All of a client's life: options right and wrong, TLS, then one of each command.
  private func life(_ style: ReplyStyle) -> [UInt8] {
    let isExtended = style == .extended
    var bytes = Bytes().flags().option(3).option(99, Bytes().text("junk")).option(5)
    if style != .simple { bytes = bytes.option(isExtended ? 11 : 8) }
    if style != .simple { bytes = bytes.contexts(10, "", ["base:allocation", "x-wide:all"]) }
    bytes = bytes.contexts(9, "vol", ["qemu:", "base:"]).go("nope").go("vol", type: 6)
    bytes = bytes.go("", requests: [3])
    for type in UInt16(0)...8 where type != 2 {
      let carries = type == 1
      bytes = bytes.request(
        type, flags: carries && isExtended ? 32 : 0, offset: type == 3 ? 0 : 4096,
        length: type == 3 ? 0 : 12, extended: isExtended)
      if carries { bytes = bytes.text("twelve bytes") }
    }
    if isExtended {
      bytes = bytes.request(7, flags: 32, length: 16, extended: true).u64(512).u32(9).u32(1)
      bytes = bytes.request(0, flags: 32, length: 5, extended: true).text("drain")
    }
    return bytes.request(2, extended: isExtended).text("nobody listens").all
  }

  /// Returns the number of events.
  private func check(_ name: String, _ stream: [UInt8], _ start: Conversation.Start) -> Int {
    stream.withUnsafeBytes { stream in
      let memory = Conversation.Memory(capacity: stream.count)
      let whole = Conversation.transcript(stream, start, memory)
      let single = Conversation.transcript(stream, start, pieces: [1], memory)
      #expect(single == whole, "\(name), byte by byte")
      var different: [Int] = []
      for first in 1..<max(stream.count, 1) {
        let cut = Conversation.transcript(stream, start, pieces: [first, .max], memory)
        if cut != whole { different.append(first) }
      }
      #expect(different.isEmpty, "\(name), cut at \(different)")
      return whole.entries.count
    }
  }

  @Test func anySplitGivesTheSameEvents() throws {
    var streams = 0
    for name in Self.files {
      let bytes = try read(name)
      let start = bytes.withUnsafeBytes { DecoderCheck(of: $0)?.conversation }
      guard let start else { continue }
      _ = check(name, Array(bytes.dropFirst()), start)
      streams += 1
    }
    #expect(streams >= 20)
    for style: ReplyStyle in [.simple, .structured, .extended] {
      for decoder in DecoderCheck.allCases {
        guard case .handshake(let offer)? = decoder.conversation else { continue }
        let events = check("\(decoder), \(style)", life(style), .handshake(offer))
        let isEntered = decoder != .streamShuttingDown && decoder != .streamNarrow
        #expect(!isEntered || events >= 18)
      }
    }
  }

  /// All of the fuzzer's corpus, and every decoder in it.
  @Test func theCorpusIsDecoded() throws {
    var unseen = Set(DecoderCheck.allCases)
    for name in Self.files {
      let bytes = try read(name)
      #expect(bytes.count < 2048, "\(name) is short")
      let decoder = bytes.withUnsafeBytes { DecoderCheck(of: $0) }
      #expect(decoder != nil, "\(name) names a decoder")
      if let decoder { unseen.remove(decoder) }
      #expect(bytes.withUnsafeBytes { DecoderCheck.run($0) })
    }
    #expect(unseen.isEmpty && Self.files.count <= 140)
  }
}
