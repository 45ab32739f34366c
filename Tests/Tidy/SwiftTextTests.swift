import Testing

@Suite struct SwiftTextTests {
  private func left(_ text: String) -> String {
    String(decoding: SwiftText(text).bytes, as: UTF8.self)
      .split(separator: " ").joined(separator: " ")
  }

  @Test func commentsAndLiteralsAreBlanked() {
    #expect(left("a // b { \nc") == "a \nc")
    #expect(left("a /* b /* { */ c */ d") == "a d")
    #expect(left("a \"{ \\\" \\(b(\"}\")) {\" c") == "a c")
    #expect(left("a #\"{ \" \\( \"# c") == "a c")
    #expect(left("a \"\"\"\n { \" }\n\"\"\" c") == "a \n \n c")
    #expect(left("#if a \"x\"") == "#if a")
  }

  @Test func functionsAreMeasured() {
    let text = """
      protocol P { func a(); var b: Int { get } }
      struct S {
        init(_ f: () -> Void = {}) {
          self.init("{")
        }
        func g(
          x: Int
        ) -> Int {
          func h() { }
          return x
        }
        static func == (a: S, b: S) -> Bool { true }
        deinit { }
      }
      """
    let found = SwiftText(text).functions().map { "\($0.name) \($0.firstLine) \($0.lineCount)" }
    #expect(found == ["init 3 3", "h 9 1", "g 6 6", "func 12 1", "deinit 13 1"])
  }
}
