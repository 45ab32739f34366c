import DecoderChecks
import Glibc
import Testing

/// The promise of `NBDProtocol`: any cutting of the same bytes gives the same events. Told with the
/// conversations of the fuzzer's corpus, each cut in two at every byte, and into single bytes.
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

  @Test func anySplitGivesTheSameEvents() throws {
    var streams = 0
    var events = 0
    for name in Self.files {
      let bytes = try read(name)
      let start = bytes.withUnsafeBytes { DecoderCheck(of: $0)?.conversation }
      guard let start else { continue }
      bytes.dropFirst().withUnsafeBytes { stream in
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
        streams += 1
        events += whole.entries.count
      }
    }
    // The corpus is there, and its conversations come to something.
    #expect(streams >= 20 && events >= 10 * streams)
  }

  @Test func theCorpusNamesEveryDecoder() throws {
    var unseen = Set(DecoderCheck.allCases)
    for name in Self.files {
      let bytes = try read(name)
      #expect(bytes.count < 2048, "\(name) is short")
      let decoder = bytes.withUnsafeBytes { DecoderCheck(of: $0) }
      #expect(decoder != nil, "\(name) names a decoder")
      if let decoder { unseen.remove(decoder) }
    }
    #expect(unseen.isEmpty && Self.files.count <= 120)
  }
}
