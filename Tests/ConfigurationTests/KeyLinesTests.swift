import Configuration
import Testing

/// The lines of keys show in mistakes: each text has one unknown key, wherever TOML lets it stand.
@Suite struct KeyLinesTests {
  @Test(arguments: [
    ("x = 1", 1, "x"),
    ("# x = 1\n\n\"x\" = 1", 3, "x"),
    ("a = \"\"\"\nx = 1\n\\\"\"\"\"\nx = 1", 4, "x"),
    ("a = '''\nx = 1'''\nx = [1, # x\n 2]", 3, "x"),
    ("memory = '\"'\nx = 'a # b'", 2, "x"),
    ("[volume]\nname = \"x\" # [volume.x]\nx.y = 2", 3, "volume.x"),
    ("volume = { name = \"}\", x = 1 }", 1, "volume.x"),
    ("[[tier]]\n[[tier]]\nname = \"a\"\nx = 1979-05-27", 4, "tier[1].x"),
    ("[[tier]]\ndevices = [\n{ path = \"]\" },\n{\tx = 1 }]", 4, "tier[0].devices[1].x"),
    ("[[tier]]\n[[tier.devices]]\n[[tier.devices]]\nx = 1", 4, "tier[0].devices[1].x"),
    ("[[tier]]\n[tier.x]\na = 1", 2, "tier[0].x"),
    ("[volume]\r\nname = \"a\"\r\nx = 1", 3, "volume.x"),
    ("a = [1979-05-27 07:32:00, 1979-05-27 ]\nx = 1", 2, "x"),
  ] as [(String, Int, String)])
  func findsTheLine(text: String, line: Int, key: String) throws {
    let error = try #require(throws: ConfigurationError.self) {
      try PoolConfiguration.parse(text, file: "f")
    }
    let mistake = try #require(error.mistakes.first { $0.key == key }, "\(error)")
    #expect(mistake.line == line)
    #expect(mistake.found.contains("unknown key"))
  }

  /// At each of these the parser would end the process.
  @Test(arguments: [
    ("[=]", 1), ("a = 1\n[\nvolume]", 2), ("[[.a]]", 1), ("[ # a\n]", 1), ("[[[a]]]", 1),
    ("a = '''\n[='''\n\n[\"]\"]\n\t[ \t?]", 5), ("x = [}", 1), ("x = [[\n1, 2],\n}]", 3),
    ("x = { y = [1, }", 1), ("x = [\n\u{2028}1]", 2), ("\u{feff}[=]", 1),
    ("\nx = 1979-05-27 7\n", 2), ("x = [1979-05-27 7]", 1), ("x = 1_979-05-27 7\u{a0}", 1),
  ] as [(String, Int)])
  func findsWhatTheParserCannotBear(text: String, line: Int) throws {
    let error = try #require(throws: ConfigurationError.self) {
      try PoolConfiguration.parse(text, file: "f")
    }
    #expect(error.mistakes.map(\.line) == [line])
    #expect(error.mistakes.first?.expected == "TOML")
  }

  @Test func deepNestingIsLeftToTheParser() throws {
    for depth in [256, 257, 100_000] {
      let text =
        "x = " + String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        + "\n[=]"
      let error = try #require(throws: ConfigurationError.self) {
        try PoolConfiguration.parse(text, file: "f")
      }
      #expect(error.mistakes.map(\.line) == [depth > 256 ? 1 : 2])
    }
  }
}
