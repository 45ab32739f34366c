import Testing

// Forbidden words are put together here, so that this file does not hold them.
private let unfinished = ["TO" + "DO", "FIX" + "ME"]
private let traps = ["fatal" + "Error", "try" + "!", "-O" + "unchecked"]
private let machinePaths = ["/wo" + "rk/"]
private let outside = "sha" + "red/"
/// Sample traces may lie beside the repository; tests and benchmarks use them when they do.
private let traces = "../" + outside + "traces"

@Suite struct WordTests {
  private func find(_ words: [String], in files: [SourceFile]) -> [String] {
    var found: [String] = []
    for file in files {
      for (i, line) in file.lines.enumerated() {
        for word in words where line.contains(word) {
          found.append("\(file.path):\(i + 1) \(word)")
        }
      }
    }
    return found
  }

  @Test func wordsAreFound() {
    let file = SourceFile(path: "a", text: "one\n// \(unfinished[0]): x\n")
    #expect(find(unfinished, in: [file]) == ["a:2 " + unfinished[0]])
  }

  @Test func nothingIsLeftUnfinished() {
    #expect(find(unfinished, in: SourceTree.swift) == [])
  }

  @Test func nothingTrapsButInvariants() {
    #expect(find(traps, in: SourceTree.swift(under: "Sources")) == [])
  }

  @Test func fullFoundationIsNotUsed() {
    for file in SourceTree.swift {
      #expect(!file.lines.contains { importedModule($0) == "Foundation" }, "\(file.path)")
    }
  }

  @Test func noMachineIsMeant() {
    #expect(find(machinePaths, in: SourceTree.files) == [])
    let files = SourceTree.files.map { file in
      let mayUseTraces = file.path.hasPrefix("Tests/") || file.path.hasPrefix("Benchmarks/")
      let text = mayUseTraces ? file.text.split(separator: traces).joined() : file.text
      return SourceFile(path: file.path, text: text)
    }
    #expect(find([outside], in: files) == [])
  }

  @Test func filesEndWithOneLineEnd() {
    for file in SourceTree.swift {
      #expect(file.text.hasSuffix("\n") && !file.text.hasSuffix("\n\n"), "\(file.path)")
      #expect(!file.lines.contains { $0.hasSuffix(" ") || $0.contains("\t") }, "\(file.path)")
    }
  }
}
