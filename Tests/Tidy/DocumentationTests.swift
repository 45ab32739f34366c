import Testing

/// Which declarations must carry a doc comment: all package ones outside of types, and package
/// functions in types that are longer than this. Shorter ones may be their own explanation.
private let longestPlainFunction = 12

/// Files where some are still missing, and how many.
private let missing: [String: Int] = [:]

@Suite struct DocumentationTests {
  private let declarators: Set<Substring> = [
    "struct", "enum", "class", "actor", "protocol", "func", "let", "var", "typealias",
  ]

  /// Whether the line declares something with package access, and what kind of thing.
  private func declares(_ line: Substring) -> Substring? {
    let words = line.prefix { $0 != "{" && $0 != "=" }.split { " (:<".contains($0) }
    guard words.contains("package"), words.first != "///", words.first != "//" else { return nil }
    return words.first { declarators.contains($0) }
  }

  /// Whether the line above the declaration, its attributes left out, is a doc comment.
  private func isDocumented(_ lines: [Substring], _ number: Int) -> Bool {
    var i = number - 1
    while i >= 0, lines[i].drop(while: { $0 == " " }).hasPrefix("@") { i -= 1 }
    return i >= 0 && lines[i].drop { $0 == " " }.hasPrefix("///")
  }

  private func undocumented(_ file: SourceFile) -> [String] {
    let lines = file.lines
    let functions = SwiftText(file.text).functions()
    var found: [String] = []
    for (i, line) in lines.enumerated() {
      guard let kind = declares(line), !isDocumented(lines, i) else { continue }
      let length = functions.first { $0.firstLine == i + 1 }?.lineCount ?? 0
      let isLong = kind == "func" && length > longestPlainFunction
      if !line.hasPrefix(" ") || isLong { found.append("\(file.path):\(i + 1)") }
    }
    return found
  }

  @Test func missingCommentsAreFound() {
    let body = String(repeating: "    x()\n", count: 12)
    let text = """
      /// Is documented.
      @frozen
      package struct A {
        package func short() {}
        package func long() {
      \(body)  }
      }
      package enum B {}
      struct C {}
      """
    #expect(undocumented(SourceFile(path: "f", text: text)) == ["f:5", "f:20"])
  }

  @Test func packageDeclarationsAreDocumented() {
    for file in SourceTree.swift(under: "Sources") {
      let found = undocumented(file)
      #expect(found.count == missing[file.path] ?? 0, "\(found)")
    }
  }
}
