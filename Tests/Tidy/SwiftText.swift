/// A Swift file's bytes with comments and string literals blanked out, line ends kept: what is
/// left can be searched for words and braces.
struct SwiftText {
  private(set) var bytes: [UInt8]

  init(_ text: String) {
    bytes = Array(text.utf8)
    var i = 0
    while i < bytes.count { i = skip(i) }
  }

  /// Blanks the comment or literal that begins at `i`, if one does; returns what follows.
  private mutating func skip(_ i: Int) -> Int {
    if starts("//", i) { return blank(i) { $0.at($1) == UInt8(ascii: "\n") ? $1 : nil } }
    if starts("/*", i) { return blockComment(i) }
    var hashes = 0
    while at(i + hashes) == UInt8(ascii: "#") { hashes += 1 }
    if at(i + hashes) == UInt8(ascii: "\"") { return literal(i, hashes) }
    return i + max(1, hashes)
  }

  private mutating func blockComment(_ start: Int) -> Int {
    var depth = 0
    return blank(start) { text, i in
      if text.starts("/*", i) { depth += 1 }
      if text.starts("*/", i) { depth -= 1 }
      return depth == 0 ? i + 2 : nil
    }
  }

  private mutating func literal(_ start: Int, _ hashes: Int) -> Int {
    let pounds = String(repeating: "#", count: hashes)
    let quote = starts("\"\"\"", start + hashes) ? "\"\"\"" : "\""
    let closing = quote + pounds
    var i = start + hashes + quote.utf8.count
    while i < bytes.count, !starts(closing, i) {
      if starts("\\" + pounds + "(", i) {
        i = interpolation(i + 1 + hashes)
      } else {
        i += starts("\\" + pounds, i) ? 2 + hashes : 1
      }
    }
    let end = min(bytes.count, i + closing.utf8.count)
    for j in start..<end where bytes[j] != UInt8(ascii: "\n") { bytes[j] = UInt8(ascii: " ") }
    return end
  }

  /// Returns what follows the parenthesis that closes the one at `start`.
  private mutating func interpolation(_ start: Int) -> Int {
    var depth = 0
    var i = start
    while i < bytes.count {
      if bytes[i] == UInt8(ascii: "(") { depth += 1 }
      if bytes[i] == UInt8(ascii: ")") { depth -= 1 }
      if depth == 0 { return i + 1 }
      i = skip(i)
    }
    return i
  }

  /// Blanks from `start` to where `end` says.
  private mutating func blank(_ start: Int, until end: (SwiftText, Int) -> Int?) -> Int {
    var i = start
    while i < bytes.count {
      if let after = end(self, i) {
        for j in start..<min(after, bytes.count) where bytes[j] != UInt8(ascii: "\n") {
          bytes[j] = UInt8(ascii: " ")
        }
        return after
      }
      i += 1
    }
    for j in start..<bytes.count { bytes[j] = UInt8(ascii: " ") }
    return bytes.count
  }

  func at(_ i: Int) -> UInt8 { i >= 0 && i < bytes.count ? bytes[i] : 0 }

  func starts(_ word: String, _ i: Int) -> Bool {
    var j = i
    for byte in word.utf8 {
      if at(j) != byte { return false }
      j += 1
    }
    return true
  }
}

/// A function's extent in its file.
struct FunctionExtent: Equatable {
  var name: String
  /// Numbered from 1.
  var firstLine: Int
  var lineCount: Int
}

extension SwiftText {
  /// All functions and initialisers that have a body, nested ones too.
  func functions() -> [FunctionExtent] {
    var scan = FunctionScan()
    var i = 0
    while i < bytes.count {
      let start = i
      while isWord(at(i)) { i += 1 }
      if i > start {
        let word = String(decoding: bytes[start..<i], as: UTF8.self)
        scan.word(word, afterDot: at(start - 1) == UInt8(ascii: "."), next: at(i))
      } else {
        scan.mark(bytes[i])
        i += 1
      }
    }
    return scan.found
  }

  private func isWord(_ byte: UInt8) -> Bool {
    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
      || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "_")
  }
}

/// Follows words and braces; a function's body begins at the first brace after its name that is
/// in no deeper parenthesis.
private struct FunctionScan {
  var found: [FunctionExtent] = []
  private var line = 1
  private var depth = 0
  private var pending: (extent: FunctionExtent, depth: Int)?
  private var braces: [FunctionExtent?] = []
  private var namesFunction = false

  mutating func word(_ word: String, afterDot: Bool, next: UInt8) {
    if namesFunction {
      pending?.extent.name = word
      namesFunction = false
    }
    if afterDot { return }
    switch word {
    case "func":
      begin(word)
      namesFunction = true
    case "deinit": begin(word)
    case "init" where [UInt8(ascii: "("), UInt8(ascii: "?"), UInt8(ascii: "<")].contains(next):
      begin(word)
    case "var", "let", "case", "struct", "enum", "class", "extension", "protocol":
      if let open = pending, open.depth == depth { pending = nil }
    default: break
    }
  }

  mutating func mark(_ byte: UInt8) {
    switch byte {
    case UInt8(ascii: "\n"): line += 1
    case UInt8(ascii: "("), UInt8(ascii: "["):
      namesFunction = false
      depth += 1
    case UInt8(ascii: ")"), UInt8(ascii: "]"): depth -= 1
    case UInt8(ascii: "{"):
      let opens = pending.map { $0.depth == depth } ?? false
      braces.append(opens ? pending!.extent : nil)
      if opens { pending = nil }
    case UInt8(ascii: "}"):
      guard let opened = braces.popLast(), var extent = opened else { break }
      extent.lineCount = line - extent.firstLine + 1
      found.append(extent)
    default: break
    }
  }

  private mutating func begin(_ name: String) {
    pending = (FunctionExtent(name: name, firstLine: line, lineCount: 0), depth)
  }
}
