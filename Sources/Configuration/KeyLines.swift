/// The line on which each key of a TOML text stands, by the key's path (`tier[0].devices[1].size`).
///
/// The parser does not keep positions of keys, so this walks the text on its own. It goes with the
/// parser as far as the text is right; behind a mistake it ends somehow, too, with fewer keys. The
/// mistakes that it must find itself are `gap`.
struct KeyLines: Sendable, Equatable {
  private var lines: [String: Int] = [:]
  /// The line of the first table header without a key (`[=]`), array with an element that is no
  /// value (`[}`), or date with a lone digit behind it (`1979-05-27 7`). The parser ends the
  /// process at them (assertions of toml++), so it must not get to see any.
  let gap: Int?

  /// Walks `text`.
  init(of text: String) {
    var scanner = KeyScanner(bytes: Array(text.utf8))
    scanner.scanDocument()
    lines = scanner.lines
    gap = scanner.gap
  }

  /// The line of the key, or of the nearest table around it that stands in the file, or 1.
  func line(of key: String) -> Int {
    var path = Substring(key)
    while !path.isEmpty {
      if let line = lines[String(path)] { return line }
      guard let cut = path.lastIndex(where: { $0 == "." || $0 == "[" }) else { break }
      path = path[..<cut]
    }
    return 1
  }
}

/// A walk over the bytes of a TOML document. Every loop advances or ends.
private struct KeyScanner {
  let bytes: [UInt8]
  private(set) var lines: [String: Int] = [:]
  private(set) var gap: Int?
  /// Values within values; the parser takes 256 at most.
  private var depth = 0
  private var at = 0
  private var line = 1
  /// How many elements of each array of tables have begun.
  private var elements: [String: Int] = [:]

  init(bytes: [UInt8]) { self.bytes = bytes }

  private var here: UInt8? { at < bytes.count ? bytes[at] : nil }

  private func sees(_ text: StaticString) -> Bool {
    guard at + text.utf8CodeUnitCount <= bytes.count else { return false }
    return (0..<text.utf8CodeUnitCount).allSatisfy { bytes[at + $0] == text.utf8Start[$0] }
  }

  private mutating func advance(_ count: Int = 1) {
    for _ in 0..<count where at < bytes.count {
      if bytes[at] == UInt8(ascii: "\n") { line += 1 }
      at += 1
    }
  }

  mutating func scanDocument() {
    var table = ""
    while true {
      skipBlank()
      guard let byte = here else { return }
      let start = at
      if sees("[[") {
        advance(2)
        checkHeader()
        table = beginElement(of: resolve(scanKey()))
        skipLine()
      } else if byte == UInt8(ascii: "[") {
        advance()
        checkHeader()
        table = resolve(scanKey())
        note(table)
        skipLine()
      } else {
        scanPair(in: table)
      }
      if at == start { advance() }
    }
  }

  /// Behind a header's bracket: a key, or what the parser refuses in order (the end, a bracket).
  private mutating func checkHeader() {
    while here == UInt8(ascii: " ") || here == UInt8(ascii: "\t") { advance() }
    guard let byte = here, byte != UInt8(ascii: "]") else { return }
    if !isBare(byte) && !"\"'".utf8.contains(byte) { noteGap() }
  }

  private mutating func noteGap() {
    if gap == nil { gap = line }
  }

  private mutating func note(_ path: String, line: Int? = nil) {
    if lines[path] == nil { lines[path] = line ?? self.line }
  }

  /// The path of a header's key: a part that is an array of tables means its newest element.
  private func resolve(_ parts: [String]) -> String {
    var path = ""
    for (i, part) in parts.enumerated() {
      path += path.isEmpty ? part : "." + part
      if i + 1 < parts.count, let count = elements[path] { path += "[\(count - 1)]" }
    }
    return path
  }

  private mutating func beginElement(of array: String) -> String {
    let index = elements[array, default: 0]
    elements[array] = index + 1
    note(array)
    note("\(array)[\(index)]")
    return "\(array)[\(index)]"
  }

  private mutating func scanPair(in table: String) {
    let start = line
    var path = table
    for part in scanKey() {
      path += path.isEmpty ? part : "." + part
      note(path, line: start)
    }
    skipBlank(newlines: false)
    guard here == UInt8(ascii: "=") else { return }
    advance()
    scanValue(path)
  }

  /// Reads a dotted key and stops behind it.
  private mutating func scanKey() -> [String] {
    var parts: [String] = []
    while let byte = here {
      if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'") {
        parts.append(scanString())
      } else if isBare(byte) {
        let start = at
        while let next = here, isBare(next) { advance() }
        parts.append(String(decoding: bytes[start..<at], as: UTF8.self))
      } else if byte == UInt8(ascii: ".") || byte == UInt8(ascii: " ")
        || byte == UInt8(ascii: "\t")
      {
        advance()
      } else {
        break
      }
    }
    return parts
  }

  private func isBare(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
      true
    default: false
    }
  }

  private func isDigit(_ i: Int) -> Bool {
    i < bytes.count && (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[i])
  }

  private mutating func scanValue(_ path: String) {
    skipBlank(newlines: false)
    guard let byte = here else { return }
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "'"):
      _ = scanString()
    case UInt8(ascii: "["):
      scanElements(path, end: UInt8(ascii: "]")) { scanner, index in
        if let byte = scanner.here, !"\"'+-0123456789tfin[{".utf8.contains(byte) {
          scanner.noteGap()
        }
        scanner.note("\(path)[\(index)]")
        scanner.scanValue("\(path)[\(index)]")
      }
    case UInt8(ascii: "{"):
      scanElements(path, end: UInt8(ascii: "}")) { scanner, _ in scanner.scanPair(in: path) }
    default:
      // A number, a truth value, a date: up to what ends it.
      while let next = here, !",]}\n#".utf8.contains(next) {
        advance()
        if next == UInt8(ascii: " "), isDigit(at), !isDigit(at + 1) { noteGap() }
      }
    }
  }

  private mutating func scanElements(
    _ path: String, end: UInt8, element: (inout KeyScanner, Int) -> Void
  ) {
    guard depth < 256 else {
      at = bytes.count
      return
    }
    depth += 1
    defer { depth -= 1 }
    advance()
    var index = 0
    while true {
      skipBlank()
      guard let byte = here else { return }
      if byte == end { return advance() }
      let start = at
      if byte == UInt8(ascii: ",") {
        advance()
      } else {
        element(&self, index)
        index += 1
      }
      if at == start { advance() }
    }
  }

  /// Reads a string of any of the four kinds; gives what stands between the quotes.
  private mutating func scanString() -> String {
    guard let quote = here else { return "" }
    let isLong = sees("\"\"\"") || sees("'''")
    advance(isLong ? 3 : 1)
    let start = at
    while let byte = here {
      if byte == UInt8(ascii: "\\") && quote == UInt8(ascii: "\"") {
        advance(2)
      } else if isLong ? sees(quote == UInt8(ascii: "'") ? "'''" : "\"\"\"") : byte == quote {
        break
      } else {
        advance()
      }
    }
    let text = String(decoding: bytes[start..<min(at, bytes.count)], as: UTF8.self)
    advance(isLong ? 3 : 1)
    // A long string may end in quotes of its own.
    while isLong, here == quote { advance() }
    return text
  }

  private mutating func skipBlank(newlines: Bool = true) {
    while let byte = here {
      switch byte {
      case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"): advance()
      case UInt8(ascii: "\n") where newlines: advance()
      case UInt8(ascii: "#"): skipLine()
      default: return
      }
    }
  }

  private mutating func skipLine() {
    while let byte = here, byte != UInt8(ascii: "\n") { advance() }
  }
}
