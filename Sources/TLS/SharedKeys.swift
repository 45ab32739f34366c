/// A file of shared keys: lines of `name:key`, the key in hexadecimal, at least 128 bits of it;
/// between them empty lines, and comments that begin with `#`.
package enum SharedKeys {
  /// Hexadecimal digits of the shortest key.
  package static var leastDigits: Int { 32 }

  /// The first line of `text`, counted from 1, that is neither a key, nor empty, nor a comment; nil
  /// when there is none.
  package static func firstMistake(in text: UnsafeRawBufferPointer) -> Int? {
    let lines = text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    return lines.firstIndex { !isUnderstood($0) }.map { $0 + 1 }
  }

  private static func isUnderstood(_ line: Slice<UnsafeRawBufferPointer>) -> Bool {
    guard let first = line.first else { return true }
    let parts = line.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
    // To GnuTLS `#` begins a name in hexadecimal, not a comment, when a key follows.
    if first == UInt8(ascii: "#") { return parts.count == 1 }
    guard parts.count == 2, !parts[0].isEmpty else { return false }
    let key = parts[1]
    return key.count >= leastDigits && key.count % 2 == 0 && key.allSatisfy(isHexadecimal)
  }

  private static func isHexadecimal(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
      UInt8(ascii: "A")...UInt8(ascii: "F"):
      true
    default: false
    }
  }
}
